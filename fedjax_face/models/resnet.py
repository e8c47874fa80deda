"""ResNet-50 with GroupNorm."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, Blocks, EmbeddingDim, Size
from fedjax_face.models.convolution import Conv
from fedjax_face.models.embedding import require_images
from fedjax_face.models.normalisation import GroupNorm
from fedjax_face.models.pooling import max_pool
from fedjax_face.options import register


class ConvNorm(nn.Module):
  """Convolution without bias, padded by (kernel - 1) / 2 on every side, and GroupNorm."""

  features: int
  kernel: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H', W', features]."""
    side = (self.kernel - 1) // 2
    x = Conv(self.features, (self.kernel, self.kernel), (self.stride, self.stride),
             ((side, side), (side, side)), use_bias=False, name="conv")(x)
    return GroupNorm(self.groups, 1e-5, name="norm")(x)


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride), 1x1 to four times the channels, plus the shortcut."""

  features: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H', W', 4 features]."""
    y = nn.relu(ConvNorm(self.features, 1, 1, self.groups, name="reduce")(x))
    y = nn.relu(ConvNorm(self.features, 3, self.stride, self.groups, name="spatial")(y))
    y = ConvNorm(4 * self.features, 1, 1, self.groups, name="expand")(y)
    if x.shape != y.shape:
      x = ConvNorm(4 * self.features, 1, self.stride, self.groups, name="shortcut")(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Bottleneck ResNet v1, the stride on the 3x3 convolution, with GroupNorm (epsilon 1e-5).

  The defaults are ResNet-50: 23,770,304 parameters for 3 input channels and 128 embedding
  dimensions, at any image size.

  Attributes:
    embedding_dim: D.
    blocks: number of blocks of every stage; every stage but the first halves the size.
    channels: channels of the first stage's 3x3 convolutions; doubled from stage to stage.
    groups: GroupNorm groups.

  Source: He et al., CVPR 2016, table 1; GroupNorm variant: Xu et al., CVPR 2023.
  """

  embedding_dim: int = 128
  blocks: tuple[int, ...] = (3, 4, 6, 3)
  channels: int = 64
  groups: int = 32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to raw embeddings float32 [B, D]."""
    require_images(x, "ResNet")
    x = nn.relu(ConvNorm(self.channels, 7, 2, self.groups, name="stem")(x))
    x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, count in enumerate(self.blocks):
      for index in range(count):
        stride = 2 if stage > 0 and index == 0 else 1
        x = Bottleneck(self.channels * 2**stage, stride, self.groups,
                        name=f"stage{stage}_block{index}")(x)
    return nn.Dense(self.embedding_dim, name="embedding")(x.mean((1, 2)))


@register.backbone
def resnet50(embedding_dim: EmbeddingDim = 128, blocks: tuple[Blocks, ...] = (3, 4, 6, 3),
             channels: Size = 64, groups: Size = 32) -> Backbone:
  """ResNet-50 with GroupNorm, or one of other sizes; see `ResNet`.

  Args:
    embedding_dim: D.
    blocks: number of blocks of every stage.
    channels: channels of the first stage's 3x3 convolutions; doubled from stage to stage.
    groups: GroupNorm groups.

  Source: He et al., CVPR 2016, table 1; GroupNorm variant: Xu et al., CVPR 2023.
  """
  return ResNet(embedding_dim, blocks, channels, groups)
