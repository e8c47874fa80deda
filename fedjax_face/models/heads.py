"""Heads: embeddings and labels -> logits, with one class embedding (row) per class.

A head's parameter 'class_embeddings' has shape [C, D]. Scalars that a sweep may change without
recompiling are listed in the head's `hparams` and are accepted at call time:

    logits = head.apply(params, embeddings, labels, **{**head.hparams, 'margin': margin})

A head says whether it is `normalised`, that is compares directions alone. One whose logits are a
fixed function of cosines lends it as `geometry`; a head without this attribute has no such function
to lend.

`linear`, `normalised`, `cosface` and `arcface` make heads as parts: chosen before the classes are
known, and bound to their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.models import margins
from fedjax_face.models.margins import HeadGeometry, Scalar
from fedjax_face.options import Traced, above, register, within

# Standard deviation of the class embeddings of cosine heads at the start, as in InsightFace.
COSINE_INIT_STD = 0.01


def geometry_of(head: Any) -> HeadGeometry | None:
  """What a head lends to losses and corrections beside it; None of one that has nothing to lend."""
  return getattr(head, "geometry", None)


class Linear(nn.Module):
  """Logits e W^T of raw embeddings, without bias.

  Class embeddings start Glorot-uniform: standard deviation sqrt(2 / (C + D)).

  Attributes:
    num_classes: C.
    embedding_dim: D.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), the head of a virtual client.
  """

  num_classes: int
  embedding_dim: int
  normalised = False

  @property
  def hparams(self) -> dict[str, Scalar]:
    """No call-time scalars."""
    return {}

  @nn.compact
  def __call__(self, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """Maps float [B, D] to logits [B, C]; `labels` int [B] are not used."""
    del labels
    init = nn.initializers.glorot_uniform(in_axis=1, out_axis=0)
    class_embeddings = self.param("class_embeddings", init, (self.num_classes, self.embedding_dim))
    return embeddings @ class_embeddings.T


class Normalised(nn.Module):
  """Cosine logits times a trainable scale (parameter 'scale', initially 1).

  Class embeddings start normal with standard deviation 0.01.

  Attributes:
    num_classes: C.
    embedding_dim: D.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), the normalised option.
  """

  num_classes: int
  embedding_dim: int
  normalised = True

  @property
  def hparams(self) -> dict[str, Scalar]:
    """No call-time scalars: the scale is trained."""
    return {}

  @nn.compact
  def __call__(self, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """Maps float [B, D] to logits [B, C]; `labels` int [B] are not used."""
    del labels
    init = nn.initializers.normal(COSINE_INIT_STD)
    class_embeddings = self.param("class_embeddings", init, (self.num_classes, self.embedding_dim))
    scale = self.param("scale", nn.initializers.ones, ())
    return scale * margins.cosine(embeddings, class_embeddings)


class _MarginHead(nn.Module):
  """Cosine logits with a margin on the true class, times a fixed scale."""

  num_classes: int
  embedding_dim: int
  margin: float
  scale: float
  normalised = True

  @property
  def hparams(self) -> dict[str, Scalar]:
    """The scalars that `__call__` accepts, with their defaults."""
    return {"margin": self.margin, "scale": self.scale}

  @nn.nowrap
  def geometry(self, hparams: Mapping[str, Scalar]) -> margins.Geometry:
    """What the head makes of cosines at its own hparams `margin` and `scale`."""
    return margins.geometry(hparams["scale"], hparams["margin"], self.with_margin)

  def with_margin(self, target_cosine: jax.Array, margin: Scalar) -> jax.Array:
    """The true class's cosine after the margin."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, embeddings: jax.Array, labels: jax.Array, margin: Scalar | None = None,
               scale: Scalar | None = None) -> jax.Array:
    """Logits of a batch.

    Args:
      embeddings: float [B, D], raw; they are normalised here.
      labels: int [B], the true class; a label outside 0..C-1 gets no margin.
      margin: replaces the field; may be traced.
      scale: replaces the field; may be traced.

    Returns:
      Logits float [B, C].
    """
    margin = self.margin if margin is None else margin
    scale = self.scale if scale is None else scale
    init = nn.initializers.normal(COSINE_INIT_STD)
    class_embeddings = self.param("class_embeddings", init, (self.num_classes, self.embedding_dim))
    cosine = margins.cosine(embeddings, class_embeddings)
    own = margins.true_class(labels, self.num_classes)
    target = self.with_margin(jnp.sum(jnp.where(own, cosine, 0), axis=-1), margin)
    return scale * jnp.where(own, target[:, None], cosine)


class CosFace(_MarginHead):
  """Large-margin cosine head: s (cos theta_y - m) for the true class, s cos theta_j otherwise.

  Class embeddings start normal with standard deviation 0.01.

  Attributes:
    num_classes: C.
    embedding_dim: D.
    margin: m, a cosine.
    scale: s.

  Source: Wang et al., CVPR 2018 (CosFace), equation 4.
  """

  def with_margin(self, target_cosine: jax.Array, margin: Scalar) -> jax.Array:
    """cos(theta) - margin."""
    return margins.cosface_margin(target_cosine, margin)


class ArcFace(_MarginHead):
  """Additive angular margin head: s cos(theta_y + m) for the true class, s cos theta_j otherwise.

  Class embeddings start normal with standard deviation 0.01. `margins.arcface_margin` says what
  happens where theta + m exceeds pi and near the poles.

  Attributes:
    num_classes: C.
    embedding_dim: D.
    margin: m, in radians.
    scale: s.

  Source: Deng et al., CVPR 2019 (ArcFace), equation 3.
  """

  def with_margin(self, target_cosine: jax.Array, margin: Scalar) -> jax.Array:
    """cos(theta + margin)."""
    return margins.arcface_margin(target_cosine, margin)


class Head(NamedTuple):
  """A form of head, before the classes are known.

  Attributes:
    bind: (number of classes C, embedding dimensions D) -> module: embeddings float [B, D] and
      labels int [B] -> logits float [B, C].
  """

  bind: Callable[[int, int], nn.Module]

  @property
  def normalised(self) -> bool:
    """Whether it compares directions alone."""
    return self.bind(1, 1).normalised

  @property
  def geometry(self) -> HeadGeometry | None:
    """What it lends to losses and corrections beside it; None of one that has nothing to lend."""
    return geometry_of(self.bind(1, 1))


register.kind(Head)


@register.head
def linear() -> Head:
  """Logits of raw embeddings, without bias; see `Linear`.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), the head of a virtual client.
  """
  return Head(Linear)


@register.head
def normalised() -> Head:
  """Cosine logits times a trained scale; see `Normalised`.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), the normalised option.
  """
  return Head(Normalised)


@register.head
def cosface(*, margin: Annotated[Traced, within("[0, 2]")] = 0.35,
            scale: Annotated[Traced, above(0)] = 16.0) -> Head:
  """Large-margin cosine head: s (cos theta_y - m) for the true class; see `CosFace`.

  Args:
    margin: m, taken from the true class's cosine; sensible in [0, 1).
    scale: s, of all cosines; sensible above 0.

  Source: Wang et al., CVPR 2018 (CosFace), equation 4.
  """
  return Head(lambda classes, dim: CosFace(classes, dim, margin=margin, scale=scale))


@register.head
def arcface(*, margin: Annotated[Traced, within("[0, pi]")] = 0.35,
            scale: Annotated[Traced, above(0)] = 16.0) -> Head:
  """Additive angular margin head: s cos(theta_y + m) for the true class; see `ArcFace`.

  Args:
    margin: m, radians, added to the angle to the true class; sensible in [0, pi/2).
    scale: s, of all cosines; sensible above 0.

  Source: Deng et al., CVPR 2019 (ArcFace), equation 3.
  """
  return Head(lambda classes, dim: ArcFace(classes, dim, margin=margin, scale=scale))
