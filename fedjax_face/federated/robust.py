"""Aggregates that a minority of clients cannot move far: they see every client's update.

None of them claims privacy: how far one client moves a median, a trimmed mean or a choice of Krum
is not bounded by the clip norm over the number of clients, as it is for a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import optax

from fedjax_face.federated.aggregators import Aggregator, Share, Sums
from fedjax_face.privacy.clipping import UpdateClip

Statistic = Callable[[Any, jax.Array], Any]


class Rows(NamedTuple):
  """Every client's update of a round.

  Attributes:
    updates: clipped, leaves [K, ...].
    present: bool [K], whether the client took part with a finite update.
  """

  updates: Any
  present: jax.Array


def robust(clip: UpdateClip, statistic: Statistic, words: str) -> Aggregator:
  """A statistic of the clients' clipped updates in the place of their mean.

  The server keeps the update of every client of a round, divided over the devices like the clients:
  memory grows with the cohort, not only with the chunk. A round in which nobody took part moves
  nothing.

  Args:
    clip: of one update; a clip norm of infinity leaves it as it is.
    statistic: (updates with leaves [K, ...], present bool [K]) -> update.
    words: for the privacy statement.
  """

  def clipped(update: Any, state: Any, hparams: Any):
    short, norm = clip(update, hparams["clip_norm"])
    return short, norm, norm <= hparams["clip_norm"]

  def release(sums: Sums, state, hparams, key):
    found = statistic(sums.each.updates, sums.each.present)
    anybody = sums.each.present.any()
    return jax.tree.map(lambda leaf: jnp.where(anybody, leaf, 0.0), found), state, {}

  return Aggregator(
      init=lambda params, hparams: (),
      weight=lambda examples: jnp.ones_like(examples, jnp.float32),
      clip=clipped,
      share=lambda update, weight: Share(kept=Rows(update, weight > 0)),
      release=release,
      event=lambda hparams: dp_accounting.NonPrivateDpEvent(),
      adds_noise=False,
      covers=1,
      words=f"{words}; the server sees every client's update, nothing is noised, and a sensitivity "
            "is not proved",
  )


def median_of(updates: Any, present: jax.Array) -> Any:
  """The median of every coordinate, the mean of the two middle values of an even number.

  Args:
    updates: leaves [K, ...].
    present: bool [K], whose rows count.
  """
  count = present.sum()

  def middle(leaf: jax.Array) -> jax.Array:
    rows = _ascending(leaf, present)
    return 0.5 * rows[jnp.maximum(count - 1, 0) // 2] + 0.5 * rows[count // 2]

  return jax.tree.map(middle, updates)


def trimmed_mean_of(trim: float) -> Statistic:
  """The mean of every coordinate without the floor(trim n) lowest and highest of n values."""

  def statistic(updates: Any, present: jax.Array) -> Any:
    count = present.sum()
    cut = jnp.asarray([trimmed(trim, n) for n in range(len(present) + 1)])[count]
    rank = jnp.arange(len(present))
    inside = (rank >= cut) & (rank < count - cut)
    share = jnp.where(inside, 1.0 / jnp.maximum(count - 2 * cut, 1), 0.0)
    return jax.tree.map(lambda leaf: _weighed(_ascending(leaf, present), share), updates)

  return statistic


def trimmed(trim: float, count: int) -> int:
  """How many of `count` values are left out at each end; the product is that of decimals."""
  return math.floor(trim * count + 1e-9)


def nearest_of(malicious: int, selected: int) -> Statistic:
  """The mean of the updates with the nearest neighbours.

  The score of an update is the sum of its squared distances to the n - f - 2 nearest others of the
  n that are present; those with the lowest scores are taken.

  Args:
    malicious: f, clients that may send anything.
    selected: m, how many updates are averaged.
  """

  def statistic(updates: Any, present: jax.Array) -> Any:
    count, clients = present.sum(), len(present)
    others = present[:, None] & present & ~jnp.eye(clients, dtype=bool)
    ascending = jnp.sort(jnp.where(others, _squared_distances(updates), jnp.inf), axis=1)
    near = jnp.arange(clients) < jnp.maximum(count - malicious - 2, 1)
    scores = jnp.where(near, ascending, 0.0).sum(axis=1)
    best = jnp.lexsort((scores, ~present))  # an absent client has no update, whatever its score
    taken = jnp.minimum(count, selected)
    rank = jnp.zeros(clients, int).at[best].set(jnp.arange(clients))
    share = jnp.where(rank < taken, 1.0 / jnp.maximum(taken, 1), 0.0)
    return jax.tree.map(lambda leaf: _weighed(leaf, share), updates)

  return statistic


def _ascending(leaf: jax.Array, present: jax.Array) -> jax.Array:
  """Every coordinate [K, ...] in ascending order over the clients; the absent come last."""
  return jnp.sort(jnp.where(_along(present, leaf), leaf, jnp.inf), axis=0)


def _weighed(leaf: jax.Array, share: jax.Array) -> jax.Array:
  """sum_k share_k leaf_k, in which a share of 0 leaves out even what is infinite."""
  share = _along(share, leaf)
  return (share * jnp.where(share > 0, leaf, 0.0)).sum(axis=0)


def _along(of_clients: jax.Array, leaf: jax.Array) -> jax.Array:
  return of_clients.reshape(-1, *[1] * (leaf.ndim - 1))


def _squared_distances(updates: Any) -> jax.Array:
  """f32 [K, K] of differences, which cancel nothing, one row after another."""
  apart = lambda one, other: optax.tree.norm(optax.tree.sub(one, other), squared=True)
  return jax.lax.map(lambda one: jax.vmap(lambda other: apart(one, other))(updates), updates)
