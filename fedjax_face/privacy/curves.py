"""Exact privacy curves of Gaussian releases, with and without random sampling."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

_TAIL = 15.0                # standard deviations beyond which the quadrature stops
_LARGEST_GRID = 200_000     # points of the quadrature


def gaussian_delta(epsilon_: np.ndarray | float, noise_multiplier: float) -> np.ndarray:
  """Exact delta(epsilon) of one Gaussian release (Balle & Wang 2018, eq. 6), mu = 1/multiplier."""
  mu = 1 / noise_multiplier
  epsilon_ = np.asarray(epsilon_, np.float64)
  upper = special.log_ndtr(mu / 2 - epsilon_ / mu)
  lower = epsilon_ + special.log_ndtr(-mu / 2 - epsilon_ / mu)
  return np.exp(upper) * -np.expm1(np.minimum(lower - upper, 0.0))


def sampled_gaussian_delta(epsilon_: np.ndarray, sampling_rate: float, noise_multiplier: float,
                           direction: str) -> np.ndarray:
  """Worst-case delta(epsilon) of a Gaussian release on a random sample, for one direction.

  With (P, Q) two Gaussians one sensitivity apart, q the sampling rate and M = qP + (1-q)Q:
  "remove" is the pair (M, Q) and "add" is (Q, M), for Poisson sampling; "replace", for a fixed-size
  sample under replace-one, is (M, Q) at epsilon >= 0 and (Q, M) at epsilon < 0. Each half of
  "replace" is reached by some two data sets and no two data sets exceed it: it is the smallest
  curve valid for all of them.

  Args:
    epsilon_: any real numbers [n].
    sampling_rate: q in (0, 1]; sample size / population for a fixed-size sample.
    noise_multiplier: noise / sensitivity.
    direction: "remove", "add" or "replace".

  Returns:
    delta, [n] in [0, 1], non-increasing in epsilon.

  Guarantees: composes adaptively. Each curve, "replace" too, is convex in e^epsilon and so belongs
    to one pair of distributions (Zhu, Dong, Wang 2022, Prop. 8), which dominates every round
    whatever its past.
  Source: Balle, Barthe, Gaboardi 2018, Theorems 8 and 9 (epsilon >= 0); Zhu, Dong, Wang 2022,
    Theorem 11 (all epsilon).
  """
  q = sampling_rate
  if direction == "remove":             # M > e^eps Q where P > Q excess / q
    positive = np.maximum(epsilon_, 0)
    excess = np.exp(epsilon_ - positive) - (1 - q) * np.exp(-positive)     # times e^-positive
    base = np.log(np.where(excess > 0, excess, 1)) + positive - math.log(q)
    certain = -np.expm1(np.minimum(epsilon_, 0))
    return np.where(excess > 0, q * gaussian_delta(base, noise_multiplier), certain)
  if direction == "add":                # Q > e^eps M where Q > P e^eps q / rest
    rest = 1 - (1 - q) * np.exp(np.minimum(epsilon_, 700))
    base = epsilon_ + math.log(q) - np.log(np.where(rest > 0, rest, 1))
    return np.where(rest > 0, rest * gaussian_delta(base, noise_multiplier), 0)
  return np.where(
      epsilon_ >= 0,
      sampled_gaussian_delta(np.maximum(epsilon_, 0), q, noise_multiplier, "remove"),
      sampled_gaussian_delta(np.minimum(epsilon_, 0), q, noise_multiplier, "add"))


def poisson_gaussian_rdp(sampling_rate: float, noise_multiplier: float,
                         order: float) -> float:
  """RDP of the Poisson-sampled Gaussian at one order > 1, by quadrature.

  log E_{x ~ N(0, z^2)} [(1 - q + q exp((2x - 1) / 2z^2))^order] / (order - 1)  (Mironov, Talwar,
  Zhang 2019). dp_accounting's series for fractional orders does not converge for small orders and
  small noise, where the best order lies; the trapezoid rule converges geometrically here. So little
  noise that the rule would take too many points gives nan.
  """
  q, z = sampling_rate, noise_multiplier
  step = min(z, z * z) / 4
  if order + 2 * _TAIL * z > _LARGEST_GRID * step:
    return math.nan
  x = np.arange(-_TAIL * z, order + _TAIL * z, step)
  ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z * z))
  density = -x * x / (2 * z * z) + math.log(step / (z * math.sqrt(2 * math.pi)))
  return max(0.0, float(special.logsumexp(density + order * ratio)) / (order - 1))
