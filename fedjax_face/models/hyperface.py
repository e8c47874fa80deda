"""HyperFace: five face tasks from one region of an image, and its small form for a CPU.

Every convolution and dense layer is the repository's own, so on a CPU a convolution is a matrix
product: Winograd's for stride 1 with 32 channels or more, patches (im2col) for the strides. The
published 3x3 max-pooling with stride 2 overlaps, and stays XLA's own on every backend; the small
form pools 2x2 without overlap instead, in one layer with its convolution where that has stride 1.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.embedding import require_images
from fedjax_face.models.pooling import max_pool


class TaskOutputs(NamedTuple):
  """What a network says about B regions, float32; L landmarks.

  Attributes:
    detection: [B, 2], logits of 'not a face' and 'face'.
    landmarks: [B, L, 2], (x, y) in the region's frame.
    visibility: [B, L], towards 1 where a landmark is visible, else 0; not a logit.
    pose: [B, 3], roll, pitch, yaw in radians.
    gender: [B, 2], logits of male and female.
  """

  detection: jax.Array
  landmarks: jax.Array
  visibility: jax.Array
  pose: jax.Array
  gender: jax.Array


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of a HyperFace network at width 1.

  conv1 - pool - conv2 - pool - conv3 - conv4 - conv5 - pool; the first pooling and conv3 are
  tapped by conv1a (4x4, stride 4) and conv3a (2x2, stride 2), which bring them to the size of the
  last pooling; all three are concatenated.

  Attributes:
    conv1: kernel, stride and padding of the first convolution.
    conv2: kernel of the second; the others are 3x3; all from the second on keep the size.
    pool: window and stride of the three max-poolings.
    channels: of conv1 to conv5.
    tap_channels: of conv1a and conv3a.
    joint_channels: of the 1x1 convolution of the concatenated taps.
    shared_features: of the dense layer that the tasks share.
    task_features: of each task's own dense layer.
    response_norm: local response normalisation after the first two poolings.
  """

  conv1: tuple[int, int, int]
  conv2: int
  pool: tuple[int, int]
  channels: tuple[int, int, int, int, int]
  tap_channels: int
  joint_channels: int
  shared_features: int
  task_features: int
  response_norm: bool

  def tap_sizes(self, size: int) -> tuple[int, int, int]:
    """Places along one side of the three taps, for images of `size` pixels along that side."""
    kernel, stride, padding = self.conv1
    first = self._pooled((size + 2 * padding - kernel) // stride + 1)
    second = self._pooled(first)
    return first // 4, second // 2, self._pooled(second)

  def accepts(self, size: int) -> bool:
    """Whether the three taps have the same size, at least one place, and so can be joined."""
    sizes = self.tap_sizes(size)
    return min(sizes) > 0 and len(set(sizes)) == 1

  def _pooled(self, size: int) -> int:
    window, stride = self.pool
    return (size - window) // stride + 1


ALEXNET_LAYOUT = Layout(
    conv1=(11, 4, 0), conv2=5, pool=(3, 2), channels=(96, 256, 384, 384, 256), tap_channels=256,
    joint_channels=192, shared_features=3072, task_features=512, response_norm=True)
SMALL_LAYOUT = Layout(
    conv1=(5, 2, 2), conv2=3, pool=(2, 2), channels=(32, 64, 64, 64, 64), tap_channels=32,
    joint_channels=48, shared_features=128, task_features=64, response_norm=False)


class TaskBranches(nn.Module):
  """For every task a dense layer, ReLU and a linear output, on features that the tasks share.

  Attributes:
    landmarks: L.
    features: size of each task's own layer.
  """

  landmarks: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> TaskOutputs:
    """Maps shared features float32 [B, F] to the outputs of the five tasks."""
    sizes = {"detection": 2, "landmarks": 2 * self.landmarks, "visibility": self.landmarks,
             "pose": 3, "gender": 2}
    outputs = {task: Dense(size, name=task)(nn.relu(Dense(self.features, name=f"fc_{task}")(x)))
               for task, size in sizes.items()}
    outputs["landmarks"] = outputs["landmarks"].reshape(-1, self.landmarks, 2)
    return TaskOutputs(**outputs)


class HyperFace(nn.Module):
  """AlexNet whose early, middle and last features are joined and shared by five tasks.

  33,821,318 parameters at width 1 for 227x227x3 images and 21 landmarks. ReLU after every layer
  but the outputs; convolutions in one group; local response normalisation where AlexNet has it.

  Attributes:
    landmarks: L.
    width: multiplies the channels and features of all hidden layers, rounded to multiples of 8.
    layout: sizes at width 1. The published one takes images of 227 to 234 pixels a side, and of
      any multiple of 32 pixels more or less, down to 67 to 74.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017; as used by Zhang et al., Frontiers in
    Neurorobotics 13:112, 2020.
  """

  landmarks: int = 21
  width: float = 1.0
  layout: Layout = ALEXNET_LAYOUT

  @nn.compact
  def __call__(self, x: jax.Array) -> TaskOutputs:
    """Maps regions float32 [B, H, W, C] to the outputs of the five tasks.

    Raises:
      ValueError: the taps of images of this size cannot be joined, or the width is not positive.
    """
    self._check(x)
    layout, scaled = self.layout, self._scaled
    first, second, third, fourth, fifth = map(scaled, layout.channels)
    kernel, stride, padding = layout.conv1
    x = nn.relu(Conv(first, (kernel, kernel), (stride, stride), ((padding,) * 2,) * 2,
                     name="conv1")(x))
    low = self._normalised(self._pooled(x))
    x = self._normalised(self._conv_pool(low, second, layout.conv2, "conv2"))
    middle = nn.relu(Conv(third, (3, 3), name="conv3")(x))
    x = nn.relu(Conv(fourth, (3, 3), name="conv4")(middle))
    high = self._conv_pool(x, fifth, 3, "conv5")
    taps = [self._tap(low, 4, "conv1a"), self._tap(middle, 2, "conv3a"), high]
    x = Conv(scaled(layout.joint_channels), (1, 1), name="conv_all")(jnp.concatenate(taps, -1))
    x = nn.relu(x).reshape(x.shape[0], -1)
    x = nn.relu(Dense(scaled(layout.shared_features), name="fc_full")(x))
    return TaskBranches(self.landmarks, scaled(layout.task_features), name="tasks")(x)

  def _conv_pool(self, x: jax.Array, features: int, kernel: int, name: str) -> jax.Array:
    if self.layout.pool == (2, 2):
      return ConvReluMaxPool(features, (kernel, kernel), name=name)(x)
    return self._pooled(nn.relu(Conv(features, (kernel, kernel), name=name)(x)))

  def _pooled(self, x: jax.Array) -> jax.Array:
    window, stride = self.layout.pool
    return max_pool(x, (window, window), (stride, stride))

  def _normalised(self, x: jax.Array) -> jax.Array:
    return local_response_norm(x) if self.layout.response_norm else x

  def _tap(self, x: jax.Array, stride: int, name: str) -> jax.Array:
    features = self._scaled(self.layout.tap_channels)
    return nn.relu(Conv(features, (stride, stride), (stride, stride), "VALID", name=name)(x))

  def _scaled(self, features: int) -> int:
    return features if self.width == 1 else max(8, int(features * self.width + 4) // 8 * 8)

  def _check(self, x: jax.Array) -> None:
    require_images(x, "HyperFace")
    if not self.width > 0:
      raise ValueError(f"HyperFace: width is {self.width}; expected more than 0")
    for size in x.shape[1:3]:
      if not self.layout.accepts(size):
        taps = ", ".join(map(str, self.layout.tap_sizes(size)))
        nearest = min(filter(self.layout.accepts, range(2 * size + 128)),
                      key=lambda other: abs(other - size))
        raise ValueError(f"HyperFace: taps of {size} pixels have {taps} places and cannot be "
                         f"joined; the nearest accepted size is {nearest} pixels")


def local_response_norm(x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75,
                        bias: float = 1.0) -> jax.Array:
  """Divides by (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta.

  The defaults are those of the AlexNet that HyperFace starts from (Caffe's).

  Args:
    x: float [..., C].
    size: odd number of channels, centred on the one that is divided; fewer at both ends.
    alpha, beta, bias: as in the formula.

  Source: Krizhevsky, Sutskever and Hinton, NIPS 2012, section 3.3; alpha by Caffe's convention.
  """
  side = size // 2
  squares = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(side, side)])
  channels = x.shape[-1]
  total = sum(squares[..., i:i + channels] for i in range(size))
  return x * (bias + alpha / size * total)**-beta
