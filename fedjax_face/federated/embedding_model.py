"""A backbone and a head as the pure functions that a client and the evaluation need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.data import pixels
from fedjax_face.federated.client import Batch, Params, Totals
from fedjax_face.federated.local_prototypes import PrototypeHead, prototype_head
from fedjax_face.losses.beside import Beside
from fedjax_face.losses.softmax import masked_cross_entropy
from fedjax_face.method.algorithm import HParams, part_of
from fedjax_face.models import heads
from fedjax_face.models.embedding import l2_normalise, unit_embeddings
from fedjax_face.models.margins import HeadGeometry

Augment = Callable[[jax.Array, jax.Array], jax.Array]


class EmbeddingModel(NamedTuple):
  """Images -> embeddings -> logits of classes.

  Attributes:
    init_backbone: key -> backbone parameters.
    init_head: key -> head parameters.
    loss: (params with `backbone`, `head` and perhaps `held` classes and `foreign` points, Batch,
      hparams, key) -> (mean loss, Totals); of the hparams it reads those of the head and of the
      loss of an exchange.
    prototype_head: (head, backbone, images, ClientBatches) -> the head that starts from the
      client's own class means, and the classes `held`.
    embed: (backbone parameters, uint8 [B, H, W, C]) -> unit-norm f32 [B, D].
    embedding_dim: D.
    geometry: what the head lends to the corrections of its class embeddings; None if nothing.
  """

  init_backbone: Callable[[jax.Array], Any]
  init_head: Callable[[jax.Array], Any]
  loss: Callable[[Params, Batch, HParams, jax.Array], tuple[jax.Array, Totals]]
  embed: Callable[[Any, jax.Array], jax.Array]
  prototype_head: PrototypeHead
  embedding_dim: int
  geometry: HeadGeometry | None = None


def no_augmentation(images: jax.Array, key: jax.Array) -> jax.Array:
  """Images as they are."""
  del key
  return images


def embedding_model(
    backbone: nn.Module, head: Any, image_shape: tuple[int, int, int], embedding_dim: int,
    augment: Augment = no_augmentation, beside: Beside | None = None,
    beside_at: tuple[str, ...] = ("exchange", "loss"),
) -> EmbeddingModel:
  """Softmax training of raw embeddings, as in Xu et al. 2023; unit embeddings at inference.

  Args:
    backbone: f32 [B, H, W, C] -> raw embeddings [B, D].
    head: (embeddings [B, D], labels [B]) -> logits [B, C], a module as those of `models.heads`; the
      scalars that it lists in `head.hparams` are read from its own mapping.
    image_shape: (H, W, C).
    embedding_dim: D.
    augment: (uint8 [B, H, W, C], key) -> images of the same shape, in training only.
    beside: what a client's loss adds for what it was told, which stands among its parameters under
      the name `beside.told`, where it was told something; None adds nothing.
    beside_at: where the scalars of `beside` are in the hparams of the method.

  Raises:
    ValueError: a loss beside it that needs a margin head, where the head lends no geometry.
  """
  geometry = heads.geometry_of(head)
  if beside is not None and beside.needs_margin and geometry is None:
    raise ValueError("the consensus-aware loss adds to a margin head; expected cosface or arcface")

  def init_backbone(key):
    return backbone.init(key, jnp.zeros((1, *image_shape), jnp.float32))

  def init_head(key):
    return head.init(key, jnp.zeros((1, embedding_dim)), jnp.zeros((1,), jnp.int32))

  def loss(params, batch: Batch, hparams, key):
    images = pixels.normalise(augment(batch.images, key))
    embeddings: Any = backbone.apply(params["backbone"], images)
    own_scalars = part_of(hparams, "head")
    scalars = {name: own_scalars[name] for name in head.hparams}
    logits: Any = head.apply(params["head"], embeddings, batch.labels, **scalars)
    negatives, sums = None, ()
    if beside is not None and beside.told in params:
      lent = None if geometry is None else geometry(own_scalars)
      negatives = beside.adds(embeddings, batch.labels, params[beside.told],
                              part_of(hparams, *beside_at), lent)
      if beside.sums is not None:
        sums = beside.sums(head.num_classes)(embeddings, batch.labels, batch.mask)
    mean, seen = masked_cross_entropy(
        logits, batch.labels, batch.mask, batch.num_classes, negatives, params.get("held"))
    count = seen["count"]
    cosine = jnp.sum(_true_class_cosine(params["head"], embeddings, batch))
    return mean, Totals(mean * count, seen["accuracy"] * count, cosine, count, sums)

  def embed(params, images):
    return unit_embeddings(backbone, params, images)

  def raw_embeddings(params, images) -> jax.Array:
    return backbone.apply(params, pixels.normalise(images))  # type: ignore[return-value]

  return EmbeddingModel(init_backbone, init_head, loss, embed,
                        prototype_head(raw_embeddings, linear=not head.normalised),
                        embedding_dim, geometry)


def _true_class_cosine(head: Any, embeddings: jax.Array, batch: Batch) -> jax.Array:
  """f32 [B]: cosine of each real example with its class embedding, 0 for padding; no gradient."""
  own = head["params"]["class_embeddings"][batch.labels]
  cosine = jnp.sum(l2_normalise(embeddings) * l2_normalise(own), axis=-1)
  return jax.lax.stop_gradient(jnp.where(batch.mask, cosine, 0.0))
