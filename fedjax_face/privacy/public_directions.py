"""Anchors, candidates and projections for clustering, found in PUBLIC embeddings.

They are used as they are and covered by no guarantee: the points must never be private rows.
"""

from __future__ import annotations

import numpy as np


def spherical_kmeans(points: np.ndarray, clusters: int, rng: np.random.Generator,
                     iterations: int) -> np.ndarray:
  """Directions around which public points gather (k-means by cosine; Dhillon and Modha 2001).

  Seeds are drawn one after the other with probability proportional to 1 - cosine with the nearest
  seed; a cluster that loses all its points keeps its direction.

  Args:
    points: [P, D], PUBLIC; only their directions count.
    clusters: Q, 1..P.
    rng: draws the seeds.
    iterations: of assignment and mean; 0 returns the seeds.

  Returns:
    Unit vectors float32 [Q, D].

  Raises:
    ValueError: points are not finite non-zero vectors [P, D], clusters is not in 1..P, or
      iterations is negative.
  """
  unit = _finite(points)
  norms = np.linalg.norm(unit, axis=1, keepdims=True)
  if not norms.all():
    raise ValueError(f"points must not be zero, but point {int(np.argmin(norms))} is")
  if not 1 <= clusters <= len(unit):
    raise ValueError(f"clusters must be in 1..{len(unit)}, the number of points, got {clusters}")
  if iterations < 0:
    raise ValueError(f"iterations must not be negative, got {iterations}")
  unit /= norms
  centres = _spread_seeds(unit, clusters, rng)
  for _ in range(iterations):
    member = np.argmax(unit @ centres.T, axis=1) == np.arange(clusters)[:, None]
    sums = member.astype(np.float64) @ unit
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    centres = np.where(length > 0, sums / np.where(length > 0, length, 1), centres)
  return centres.astype(np.float32)


def principal_directions(points: np.ndarray, dims: int) -> np.ndarray:
  """The d' directions that hold most of the points' energy; NOT centred.

  Projecting on them never lengthens a row, which taking a mean away first could.

  Args:
    points: [P, D], PUBLIC.
    dims: d', at most P and D.

  Returns:
    Orthonormal columns float32 [D, d'], most energy first, the largest entry of each positive.

  Raises:
    ValueError: points are not finite vectors [P, D], or dims is not in 1..min(P, D).
  """
  array = _finite(points)
  if not 1 <= dims <= min(array.shape):
    raise ValueError(f"dims must be in 1..{min(array.shape)}, the smaller of the numbers of points "
                     f"and dimensions, got {dims}")
  if len(array) < array.shape[1]:
    _, weights = np.linalg.eigh(array @ array.T)
    basis = np.linalg.qr(array.T @ weights[:, ::-1][:, :dims])[0]
  else:
    _, directions = np.linalg.eigh(array.T @ array)
    basis = directions[:, ::-1][:, :dims]
  largest = np.take_along_axis(basis, np.abs(basis).argmax(0, keepdims=True), 0)
  return (basis * np.sign(largest)).astype(np.float32)


def _finite(points: np.ndarray) -> np.ndarray:
  array = np.array(points, np.float64)
  if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
    raise ValueError(f"points must be finite vectors [P, D], got shape {array.shape}"
                     + ("" if np.isfinite(array).all() else " with NaN or infinity"))
  return array


def _spread_seeds(unit: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
  seeds = [int(rng.integers(len(unit)))]
  distance = 1 - unit @ unit[seeds[0]]
  while len(seeds) < clusters:
    weight = np.maximum(distance, 0)
    weight[seeds] = 0
    if not weight.any():
      weight[np.setdiff1d(np.arange(len(unit)), seeds)] = 1
    seeds.append(int(rng.choice(len(unit), p=weight / weight.sum())))
    distance = np.minimum(distance, 1 - unit @ unit[seeds[-1]])
  return unit[seeds]
