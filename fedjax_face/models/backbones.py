"""The kind of backbones: flax modules from images float32 [B, H, W, C] to embeddings [B, D].

The factories stand beside the networks. One of a user's own is registered in the same way, and is
named `module:name` in a config:

    @register.backbone
    def two_layers(*, embedding_dim: int = 128) -> Backbone:
      return TwoLayers(embedding_dim)
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import jax

from fedjax_face.options import register, within


class Backbone(Protocol):
  """A flax module; a protocol, since other kinds are flax modules too."""

  def init(self, rngs: Any, x: jax.Array, /) -> Any:
    """Variables for images of a shape."""

  def apply(self, variables: Any, x: jax.Array, /) -> Any:
    """Embeddings float32 [B, D] of images float32 [B, H, W, C]."""

  def __call__(self, x: jax.Array, /) -> jax.Array:
    """The same, within a module that it is part of."""


register.kind(Backbone, homes=tuple(f"fedjax_face.models.{module}" for module in (
    "iresnet", "lenet", "mobilenet", "reddi_cnn", "resnet", "vgg_face")))

Size = Annotated[int, within("[1, 65536]")]
Blocks = Annotated[int, within("[1, 1000]")]
EmbeddingDim = Size
Width = Annotated[float, within("(0, 100]")]  # of the convolutions
