"""ROC curves over all thresholds, short enough to be kept in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.special

from fedjax_face.evaluation.verification import Roc, smallest_reliable_far, tar_within

CURVE_POINTS = 200
BAND_POINTS = 24
_LARGEST_FAR = 0.999
_DIGITS = 6


class Band(NamedTuple):
  """Interval of the TAR, `low` and `high` [B], at FARs `far` [B]."""

  far: list[float]
  low: list[float]
  high: list[float]


class ThinnedRoc(NamedTuple):
  """A curve of which `CURVE_POINTS` operating points are kept.

  Attributes:
    protocol: whose pairs.
    negatives: number of different pairs; no FAR between 0 and its inverse can be told apart.
    smallest_reliable_far: below it a FAR rests on fewer than ten false accepts.
    far: ascending, from 1 / negatives, [T].
    tar: largest TAR within each FAR, [T].
    band: over people, where one was asked for.
  """

  protocol: str
  negatives: int
  smallest_reliable_far: float
  far: list[float]
  tar: list[float]
  band: Band | None = None


def histogram_roc(negative: np.ndarray, positive: np.ndarray) -> Roc:
  """Operating points at the edges of bins, from `pairwise.similarity_histogram`.

  Their FAR and TAR are exact. Of the curve between two edges nothing is known but its ends, so the
  area under the straight line between them is wrong by at most `auc_error`.

  Raises:
    ValueError: there are not both kinds of pair.
  """
  if not (negative.any() and positive.any()):
    raise ValueError("verification needs at least one same pair and one different pair")
  filled = np.flatnonzero(negative + positive)[::-1]
  far, tar = (np.append(0, np.cumsum(counts[filled]) / counts.sum())
              for counts in (negative, positive))
  return Roc(far, tar, np.append(np.inf, filled / len(negative)))


def auc_error(negative: np.ndarray, positive: np.ndarray) -> float:
  """Half the share of (same, different) couples of pairs that lie in one bin."""
  return float(negative / negative.sum() @ (positive / positive.sum()) / 2)


def thinned(curve: Roc, protocol: str, negatives: int) -> ThinnedRoc:
  """The curve at FARs that are evenly spaced on a logit axis, 1 / negatives the smallest.

  Raises:
    ValueError: fewer than two different pairs.
  """
  far = far_grid(negatives, CURVE_POINTS)
  return ThinnedRoc(protocol, negatives, smallest_reliable_far(negatives), rounded(far),
                    rounded(tar_within(curve, far)))


def far_grid(negatives: int, points: int) -> np.ndarray:
  """FARs from 1 / negatives to nearly 1, dense at both ends, float64 [points]."""
  if negatives < 2:
    raise ValueError(f"a ROC curve needs at least two different pairs, got {negatives}")
  first, last = scipy.special.logit([1 / negatives, _LARGEST_FAR])
  return scipy.special.expit(np.linspace(first, max(first, last), points))


def rounded(values: Iterable[float]) -> list[float]:
  """With six digits, for a file."""
  return [float(f"{value:.{_DIGITS}g}") for value in values]
