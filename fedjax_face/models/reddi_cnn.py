"""The EMNIST convolutional network of adaptive federated optimisation, as a backbone."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, EmbeddingDim
from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.embedding import require_images
from fedjax_face.options import register


class ReddiCNN(nn.Module):
  """Two 3x3 valid convolutions, one max-pooling and a dense layer with ReLU; no dropout.

  1,198,592 parameters for 28x28x1 images and 128 embedding dimensions; with the paper's 62-way
  dense layer (with bias) 1,206,590. Embeddings are non-negative because of the last ReLU.

  Attributes:
    embedding_dim: D.

  Source: Reddi et al., ICLR 2021, EMNIST character recognition network.
  """

  embedding_dim: int = 128

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to raw embeddings float32 [B, D]."""
    require_images(x, "ReddiCNN", smallest=6)
    x = nn.relu(Conv(32, (3, 3), padding="VALID", name="conv0")(x))
    x = ConvReluMaxPool(64, (3, 3), "VALID", name="conv1")(x)
    x = x.reshape(x.shape[0], -1)
    return nn.relu(Dense(self.embedding_dim, name="embedding")(x))


@register.backbone
def reddi_cnn(embedding_dim: EmbeddingDim = 128) -> Backbone:
  """Two 3x3 convolutions and a dense layer with ReLU; see `ReddiCNN`.

  Args:
    embedding_dim: D.

  Source: Reddi et al., ICLR 2021, EMNIST character recognition network.
  """
  return ReddiCNN(embedding_dim)
