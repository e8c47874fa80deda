"""Pairs of a class embedding and a frozen anchor of another client, in blocks of anchors.

What the server's corrections of class embeddings share (gradient correction, spread-out): an anchor
pushes the class embeddings of every client but its own. All pairs are visited once, a block of
anchors against all rows at a time, so memory is O(block * R + M * D) for R rows and M anchors and
no M x R matrix exists.

Sharded form, as in a partial fully-connected layer: inside `jax.shard_map` (check_vma=False) over
`axis_name`, every argument is the device's own share, of equal size on all devices (pad with owner
-1). Anchors are gathered; each device keeps the pairs with its own rows and what an anchor needs
over all rows is reduced over the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.models.embedding import l2_normalise
from fedjax_face.models.margins import Geometry, Scalar

DEFAULT_BLOCK = 512

HParams = Mapping[str, Scalar]


class Anchors(NamedTuple):
  """Frozen points that class embeddings of OTHER clients are pushed away from.

  Attributes:
    vectors: float32 [M, D]; where the head is normalised only their direction counts.
    owner: int32 [M], the client that the anchor stands for; -1 is padding, which pushes nobody.
    weight: float32 [M], how many classes the anchor stands for (1 for a class embedding).
    cosine: float32 [M], mean training cosine of the owner's examples with their class embedding;
      read by the calibrated gradient correction only.
  """

  vectors: jax.Array
  owner: jax.Array
  weight: jax.Array
  cosine: jax.Array


# (class embeddings f32 [R, D], owner int32 [R] with -1 for padding, anchors, own hparams, what the
# head lends: None of a head without a geometry) -> gradient f32 [R, D], or the scalar that it is
# the gradient of.
Correction = Callable[[jax.Array, jax.Array, Anchors, HParams, Geometry | None], jax.Array]
Regulariser = Callable[[jax.Array, jax.Array, Anchors, HParams, Geometry | None], jax.Array]


def own_anchors(class_embeddings: jax.Array, owner: jax.Array,
                cosine_of_client: jax.Array) -> Anchors:
  """One anchor of weight 1 per class: a stop-gradient copy of its class embedding.

  Args:
    class_embeddings: float32 [R, D].
    owner: int32 [R], the client of each row, below K; -1 is padding.
    cosine_of_client: float32 [K], each client's mean training cosine.
  """
  real = owner >= 0
  cosine = jnp.where(real, cosine_of_client[jnp.maximum(owner, 0)], 0)
  frozen = (class_embeddings, owner, real.astype(class_embeddings.dtype), cosine)
  return Anchors(*(jax.lax.stop_gradient(part) for part in frozen))


class Pairs(NamedTuple):
  """All rows against one block of B anchors.

  Attributes:
    anchors: the block; padding has weight 0.
    products: float [B, R], inner products (cosines of normalised heads).
    foreign: bool [B, R], True where row and anchor are real and of different clients.
  """

  anchors: Anchors
  products: jax.Array
  foreign: jax.Array


class Push(NamedTuple):
  """What a block of B anchors does: row j receives sum_i strength_i force_ij anchor_i.

  Attributes:
    force: float [B, R].
    strength: float [B].
    total: float [B], what else the caller wants back per anchor; over the rows of all devices.
  """

  force: jax.Array
  strength: jax.Array
  total: jax.Array


def sum_over_pairs(push: Callable[[Pairs], Push], class_embeddings: jax.Array, owner: jax.Array,
                   anchors: Anchors, *, normalised: bool, block: int, axis_name: str | None,
                   ) -> tuple[jax.Array, jax.Array]:
  """Sums the push of every anchor on every row, with respect to the raw rows.

  Args:
    push: derivative of the regulariser with respect to `products`, as force times strength.
    class_embeddings: float [R, D], raw; padding may hold anything.
    owner: int [R]; -1 is padding.
    anchors: M of them; padding may hold anything.
    normalised: products are cosines, and the result goes back through the normalisation.
    block: anchors a step.
    axis_name: mesh axis of the sharded form, or None.

  Returns:
    Gradient [R, D], 0 on padding, and `Push.total` [M] of this device's anchors.
  """
  rows, back = jax.vjp(lambda raw: _rows(raw, owner, normalised), class_embeddings)
  size = anchors.owner.shape[0]

  def step(gradient: jax.Array, part: Anchors) -> tuple[jax.Array, jax.Array]:
    pushed = push(_pairs(rows, owner, part))
    moved = pushed.force.T @ (pushed.strength[:, None] * part.vectors)
    return gradient + moved, pushed.total

  blocks = _blocks(_prepared(anchors, class_embeddings, normalised, axis_name), block)
  gradient, total = jax.lax.scan(step, jnp.zeros_like(rows), blocks)
  first = 0 if axis_name is None else size * jax.lax.axis_index(axis_name)
  return back(gradient)[0], jax.lax.dynamic_slice_in_dim(total.reshape(-1), first, size)


def values_of_anchors(value: Callable[[Pairs], Any], class_embeddings: jax.Array, owner: jax.Array,
                      anchors: Anchors, *, normalised: bool, block: int, axis_name: str | None,
                      ) -> Any:
  """Sums over all anchors what `value` gives per anchor ([B], or a pytree of such arrays).

  The sum is over the anchors of all devices and the same on each. Arguments as in
  `sum_over_pairs`. Differentiating the result keeps every block: meant for small sizes.
  """
  rows = _rows(class_embeddings, owner, normalised)
  blocks = _blocks(_prepared(anchors, class_embeddings, normalised, axis_name), block)
  _, values = jax.lax.scan(lambda _, part: (None, value(_pairs(rows, owner, part))), None, blocks)
  return jax.tree.map(jnp.sum, values)


def require_block(block: int) -> None:
  """Raises ValueError unless a block holds at least one anchor."""
  if block < 1:
    raise ValueError(f"block {block}: expected at least 1 anchor a block")


def psum(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Sum over the mesh axis; `x` itself where there is none."""
  return x if axis_name is None else jax.lax.psum(x, axis_name)


def pmax(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Maximum over the mesh axis; `x` itself where there is none."""
  return x if axis_name is None else jax.lax.pmax(x, axis_name)


def _rows(raw: jax.Array, owner: jax.Array, normalised: bool) -> jax.Array:
  """Rows as the head uses them, padding zero."""
  raw = jnp.where(owner[:, None] >= 0, raw, 0)
  return l2_normalise(raw) if normalised else raw


def _prepared(anchors: Anchors, class_embeddings: jax.Array, normalised: bool,
              axis_name: str | None) -> Anchors:
  """Anchors of all devices as the head uses them, padding zero and without weight."""
  if anchors.vectors.shape[1] != class_embeddings.shape[1]:
    raise ValueError(f"anchors have {anchors.vectors.shape[1]} dimensions: expected "
                     f"{class_embeddings.shape[1]}, as the class embeddings")
  if axis_name is not None:
    anchors = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), anchors)
  real = anchors.owner >= 0
  return Anchors(_rows(anchors.vectors, anchors.owner, normalised), anchors.owner,
                 jnp.where(real, anchors.weight, 0), jnp.where(real, anchors.cosine, 0))


def _blocks(anchors: Anchors, block: int) -> Anchors:
  """Cuts [M, ...] into [ceil(M / block), block, ...], the last block filled with padding."""
  size = anchors.owner.shape[0]
  block = max(1, min(block, size))
  padding = -size % block

  def cut(x: jax.Array, fill: int) -> jax.Array:
    widths = [(0, padding)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, widths, constant_values=fill).reshape(-1, block, *x.shape[1:])

  return Anchors(*map(cut, anchors, (0, -1, 0, 0)))


def _pairs(rows: jax.Array, owner: jax.Array, part: Anchors) -> Pairs:
  of_anchor = part.owner[:, None]
  foreign = (of_anchor != owner) & (of_anchor >= 0) & (owner >= 0)
  return Pairs(part, part.vectors @ rows.T, foreign)
