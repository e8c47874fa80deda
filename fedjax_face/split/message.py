"""What crosses the cut, in both directions, its bytes, and a record of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

Direction = Literal["to_server", "to_device"]

PADDING = -1
NO_LABEL = -1


class Message(NamedTuple):
  """Noised activations of one device's batch, on the way to the server.

  Attributes:
    activations: f32 [B, ...], clipped and noised.
    labels: int32 [B]: pseudonyms, randomised, or `NO_LABEL` where the loss stays on the device.
    example: int32 [B], the device's own number of the example; `PADDING` in rows that hold none.
    device: int32, which device.
  """

  activations: jax.Array
  labels: jax.Array
  example: jax.Array
  device: jax.Array


class Reply(NamedTuple):
  """One vector for every example of a `Message`, in either direction after it.

  Attributes:
    values: f32 [B, ...]: gradients to the activations, logits, or gradients to the logits.
    example: int32 [B], as in the message.
    device: int32, as in the message.
  """

  values: jax.Array
  example: jax.Array
  device: jax.Array


def wire_bytes(message: Any) -> int:
  """Bytes of all arrays of a `Message` or `Reply`; framing is not counted."""
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
             for leaf in jax.tree.leaves(message))


LABEL_BYTES = 4
"""Of a message, for each of its rows."""


def message_bytes(shape: tuple[int, ...], batch: int) -> int:
  """Bytes of a `Message` of B activations of this shape: B (4 d + 8) + 4."""
  return batch * (4 * math.prod(shape) + 8) + 4


def reply_bytes(shape: tuple[int, ...], batch: int) -> int:
  """Bytes of a `Reply` of B vectors of this shape: B (4 d + 4) + 4."""
  return batch * (4 * math.prod(shape) + 4) + 4


@dataclasses.dataclass(frozen=True)
class Crossing:
  """One thing that crossed the cut.

  Attributes:
    step: of training.
    direction: `to_server` or `to_device`.
    channel: what it is, e.g. "activations", "logits", "activation_gradients".
    content: a `Message` or `Reply` of numpy arrays.
  """

  step: int
  direction: Direction
  channel: str
  content: Any


class Transcript:
  """Everything that crossed the cut, in order: what an honest-but-curious server keeps."""

  def __init__(self) -> None:
    self.crossings: list[Crossing] = []

  def record(self, step: int, direction: Direction, channel: str, content: Any) -> None:
    """Keeps a copy of what crosses.

    Raises:
      ValueError: unknown direction.
    """
    if direction not in get_args(Direction):
      raise ValueError(f"direction {direction!r} is not one of {', '.join(get_args(Direction))}")
    self.crossings.append(Crossing(step, direction, channel, jax.tree.map(np.array, content)))

  def select(self, direction: Direction | None = None,
             channel: str | None = None) -> list[Crossing]:
    """The crossings of one direction, of one channel, or of both; None: of any."""
    return [crossing for crossing in self.crossings
            if direction in (None, crossing.direction) and channel in (None, crossing.channel)]

  def bytes(self, direction: Direction | None = None) -> int:
    """Bytes that crossed, see `wire_bytes`."""
    return sum(wire_bytes(crossing.content) for crossing in self.select(direction))

  def holds(self, array: np.ndarray) -> bool:
    """Whether some row of `array` [n, ...], or a vector [n] as a whole, crossed bit for bit."""
    array = np.asarray(array)
    rows = [row.tobytes() for row in (array if array.ndim > 1 else array[None])]
    tensors = [leaf.tobytes() for crossing in self.crossings
               for leaf in jax.tree.leaves(crossing.content)]
    return any(row in tensor for row in rows for tensor in tensors)
