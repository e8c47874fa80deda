"""The kind of backbones: flax modules from images float32 [B, H, W, C] to embeddings [B, D].

The factories stand beside the networks. One of a user's own is registered in the same way, and is
named `module:name` in a config:

    @register.backbone
    def two_layers(*, embedding_dim: int = 128) -> Backbone:
      return Backbone(TwoLayers(embedding_dim))
"""

from __future__ import annotations

from typing import Annotated, NewType

import flax.linen as nn

from fedjax_face.options import at_least, register

Backbone = NewType("Backbone", nn.Module)
register.kind(Backbone, homes=tuple(f"fedjax_face.models.{module}" for module in (
    "iresnet", "lenet", "mobilenet", "reddi_cnn", "resnet", "vgg_face")))

Size = Annotated[int, at_least(1)]
EmbeddingDim = Size
