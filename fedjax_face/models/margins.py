"""Cosines between embeddings and class embeddings, and the margins put on the true class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.models.embedding import l2_normalise

Scalar = float | jax.Array

# Squared sine (an angle of 0.001 rad) below which the sine is taken as linear in its square.
_SMALLEST_SQUARED_SINE = 1e-6


class Geometry(NamedTuple):
  """How a margin head makes logits of cosines, lent to losses and corrections beside it.

  Attributes:
    scale: s, what the cosine with any class but the true one is multiplied by.
    true_class_logit: cosine with the true class, any shape -> its logit, the margin taken off.
  """

  scale: Scalar
  true_class_logit: Callable[[jax.Array], jax.Array]


HeadGeometry = Callable[[Mapping[str, Scalar]], Geometry]  # of a head's own hparams


def geometry(scale: Scalar, margin: Scalar,
             with_margin: Callable[[jax.Array, Scalar], jax.Array]) -> Geometry:
  """That of logits s cos theta_j, and s with_margin(cos theta_y, margin) for the true class."""
  return Geometry(scale, lambda cosine: scale * with_margin(cosine, margin))


def cosine(embeddings: jax.Array, class_embeddings: jax.Array) -> jax.Array:
  """Cosine of every embedding [B, D] with every class embedding [C, D], as float [B, C]."""
  return l2_normalise(embeddings) @ l2_normalise(class_embeddings).T


def true_class(labels: jax.Array, num_classes: int) -> jax.Array:
  """True where the column is the row's label: int [B] -> bool [B, num_classes]."""
  return labels[:, None] == jnp.arange(num_classes)


def cosface_margin(target_cosine: jax.Array, margin: Scalar) -> jax.Array:
  """cos(theta) - margin.

  Args:
    target_cosine: cosine with the true class, any shape.
    margin: additive cosine margin; may be traced.

  Source: Wang et al., CVPR 2018 (CosFace), equation 4.
  """
  return target_cosine - margin


def arcface_margin(target_cosine: jax.Array, margin: Scalar) -> jax.Array:
  """cos(theta + margin), continued decreasingly where theta + margin exceeds pi.

  Beyond pi the value is cos(theta) - margin * sin(margin), the continuation in common use: it keeps
  decreasing in theta, with a jump downwards at theta = pi - margin. Values are exact at theta = 0
  and pi and for angles of at least 0.001 rad from them; in between they are within 0.00025, which
  keeps the gradient with respect to the cosine below 2001.

  Args:
    target_cosine: cosine with the true class, any shape.
    margin: additive angular margin in radians, 0 <= margin < pi; may be traced.

  Source: Deng et al., CVPR 2019 (ArcFace), equation 3.
  """
  squared_sine = 1 - target_cosine * target_cosine
  away = squared_sine > _SMALLEST_SQUARED_SINE
  sine = jnp.where(away, jnp.sqrt(jnp.where(away, squared_sine, 1.0)),
                   squared_sine / _SMALLEST_SQUARED_SINE**0.5)
  rotated = target_cosine * jnp.cos(margin) - sine * jnp.sin(margin)
  beyond = target_cosine - margin * jnp.sin(margin)
  return jnp.where(target_cosine > -jnp.cos(margin), rotated, beyond)
