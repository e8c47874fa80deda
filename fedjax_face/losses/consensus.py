"""Consensus-aware loss: points that stand for people of other clients as further negatives.

To the softmax of a margin head with scale s over a client's own classes,

    L = -log( e^{s f(theta_y)} / (e^{s f(theta_y)} + sum_{j != y} e^{s cos theta_j} + w M) ) + H,

every foreign point q with cosine c_q adds mass to M, or a penalty to H. A cluster stands for n_q
people around it with mean resultant length R_q:

    V0   M = sum_q e^{s c_q}
    V1   M = sum_q e^{s cos(max(theta_q - rho, 0))}, the nearest member of a cap of angle rho
    V2   H = lambda sum_q max(0, c_q - cos rho)^2
    V3   M = sum_q n_q e^{s R_q c_q + s^2 (1 - R_q^2) (1 - c_q^2) / (2 (D - 1))}, matched moments

The weight w is 1 in the paper. Points stand still while a client's class embeddings give way, so
the same cosine weighs more; a smaller w makes up for it.

No gradient goes into the points. Without any, M is 0 and the loss is the head's own, bit for bit.

Source: Meng et al., ICLR 2022 (PrivacyFace), the consensus-aware recognition loss; its constants
and the choice between V0 and V1 are reconstructed, V2 and V3 are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.losses.beside import Beside, Negatives
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.models.margins import Geometry, Scalar
from fedjax_face.options import Traced, above, at_least, register, within


class ForeignPoints(NamedTuple):
  """What a client has been told of people elsewhere.

  Attributes:
    vectors: f32 [M, D], unit vectors.
    people: f32 [M], how many people a point stands for; a point with 0 has no effect.
    concentration: f32 [M], mean resultant length R of the people around the point, in [0, 1].
  """

  vectors: jax.Array
  people: jax.Array
  concentration: jax.Array


# (unit embeddings f32 [B, D], points, own hparams, what the head lends) -> Negatives
Consensus = Callable[[jax.Array, ForeignPoints, Mapping[str, Scalar], Geometry], Negatives]

FORMS = ("v0", "v1", "v2", "v3")


@register.beside
def consensus_aware(*, form: Literal["v0", "v1", "v2", "v3"] = "v0",
                    weight: Annotated[Traced, above(0)] = 0.1,
                    cap_angle: Annotated[Traced, within("(0, pi/2]")] = 0.2,
                    hinge_weight: Annotated[Traced, at_least(0)] = 1.0) -> Beside:
  """Foreign points as further negatives of a margin head; see the module's table.

  Args:
    form: `v0` points, `v1` the nearest members of caps, `v2` a hinge, `v3` matched moments.
    weight: w, of the points' mass beside that of a client's own classes; the paper: 1.
    cap_angle: rho, radians; of `v1` and `v2`.
    hinge_weight: lambda of `v2`.

  Source: Meng et al., ICLR 2022 (PrivacyFace); `v2` and `v3` are ours.
  """
  del weight, cap_angle, hinge_weight  # traced
  of_form = consensus(form)
  return Beside(
      lambda embeddings, labels, points, own, geometry: of_form(
          l2_normalise(embeddings), points, own, geometry),
      told="foreign", needs_margin=True, reads_counts=form == "v3")


def consensus(form: str) -> Consensus:
  """One of the forms of the module's table.

  V0, V1 and V3 read hparams `weight` (w) and the scale of the head, V1 and V2 `cap_angle` (rho,
  radians in (0, pi/2]; V1 also takes 0, where it is V0), V2 `hinge_weight` (lambda).

  Raises:
    ValueError: another form.
  """
  if form not in FORMS:
    raise ValueError(f"exchange.loss {form!r} is not one of {', '.join(FORMS)}")
  if form == "v2":
    return _hinge
  logits = {"v0": _as_people, "v1": _nearest_in_cap, "v3": _matched_moments}[form]

  def negatives(embeddings, points, hparams, geometry) -> Negatives:
    points = jax.lax.stop_gradient(points)
    cosine = embeddings @ points.vectors.T
    log_mass = jax.nn.logsumexp(
        jnp.where(points.people > 0, logits(cosine, points, hparams, geometry.scale),
                  jnp.finfo(cosine.dtype).min), axis=-1)
    return Negatives(log_mass + jnp.log(hparams["weight"]), jnp.zeros_like(log_mass))

  return negatives


def _as_people(cosine: jax.Array, points: ForeignPoints, hparams, scale: Scalar) -> jax.Array:
  return scale * cosine


def _nearest_in_cap(cosine: jax.Array, points: ForeignPoints, hparams,
                    scale: Scalar) -> jax.Array:
  angle = hparams["cap_angle"]
  outside = cosine < jnp.cos(angle)
  squared_sine = 1 - cosine * cosine
  sine = jnp.sqrt(jnp.where(squared_sine > 0, squared_sine, 1.0)) * (squared_sine > 0)
  turned = cosine * jnp.cos(angle) + sine * jnp.sin(angle)
  return scale * jnp.where(outside, turned, 1.0)


def _matched_moments(cosine: jax.Array, points: ForeignPoints, hparams,
                     scale: Scalar) -> jax.Array:
  spread = 1 - points.concentration**2
  dim = points.vectors.shape[-1]
  return (jnp.log(jnp.maximum(points.people, 1e-6)) + scale * points.concentration * cosine
          + scale**2 * spread * (1 - cosine * cosine) / (2 * (dim - 1)))


def _hinge(embeddings: jax.Array, points: ForeignPoints, hparams, geometry) -> Negatives:
  points = jax.lax.stop_gradient(points)
  excess = jnp.maximum(embeddings @ points.vectors.T - jnp.cos(hparams["cap_angle"]), 0)
  penalty = hparams["hinge_weight"] * jnp.sum((points.people > 0) * excess**2, axis=-1)
  return Negatives(jnp.full_like(penalty, jnp.finfo(penalty.dtype).min), penalty)
