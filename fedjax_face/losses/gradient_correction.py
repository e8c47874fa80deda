"""Gradient correction: the push between classes of different clients, from class embeddings alone.

Clients that train a softmax over their own classes never push their class embeddings away from the
classes of others. Here the server supplies that push, a frozen class embedding (or a cluster of
several) standing in for the features of its class. With relative logits r_ij = l_ij - positive_i,

    Reg = sum_i weight_i log(1 + sum_{j: owner_j != owner_i} exp(r_ij))

over anchors i and rows j. The server's step is W <- W - lambda * eta * gradient, with lambda about
E * N / B (epochs, mean images a class, client batch) to resemble centralised training.

    form        head        l_ij                                         positive_i
    as_written  linear      <w_j, a_i>                                   <a_i, a_i>
    as_written  normalised  s cos(w_j, a_i)                              s
    calibrated  normalised  s c_i cos(w_j, a_i) + s^2 (1 - c_i^2) / 2D   s (c_i - m)  (CosFace)
                                                                         s cos(arccos c_i + m)
                                                                                      (ArcFace)

As written, the positive logit of a normalised head is the scale itself and the push is negligible.
The calibrated form expects features x = c w + sqrt(1 - c^2) noise, isotropic noise, around a class
embedding w: its logits are those of the mean of exp(s cos(w_j, x)), its positive that of the
head, its c the client's mean training cosine (0 where that is negative: no push, never a pull).

Source: Niu and Deng, AAAI 2022 (FedGC), Algorithm 1; the calibrated form is ours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

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
    pmax,
    psum,
    require_block,
    sum_over_pairs,
    values_of_anchors,
)
from fedjax_face.models.margins import Geometry

Form = Literal["as_written", "calibrated"]


def gradient_correction(form: Form, normalised: bool, block: int = DEFAULT_BLOCK,
                        axis_name: str | None = None, self_term: bool = False) -> Correction:
  """The gradient of `regulariser` with respect to the raw class embeddings, in one pass.

  Args:
    form: 'as_written' or 'calibrated', as in the module's table.
    normalised: the head uses cosines; then its geometry is needed, of which the calibrated form
      takes scale and positive logit, the other the scale.
    block: anchors a step; memory grows with block * R.
    axis_name: mesh axis of the sharded form (module `class_pairs`), or None.
    self_term: adds -weight_i sum_j pi_ij a_i to row i, the part of the paper's gradient that pulls
      a class embedding to its own anchor. For linear heads whose anchor i is the frozen copy of
      row i (`own_anchors`); on normalised heads it would be radial, without effect.

  Returns:
    (class embeddings [R, D], owner [R], anchors, hparams, geometry) -> gradient [R, D]. It has no
    hparams of its own, and lambda is not in it.

  Raises:
    ValueError: for a form that the head does not have, or `self_term` where it means nothing; from
      the function, where a normalised head lends no geometry.
  """
  _require(form, normalised, block, self_term)

  def push(pairs: Pairs, geometry: Geometry | None) -> Push:
    slope, shift = _affine(form, normalised, pairs.anchors, geometry)
    softmax = _softmax(pairs, slope, shift, axis_name)
    strength = pairs.anchors.weight / softmax.denominator
    return Push(softmax.exp, strength * slope, strength * softmax.foreign)

  def correction(class_embeddings: jax.Array, owner: jax.Array, anchors: Anchors,
                 hparams: HParams, geometry: Geometry | None = None) -> jax.Array:
    gradient, pushed = sum_over_pairs(
        lambda pairs: push(pairs, geometry), class_embeddings, owner, anchors,
        normalised=normalised, block=block, axis_name=axis_name)
    if not self_term:
      return gradient
    _require_copies(class_embeddings, anchors)
    real = owner[:, None] >= 0
    return gradient - jnp.where(real, pushed[:, None] * anchors.vectors, 0)

  return correction


def regulariser(form: Form, normalised: bool, block: int = DEFAULT_BLOCK,
                axis_name: str | None = None) -> Regulariser:
  """Reg itself, for metrics: (class embeddings, owner, anchors, hparams, geometry) -> scalar.

  Anchors, and so all positive logits, are constants to differentiation: its gradient is
  `gradient_correction` without the self term. Arguments and errors as there.
  """
  _require(form, normalised, block, self_term=False)

  def value(pairs: Pairs, geometry: Geometry | None) -> jax.Array:
    softmax = _softmax(pairs, *_affine(form, normalised, pairs.anchors, geometry), axis_name)
    return pairs.anchors.weight * softmax.log_mass

  def reg(class_embeddings: jax.Array, owner: jax.Array, anchors: Anchors,
          hparams: HParams, geometry: Geometry | None = None) -> jax.Array:
    frozen = jax.lax.stop_gradient(anchors)
    return values_of_anchors(
        lambda pairs: value(pairs, geometry), class_embeddings, owner, frozen,
        normalised=normalised, block=block, axis_name=axis_name)

  return reg


class _Softmax(NamedTuple):
  """Softmax of each anchor over its positive, at relative logit 0, and foreign rows of all devices.

  Attributes:
    exp: float [B, R], exp(r_ij - peak_i), 0 where the pair does not count.
    foreign: float [B], sum of `exp` over the rows of all devices.
    peak: float [B], the largest relative logit, at least 0.
  """

  exp: jax.Array
  foreign: jax.Array
  peak: jax.Array

  @property
  def denominator(self) -> jax.Array:
    """(1 + sum_j exp(r_ij)) exp(-peak_i), at least 1 where the peak is a row's."""
    return jnp.exp(-self.peak) + self.foreign

  @property
  def log_mass(self) -> jax.Array:
    """log(1 + sum_j exp(r_ij)), to full relative precision where the sum is tiny."""
    return self.peak + jnp.log1p(self.foreign + jnp.expm1(-self.peak))


def _softmax(pairs: Pairs, slope: jax.Array, shift: jax.Array, axis_name: str | None) -> _Softmax:
  relative = slope[:, None] * pairs.products + shift[:, None]
  relative = jnp.where(pairs.foreign, relative, -jnp.inf)
  local_peak = jnp.max(jax.lax.stop_gradient(relative), axis=-1, initial=0)
  peak = pmax(local_peak, axis_name)
  exp = jnp.exp(relative - peak[:, None])
  return _Softmax(exp, psum(jnp.sum(exp, axis=-1), axis_name), peak)


def _affine(form: Form, normalised: bool, anchors: Anchors, geometry: Geometry | None
            ) -> tuple[jax.Array, jax.Array]:
  """Slope and shift [B] of the relative logits, slope * product + shift."""
  if not normalised:
    return jnp.ones_like(anchors.weight), -jnp.sum(anchors.vectors**2, axis=-1)
  if geometry is None:
    raise ValueError("gradient correction of a normalised head: expected the head's geometry, "
                     "which cosface and arcface lend")
  scale = jnp.broadcast_to(geometry.scale, anchors.weight.shape)
  if form == "as_written":
    return scale, -scale
  cosine = jnp.maximum(anchors.cosine, 0)
  spread = scale**2 * (1 - cosine**2) / (2 * anchors.vectors.shape[-1])
  return scale * cosine, spread - geometry.true_class_logit(cosine)


def _require(form: str, normalised: bool, block: int, self_term: bool) -> None:
  if form not in get_args(Form):
    raise ValueError(f"form {form!r}: expected one of {', '.join(get_args(Form))}")
  if form == "calibrated" and not normalised:
    raise ValueError("form 'calibrated': expected a normalised head; linear heads take as_written")
  if self_term and normalised:
    raise ValueError("self_term: expected a linear head; on a normalised head it is radial")
  require_block(block)


def _require_copies(class_embeddings: jax.Array, anchors: Anchors) -> None:
  if anchors.vectors.shape != class_embeddings.shape:
    raise ValueError(f"self_term: expected an anchor for each of the {len(class_embeddings)} rows, "
                     f"not {len(anchors.vectors)} anchors")
