"""Epsilon of a person who holds several units of a guarantee, e.g. is on several photographs.

Of k units, each in a step's sample by a coin of its own, j ~ Binomial(k, q) are, and what they add
to the sum is at most j sensitivities long. So a step is dominated by a mixture of Gaussians at
0, 1, ..., k sensitivities with these probabilities (Ganesh, arXiv 2401.10294, Theorem 3.1), which
composes over steps like any pair of distributions. That is far below k times the epsilon of one
unit at k e^((k-1) epsilon) times its delta, what group privacy gives without looking inside.

Where a step keeps at most `capacity` of its sample, k new units may also push out as many others.
Samples of the other units that are so large have a probability t a step. Where t times the steps is
at most half of delta, it is taken off delta; otherwise every sensitivity is doubled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import dp_accounting
import numpy as np
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from scipy import special, stats

from fedjax_face.privacy import accountants, accounting, gaussian_events, time_limit
from fedjax_face.privacy.adjacency import Adjacency

_TAIL = 10.0           # standard deviations of the Gaussian loss that are kept
_NEGLIGIBLE = 1e-6     # share of delta given up for numbers of sampled units that hardly occur
_NEWTON_STEPS = 3
_LARGEST_GRID = 1e6    # points
_SECONDS = 20.0
_HARDLY = 0.01         # epsilon so small that sampling is left out of the account


class _Mixture(NamedTuple):
  """sum_j probabilities[j] N(shifts[j], z^2) against N(0, z^2); shifts ascend from 0."""

  shifts: np.ndarray
  probabilities: np.ndarray
  noise_multiplier: float


def group_epsilon(event: DpEvent, steps: int, group: int, delta: float) -> float:
  """Epsilon at `delta` of adding or removing `group` units together, over `steps` steps.

  Args:
    event: of one step, for one unit under add-or-remove-one: a Gaussian, perhaps on a Poisson
      sample, perhaps of a limited size.
    steps: how often.
    group: k, units of one person.
    delta: in (0, 1).

  Returns:
    A valid upper bound; inf where nothing is promised, nan for an event of another kind and where
    the computation takes too long.

  Raises:
    ValueError: a group below 1, negative steps or a delta outside (0, 1).
  """
  if group < 1 or steps < 0 or not 0 < delta < 1:
    raise ValueError(f"group={group}, steps={steps}, delta={delta}: expected at least 1, at "
                     "least 0 and a number in (0, 1)")
  match event:
    case _ if steps == 0:
      return 0.0
    case dp_accounting.NonPrivateDpEvent():
      return math.inf
    case dp_accounting.GaussianDpEvent(z):
      return _of_gaussian(z / group, steps, delta)
    case dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)):
      return _of_sampled(q, z, steps, group, delta, 1)
    case dp_accounting.TruncatedSubsampledGaussianDpEvent():
      crowded = steps * float(stats.binom.sf(event.truncated_batch_size - group,
                                             event.dataset_size, event.sampling_probability))
      rare = crowded <= delta / 2
      return _of_sampled(event.sampling_probability, event.noise_multiplier, steps, group,
                         delta - crowded if rare else delta, 1 if rare else 2)
  return math.nan


def _of_gaussian(noise_multiplier: float, steps: int, delta: float) -> float:
  if noise_multiplier == 0:
    return math.inf
  event = dp_accounting.SelfComposedDpEvent(
      dp_accounting.GaussianDpEvent(noise_multiplier), steps)
  return accounting.epsilon_by("pld", event, delta, Adjacency.ADD_OR_REMOVE_ONE)


def _of_sampled(sampling_rate: float, noise_multiplier: float, steps: int, group: int,
                delta: float, sensitivity: int) -> float:
  """As `group_epsilon`, where j sampled units move the sum by `sensitivity` * j."""
  if sampling_rate == 0:
    return 0.0
  if noise_multiplier < gaussian_events.SMALLEST_NOISE:
    return math.inf
  noise_multiplier = min(noise_multiplier, gaussian_events.LARGEST_NOISE)
  # All units in every step: k sensitivities, the most that a sample can move the sum.
  unsampled = _of_gaussian(noise_multiplier / (group * sensitivity), steps, delta)
  if sampling_rate == 1 or unsampled < _HARDLY:
    return unsampled
  try:
    with time_limit.limited(f"epsilon of {group} units of a person", _SECONDS):
      return min(unsampled, _of_mixture(sampling_rate, noise_multiplier, steps, group, delta,
                                        sensitivity))
  except time_limit.TookTooLong:
    return unsampled if math.isfinite(unsampled) else math.nan
  except OverflowError:  # losses beyond all numbers
    return unsampled


def _of_mixture(sampling_rate: float, noise_multiplier: float, steps: int, group: int,
                delta: float, sensitivity: int) -> float:
  # More than `most` of the units in one step: given up, with the same coins on both sides.
  most = int(stats.binom.isf(_NEGLIGIBLE * delta / steps, group, sampling_rate))
  most = min(group, most)
  tail = float(stats.binom.sf(most, group, sampling_rate))
  number = np.arange(most + 1)
  probabilities = stats.binom.pmf(number, group, sampling_rate)
  mixture = _Mixture(1.0 * sensitivity * number, probabilities / probabilities.sum(),
                     noise_multiplier)
  interval = _interval(mixture, sampling_rate, steps, group)
  if interval > accountants.WIDEST:
    return math.inf
  one = privacy_loss_distribution.PrivacyLossDistribution(
      _pmf(mixture, interval, "remove"), _pmf(mixture, interval, "add"))
  time_limit.check()
  loss = one.self_compose(steps)
  found = float(loss.get_epsilon_for_delta(delta - steps * tail))
  return found - steps * math.log1p(-tail)


def _interval(mixture: _Mixture, sampling_rate: float, steps: int, group: int) -> float:
  """Grid of the loss: that of one unit, times k, as the loss is at least k times as wide."""
  one = accountants.discretisation(dp_accounting.SelfComposedDpEvent(
      dp_accounting.PoissonSampledDpEvent(
          sampling_rate, dp_accounting.GaussianDpEvent(mixture.noise_multiplier)), steps))
  return max(one * group, 2 * _largest_loss(mixture) / _LARGEST_GRID)


def _largest_loss(mixture: _Mixture) -> float:
  shift, z = float(mixture.shifts[-1]), mixture.noise_multiplier
  return shift * (shift / 2 + _TAIL * z) / (z * z)


def _pmf(mixture: _Mixture, interval: float, direction: str) -> pld_pmf.PLDPmf:
  """Pessimistic (connect-the-dots) distribution of the loss of `mixture_delta`."""
  nobody = -math.log(mixture.probabilities[0])
  largest = _largest_loss(mixture)
  upper, lower = (largest, nobody) if direction == "remove" else (nobody, largest)
  bottom, top = math.floor(-lower / interval), math.ceil(upper / interval)
  deltas = mixture_delta(np.arange(bottom, top + 1) * interval, mixture.shifts,
                         mixture.probabilities, mixture.noise_multiplier, direction)
  return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
      interval, bottom, top, np.minimum.accumulate(deltas.clip(0, 1)))


def mixture_delta(epsilons: np.ndarray, shifts: np.ndarray, probabilities: np.ndarray,
                  noise_multiplier: float, direction: str) -> np.ndarray:
  """delta(epsilon) of M = sum_j p_j N(c_j, z^2) and Q = N(0, z^2).

  Args:
    epsilons: any real numbers [n].
    shifts: c [J], ascending from 0.
    probabilities: p [J], the first above 0.
    noise_multiplier: z.
    direction: "remove" for the pair (M, Q), "add" for (Q, M).

  Returns:
    [n] in [0, 1]. The loss log M / Q rises with the output x, so the best set is a half line.
  """
  mixture = _Mixture(np.asarray(shifts, float), np.asarray(probabilities, float), noise_multiplier)
  epsilons, z = np.asarray(epsilons, float), noise_multiplier
  level = epsilons if direction == "remove" else -epsilons
  floor = math.log(mixture.probabilities[0])        # the loss as x goes to minus infinity
  inside = level > floor
  x = _where_loss_is(np.where(inside, level, floor + 1), mixture)
  sign = -1.0 if direction == "remove" else 1.0     # tails right of x, or left of it
  of_q = special.ndtr(sign * x / z)
  of_m = sum(p * special.ndtr(sign * (x - c) / z)
             for p, c in zip(mixture.probabilities, mixture.shifts, strict=True))
  gain = np.exp(np.minimum(epsilons, 700))
  if direction == "remove":
    return np.where(inside, of_m - gain * of_q, -np.expm1(np.minimum(epsilons, 0)))
  return np.where(inside, of_q - gain * of_m, 0.0)


def _where_loss_is(level: np.ndarray, mixture: _Mixture) -> np.ndarray:
  """x [n] at which log M / Q is `level`: a table, then Newton's steps."""
  z, far = mixture.noise_multiplier, float(mixture.shifts[-1])
  table = np.linspace(-far - 40 * z, far + 40 * z, 1 << 16)
  x = np.interp(level, _loss(table, mixture)[0], table)
  for _ in range(_NEWTON_STEPS):
    value, slope = _loss(x, mixture)
    x = x + np.clip((level - value) / np.maximum(slope, 1e-300), -z, z)
  return x


def _loss(x: np.ndarray, mixture: _Mixture) -> tuple[np.ndarray, np.ndarray]:
  """log M / Q at x [n], and its derivative."""
  z = mixture.noise_multiplier
  total = np.full_like(x, -np.inf)
  slope = np.zeros_like(x)
  for p, c in zip(mixture.probabilities, mixture.shifts, strict=True):
    time_limit.check()
    if p > 0:
      term = math.log(p) + c * (2 * x - c) / (2 * z * z)
      larger = np.logaddexp(total, term)
      slope = slope * np.exp(total - larger) + c / (z * z) * np.exp(term - larger)
      total = larger
  return total, slope
