"""The server's side of split learning over gRPC: sessions, order, and what is never trained from.

A step runs when all K devices have sent what it needs, for a step has static shapes [K, B, ...];
with one device every message is a step by itself. Devices send activations (and, where the loss
stays with them, gradients of the logits after it) of the step that is next; everything else is
refused with one line and leaves no trace in the state. A device that goes away while the others
are waited for takes its message back, and may join again.

One lock orders everything; a step runs under it.
"""

from __future__ import annotations

import dataclasses
import hmac
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc

from fedjax_face.edge import wire
from fedjax_face.edge.contract import Contract, Exchange, State, Terms
from fedjax_face.edge.transport import OPTIONS, SERVICE, Tls
from fedjax_face.edge.wire import Frame, Header, Joined, JoinRequest
from fedjax_face.split.message import Direction

Code = grpc.StatusCode
Record = Callable[[Direction, wire.Bytes], None]
FinishedStep = Callable[[int, State, dict[str, float]], None]

_SPARE_CALLS = 8     # calls at once beyond one for each device
_LOOK_SECONDS = 0.5  # between looks whether a device that waits is still there


class Refused(Exception):
  """Something that is not trained from: a gRPC status and one line."""

  def __init__(self, code: grpc.StatusCode, line: str):
    super().__init__(line)
    self.code = code


@dataclasses.dataclass
class _Pending:
  """An exchange that waits for devices: what they sent, then the answers or why there are none."""

  received: dict[int, Any] = dataclasses.field(default_factory=dict)
  answers: tuple[Frame, ...] | None = None
  failure: Refused | None = None


class EdgeService:
  """State of the server between two messages.

  Args:
    contract: of both sides.
    exchanges: of one step, in order.
    terms: of joining.
    state: of the server part, to go on from.
    step: steps done.
    steps: of the whole run.
    finished_step: called with (steps done, state, metrics) after each; what it raises ends the
      run.
    record: called with direction and bytes of every frame that is taken or given; what it raises
      ends the run. None: nothing is kept.
    say: told in one line who joins, and what is refused.
  """

  def __init__(self, contract: Contract, exchanges: Sequence[Exchange], terms: Terms, state: State,
               step: int, steps: int, finished_step: FinishedStep,
               record: Record | None = None,
               say: Callable[[str], None] = lambda line: None):
    self._contract, self._exchanges, self._terms = contract, tuple(exchanges), terms
    self._state, self._step, self._steps = state, step, steps
    self._finished_step, self._record, self._say = finished_step, record, say
    self._changed = threading.Condition()
    self._devices: dict[bytes, int] = {}      # session -> device
    self._replaced: dict[int, bytes] = {}     # device -> its session before the last
    self._owners: dict[int, tuple[bytes, ...]] = {}
    self._received: list[tuple[Any, ...]] = []  # by exchanges of this step that are over
    self._pending = _Pending()
    self._error: Exception | None = None

  def wait(self) -> None:
    """Returns when all steps are done.

    Raises:
      Exception: of `finished_step` or `record`.
    """
    with self._changed:
      self._changed.wait_for(lambda: self._is_over)
      if self._error is not None:
        raise self._error

  def join(self, data: bytes, identity: tuple[bytes, ...] = ()) -> bytes:
    """Gives a device a session, which replaces one that it had.

    Args:
      data: of `wire.encode_join`.
      identity: of its certificate; a device number stays with the first that joined by it.

    Raises:
      ValueError: anything else than a request to join, or a device that there is not.
      Refused: another token, config, certificate, other public parts, or other noise than before.
    """
    request = wire.decode_join(data)
    device = request.device
    if not hmac.compare_digest(request.token, wire.token_digest(self._terms.token)):
      raise Refused(Code.UNAUTHENTICATED, f"device {device}: wrong token")
    _require_same("config", device, request.config, self._terms.config)
    _require_same("public parts (device parameters, projection, clip norm, noise multiplier)",
                  device, request.public, self._terms.public)
    if not 0 <= device < self._contract.devices:
      raise ValueError(f"device {device}: devices are numbered 0 to {self._contract.devices - 1}")
    with self._changed:
      if self._owners.get(device, identity) != identity:
        raise Refused(Code.PERMISSION_DENIED, f"device {device} belongs to another certificate")
      self._require_first_noise(request)
      self._owners[device] = identity  # last: who is refused takes no device's place
      self._leave(device)
      session = secrets.token_bytes(16)
      self._devices[session] = device
      self._say(f"device {device} joined at step {self._step}")
      return wire.encode_joined(Joined(session, self._step, self._steps))

  def send(self, pieces: Iterable[bytes], is_active: Callable[[], bool] = lambda: True) -> Frame:
    """Takes a frame of a device, waits for the others, and gives the answer.

    Args:
      pieces: of the frame.
      is_active: whether the device is still there.

    Raises:
      ValueError: no frame, or one that breaks the contract.
      Refused: unknown session, wrong order, or no answer.
    """
    whole = wire.receive(pieces, self._accept)
    frame = wire.decode(whole)
    with self._changed:
      device = self._require_next(frame)
      sent = self._received[0][device] if self._received else None
    self._contract.check(frame, device, sent)
    with self._changed:
      self._require_next(frame)
      self._keep("to_server", whole)
      self._require_running()
      return self._exchange(frame.content, device, is_active)._replace(session=frame.session)

  def refuse(self, peer: str, line: str) -> None:
    """Says what was refused, and to whom."""
    self._say(f"refused {peer}: {line}")

  @property
  def devices(self) -> int:
    """K."""
    return self._contract.devices

  @property
  def step_seconds(self) -> float:
    """How long one frame may take to arrive."""
    return self._terms.step_seconds

  @property
  def _is_over(self) -> bool:
    return self._error is not None or self._step >= self._steps

  def _require_running(self) -> None:
    if self._error is not None:
      raise Refused(Code.UNAVAILABLE, "the server has stopped")

  def _require_first_noise(self, request: JoinRequest) -> None:
    try:
      first = self._terms.first_noise(request.device, request.noise)
    except Exception as error:
      self._stop(error)
      self._require_running()
    if request.noise != first:
      raise Refused(Code.FAILED_PRECONDITION,
                    f"device {request.device} has another noise root than when it first joined: "
                    "its noise.json was lost or replaced, and other noise on the same images "
                    "would be a second release")

  def _leave(self, device: int) -> None:
    """Ends the device's session and takes back what it sent; a step half done begins again."""
    for session in [s for s, d in self._devices.items() if d == device]:
      del self._devices[session]
      self._replaced[device] = session
    if self._received:
      self._begin_again(Refused(
          Code.ABORTED, f"step {self._step} begins again: device {device} joined anew"))
    self._pending.received.pop(device, None)
    self._changed.notify_all()

  def _begin_again(self, reason: Refused) -> None:
    self._pending.failure = reason
    self._received, self._pending = [], _Pending()
    self._changed.notify_all()

  def _accept(self, header: Header) -> None:
    with self._changed:
      self._require_next(header.frame)
    self._contract.check_sizes(header)

  def _require_next(self, frame: Frame) -> int:
    """The device whose turn it is to send this.

    Raises:
      Refused: unknown session, or not what is next.
    """
    device = self._devices.get(frame.session)
    if frame.session in self._replaced.values():
      raise Refused(Code.FAILED_PRECONDITION, "this session is over: its device joined again")
    if device is None:
      raise Refused(Code.NOT_FOUND, "unknown session: join first")
    self._require_running()
    if self._is_over:
      raise Refused(Code.FAILED_PRECONDITION, f"the run is over after {self._step} steps")
    channels = [exchange.channel for exchange in self._exchanges]
    if frame.channel not in channels:
      raise ValueError(f"device {device} sent {frame.channel}; expected {', '.join(channels)}")
    place, wanted = channels.index(frame.channel), len(self._received)
    next_up = f"next are {channels[wanted]} of step {self._step}"
    if (frame.step, place) < (self._step, wanted) or (
        (frame.step, place) == (self._step, wanted) and device in self._pending.received):
      raise Refused(Code.ALREADY_EXISTS, f"{frame.channel} of step {frame.step} came before from "
                                         f"device {device}; {next_up}")
    if frame.step > self._step:
      raise Refused(Code.OUT_OF_RANGE, f"device {device} sent step {frame.step}; {next_up}")
    if place > wanted:
      raise Refused(Code.ABORTED, f"step {frame.step} began again; {next_up}")
    return device

  def _exchange(self, content: Any, device: int, is_active: Callable[[], bool]) -> Frame:
    pending = self._pending
    pending.received[device] = content
    is_in = lambda: pending.received.get(device) is content
    if len(pending.received) == self._contract.devices:
      self._run(pending)
    deadline = time.monotonic() + self._terms.step_seconds
    while not self._changed.wait_for(
        lambda: pending.answers or pending.failure or not is_in(), _LOOK_SECONDS):
      if not is_active() or time.monotonic() > deadline:
        break
    if pending.answers is not None:
      return pending.answers[device]
    if pending.failure is not None:
      raise Refused(pending.failure.code, str(pending.failure))
    if not is_in() or not is_active():
      self._withdraw(pending, device, content)
      raise Refused(Code.ABORTED, f"device {device} went away or joined again")
    missing = set(range(self._contract.devices)) - set(pending.received)
    self._withdraw(pending, device, content)
    raise Refused(Code.DEADLINE_EXCEEDED,
                  f"step {self._step}: nothing within {self._terms.step_seconds:g} s from device "
                  f"{', '.join(map(str, sorted(missing)))}")

  def _withdraw(self, pending: _Pending, device: int, content: Any) -> None:
    if pending.received.get(device) is content:
      del pending.received[device]

  def _run(self, pending: _Pending) -> None:
    """Runs an exchange for which everything is there; one that fails changes nothing."""
    received = [*self._received,
                tuple(pending.received[k] for k in range(self._contract.devices))]
    exchange = self._exchanges[len(self._received)]
    try:
      state, outcome = exchange.run(self._state, received)
    except Exception as error:  # of any kind: the state of the last step is whole
      line = f"step {self._step} is not trained from: {_one_line(error)}"
      self._say(line)
      self._begin_again(Refused(Code.INTERNAL, line))
      return
    loss = outcome.metrics.get("loss", math.nan)
    pending.answers = tuple(Frame(exchange.answer, bytes(16), self._step, content, loss)
                            for content in outcome.contents)
    for answer in pending.answers if self._record else ():
      self._keep("to_device", wire.encode(answer))
    self._received, self._pending = received, _Pending()
    if len(received) == len(self._exchanges):
      self._finish_step(state, outcome.metrics)
    self._changed.notify_all()

  def _finish_step(self, state: State, metrics: dict[str, float]) -> None:
    self._state, self._step, self._received = state, self._step + 1, []
    try:
      self._finished_step(self._step, state, metrics)
    except Exception as error:
      self._stop(error)

  def _keep(self, direction: Direction, data: wire.Bytes) -> None:
    try:
      if self._record is not None:
        self._record(direction, data)
    except Exception as error:
      self._stop(error)

  def _stop(self, error: Exception) -> None:
    """Ends the run with an error that the program's own thread raises."""
    self._error = self._error or error
    self._changed.notify_all()


def serve(service: EdgeService, address: str, tls: Tls | None) -> tuple[grpc.Server, int]:
  """Starts to answer devices.

  A few calls more than devices are answered at once, each with at most one frame in memory.

  Args:
    service: what answers.
    address: HOST:PORT; port 0: any that is free.
    tls: None: plain text.

  Returns:
    The server, started, and its port.

  Raises:
    OSError: the address cannot be used, or a TLS file not be read.
  """
  calls = service.devices + _SPARE_CALLS
  server = grpc.server(
      futures.ThreadPoolExecutor(calls), options=OPTIONS, maximum_concurrent_rpcs=calls)
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
      "Join": grpc.unary_unary_rpc_method_handler(_guarded(service, _join)),
      "Send": grpc.stream_stream_rpc_method_handler(
          _guarded(service, _send))}),))
  credentials = tls.server() if tls else None
  try:
    port = (server.add_secure_port(address, credentials) if credentials
            else server.add_insecure_port(address))
  except RuntimeError as error:
    raise OSError(f"address {address} cannot be used: {_one_line(error)}") from error
  server.start()
  return server, port


def _join(service: EdgeService, request: bytes, context: grpc.ServicerContext) -> bytes:
  return service.join(request, tuple(sorted(context.peer_identities() or ())))


def _send(service: EdgeService, pieces: Iterator[bytes],
          context: grpc.ServicerContext) -> Iterator[bytes]:
  in_time = _in_time(pieces, context, service.step_seconds)
  return wire.chunks(service.send(in_time, context.is_active))


def _in_time(pieces: Iterator[bytes], context: grpc.ServicerContext,
             seconds: float) -> Iterator[bytes]:
  """The pieces; the call ends if they take longer."""
  timer = threading.Timer(seconds, context.cancel)
  timer.daemon = True
  timer.start()
  try:
    yield from pieces
  finally:
    timer.cancel()


def _guarded(service: EdgeService, call: Callable[..., Any]) -> Callable[..., Any]:
  """The call with every refusal as a gRPC status of one line."""

  def handler(request, context):
    try:
      return call(service, request, context)
    except grpc.RpcError:  # the device is gone; there is nobody to tell
      raise
    except Refused as refused:
      code, line = refused.code, str(refused)
    except ValueError as error:
      code, line = Code.INVALID_ARGUMENT, _one_line(error)
    service.refuse(context.peer(), line)
    return context.abort(code, line)

  return handler


def _require_same(what: str, device: int, found: str, wanted: str) -> None:
  if found != wanted:
    raise Refused(Code.FAILED_PRECONDITION,
                  f"device {device} has other {what} than the server: its digest begins with "
                  f"{found[:12]}, the server's with {wanted[:12]}")


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:500] or type(error).__name__
