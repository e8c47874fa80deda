"""The device's side of split learning over gRPC: one connection, checked answers, joining again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import grpc

from fedjax_face.edge import wire
from fedjax_face.edge.contract import Contract, ExchangeCall
from fedjax_face.edge.transport import JOIN, OPTIONS, SERVICE, SESSION, Tls
from fedjax_face.edge.wire import Frame, Header, Join, Joined
from fedjax_face.split.message import Message

# Statuses after which a device joins again; all others are final.
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED)
_LONGEST_PAUSE = 5.0  # seconds between two attempts to join


class Interrupted(ConnectionError):
  """No answer for now: the server is away, or a step begins again. The device may join again."""


class Trainer(Protocol):
  """A device's part of a step, see `edge_device.Device`."""

  def train(self, step: int, exchange: ExchangeCall) -> float:
    """Sends and receives what a step needs, through exchange(channel, step, content); its loss."""


class EdgeClient:
  """A device's connection to the server.

  Args:
    address: HOST:PORT.
    tls: None: plain text.
    contract: that answers are checked against: the server is not trusted.
    answers: channel that is sent -> channel that comes back.
    device: its number.
    join: () -> what the device says of itself, each time that it joins.
    seconds: how long one exchange may take, the server's step included.
  """

  def __init__(self, address: str, tls: Tls | None, contract: Contract,
               answers: Mapping[str, str], device: int, join: Callable[[], Join], seconds: float):
    self._address, self._contract, self._answers = address, contract, answers
    self._device, self._request, self._seconds = device, join, seconds
    self._channel = (grpc.secure_channel(address, tls.client(), OPTIONS) if tls
                     else grpc.insecure_channel(address, OPTIONS))
    self._join = self._channel.unary_unary(f"/{SERVICE}/Join")
    self._send = self._channel.stream_stream(f"/{SERVICE}/Send")
    self._session = b""
    self._sent: Message | None = None

  def join(self) -> Joined:
    """Gets a session, in place of one that the device had.

    The request is among the metadata, which come before a call does, so that the server waits for
    nothing of a call that has not shown who it is.

    Raises:
      Interrupted: the server cannot be reached.
      ValueError: it refuses the device.
    """
    request = wire.encode_join(self._request())
    try:
      joined = wire.decode_joined(self._join(
          b"", timeout=self._seconds, metadata=((JOIN, request),)))
    except grpc.RpcError as error:
      raise self._as_ours(error) from error
    self._session = joined.session
    return joined

  def exchange(self, channel: str, step: int, content: Any) -> Frame:
    """Sends, and waits for the answer.

    Args:
      channel: one of `answers`.
      step: of training.
      content: a `Message` or `Reply` of numpy arrays.

    Raises:
      Interrupted: no answer; `join` says what is next.
      ValueError: the server refuses, or its answer breaks the contract.
    """
    if isinstance(content, Message):
      self._sent = content
    frame = Frame(channel, self._session, step, content)

    def accept(header: Header) -> None:
      if (header.frame.channel, header.frame.step) != (self._answers[channel], step):
        raise ValueError(f"{header.frame.channel} of step {header.frame.step} came back for "
                         f"{channel} of step {step}")
      self._contract.check_sizes(header)

    try:
      answer = wire.decode(wire.receive(
          self._send(wire.chunks(frame), timeout=self._seconds,
                     metadata=((SESSION, self._session),)), accept))
      self._contract.check(answer, self._device, self._sent)
    except grpc.RpcError as error:
      raise self._as_ours(error) from error
    except ValueError as error:
      raise ValueError(f"answer of {self._address}: {error}") from error
    return answer

  def close(self) -> None:
    """Ends the connection."""
    self._channel.close()

  def _as_ours(self, error: Any) -> Exception:
    line = f"edge server {self._address}: {' '.join(str(error.details()).split())}"
    return Interrupted(line) if error.code() in _PASSING else ValueError(line)


def train_to_end(client: EdgeClient, trainer: Trainer, steps: int, patience: float,
                 finished_step: Callable[[int, int, float], None],
                 say: Callable[[str], None], first_pause: float = 0.2) -> None:
  """Takes part in all steps that are left, joining again after every interruption.

  Between two attempts it waits longer and longer, see `pauses`.

  Args:
    client: of this device.
    trainer: of this device.
    steps: of the run, as this device's config has them; the server does not decide.
    patience: seconds without a step after which it gives up.
    finished_step: called with (steps done, steps of the run, loss) after each.
    say: told in one line about interruptions.
    first_pause: seconds between the first two attempts to join, at most.

  Raises:
    ConnectionError: no step within `patience`.
    ValueError: the server refuses, breaks the contract, or claims another number of steps.
  """
  step, waits, last = None, pauses(first_pause), time.monotonic()
  while step is None or step < steps:
    try:
      if step is None:
        step = _next_step(client.join(), steps)
      if step < steps:
        loss = trainer.train(step, client.exchange)
        step, waits, last = step + 1, pauses(first_pause), time.monotonic()
        finished_step(step, steps, loss)
    except Interrupted as reason:
      pause = next(waits)
      if time.monotonic() - last + pause > patience:
        raise ConnectionError(f"no step within {patience:g} s; {reason}") from reason
      say(f"{reason}; joining again")
      time.sleep(pause)
      step = None


def pauses(first: float, longest: float = _LONGEST_PAUSE,
           fraction: Callable[[], float] = random.random) -> Iterator[float]:
  """Seconds to wait, twice as long each time, shortened at random by up to half.

  Devices that a server turned away together then do not come back together.

  Args:
    first: seconds, of the first.
    longest: seconds, of any.
    fraction: () -> number from 0 to 1, drawn for each.
  """
  while True:
    yield first * (1 - fraction() / 2)
    first = min(2 * first, longest)


def _next_step(joined: Joined, steps: int) -> int:
  if joined.steps != steps or joined.step > steps:
    raise ValueError(f"the server asks for step {joined.step} of {joined.steps}; by this device's "
                     f"config the run has {steps} steps")
  return joined.step
