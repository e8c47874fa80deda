"""FedProto's loss: embeddings near the prototype that all silos together have of their class."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.losses.beside import NO_MASS, Beside, Negatives
from fedjax_face.options import Traced, at_least, register


class Prototypes(NamedTuple):
  """Means of embeddings.

  Attributes:
    means: f32 [L, D], of each class.
    known: bool [L], classes of which there is one.
  """

  means: jax.Array
  known: jax.Array


@register.beside
def to_prototypes(*, weight: Annotated[Traced, at_least(0)] = 1.0) -> Beside:
  """Squared distance of an embedding to the prototype of its class, mean over dimensions.

  Args:
    weight: lambda, times the distance.

  Source: Tan et al., AAAI 2022 (FedProto), equation 5; the distance is taken example by example,
  not between a batch's own prototype and the common one (reconstructed).
  """
  del weight  # traced

  def adds(embeddings, labels, told: Prototypes, own, geometry) -> Negatives:
    distance = jnp.mean(jnp.square(embeddings - told.means[labels]), axis=-1)
    penalty = own["weight"] * jnp.where(told.known[labels], distance, 0.0)
    return Negatives(jnp.full_like(penalty, NO_MASS), penalty)

  return Beside(adds, told="prototypes", sums=class_sums)


def class_sums(num_classes: int):
  """(embeddings [B, D], labels [B], mask [B]) -> their sum by class [L, D] and its count [L]."""

  def of_batch(embeddings, labels, mask):
    rows = jnp.where(mask, labels, num_classes)
    held = jax.lax.stop_gradient(embeddings)
    return (jnp.zeros((num_classes, embeddings.shape[-1])).at[rows].add(held, mode="drop"),
            jnp.zeros(num_classes).at[rows].add(1.0, mode="drop"))

  return of_batch
