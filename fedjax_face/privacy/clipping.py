"""Clipping of whole client updates, and the sensitivity that it gives their sum."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax_privacy import clipping

from fedjax_face.privacy.adjacency import Adjacency


@dataclasses.dataclass(frozen=True)
class UpdateClip:
  """Clips one client's update, all tensors together, to an L2 norm.

  Attributes:
    users_per_client: privacy units whose data one update may hold.
    adjacency: what neighbouring data sets differ in.

  Guarantees:
    The sum of clipped updates moves by at most `sensitivity * clip_norm` in L2 norm between
    neighbouring data sets, as long as one unit's data touches one client's update only.
  """

  users_per_client: int
  adjacency: Adjacency

  def __post_init__(self) -> None:
    if self.users_per_client < 1:
      raise ValueError(f"users_per_client must be at least 1, got {self.users_per_client}")

  @property
  def sensitivity(self) -> float:
    """L2 sensitivity of the sum, in units of the clip norm.

    An update that holds several users moves anywhere within the ball when one of them changes,
    even if that user is only added or removed; an update of one user is replaced by another point
    of the ball (2), or appears in or disappears from the sum (1).
    """
    if self.users_per_client > 1 or self.adjacency is Adjacency.REPLACE_ONE:
      return 2.0
    return 1.0

  def __call__(self, update: Any, clip_norm: jax.typing.ArrayLike) -> tuple[Any, jax.Array]:
    """(f32 update of norm at most clip_norm, its norm before clipping); NaN and inf become 0.

    Norm and scaling are those of 32-bit numbers, whatever the update comes in.
    """
    update = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), update)
    return clipping.clip_pytree(update, clip_norm)


def zero_if_not_finite(update: Any) -> tuple[Any, jax.Array]:
  """Returns (update, or zeros if any of its entries is NaN or infinite; whether it was finite)."""
  finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(update)]).all()
  return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), update), finite
