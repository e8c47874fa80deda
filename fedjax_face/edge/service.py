"""The server's side of split learning: sessions, order, and what is never trained from.

A step runs when all K devices have sent what it needs, for a step has static shapes [K, B, ...];
with one device every message is a step by itself. Devices send activations (and, where the loss
stays with them, gradients of the logits after it) of the step that is next; everything else is
refused with one line and leaves no trace in the state. A device that goes away while the others
are waited for takes its message back, and may join again. Only devices that have joined have calls,
a few each, so that nobody fills the server but for himself.

One lock orders everything; a step runs under it.
"""

from __future__ import annotations

import dataclasses
import hmac
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from fedjax_face.edge import wire
from fedjax_face.edge.contract import Contract, Exchange, State, Terms
from fedjax_face.edge.wire import Frame, Header, Joined, JoinRequest
from fedjax_face.split.message import Direction

Code = grpc.StatusCode
Record = Callable[[Direction, wire.Bytes], None]
FinishedStep = Callable[[int, State, dict[str, float]], None]

CALLS = 4
"""Of one device at once: one that runs, and earlier ones of which the end has not been seen."""

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
    self._begun: dict[int, int] = {}          # device -> steps that it said to have begun
    self._calls: dict[int, int] = {}          # device -> its calls that have not ended
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
      Refused: another token, config, certificate, other public parts, other noise than before, or
        steps begun that this server did not ask for.
    """
    request = wire.decode_join(data)
    device = request.device
    self._require_token(request)
    _require_same("config", device, request.config, self._terms.config)
    _require_same("public parts (device parameters, projection, clip norm, noise multiplier)",
                  device, request.public, self._terms.public)
    if not 0 <= device < self._contract.devices:
      raise ValueError(f"device {device}: devices are numbered 0 to {self._contract.devices - 1}")
    with self._changed:
      if self._owners.get(device, identity) != identity:
        raise Refused(Code.PERMISSION_DENIED, f"device {device} belongs to another certificate")
      self._require_first_noise(request)
      self._require_known_steps(request)
      self._owners[device] = identity  # last: who is refused takes no device's place
      self._leave(device)
      session = secrets.token_bytes(16)
      self._devices[session], self._begun[device] = device, request.begun
      self._say(f"device {device} joined at step {self._step}")
      return wire.encode_joined(Joined(session, self._step, self._steps))

  def enter(self, session: bytes) -> Callable[[], None]:
    """Counts a call of a device, before anything of it is read.

    Args:
      session: that the call shows.

    Returns:
      What ends the call; a second time it does nothing.

    Raises:
      Refused: unknown session, or too many calls of its device at once.
    """
    with self._changed:
      device = self._device_of(session)
      if self._calls.get(device, 0) >= CALLS:
        raise Refused(Code.RESOURCE_EXHAUSTED, f"device {device} has {CALLS} calls open")
      self._calls[device] = self._calls.get(device, 0) + 1
    ended = threading.Lock()

    def leave() -> None:
      if ended.acquire(blocking=False):
        with self._changed:
          self._calls[device] -= 1

    return leave

  def send(self, session: bytes, pieces: Iterable[bytes],
           is_active: Callable[[], bool] = lambda: True) -> Frame:
    """Takes a frame of a device, waits for the others, and gives the answer.

    Args:
      session: that the call shows.
      pieces: of the frame.
      is_active: whether the device is still there.

    Raises:
      ValueError: no frame, or one that breaks the contract.
      Refused: unknown session, wrong order, or no answer.
    """
    whole = wire.receive(pieces, lambda header: self._accept(session, header))
    frame = wire.decode(whole)
    with self._changed:
      device = self._require_next(frame)
      sent = self._received[0][device] if self._received else None
      begun = self._begun[device]
    self._contract.check(frame, device, sent)
    self._contract.require_examples(frame, device, begun)
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
  def terms(self) -> Terms:
    """Of joining and waiting."""
    return self._terms

  @property
  def _is_over(self) -> bool:
    return self._error is not None or self._step >= self._steps

  def _require_running(self) -> None:
    if self._error is not None:
      raise Refused(Code.UNAVAILABLE, "the server has stopped")

  def _require_token(self, request: JoinRequest) -> None:
    """The token opens its own device's place and no other's; compared in constant time."""
    if self._terms.tokens:
      kept = self._terms.tokens.get(request.device, b"")
      if not hmac.compare_digest(wire.kept_digest(request.token), kept):
        raise Refused(Code.UNAUTHENTICATED, f"device {request.device}: wrong token")

  def _require_known_steps(self, request: JoinRequest) -> None:
    asked_for = max(self._terms.begun, self._step + 1)
    if request.begun > asked_for:
      raise Refused(Code.FAILED_PRECONDITION,
                    f"device {request.device} has begun {request.begun} steps and this server has "
                    f"asked for {asked_for}: it has lost its workdir, or is of another run; put it "
                    "back, or start server and devices anew in other workdirs, which is a second "
                    "release of the same images")

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

  def _accept(self, session: bytes, header: Header) -> None:
    if header.frame.session != session:
      raise ValueError("a frame of another session than its call's")
    with self._changed:
      self._require_next(header.frame)
    self._contract.check_sizes(header)

  def _device_of(self, session: bytes) -> int:
    if session in self._replaced.values():
      raise Refused(Code.FAILED_PRECONDITION, "this session is over: its device joined again")
    if session not in self._devices:
      raise Refused(Code.NOT_FOUND, "unknown session: join first")
    return self._devices[session]

  def _require_next(self, frame: Frame) -> int:
    """The device whose turn it is to send this.

    Raises:
      Refused: unknown session, or not what is next.
    """
    device = self._device_of(frame.session)
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
      line = f"step {self._step} is not trained from: {one_line(error)}"
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


def _require_same(what: str, device: int, found: str, wanted: str) -> None:
  if found != wanted:
    raise Refused(Code.FAILED_PRECONDITION,
                  f"device {device} has other {what} than the server: its digest begins with "
                  f"{found[:12]}, the server's with {wanted[:12]}")


def one_line(error: Exception) -> str:
  """What an error says, in one line of at most 500 characters."""
  return " ".join(str(error).split())[:500] or type(error).__name__
