"""MobileNetV2 with GroupNorm, and the small version of it for 28x28 images."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, EmbeddingDim, Size, Width
from fedjax_face.models.convolution import Conv
from fedjax_face.models.embedding import require_images
from fedjax_face.models.normalisation import GroupNorm
from fedjax_face.options import register

# (expansion, channels, stride) of every inverted residual block.
MOBILENET_V2_BLOCKS = (
    (1, 16, 1),
    (6, 24, 2), (6, 24, 1),
    (6, 32, 2), (6, 32, 1), (6, 32, 1),
    (6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1),
    (6, 96, 1), (6, 96, 1), (6, 96, 1),
    (6, 160, 2), (6, 160, 1), (6, 160, 1),
    (6, 320, 1),
)


class _ConvNorm(nn.Module):
  """Convolution without bias, GroupNorm(2, 1e-3) and, unless linear, ReLU6.

  'SAME' pads an even size by (0, 1) and an odd one by (1, 1) before a 3x3 convolution of stride 2,
  which is the padding rule of the published network.
  """

  features: int
  kernel: int
  stride: int = 1
  depthwise: bool = False
  linear: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Conv(self.features, (self.kernel, self.kernel), (self.stride, self.stride), "SAME",
             feature_group_count=x.shape[-1] if self.depthwise else 1, use_bias=False,
             name="conv")(x)
    x = GroupNorm(groups=2, epsilon=1e-3, name="norm")(x)
    return x if self.linear else nn.relu6(x)


class _InvertedResidual(nn.Module):
  """Expand 1x1, depthwise 3x3, project 1x1; residual where the shape is kept."""

  expansion: int
  features: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    y = x
    if self.expansion != 1:
      y = _ConvNorm(channels * self.expansion, 1, name="expand")(y)
    y = _ConvNorm(y.shape[-1], 3, self.stride, depthwise=True, name="depthwise")(y)
    y = _ConvNorm(self.features, 1, linear=True, name="project")(y)
    return x + y if self.stride == 1 and channels == self.features else y


def _scaled(channels: int, width: float) -> int:
  """Scales a channel count to a multiple of 8, never by more than 10 % below the exact product."""
  exact = channels * width
  rounded = max(8, int(exact + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * exact else rounded


class MobileNetV2(nn.Module):
  """MobileNetV2 with GroupNorm (2 groups, epsilon 1e-3) in place of batch normalisation.

  2,387,840 parameters for 3 input channels and 128 embedding dimensions, at any image size.

  Attributes:
    embedding_dim: D.
    width: channel multiplier; counts are rounded to multiples of 8.
    blocks: (expansion, channels, stride) of every inverted residual block.
    last_channels: channels of the last 1x1 convolution; scaled by `width` only above 1.

  Source: Sandler et al., CVPR 2018, table 2; GroupNorm variant: Xu et al., CVPR 2023.
  """

  embedding_dim: int = 128
  width: float = 1.0
  blocks: tuple[tuple[int, int, int], ...] = MOBILENET_V2_BLOCKS
  last_channels: int = 1280

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to raw embeddings float32 [B, D]."""
    require_images(x, "MobileNetV2")
    x = _ConvNorm(_scaled(32, self.width), 3, 2, name="stem")(x)
    for index, (expansion, channels, stride) in enumerate(self.blocks):
      features = _scaled(channels, self.width)
      x = _InvertedResidual(expansion, features, stride, name=f"block{index}")(x)
    last = _scaled(self.last_channels, max(self.width, 1.0))
    x = _ConvNorm(last, 1, name="last")(x)
    return nn.Dense(self.embedding_dim, name="embedding")(x.mean((1, 2)))


@register.backbone
def mobilenet_v2(embedding_dim: EmbeddingDim = 128, width: Width = 1.0,
                 blocks: tuple[tuple[Size, Size, Size], ...] = MOBILENET_V2_BLOCKS,
                 last_channels: Size = 1280) -> Backbone:
  """MobileNetV2 with GroupNorm; see `MobileNetV2`.

  Args:
    embedding_dim: D.
    width: channel multiplier, above 0; counts are rounded to multiples of 8.
    blocks: (expansion, channels, stride) of every inverted residual block.
    last_channels: channels of the last 1x1 convolution; scaled by `width` only above 1.

  Source: Sandler et al., CVPR 2018, table 2; GroupNorm variant: Xu et al., CVPR 2023.
  """
  return MobileNetV2(embedding_dim, width, blocks, last_channels)


@register.backbone
def mobile_small(embedding_dim: EmbeddingDim = 128, width: Width = 1.0) -> Backbone:
  """The first six blocks of MobileNetV2 and a last convolution of 640 channels.

  158,720 parameters for 1 input channel and 128 embedding dimensions.

  Args:
    embedding_dim: D.
    width: channel multiplier, as in `MobileNetV2`.

  Source: Xu et al., CVPR 2023 (EMNIST).
  """
  return MobileNetV2(embedding_dim, width, MOBILENET_V2_BLOCKS[:6], last_channels=640)
