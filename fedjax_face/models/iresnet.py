"""iResNet, the backbone of face recognition, with GroupNorm."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, EmbeddingDim
from fedjax_face.models.convolution import Conv
from fedjax_face.models.embedding import require_images
from fedjax_face.models.normalisation import GroupNorm, PReLU
from fedjax_face.options import register

_SIDES = ((1, 1), (1, 1))


class _Block(nn.Module):
  """norm, conv 3x3, norm, PReLU, conv 3x3 (with the stride), norm, plus the shortcut."""

  features: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    strides = (self.stride, self.stride)
    y = GroupNorm(self.groups, name="norm0")(x)
    y = Conv(self.features, (3, 3), (1, 1), _SIDES, use_bias=False, name="conv0")(y)
    y = GroupNorm(self.groups, name="norm1")(y)
    y = PReLU(name="prelu")(y)
    y = Conv(self.features, (3, 3), strides, _SIDES, use_bias=False, name="conv1")(y)
    y = GroupNorm(self.groups, name="norm2")(y)
    if x.shape != y.shape:
      x = Conv(self.features, (1, 1), strides, "VALID", use_bias=False, name="shortcut_conv")(x)
      x = GroupNorm(self.groups, name="shortcut_norm")(x)
    return x + y


class IResNet(nn.Module):
  """iResNet: a stem that keeps the size, four stages that halve it, flatten, dense.

  Follows InsightFace's `iresnet` with GroupNorm (epsilon 1e-5) for batch normalisation. Left out:
  dropout, and the normalisation of the embedding itself, which over a single vector would change
  what an embedding means. The dense layer grows with the image: use the size that it was made for.

  Attributes:
    embedding_dim: D.
    blocks: number of blocks of every stage.
    channels: channels of the stem and the first stage; doubled from stage to stage.
    groups: GroupNorm groups.

  Source: Deng et al., CVPR 2019 (ArcFace), section 3.1.
  """

  embedding_dim: int = 512
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  channels: int = 64
  groups: int = 32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C], H and W multiples of 16, to raw embeddings [B, D]."""
    stages = len(self.blocks)
    require_images(x, "IResNet", smallest=2**stages, multiple=2**stages)
    x = Conv(self.channels, (3, 3), (1, 1), _SIDES, use_bias=False, name="stem_conv")(x)
    x = PReLU(name="stem_prelu")(GroupNorm(self.groups, name="stem_norm")(x))
    for stage, count in enumerate(self.blocks):
      for index in range(count):
        x = _Block(self.channels * 2**stage, 2 if index == 0 else 1, self.groups,
                   name=f"stage{stage}_block{index}")(x)
    x = GroupNorm(self.groups, name="norm")(x)
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(self.embedding_dim, name="embedding")(x)


@register.backbone
def iresnet18(embedding_dim: EmbeddingDim = 512) -> Backbone:
  """iResNet-18 with GroupNorm: two blocks a stage; see `IResNet`.

  Args:
    embedding_dim: D.
  """
  return IResNet(embedding_dim, (2, 2, 2, 2))


@register.backbone
def iresnet50(embedding_dim: EmbeddingDim = 512) -> Backbone:
  """iResNet-50 with GroupNorm: 3, 4, 14 and 3 blocks; see `IResNet`.

  Args:
    embedding_dim: D.
  """
  return IResNet(embedding_dim, (3, 4, 14, 3))
