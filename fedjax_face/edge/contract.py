"""What the two sides of a cut expect of each other, and the checks of every frame against it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.edge.wire import Frame, Header
from fedjax_face.split.mechanism import ActivationClip
from fedjax_face.split.message import NO_LABEL, PADDING, Message, Reply

State = Any
ExchangeCall = Callable[[str, int, Any], Frame]  # (channel, step, content) -> answer


class Outcome(NamedTuple):
  """What the server makes of one exchange.

  Attributes:
    contents: of the answer to every device.
    metrics: scalars of the step, empty where it is not done yet; `loss` goes to the devices.
  """

  contents: tuple[Reply | None, ...]
  metrics: dict[str, float]


class Exchange(NamedTuple):
  """One way to the server and back; a step is one exchange or several.

  Attributes:
    channel: what devices send.
    answer: channel of what they get.
    run: (state, received) -> (state, outcome). `received[j][k]` is what device k sent in exchange
      j of this step, up to this one. Pure: a run that fails leaves nothing behind. The state of
      the last exchange is that of the next step, states before it are not kept.
  """

  channel: str
  answer: str
  run: Callable[[State, Sequence[Sequence[Any]]], tuple[State, Outcome]]


@dataclasses.dataclass(frozen=True)
class Contract:
  """Sizes and ranges of everything that crosses.

  Attributes:
    shape: of one activation.
    batch: B, rows of every message, padded ones included.
    num_classes: of the labels and logits.
    devices: K; devices are numbered 0 to K - 1.
    labels_are_sent: False: the loss stays on the device.
    largest_activation: L2 norm that no example's activation exceeds; see `largest_norm`.
    largest_logit_gradient: the same for gradients of logits.
    messages: of a device in a pass.
    images: of each device; empty: every message holds some.
  """

  shape: tuple[int, ...]
  batch: int
  num_classes: int
  devices: int
  labels_are_sent: bool
  largest_activation: float = math.inf
  largest_logit_gradient: float = math.inf
  messages: int = 1
  images: tuple[int, ...] = ()

  def check_sizes(self, header: Header) -> None:
    """Checks the announced shape, before anything is allocated for it.

    Raises:
      ValueError: another shape than the channel has.
    """
    wanted = (self.batch, *self._shape_of(header.frame.channel))
    if header.shapes and header.shapes[0] != wanted:
      raise ValueError(f"{header.frame.channel} of shape {list(header.shapes[0])}, expected "
                       f"{list(wanted)}")

  def check(self, frame: Frame, device: int, sent: Message | None) -> None:
    """Checks the content of a frame, from the device or to it; its sizes are checked before.

    Args:
      frame: of `wire.decode`.
      device: whose session it is.
      sent: the device's activations of this step; None if the frame itself holds them.

    Raises:
      ValueError: wrong device, examples or labels, a number that is not finite, or a row longer
        than the mechanism makes them.
    """
    if frame.content is None:
      return
    if (number := int(frame.content.device)) != device:
      raise ValueError(f"{frame.channel} of device {number} in the session of device {device}")
    if isinstance(frame.content, Message):
      self._check_message(frame.content)
    elif sent is None or not np.array_equal(frame.content.example, sent.example):
      raise ValueError(f"{frame.channel} of other examples than the activations of this step")
    _check_norms(np.asarray(frame.content[0]), self._largest(frame.channel), frame.channel)

  def require_examples(self, frame: Frame, device: int, begun: int) -> None:
    """Refuses activations of padding alone where the device has no reason to send them.

    It has one where the message is past its last image, which every pass ends with on a device that
    has fewer images than another, and in a step that it may have sent before.

    Args:
      frame: that is checked.
      device: whose it is.
      begun: steps of which the device said, when it joined, that it may have sent anything.

    Raises:
      ValueError: padding alone in another step.
    """
    if not isinstance(frame.content, Message) or (frame.content.example != PADDING).any():
      return
    if frame.step >= begun and self._examples_due(device, frame.step):
      raise ValueError(f"{frame.channel} of step {frame.step} are padding alone: device {device} "
                       f"has images for it, and said of {begun} steps, from 0, that it had begun "
                       "them when it joined")

  def _examples_due(self, device: int, step: int) -> int:
    """Rows of a message that hold an example where nothing was sent before."""
    if not self.images:
      return self.batch
    return min(max(self.images[device] - step % self.messages * self.batch, 0), self.batch)

  def _shape_of(self, channel: str) -> tuple[int, ...]:
    return (self.num_classes,) if channel.startswith("logit") else self.shape

  def _largest(self, channel: str) -> float:
    return {"activations": self.largest_activation,
            "logit_gradients": self.largest_logit_gradient}.get(channel, math.inf)

  def _check_message(self, message: Message) -> None:
    real = message.example != PADDING
    examples = message.example[real]
    if (examples < 0).any() or len(np.unique(examples)) < len(examples):
      raise ValueError("examples of a message must be different numbers from 0, or "
                       f"{PADDING} for padding")
    hidden = ~real if self.labels_are_sent else np.ones_like(real)
    if (message.labels[hidden] != NO_LABEL).any():
      raise ValueError(f"labels where none are expected: {NO_LABEL} stands in padding, and "
                       "everywhere where the loss stays on the device")
    labels = message.labels[~hidden]
    if ((labels < 0) | (labels >= self.num_classes)).any():
      raise ValueError(f"labels outside 0 to {self.num_classes - 1}")


@dataclasses.dataclass(frozen=True)
class Terms:
  """Who may join, and how long others are waited for.

  Attributes:
    config: hex digest that every device's config must have.
    public: `EdgeParts.public_digest` that every device must have.
    tokens: device -> `wire.kept_digest` of its token; empty: none is asked for.
    step_seconds: how long a device waits for the others in one exchange, and how long one frame
      may take to arrive.
    first_noise: (device, `Join.noise`) -> what it first showed; lasting, so that a device that
      lost the root of its noise is known after the server's restart too.
    begun: steps that devices may have begun before this server was started.
    first_byte_seconds: how long a device's call may be silent before its first byte.
  """

  config: str
  public: str
  tokens: Mapping[int, bytes]
  step_seconds: float
  first_noise: Callable[[int, str], str]
  begun: int = 0
  first_byte_seconds: float = 10.0


def largest_norm(clip: ActivationClip, clip_norm: float, noise_multiplier: float,
                 dimension: int) -> float:
  """L2 norm that a clipped, noised vector of d entries exceeds with probability below e^-50.

  C + sigma (sqrt(d) + 10), as the norm of d standard normals exceeds sqrt(d) + t with probability
  at most e^(-t^2 / 2); and one percent more for rounding.
  """
  stddev = float(clip.noise_stddev(clip_norm, noise_multiplier))
  return 1.01 * (clip_norm + stddev * (math.sqrt(dimension) + 10))


def _check_norms(values: np.ndarray, largest: float, channel: str) -> None:
  """Refuses rows that are not finite or too long; one pass over the values, without a copy."""
  largest = min(largest, float(np.finfo(np.float32).max))
  with np.errstate(over="ignore", invalid="ignore"):
    for place, row in enumerate(values.reshape(len(values), -1)):
      norm = math.sqrt(squared) if (squared := float(np.dot(row, row))) >= 0 else math.nan
      if not norm <= largest:
        raise ValueError(f"{channel} of row {place} have the norm {norm:g}: expected finite "
                         f"numbers and at most {largest:g}")
