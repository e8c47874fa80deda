"""Tables of row sums: what enters a cell, its noise, and the clusters that are read from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.models.embedding import l2_normalise


class Clusters(NamedTuple):
  """What each of N silos published, up to Q clusters of D dimensions.

  Attributes:
    centres: float32 [N, Q, D], unit vectors; zero where a cluster is absent or too weak.
    people: float32 [N, Q], how many people the cluster stands for: the noisy count, at least 1,
      where counts are released, else 1; 0 where the cluster is absent or too weak.
    concentration: float32 [N, Q] in [0, 1], the mean resultant length, estimated as
      sqrt(max(|noisy sum|^2 - D sigma^2, 0)) / noisy count; 1 where counts are not released.
  """

  centres: jax.Array
  people: jax.Array
  concentration: jax.Array


class Transcript(NamedTuple):
  """Everything that depends on data and leaves the silos; `Clusters` follow from it.

  Attributes:
    tables: float32 [T, N, Q, W], the noisy sums of every iteration; W is D, or D + 1 with the
      count times `count_weight` as the last column. Pooled: the one noisy total, N times.
    chosen: int32 [N, Q], the candidates that the exponential mechanism chose, else -1.
  """

  tables: jax.Array
  chosen: jax.Array


def bounded(rows: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(rows of norm at most 1, zero unless real and finite; which rows these are)."""
  real = real & jnp.isfinite(rows).all(-1)
  rows = jnp.where(real[..., None], rows.astype(jnp.float32), 0)
  return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1), real


def contributions(rows: jax.Array, real: jax.Array, count_weight: float) -> jax.Array:
  """What each row adds to its cell: itself and, if counted, `count_weight`; [..., W]."""
  if count_weight == 0:
    return rows
  return jnp.concatenate([rows, count_weight * real[..., None].astype(rows.dtype)], -1)


def choose_caps(inside: jax.Array, clusters: int, inverse_epsilon: jax.typing.ArrayLike,
                key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Takes caps one after the other by the exponential mechanism on the rows left (Gumbel-max).

  Args:
    inside: bool [G, n], which rows each of G caps holds.
    clusters: Q, how many caps to take.
    inverse_epsilon: 1 / eps_sel; 0 takes the fullest cap, of equal ones the first.
    key: of the choices.

  Returns:
    (chosen caps int32 [Q], all different; rows taken with each bool [Q, n], a row at most once).
  """
  def choose(left, q):
    alive, free = left
    size = einsum("gn,n->g", inside.astype(jnp.float32), alive.astype(jnp.float32))
    gumbel = jax.random.gumbel(jax.random.fold_in(key, q), size.shape)
    chosen = jnp.argmax(jnp.where(free, size + inverse_epsilon * gumbel, -jnp.inf))
    taken = inside[chosen] & alive
    return (alive & ~taken, free.at[chosen].set(False)), (chosen.astype(jnp.int32), taken)

  caps, rows = inside.shape
  start = jnp.ones(rows, bool), jnp.ones(caps, bool)
  return jax.lax.scan(choose, start, jnp.arange(clusters))[1]


def unit_noise(key: jax.Array, shape: tuple[int, ...], pooled: bool) -> jax.Array:
  """Standard Gaussian noise [N, Q, W], independent per silo or (pooled) the same for all."""
  if pooled:
    return jnp.broadcast_to(jax.random.normal(key, shape[1:]), shape)
  return jax.vmap(lambda silo: jax.random.normal(silo, shape[1:]))(silo_keys(key, shape[0]))


def sums_of_others(tables: jax.Array) -> jax.Array:
  """For each of N silos the sum of all other silos' tables; exactly 0 where these are 0."""
  silos = len(tables)
  return einsum("kj,jqw->kqw", jnp.ones((silos, silos)) - jnp.eye(silos), tables)


def read_clusters(tables: jax.Array, stddev: jax.typing.ArrayLike, count_weight: float,
                  significance: float) -> Clusters:
  """Clusters of noisy tables [N, Q, W], whose entries have noise `stddev`: post-processing."""
  sums = tables if count_weight == 0 else tables[..., :-1]
  dims, energy = sums.shape[-1], (sums * sums).sum(-1)
  noise_energy = dims * stddev**2
  kept = energy > noise_energy * (1 + significance * math.sqrt(2 / dims))
  counts = jnp.ones(energy.shape)
  concentration = counts
  if count_weight:
    counts = jnp.maximum(tables[..., -1] / count_weight, 1)
    concentration = jnp.minimum(jnp.sqrt(jnp.maximum(energy - noise_energy, 0)) / counts, 1)
  return Clusters(jnp.where(kept[..., None], l2_normalise(sums), 0),
                  jnp.where(kept, counts, 0), concentration)


def einsum(subscripts: str, *operands: Any) -> jax.Array:
  """Einsum in full float32 everywhere: rounded factors would void a sensitivity."""
  return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def silo_keys(key: jax.Array, silos: int) -> jax.Array:
  """One key per silo, [N]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(silos))


def nothing_chosen(like: jax.Array) -> jax.Array:
  """`Transcript.chosen` of a mechanism without candidates; `like` is [N, Q]."""
  return jnp.full(like.shape, -1, jnp.int32)


def check_rows(rows: jax.Array, real: jax.Array, dims: int | None = None,
               at_least: int | None = None) -> None:
  """Raises ValueError unless rows are [N, n, D], real is [N, n], D == dims and n >= at_least."""
  if rows.ndim != 3 or real.shape != rows.shape[:2]:
    raise ValueError(f"rows must be [N, n, D] and real [N, n], got {rows.shape} and {real.shape}")
  if dims is not None and rows.shape[2] != dims:
    raise ValueError(f"rows must have {dims} dimensions, got {rows.shape[2]}")
  if at_least is not None and rows.shape[1] < at_least:
    raise ValueError(f"clusters must be at most the {rows.shape[1]} rows of a silo, got {at_least}")
