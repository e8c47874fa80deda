"""LeNet, the small backbone of the published DP-FedEmb EMNIST experiment."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, EmbeddingDim, Width
from fedjax_face.models.convolution import ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.embedding import require_images
from fedjax_face.options import register


class LeNet(nn.Module):
  """Two 5x5 convolutions with max-pooling and one linear layer.

  453,632 parameters for 28x28x1 images and 128 embedding dimensions.

  Attributes:
    embedding_dim: D.
    width: of the convolutions, in units of the published 32 and 64 channels.

  Source: LeCun et al., Proceedings of the IEEE 1998; this variant: Xu et al., CVPR 2023.
  """

  embedding_dim: int = 128
  width: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to raw embeddings float32 [B, D]."""
    require_images(x, "LeNet", smallest=4)
    for index, features in enumerate((32, 64)):
      x = ConvReluMaxPool(max(1, round(features * self.width)), (5, 5), name=f"conv{index}")(x)
    x = x.reshape(x.shape[0], -1)
    return Dense(self.embedding_dim, name="embedding")(x)


@register.backbone
def lenet(embedding_dim: EmbeddingDim = 128, width: Width = 1.0) -> Backbone:
  """Two 5x5 convolutions and one linear layer; see `LeNet`.

  Args:
    embedding_dim: D.
    width: of the convolutions, in units of the published 32 and 64 channels; above 0.

  Source: LeCun et al., Proceedings of the IEEE 1998; this variant: Xu et al., CVPR 2023.
  """
  return LeNet(embedding_dim, width)


@register.backbone
def lenet_small(embedding_dim: EmbeddingDim = 128) -> Backbone:
  """LeNet with 16 and 32 channels: 214,080 parameters for 28x28x1 images and 128 dimensions.

  Args:
    embedding_dim: D.
  """
  return LeNet(embedding_dim, width=0.5)
