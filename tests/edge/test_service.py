"""What the server trains from, and everything that it refuses and survives."""

from __future__ import annotations

import dataclasses
import math

import grpc
import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.service import CALLS, Refused
from fedjax_face.edge.wire import Frame
from tests.edge.toys import TWO, Call, Server, gradients, join_of, message, wait_until

ONES = 8.0  # sum of `message(1.0)`


def refused(outcome, code, words):
  assert isinstance(outcome, Refused), outcome
  assert outcome.code is code and words in str(outcome) and "\n" not in str(outcome)


def waiting(server):
  """How many devices have sent what is next."""
  return len(server.service._pending.received)


def test_one_device_is_trained_from_at_once():
  server = Server(steps=2)
  joined = server.join()
  assert (joined.step, joined.steps) == (0, 2)
  for step in range(2):
    answer = server.send(joined.session, message(step + 1.0), step)
    assert (answer.channel, answer.step, answer.loss) == ("receipt", step, ONES * (step + 1))
    assert answer.session == joined.session
  assert server.states == [(1, ONES), (2, 3 * ONES)]
  server.service.wait()
  with pytest.raises(Refused, match="over after 2 steps"):
    server.send(joined.session, step=2)
  assert server.join().step == 2


def test_a_step_waits_for_all_devices():
  server = Server(devices=2)
  sessions = [server.join(device).session for device in (0, 1)]
  first = Call(server.send, sessions[1], message(2.0, device=1))
  wait_until(lambda: waiting(server) == 1)
  assert not server.states
  assert server.send(sessions[0], message(1.0, device=0)).loss == 3 * ONES
  answer = first.result()
  assert answer.loss == 3 * ONES and answer.session == sessions[1]
  assert server.states == [(1, 3 * ONES)]


def test_the_loss_may_stay_on_the_device():
  server = Server(TWO, labels_are_sent=False)
  session, hidden = server.join().session, message(labels=np.full(2, -1, np.int32))
  logits = server.send(session, hidden)
  assert logits.channel == "logits" and math.isnan(logits.loss)
  np.testing.assert_array_equal(logits.content.values, np.full((2, 3), 0.5))
  assert not server.states
  assert server.send(session, gradients(), channel="logit_gradients").channel == "receipt"
  assert server.states == [(1, 6.0)]
  assert [frame.channel for _, frame in server.recorded] == [
      "activations", "logits", "logit_gradients", "receipt"]


@pytest.mark.parametrize("given, code, words", [
    ({"step": 1}, "ALREADY_EXISTS", "activations of step 1 came before from device 0; next are "
                                    "activations of step 2"),
    ({"step": 0}, "ALREADY_EXISTS", "came before"),
    ({"step": 3}, "OUT_OF_RANGE", "device 0 sent step 3"),
    ({"session": bytes(16)}, "NOT_FOUND", "unknown session")])
def test_only_what_is_next_is_trained_from(given, code, words):
  server = Server()
  session = server.join().session
  for step in (0, 1):
    server.send(session, step=step)
  before = list(server.states), list(server.recorded)
  with pytest.raises(Refused) as error:
    server.send(**{"session": session, "step": 2, **given})
  refused(error.value, grpc.StatusCode[code], words)
  assert (server.states, server.recorded) == before
  server.send(session, step=2)
  assert server.states[-1] == (3, 3 * ONES)


@pytest.mark.parametrize("content, channel, words", [
    (message(math.nan), "activations", "norm nan"), (message(1e9), "activations", "norm"),
    (message(activations=np.ones((9, 4), np.float32), labels=np.zeros(9, np.int32),
             example=np.arange(9, dtype=np.int32)), "activations", "shape"),
    (message(device=1), "activations", "device 1 in the session of device 0"),
    (gradients(), "logit_gradients", "sent logit_gradients; expected activations"),
    (gradients(), "logits", "sent logits")])
def test_what_breaks_the_contract_is_not_trained_from(content, channel, words):
  server = Server()
  session = server.join().session
  with pytest.raises(ValueError, match=words):
    server.send(session, content, channel=channel)
  assert not server.states and not server.recorded
  server.send(session)
  assert server.states == [(1, ONES)]


def test_a_message_is_sent_once_while_others_are_waited_for():
  server = Server(devices=2)
  sessions = [server.join(device).session for device in (0, 1)]
  first = Call(server.send, sessions[0], message())
  wait_until(lambda: waiting(server) == 1)
  with pytest.raises(Refused, match="came before"):
    server.send(sessions[0], message(5.0))
  server.send(sessions[1], message(device=1))
  assert first.result().loss == 2 * ONES


def test_a_device_that_goes_away_takes_its_message_back():
  server = Server(devices=2)
  sessions = [server.join(device).session for device in (0, 1)]
  gone = Call(server.send, sessions[0], message(7.0), is_active=lambda: False)
  refused(gone.result(), grpc.StatusCode.ABORTED, "device 0 went away")
  other = Call(server.send, sessions[1], message(2.0, device=1))
  session = server.join(0).session
  assert server.send(session, message(1.0)).loss == 3 * ONES
  assert other.result().loss == 3 * ONES


def test_joining_again_ends_the_first_session():
  server = Server(devices=2)
  old = server.join(0).session
  stuck = Call(server.send, old, message(7.0))
  wait_until(lambda: waiting(server) == 1)
  new = server.join(0).session
  refused(stuck.result(), grpc.StatusCode.ABORTED, "joined again")
  with pytest.raises(Refused, match="its device joined again") as error:
    server.send(old)
  assert error.value.code is grpc.StatusCode.FAILED_PRECONDITION
  other = Call(server.send, server.join(1).session, message(device=1))
  assert server.send(new).loss == other.result().loss == 2 * ONES


def test_a_step_half_done_begins_again_when_a_device_joins():
  server = Server(TWO, devices=2, labels_are_sent=False)
  hidden = np.full(2, -1, np.int32)
  sessions = [server.join(device).session for device in (0, 1)]

  def send_activations():
    other = Call(server.send, sessions[1], message(device=1, labels=hidden))
    wait_until(lambda: waiting(server) == 1)
    server.send(sessions[0], message(labels=hidden))
    assert other.result().channel == "logits"

  send_activations()
  waits = Call(server.send, sessions[1], gradients(device=1), channel="logit_gradients")
  wait_until(lambda: waiting(server) == 1)
  sessions[0] = server.join(0).session
  refused(waits.result(), grpc.StatusCode.ABORTED, "step 0 begins again: device 0 joined anew")
  with pytest.raises(Refused, match="step 0 began again; next are activations of step 0"):
    server.send(sessions[1], gradients(device=1), channel="logit_gradients")
  send_activations()
  last = Call(server.send, sessions[1], gradients(device=1), channel="logit_gradients")
  wait_until(lambda: waiting(server) == 1)
  server.send(sessions[0], gradients(), channel="logit_gradients")
  assert last.result().channel == "receipt" and server.states == [(1, 12.0)]


def test_nobody_waits_for_ever():
  server = Server(devices=3, seconds=0.1)
  session = server.join().session
  with pytest.raises(Refused, match="nothing within 0.1 s from device 1, 2") as error:
    server.send(session)
  assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
  assert waiting(server) == 0


def test_a_step_that_fails_changes_nothing():
  server = Server()
  session = server.join().session
  with pytest.raises(Refused, match="step 0 is not trained from: thirteen is refused") as error:
    server.send(session, message(13.0))
  assert error.value.code is grpc.StatusCode.INTERNAL
  server.send(session)
  assert server.states == [(1, ONES)]


def test_a_checkpoint_that_cannot_be_written_ends_the_run():
  server = Server()

  def full(step, state, metrics):
    raise OSError("no space")

  server.service._finished_step = full
  session = server.join().session
  assert server.send(session).channel == "receipt"
  with pytest.raises(OSError, match="no space"):
    server.service.wait()
  with pytest.raises(Refused, match="the server has stopped") as error:
    server.send(session, step=1)
  assert error.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_transcript_that_cannot_be_written_ends_the_run():
  server = Server()

  def full(direction, data):
    raise OSError("no space")

  server.service._record = full
  with pytest.raises(Refused, match="the server has stopped"):
    server.send(server.join().session)
  with pytest.raises(OSError, match="no space"):
    server.service.wait()
  assert not server.states


@pytest.mark.parametrize("request_, code, words", [
    (join_of(config="ef" * 32, token="secret"), "FAILED_PRECONDITION", "other config than"),
    (join_of(public="ef" * 32, token="secret"), "FAILED_PRECONDITION", "other public parts"),
    (join_of(token="guess"), "UNAUTHENTICATED", "wrong token"),
    (join_of(token="of device 1"), "UNAUTHENTICATED", "device 0: wrong token"),
    (join_of(1, token="secret"), "UNAUTHENTICATED", "device 1: wrong token"),
    (join_of(2, token="secret"), "UNAUTHENTICATED", "device 2: wrong token"),
    (join_of(), "UNAUTHENTICATED", "wrong token")])
def test_who_may_not_join(request_, code, words):
  server = Server(devices=2, tokens={0: "secret", 1: "of device 1"})
  with pytest.raises(Refused) as error:
    server.service.join(wire.encode_join(request_))
  refused(error.value, grpc.StatusCode[code], words)
  server.join(token="secret")


@pytest.mark.parametrize("device", [-1, 1, 2**31 - 1])
def test_there_are_no_other_devices(device):
  with pytest.raises(ValueError, match="devices are numbered 0 to 0"):
    Server().join(device)


def test_a_device_stays_with_its_certificate():
  server = Server()
  request = wire.encode_join(join_of())
  server.service.join(request, (b"one",))
  with pytest.raises(Refused, match="belongs to another certificate"):
    server.service.join(request, (b"two",))
  server.service.join(request, (b"one",))


def test_who_is_refused_takes_no_place():
  """A server that was started again knows the noise of its devices, and no certificates."""
  server = Server()
  server.noise[0] = join_of().noise
  with pytest.raises(Refused, match="another noise root"):
    server.service.join(wire.encode_join(join_of(noise="c3" * 32)), (b"stranger",))
  server.service.join(wire.encode_join(join_of()), (b"one",))
  with pytest.raises(Refused, match="belongs to another certificate"):
    server.service.join(wire.encode_join(join_of()), (b"stranger",))


def test_a_device_that_lost_its_noise_is_refused():
  server = Server(devices=2)
  first, other = server.join(0), "c3" * 32
  with pytest.raises(Refused) as error:
    server.join(0, noise=other)
  refused(error.value, grpc.StatusCode.FAILED_PRECONDITION,
          "device 0 has another noise root than when it first joined")
  server.join(1, noise=other)
  assert server.service._devices[first.session] == 0
  server.join(0)


def test_noise_that_cannot_be_noted_ends_the_run():
  def full(device, shown):
    raise OSError("no space")

  server = Server()
  server.service._terms = dataclasses.replace(server.service._terms, first_noise=full)
  with pytest.raises(Refused, match="the server has stopped"):
    server.join()
  with pytest.raises(OSError, match="no space"):
    server.service.wait()


def test_a_server_goes_on_from_a_step():
  server = Server(step=2)
  joined = server.join()
  assert joined.step == 2
  with pytest.raises(Refused, match="came before"):
    server.send(joined.session, step=1)
  server.send(joined.session, step=2)
  assert server.states == [(3, ONES)]


def test_a_frame_of_an_unknown_session_is_refused_before_it_is_read():
  def pieces():
    yield wire.encode(Frame("activations", bytes(16), 0, message()))[:192]
    pytest.fail("the rest was asked for")

  with pytest.raises(Refused, match="unknown session"):
    Server().service.send(bytes(16), pieces())


PADDING_ALONE = message(0.0, example=np.full(2, -1, np.int32), labels=np.full(2, -1, np.int32))


def test_padding_alone_is_refused_from_a_device_that_has_begun_nothing():
  server = Server()
  session = server.join().session
  with pytest.raises(ValueError, match="activations of step 0 are padding alone: device 0 has "
                                       "images for it, and said of 0 steps"):
    server.send(session, PADDING_ALONE)
  assert not server.states and not server.recorded
  server.send(session)
  with pytest.raises(ValueError, match="activations of step 1 are padding alone"):
    server.send(session, PADDING_ALONE, step=1)


def test_padding_alone_is_taken_for_steps_that_may_have_been_sent_before():
  server = Server(begun=2)
  session = server.join(begun=2).session
  server.send(session, PADDING_ALONE)
  server.send(session, PADDING_ALONE, step=1)
  with pytest.raises(ValueError, match="activations of step 2 are padding alone"):
    server.send(session, PADDING_ALONE, step=2)
  assert server.states == [(1, 0.0), (2, 0.0)]


def test_a_device_with_fewer_images_than_another_ends_its_passes_with_padding():
  """Three images in messages of two, in passes of three messages: the third holds none."""
  server = Server(steps=6, messages=3, images=(3,))
  session = server.join().session
  server.send(session)
  with pytest.raises(ValueError, match="step 1 are padding alone"):
    server.send(session, PADDING_ALONE, step=1)
  server.send(session, step=1)
  server.send(session, PADDING_ALONE, step=2)
  with pytest.raises(ValueError, match="step 3 are padding alone"):
    server.send(session, PADDING_ALONE, step=3)


def test_a_device_that_is_ahead_of_the_server_is_refused():
  server = Server(begun=2)
  with pytest.raises(Refused) as error:
    server.join(begun=3)
  refused(error.value, grpc.StatusCode.FAILED_PRECONDITION,
          "device 0 has begun 3 steps and this server has asked for 2: it has lost its workdir")
  session = server.join(begun=2).session
  for step in (0, 1):
    server.send(session, step=step)
  server.join(begun=3)


def test_a_device_has_a_few_calls_at_once_and_takes_no_others():
  server = Server(devices=2)
  first, second = (server.join(device).session for device in (0, 1))
  leave = [server.service.enter(first) for _ in range(CALLS)]
  with pytest.raises(Refused, match=f"device 0 has {CALLS} calls open") as error:
    server.service.enter(first)
  assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
  server.service.enter(second)
  leave[0](), leave[0]()  # the second time does nothing
  server.service.enter(first)
  with pytest.raises(Refused, match="calls open"):
    server.service.enter(first)
  with pytest.raises(Refused, match="unknown session"):
    server.service.enter(bytes(16))


def test_a_frame_belongs_to_the_session_of_its_call():
  server = Server(devices=2)
  first, second = (server.join(device).session for device in (0, 1))
  with pytest.raises(ValueError, match="another session than its call's"):
    server.service.send(first, wire.chunks(Frame("activations", second, 0, message(device=1))))


def test_without_tokens_anybody_joins_and_what_is_shown_is_not_looked_at():
  Server().join(token="any")
