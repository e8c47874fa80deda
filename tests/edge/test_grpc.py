"""Server and devices over loopback: what each is told, TLS, and coming back."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.client import EdgeClient, Interrupted, pauses, train_to_end
from fedjax_face.edge.service import CALLS
from fedjax_face.edge.serving import serve
from fedjax_face.edge.transport import (
    JOIN,
    OPTIONS,
    SERVICE,
    SESSION,
    Tls,
    require_known_devices,
    require_safe,
)
from fedjax_face.edge.wire import Frame
from tests.edge.toys import Call, Server, contract, join_of, message, wait_until

ANSWERS = {"activations": "receipt"}


@contextlib.contextmanager
def served(server, tls=None, port=0):
  started, port = serve(server.service, f"127.0.0.1:{port}", tls)
  try:
    yield f"127.0.0.1:{port}"
  finally:
    started.stop(0).wait()


@contextlib.contextmanager
def client(address, tls=None, device=0, devices=1, answers=ANSWERS, seconds=20.0, **others):
  made = EdgeClient(address, tls, contract(devices), answers, device,
                    lambda: join_of(device, **others), seconds)
  try:
    yield made
  finally:
    made.close()


class Ones:
  """Sends ones; notes the steps."""

  def __init__(self, device=0, before=lambda step: None):
    self.steps, self._device, self._before = [], device, before

  def train(self, step, exchange):
    self._before(step)
    loss = exchange("activations", step, message(device=self._device)).loss
    self.steps.append(step)
    return loss


def test_two_devices_train_to_the_end():
  server, done = Server(devices=2), []
  with served(server) as address:
    def device(number):
      with client(address, device=number, devices=2) as connection:
        train_to_end(connection, Ones(number), 3, 20, lambda *all: done.append((number, *all)),
                     print)

    for call in [Call(device, number) for number in (0, 1)]:
      assert call.result() is None
    server.service.wait()
  assert server.states == [(1, 16.0), (2, 32.0), (3, 48.0)]
  assert sorted(done) == [(k, step, 3, 16.0) for k in (0, 1) for step in (1, 2, 3)]


def test_large_frames_cross_whole(monkeypatch):
  monkeypatch.setattr(wire, "CHUNK", 1000)
  shape = (700,)
  values = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  server = Server(shape=shape)
  with served(server) as address:
    made = EdgeClient(address, None, contract(shape=shape), ANSWERS, 0, join_of, 20.0)
    made.join()
    made.exchange("activations", 0, message(activations=values))
    made.close()
  (_, frame), _ = server.recorded
  np.testing.assert_array_equal(frame.content.activations, values)


def raw(address, pieces, session=b"", timeout=20.0):
  """What the server says to bytes that no client of ours sends."""
  with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as error:
    b"".join(channel.stream_stream(f"/{SERVICE}/Send")(
        iter(pieces), timeout=timeout, metadata=((SESSION, session),)))
  return error.value.code().name, error.value.details()


def test_bad_bytes_are_refused_and_the_server_goes_on():
  server = Server()
  with served(server) as address, client(address) as good:
    joined = good.join()
    session = joined.session
    whole = wire.encode(Frame("activations", session, 0, message()))
    code, line = raw(address, [b"GET / HTTP/1.1\r\n" * 9], session)
    assert (code, line) == ("INVALID_ARGUMENT", "frame begins with b'GET ', not b'FJSL'")
    assert raw(address, [], session) == ("INVALID_ARGUMENT", "frame ends after 0 of 0 bytes")
    assert raw(address, [whole[:-3]], session)[0] == "INVALID_ARGUMENT"
    assert "goes on after" in raw(address, [whole, b"more"], session)[1]
    assert raw(address, [bytes(2 * wire.CHUNK)], session)[0] == "RESOURCE_EXHAUSTED"
    large = message(activations=np.ones((2, 2**18), np.float32))
    code, line = raw(address, wire.chunks(Frame("activations", session, 0, large)), session)
    assert (code, line) == ("INVALID_ARGUMENT",
                            "activations of shape [2, 262144], expected [2, 4]")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError, match="148 exp"):
      channel.unary_unary(f"/{SERVICE}/Join")(b"", timeout=20, metadata=((JOIN, b"let me in"),))
    assert not server.states and not server.recorded
    assert good.exchange("activations", 0, message()).loss == 8.0
  assert any("refused ipv4:127.0.0.1" in line for line in server.lines)


def test_a_device_that_breaks_off_is_not_trained_from():
  server = Server(devices=2)
  with served(server) as address:
    with client(address, devices=2, seconds=1.0) as first:
      first.join()
      with pytest.raises(Interrupted, match="Deadline Exceeded"):
        first.exchange("activations", 0, message(5.0))
    time.sleep(1.0)  # within which the server looks
    assert not server.service._pending.received
    with client(address, devices=2) as again, \
         client(address, device=1, devices=2) as other:
      again.join(), other.join()
      call = Call(other.exchange, "activations", 0, message(1.0, device=1))
      assert again.exchange("activations", 0, message(1.0)).loss == 16.0
      assert call.result().loss == 16.0


def test_a_device_joins_again_when_the_server_is_back():
  lines, device = [], Ones()
  with served(Server()) as address:
    port = int(address.rpartition(":")[2])
    connection = EdgeClient(address, None, contract(), ANSWERS, 0, join_of, 20.0)
    connection.join()
    connection.exchange("activations", 0, message())
  call = Call(train_to_end, connection, device, 3, 20, lambda *all: None, lines.append, 0.05)
  time.sleep(0.3)
  server = Server(step=1)
  with served(server, port=port):
    assert call.result() is None
  connection.close()
  assert device.steps == [1, 2] and server.states == [(2, 8.0), (3, 16.0)]
  assert lines and all("joining again" in line for line in lines)


def test_patience_ends():
  with served(Server()) as address:
    pass
  with client(address) as connection, pytest.raises(ConnectionError, match="no step within 0.3 s"):
    train_to_end(connection, Ones(), 3, 0.3, lambda *all: None, lambda line: None, 0.05)


def test_a_refusal_is_final():
  with served(Server(tokens={0: "secret"})) as address, client(address) as connection:
    with pytest.raises(ValueError, match=f"edge server {address}: device 0: wrong token"):
      train_to_end(connection, Ones(), 3, 20, lambda *all: None, pytest.fail)


@pytest.mark.parametrize("answers, words", [
    ({"activations": "logits"}, "receipt of step 0 came back for activations of step 0")])
def test_the_server_is_not_trusted(answers, words):
  with served(Server()) as address, client(address, answers=answers) as connection:
    connection.join()
    with pytest.raises(ValueError, match=words):
      connection.exchange("activations", 0, message())


@pytest.mark.parametrize("lie", [{"steps": 10**6}, {"steps": 2}, {"step": 4}])
def test_the_server_does_not_decide_how_many_steps_there_are(lie, monkeypatch):
  honest, device = wire.encode_joined, Ones()
  monkeypatch.setattr(wire, "encode_joined", lambda joined: honest(joined._replace(**lie)))
  with served(Server()) as address, client(address) as connection:
    with pytest.raises(ValueError, match="by this device's config the run has 3 steps") as error:
      train_to_end(connection, device, 3, 20, lambda *all: None, pytest.fail)
  assert "\n" not in str(error.value) and not device.steps


def test_a_port_is_used_once():
  with served(Server()) as address, pytest.raises(OSError, match=f"{address} cannot be used"):
    serve(Server().service, address, None)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:50051", "[::1]:50051",
                                     "127.8.8.8:50051"])
def test_plain_text_stays_on_loopback(address):
  require_safe(address, None, False)


@pytest.mark.parametrize("address, words", [
    ("0.0.0.0:50051", "not loopback"), ("10.0.0.1:50051", "not loopback"),
    ("example.org:50051", "not loopback"), ("127.0.0.1", "expected HOST:PORT"),
    ("127.0.0.1:http", "expected HOST:PORT"), (":50051", "expected HOST:PORT"),
    ("127.0.0.1:99999", "expected HOST:PORT")])
def test_other_addresses_need_tls(address, words):
  with pytest.raises(ValueError, match=words):
    require_safe(address, None, False)
  if "loopback" in words:
    require_safe(address, None, True)
    require_safe(address, Tls("c", "k", "a"), False)


def test_a_server_that_others_reach_must_know_its_devices():
  for address in ("0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051"):
    with pytest.raises(ValueError, match="in the place of a device: give --tokens"):
      require_known_devices(address, None, False)
    require_known_devices(address, None, True)
    require_known_devices(address, Tls("c", "k", "a"), False)
  for address in ("127.0.0.1:50051", "[::1]:50051", "localhost:50051"):
    require_known_devices(address, None, False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
  """Tls of server and device, signed by one authority, and of a stranger."""
  folder = tmp_path_factory.mktemp("pem")

  def openssl(*arguments):
    try:
      subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
      pytest.skip("openssl is not installed")

  curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
  for name in ("authority", "stranger"):
    openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
  (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
  for name in ("server", "device"):
    openssl("req", *curve[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey",
            "authority.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
            "-out", f"{name}.pem")
  authority = str(folder / "authority.pem")
  return {name: Tls(str(folder / f"{name}.pem"), str(folder / f"{name}.key"), authority)
          for name in ("server", "device", "stranger")}


def test_both_sides_show_certificates(certificates):
  server = Server()
  with served(server, certificates["server"]) as address:
    with client(address, certificates["device"]) as good:
      good.join()
      assert good.exchange("activations", 0, message()).loss == 8.0
    for other in (certificates["stranger"], None):
      with client(address, other, seconds=3.0) as bad, pytest.raises(Interrupted):
        bad.join()
  assert server.states == [(1, 8.0)]


def test_a_missing_file_is_one_line():
  with pytest.raises(OSError, match="TLS file absent.key: No such file"):
    Tls("absent.pem", "absent.key", "absent.ca").server()


def test_nothing_goes_through_a_proxy_or_twice():
  assert {("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)} <= set(OPTIONS)


@contextlib.contextmanager
def silent(address, calls, **shown):
  """So many streams that send nothing, with this metadata."""
  over = threading.Event()

  def nothing():
    over.wait(30)
    yield from ()

  metadata = tuple((f"{name}-bin", value) for name, value in shown.items())
  with grpc.insecure_channel(address) as channel:
    send, join = (channel.stream_stream(f"/{SERVICE}/{name}") for name in ("Send", "Join"))
    yield [(join if k % 2 else send)(nothing(), metadata=metadata) for k in range(calls)]
    over.set()


@pytest.mark.parametrize("shown", [{}, {"session": bytes(16)}, {"join": b"x" * 148}])
def test_silent_streams_of_strangers_hold_nothing(shown):
  server = Server(devices=2, tokens={0: "one", 1: "two"})
  with served(server) as address, silent(address, 40, **shown) as streams:
    def device(number, token):
      with client(address, device=number, devices=2, token=token) as connection:
        train_to_end(connection, Ones(number), 3, 20, lambda *all: None, pytest.fail)

    for call in [Call(device, 0, "one"), Call(device, 1, "two")]:
      assert call.result() is None
    assert {stream.code() for stream in streams} <= {
        grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED}
  assert [step for step, _ in server.states] == [1, 2, 3]


def test_silent_streams_of_a_device_hold_its_own_calls_and_end():
  server, lines = Server(devices=2, steps=1, first_byte_seconds=0.5), []
  with served(server) as address, client(address, devices=2) as first, \
       client(address, device=1, devices=2) as second:
    sessions = [connection.join().session for connection in (first, second)]
    with silent(address, 2 * CALLS, session=sessions[0]) as streams:
      wait_until(lambda: server.service._calls == {0: CALLS})
      call = Call(second.exchange, "activations", 0, message(device=1))
      train_to_end(first, Ones(), 1, 20, lambda *all: None, lines.append, 0.1)
      assert call.result().loss == 16.0
      wait_until(lambda: server.service._calls == {0: 0, 1: 0})
      assert {stream.code() for stream in streams[::2]} == {grpc.StatusCode.CANCELLED}
  assert any("nothing came in 0.5 s" in line for line in server.lines)


def test_a_server_that_is_full_is_asked_again():
  server, lines, device = Server(), [], Ones()
  with served(server) as address, client(address) as connection:
    session = connection.join().session
    leave = [server.service.enter(session) for _ in range(CALLS)]

    def say(line):
      lines.append(line)
      leave.pop()()

    with pytest.raises(Interrupted, match=f"device 0 has {CALLS} calls open"):
      connection.exchange("activations", 0, message())
    train_to_end(connection, device, 3, 20, lambda *all: None, say, 0.01)
  assert device.steps == [0, 1, 2]
  assert len(lines) == 1 and f"device 0 has {CALLS} calls open; joining again" in lines[0]


def test_pauses_grow_to_a_limit_and_differ():
  whole, half = pauses(0.2, 1.0, lambda: 0.0), pauses(0.2, 1.0, lambda: 1.0)
  np.testing.assert_allclose([next(whole) for _ in range(5)], [0.2, 0.4, 0.8, 1.0, 1.0])
  np.testing.assert_allclose([next(half) for _ in range(5)], [0.1, 0.2, 0.4, 0.5, 0.5])
  drawn = pauses(1.0, 1.0)
  assert len({next(drawn) for _ in range(9)}) == 9
