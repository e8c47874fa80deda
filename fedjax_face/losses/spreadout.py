"""Spread-out: class embeddings of different clients are kept at a distance, whatever the data.

    form    value, over ordered pairs (anchor i, row j) of different clients, on unit vectors
    hinge   sum_ij  weight_i max(0, nu - |w_j - a_i|)^2              nu: a distance
    cosine  mean_ij weight_i max(0, cos(w_j, a_i) - nu)^2            nu: a cosine (usually 0.3)

The mean is weighted: it divides by the sum of weight_i over those pairs. Anchors are frozen, so a
pair of classes is counted once for each end that moves: the gradient on a row is half of what
differentiating both ends of the sum over ordered pairs gives.

Source: Yu et al., ICML 2020 (FedAwS), the geometric regulariser, between clients of many classes
each; the cosine form is its bounded variant.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from fedjax_face.losses.class_pairs import (
    DEFAULT_BLOCK,
    Anchors,
    Correction,
    HParams,
    Pairs,
    Push,
    Regulariser,
    psum,
    require_block,
    sum_over_pairs,
    values_of_anchors,
)
from fedjax_face.models.margins import Geometry, Scalar

Form = Literal["hinge", "cosine"]

# Squared distance (0.001) below which two directions count as one, which has no way to part.
_SMALLEST_SQUARED_DISTANCE = 1e-6


def spreadout(form: Form, block: int = DEFAULT_BLOCK, axis_name: str | None = None) -> Correction:
  """The gradient of `regulariser` with respect to the raw class embeddings, in one pass.

  Args:
    form: 'hinge' or 'cosine', as in the module's table.
    block: anchors a step; memory grows with block * R.
    axis_name: mesh axis of the sharded form (module `class_pairs`), or None.

  Returns:
    (class embeddings [R, D], owner [R], anchors, hparams, geometry) -> gradient [R, D]. Reads
    hparams 'margin', nu; what the head lends does not matter.

  Raises:
    ValueError: for an unknown form.
  """
  _require(form, block)

  def push(pairs: Pairs, margin: Scalar) -> Push:
    penalty = lambda product: _penalty(form, product, margin)
    _, slope = jax.jvp(penalty, (pairs.products,), (jnp.ones_like(pairs.products),))
    force = jnp.where(pairs.foreign, slope, 0)
    return Push(force, pairs.anchors.weight, _weighted_pairs(pairs, axis_name))

  def correction(class_embeddings: jax.Array, owner: jax.Array, anchors: Anchors,
                 hparams: HParams, geometry: Geometry | None = None) -> jax.Array:
    gradient, pairs = sum_over_pairs(
        lambda pairs: push(pairs, hparams["margin"]), class_embeddings, owner, anchors,
        normalised=True, block=block, axis_name=axis_name)
    if form == "hinge":
      return gradient
    return gradient / _at_least_some(psum(jnp.sum(pairs), axis_name))

  return correction


def regulariser(form: Form, block: int = DEFAULT_BLOCK, axis_name: str | None = None,
                ) -> Regulariser:
  """The spread-out itself: (class embeddings, owner, anchors, hparams, geometry) -> float scalar.

  Anchors are constants to differentiation. Arguments and errors as in `spreadout`.
  """
  _require(form, block)

  def value(pairs: Pairs, margin: Scalar) -> tuple[jax.Array, jax.Array]:
    penalty = jnp.where(pairs.foreign, _penalty(form, pairs.products, margin), 0)
    total = psum(jnp.sum(penalty, axis=-1), axis_name)
    return pairs.anchors.weight * total, _weighted_pairs(pairs, axis_name)

  def reg(class_embeddings: jax.Array, owner: jax.Array, anchors: Anchors,
          hparams: HParams, geometry: Geometry | None = None) -> jax.Array:
    frozen = jax.lax.stop_gradient(anchors)
    total, pairs = values_of_anchors(
        lambda pairs: value(pairs, hparams["margin"]), class_embeddings, owner, frozen,
        normalised=True, block=block, axis_name=axis_name)
    return total if form == "hinge" else total / _at_least_some(pairs)

  return reg


def _penalty(form: Form, cosine: jax.Array, margin: Scalar) -> jax.Array:
  if form == "cosine":
    return jax.nn.relu(cosine - margin)**2
  distance = jnp.sqrt(jnp.maximum(2 - 2 * cosine, _SMALLEST_SQUARED_DISTANCE))
  return jax.nn.relu(margin - distance)**2


def _weighted_pairs(pairs: Pairs, axis_name: str | None) -> jax.Array:
  """Rows of all devices that each anchor pushes, times its weight: float [B]."""
  rows = jnp.sum(pairs.foreign, axis=-1, dtype=jnp.float32)
  return pairs.anchors.weight * psum(rows, axis_name)


def _at_least_some(pairs: jax.Array) -> jax.Array:
  return jnp.where(pairs > 0, pairs, 1)


def _require(form: str, block: int) -> None:
  if form not in get_args(Form):
    raise ValueError(f"form {form!r}: expected one of {', '.join(get_args(Form))}")
  require_block(block)
