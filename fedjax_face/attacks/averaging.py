"""Averaging the repeated releases of one picture: noise drawn anew averages out, cached noise not.

The mean of k releases with fresh noise errs by sigma / sqrt(k), and no unbiased estimate errs less
(Cramer and Rao). Where the noise is drawn once and cached, k releases are one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from fedjax_face.attacks.error_rates import LEVEL
from fedjax_face.evaluation.confidence import Estimate


class Averaged(NamedTuple):
  """Error of the mean of the first `releases` releases, in the units of the activations.

  Attributes:
    releases: k.
    error: root mean square over all coordinates of all pictures, and its interval.
    fresh: sigma / sqrt(k), the bound where every release has noise of its own.
    cached: sigma, the bound where all releases share their noise.
    below_cached: whether averaging gained anything: the interval lies below `cached`.
    below_fresh: whether there is less noise than claimed: the interval lies below `fresh`.
  """

  releases: int
  error: Estimate
  fresh: float
  cached: float
  below_cached: bool
  below_fresh: bool


def averaging(received: np.ndarray | jax.Array, clean: np.ndarray | jax.Array, sigma: float,
              level: float = LEVEL) -> tuple[Averaged, ...]:
  """Error of the running mean, for k = 1 to the number of releases R.

  Args:
    received: float [R, B, ...], R releases of the same B pictures.
    clean: float [B, ...], their clipped activations before noise, which only the judge knows.
    sigma: standard deviation of the noise that is claimed.
    level: of the intervals, which are exact for Gaussian noise that is independent over
      coordinates.

  Raises:
    ValueError: shapes do not fit, or sigma is not positive.
  """
  received, clean = np.asarray(received, np.float64), np.asarray(clean, np.float64)
  if received.shape[1:] != clean.shape or not received.size:
    raise ValueError(f"received {list(received.shape)} and clean {list(clean.shape)}; expected "
                     "[R, B, ...] and [B, ...], not empty")
  if not sigma > 0:
    raise ValueError(f"sigma {sigma}: expected a positive number")
  curve, total = [], np.zeros_like(clean)
  for index, release in enumerate(received):
    total += release - clean
    error = _root_mean_square(total / (index + 1), level)
    fresh = sigma / np.sqrt(index + 1)
    curve.append(Averaged(index + 1, error, float(fresh), sigma, error.high < sigma,
                          error.high < fresh))
  return tuple(curve)


def _root_mean_square(errors: np.ndarray, level: float) -> Estimate:
  """With the chi-square interval of a standard deviation around a known mean."""
  squares, tail = float(np.sum(errors**2)), (1 - level) / 2
  high, low = (np.sqrt(squares / stats.chi2.ppf(share, errors.size)) for share in (tail, 1 - tail))
  return Estimate(float(np.sqrt(squares / errors.size)), float(low), float(high))
