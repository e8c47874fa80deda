"""A head that starts from the mean embeddings of a client's own images, class by class.

A random row says nothing of its class, so the first local steps pull the faces of a class to
wherever its row happens to lie, somewhere else in every client. Under its own mean a class starts
where the backbone has it already, and what the backbone learns is to draw its images together.

Only the client's images and the backbone that it was sent enter, before anything is clipped: the
client's update stays a function of its own data, and its clipped norm bounds the sensitivity as
ever. A head that is thrown away releases nothing by this; one that is sent releases its start too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_face.federated.client import ClientBatches
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.models.heads import COSINE_INIT_STD

# Logit of an image at its class's mean at the start of a linear head: the scale of a margin head.
LINEAR_SCALE = 16.0
# Images embedded at a time, at least.
_TOGETHER = 32

RawEmbed = Callable[[Any, jax.Array], jax.Array]
PrototypeHead = Callable[[Any, Any, jax.Array, ClientBatches], dict[str, Any]]


def prototype_head(embed: RawEmbed, linear: bool) -> PrototypeHead:
  """(head, backbone, uint8 [N, H, W, C], ClientBatches) -> `head` and `held` of a client.

  `head` has the unit mean of the unit embeddings of a class's images in each row, images of the
  client's first pass, each once and not augmented; `held`, bool [C], says which classes the client
  has images of, and its softmax leaves the others out. Rows have the mean length at which a cosine
  head starts (`heads.COSINE_INIT_STD` sqrt(D)); those of a linear head are as long as gives an
  image of the client's mean raw length the logit `LINEAR_SCALE` at its own mean. A held class
  without an image in the first pass (a limit of images a user may leave it out) keeps its row.

  Args:
    embed: (backbone, uint8 [B, H, W, C]) -> raw embeddings f32 [B, D].
    linear: whether the head compares with raw embeddings.

  Source: the rows of a head as class means: Snell, Swersky, Zemel, NeurIPS 2017 (prototypical
  networks), equation 1.
  """

  def of_client(head, backbone, images, batches: ClientBatches):
    rows = head["params"]["class_embeddings"]
    means, count, length = _class_means(
        lambda image: embed(backbone, image), images, batches, *rows.shape)
    scale = LINEAR_SCALE / length if linear else COSINE_INIT_STD * math.sqrt(rows.shape[1])
    started = jnp.where(count[:, None] > 0, scale * l2_normalise(means), rows)
    held = jnp.zeros(len(rows), bool).at[batches.labels].max(batches.mask)
    return {"head": {"params": head["params"] | {"class_embeddings": started}}, "held": held}

  return of_client


def _class_means(embed: Callable[[jax.Array], jax.Array], images: jax.Array,
                 batches: ClientBatches, classes: int, dim: int
                 ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sums of unit embeddings [C, D] and numbers of images [C], and the mean raw length."""
  first = batches.of_first_pass()
  steps = max(1, _TOGETHER // first.shape[1])
  blocks = -(-first.shape[0] // steps)

  def grouped(leaf: jax.Array) -> jax.Array:
    padding = blocks * steps - len(leaf)
    return jnp.pad(leaf, ((0, padding), (0, 0))).reshape(blocks, -1)

  examples, labels, real = (grouped(a) for a in (batches.examples, batches.labels, first))

  def add(block, totals):
    means, count, length = totals
    raw = embed(images[examples[block]])
    unit = jnp.where(real[block][:, None], l2_normalise(raw), 0.0)
    norms = jnp.where(real[block], jnp.linalg.norm(raw, axis=-1), 0.0)
    return (means.at[labels[block]].add(unit),
            count.at[labels[block]].add(1.0 * real[block]), length + norms.sum())

  zero = jnp.zeros((classes, dim)), jnp.zeros(classes), jnp.zeros(())
  needed = real.any(axis=1).sum()
  means, count, length = jax.lax.fori_loop(0, needed, add, zero)
  return means, count, jnp.maximum(length / jnp.maximum(count.sum(), 1.0), 1e-6)
