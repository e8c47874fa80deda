"""VGG-Face, and a small form of it for images of 32 to 64 pixels."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.backbones import Backbone, EmbeddingDim, Size
from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.embedding import require_images
from fedjax_face.options import OptionError, register

# Channels of the 3x3 convolutions of every stage; a stage ends with 2x2 max-pooling.
VGG_FACE_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALL_STAGES = ((32,), (64,), (128, 128), (128, 128))


class VGGFace(nn.Module):
  """The 16-layer network of VGG-Face without its last layer: the embedding is fc7 after its ReLU.

  With a linear classifier of 2622 people on top, for 224x224x3 images, it is the published network:
  145,002,878 parameters, 10,742,334 of them the classifier's. Embeddings are non-negative. Left
  out: dropout. The layer fc6 grows with the image: use the size that it was made for.

  Blocks are conv1_1, conv1_2, ..., fc6, fc7; the last convolution of a stage includes its pooling.

  Attributes:
    embedding_dim: D, outputs of fc7; 4096 in the paper.
    hidden: outputs of fc6.
    stages: channels of the convolutions of every stage.

  Source: Parkhi, Vedaldi and Zisserman, BMVC 2015, table 3 (configuration D of Simonyan and
    Zisserman, ICLR 2015).
  """

  embedding_dim: int = 4096
  hidden: int = 4096
  stages: tuple[tuple[int, ...], ...] = VGG_FACE_STAGES

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to embeddings float32 [B, D], all at least 0."""
    require_images(x, "VGGFace", smallest=2 ** len(self.stages))
    for stage, channels in enumerate(self.stages, start=1):
      for index, features in enumerate(channels[:-1], start=1):
        x = nn.relu(Conv(features, (3, 3), name=f"conv{stage}_{index}")(x))
      x = ConvReluMaxPool(channels[-1], (3, 3), name=f"conv{stage}_{len(channels)}")(x)
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(Dense(self.hidden, name="fc6")(x))
    return nn.relu(Dense(self.embedding_dim, name="fc7")(x))


@register.backbone
def vgg_face(embedding_dim: EmbeddingDim = 4096, hidden: Size = 4096,
             stages: tuple[tuple[Size, ...], ...] = VGG_FACE_STAGES) -> Backbone:
  """The 16-layer network of VGG-Face up to fc7; see `VGGFace`.

  Args:
    embedding_dim: D, outputs of fc7.
    hidden: outputs of fc6.
    stages: channels of the convolutions of every stage.

  Source: Parkhi, Vedaldi and Zisserman, BMVC 2015, table 3.
  """
  if not stages or not all(stages):
    raise OptionError("stages: expected at least one stage, and channels in each")
  return VGGFace(embedding_dim, hidden, stages)


@register.backbone
def vgg_face_small(embedding_dim: EmbeddingDim = 128, hidden: Size = 256) -> Backbone:
  """VGG-Face with six convolutions of 32 to 128 channels and four poolings.

  700,224 parameters for 32x32x3 images and 128 embedding dimensions, 1,093,440 for 64x64x3.

  Args:
    embedding_dim: D.
    hidden: outputs of fc6.
  """
  return VGGFace(embedding_dim, hidden, SMALL_STAGES)
