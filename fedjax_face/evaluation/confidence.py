"""Confidence intervals: bootstrap over people, and tests over seeds.

Images of one person are not independent, so people are resampled, with replacement, and never
images or pairs. With w_p the number of times person p is drawn, a pair of images of persons p and q
counts w_p w_q times, and a pair of images of one person p counts w_p times; pairs between two
copies of one person are left out, since they would be impostor pairs of identical images.
(After the subsets bootstrap of Bolle, Ratha and Pankanti, CVIU 2004.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


class Interval(NamedTuple):
  """A confidence interval; nan where there is none."""

  low: float
  high: float


class Estimate(NamedTuple):
  """A mean and its confidence interval."""

  value: float
  low: float
  high: float


class PairedDifference(NamedTuple):
  """Mean of a - b, its t-interval, and the p-value of a two-sided paired t-test."""

  difference: float
  low: float
  high: float
  p_value: float


class Equivalence(NamedTuple):
  """Equivalent iff `p_value` < alpha, that is iff the (1 - 2 alpha) interval is in +-margin."""

  difference: float
  low: float
  high: float
  p_value: float
  equivalent: bool


# ---- over people ----


def resample_people(people: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
  """How often each person is drawn: float32 [resamples, people], every row summing to `people`."""
  return rng.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.float32)


def bootstrap_mean(
  values: np.ndarray,
  person: np.ndarray,
  resamples: int,
  rng: np.random.Generator,
  level: float = 0.95,
) -> Interval:
  """Percentile interval of the mean of per-image `values` [Q] when people `person` [Q] are
  resampled.
  """
  return percentiles(resampled_mean(values, person, resamples, rng), level)


def resampled_mean(
  values: np.ndarray, person: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
  """The mean of per-image `values` [Q] in every resample of people `person` [Q]: [resamples]."""
  names, dense = np.unique(person, return_inverse=True)
  total = np.bincount(dense, values, minlength=len(names))
  count = np.bincount(dense, minlength=len(names))
  weights = resample_people(len(names), resamples, rng)
  return (weights @ total) / (weights @ count)


def bootstrap_pairs(
  statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray],
  left_person: np.ndarray,
  right_person: np.ndarray,
  resamples: int,
  rng: np.random.Generator,
  level: float = 0.95,
) -> list[Interval]:
  """Percentile intervals of statistics of listed pairs, people resampled.

  Args:
    statistic: weights float32 [P] of the pairs -> S numbers, e.g. of a weighted `roc`.
    left_person: person of each pair's left image, [P].
    right_person: person of its right image, [P].
    resamples: number of bootstrap resamples.
    rng: draws the people.
    level: coverage.

  Returns:
    One Interval for each of the S numbers. Resamples without a pair of both kinds (ValueError) are
    left out.
  """
  draws = resampled_pairs(statistic, left_person, right_person, resamples, rng)
  return [percentiles(column, level) for column in draws.T]


def resampled_pairs(
  statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray],
  left_person: np.ndarray,
  right_person: np.ndarray,
  resamples: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """The S numbers of `bootstrap_pairs` in every resample: float64 [resamples, S].

  Resamples without a pair of both kinds are rows of nan, so that row r is the same resample of
  people whatever was scored.
  """
  people, dense = np.unique(np.stack([left_person, right_person]), return_inverse=True)
  left, right = dense.reshape(2, -1)
  draws: list[np.ndarray | None] = []
  for weights in resample_people(len(people), resamples, rng):
    try:
      draws.append(np.asarray(statistic(pair_weights(weights, left, right)), np.float64))
    except ValueError:
      draws.append(None)
  filled = next((row for row in draws if row is not None), None)
  if filled is None:
    raise ValueError("no bootstrap resample held both a same and a different pair")
  return np.stack([np.full(filled.shape, np.nan) if row is None else row for row in draws])


def paired_interval(after: np.ndarray, before: np.ndarray, level: float = 0.95) -> Interval:
  """Percentile interval of after - before from values [R] of both in the same resamples."""
  if after.shape != before.shape:
    raise ValueError(f"paired resamples: {after.shape} and {before.shape} are not the same number")
  return percentiles(after - before, level)


def pair_weights(weights: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Multiplicity [P] of pairs of people `left`, `right` [P] under person weights [U]."""
  return weights[left] * np.where(left == right, 1, weights[right])


def percentiles(draws: np.ndarray, level: float) -> Interval:
  """Percentile interval over the finite draws."""
  finite = draws[np.isfinite(draws)]
  if not len(finite):
    return Interval(np.nan, np.nan)
  low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
  return Interval(float(low), float(high))


# ---- over folds and seeds ----


def bootstrap_folds(
  values: Sequence[float], resamples: int, rng: np.random.Generator, level: float = 0.95
) -> Interval:
  """Percentile interval of the mean of per-fold `values` when folds are resampled; narrow for few
  folds.
  """
  draws = rng.choice(np.asarray(values, np.float64), size=(resamples, len(values)))
  return percentiles(draws.mean(axis=1), level)


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
  """Mean over seeds (or folds) with its Student t-interval; nan interval for one value."""
  if not len(values):
    raise ValueError("mean_interval needs at least one value")
  sample = np.asarray(values, np.float64)
  if len(sample) == 1:
    return Estimate(float(sample[0]), np.nan, np.nan)
  half = (
    scipy.stats.t.ppf((1 + level) / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
  )
  return Estimate(float(sample.mean()), float(sample.mean() - half), float(sample.mean() + half))


def paired_difference(
  a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> PairedDifference:
  """a - b over the same seeds, in the same order: t-interval and paired t-test."""
  difference = _differences(a, b)
  mean, low, high = mean_interval(difference, level)
  spread = difference.std(ddof=1) / np.sqrt(len(difference))
  p_value = (
    2 * scipy.stats.t.sf(abs(mean) / spread, len(difference) - 1) if spread else float(mean == 0)
  )
  return PairedDifference(mean, low, high, float(p_value))


def tost(a: Sequence[float], b: Sequence[float], margin: float, alpha: float = 0.05) -> Equivalence:
  """Is a as good as b within +-`margin`? Two one-sided paired t-tests over the same seeds
  (Schuirmann, 1987).

  Args:
    a: one value a seed.
    b: values of the other system, same seeds, same order.
    margin: largest difference that counts as equivalent, > 0, fixed before the values are seen.
    alpha: level of each test.
  """
  if not margin > 0:
    raise ValueError(f"margin must be positive, got {margin}")
  difference = _differences(a, b)
  mean, low, high = mean_interval(difference, 1 - 2 * alpha)
  spread = difference.std(ddof=1) / np.sqrt(len(difference))
  p_value = (
    scipy.stats.t.sf((margin - abs(mean)) / spread, len(difference) - 1)
    if spread
    else float(abs(mean) >= margin)
  )
  return Equivalence(mean, low, high, float(p_value), bool(p_value < alpha))


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
  """a - b, checked to be paired."""
  if len(a) != len(b) or len(a) < 2:
    raise ValueError(
      f"paired comparison needs the same two or more seeds on both sides, got {len(a)} and {len(b)}"
    )
  return np.asarray(a, np.float64) - np.asarray(b, np.float64)
