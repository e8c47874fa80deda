"""Gaussian releases of one sample as one release, with a noise multiplier that accountants take."""

from __future__ import annotations

import math

import dp_accounting
from dp_accounting.dp_event import DpEvent

# Noise multipliers outside are accounted for as these: less noise as none, more as the largest.
SMALLEST_NOISE, LARGEST_NOISE = 1e-6, 1e6

_FIXED_SIZE = dp_accounting.SampledWithoutReplacementDpEvent


def merge_gaussians(event: DpEvent) -> DpEvent:
  """Replaces several Gaussian releases on ONE sample by their joint Gaussian.

  Multipliers z_i act as (sum z_i^-2)^(-1/2) (McMahan et al. 2018, arXiv 1812.06210, section 3), so
  both accountants can treat, for example, an update and a noisy count of the same cohort. Exact but
  for multipliers out of the accountants' range, which give way to one with less noise.

  Raises:
    ValueError: a multiplier that is negative or not a number.
  """
  if isinstance(event, dp_accounting.SelfComposedDpEvent):
    return dp_accounting.SelfComposedDpEvent(merge_gaussians(event.event), event.count)
  if isinstance(event, dp_accounting.ComposedDpEvent):
    return dp_accounting.ComposedDpEvent([merge_gaussians(e) for e in event.events])
  if isinstance(event, dp_accounting.PoissonSampledDpEvent | _FIXED_SIZE):
    precision = _gaussian_precision(event.event)
    if precision is not None:
      inner = _gaussian(precision)
      if isinstance(inner, dp_accounting.NoOpDpEvent):
        return inner
      if isinstance(event, _FIXED_SIZE):
        return _FIXED_SIZE(event.source_dataset_size, event.sample_size, inner)
      return dp_accounting.PoissonSampledDpEvent(event.sampling_probability, inner)
  if isinstance(event, dp_accounting.GaussianDpEvent):
    return _gaussian(_precision(event.noise_multiplier), event)
  if isinstance(event, dp_accounting.TruncatedSubsampledGaussianDpEvent):
    inner = _gaussian(_precision(event.noise_multiplier))
    if isinstance(inner, dp_accounting.NoOpDpEvent):
      return inner
    if inner.noise_multiplier == 0:
      return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.TruncatedSubsampledGaussianDpEvent(
        event.dataset_size, event.sampling_probability, event.truncated_batch_size,
        inner.noise_multiplier)
  return event


def _precision(noise_multiplier: float) -> float:
  """z^-2, infinite below the smallest multiplier that is told from none."""
  if not noise_multiplier >= 0:
    raise ValueError(f"noise multiplier {noise_multiplier}: expected a number, at least 0")
  return math.inf if noise_multiplier < SMALLEST_NOISE else noise_multiplier**-2


def _gaussian(precision: float, event: DpEvent | None = None) -> DpEvent:
  """The Gaussian of this z^-2, `event` if in range; nothing at all where its noise is infinite."""
  if precision == 0:
    return dp_accounting.NoOpDpEvent()
  multiplier = 0.0 if math.isinf(precision) else precision**-0.5
  if event is not None and multiplier and multiplier <= LARGEST_NOISE:
    return event
  return dp_accounting.GaussianDpEvent(min(multiplier, LARGEST_NOISE))


def _gaussian_precision(event: DpEvent) -> float | None:
  """Sum of z^-2 over a nest of Gaussian events; None if anything else is in it."""
  if isinstance(event, dp_accounting.GaussianDpEvent):
    return _precision(event.noise_multiplier)
  if isinstance(event, dp_accounting.SelfComposedDpEvent):
    inner = _gaussian_precision(event.event)
    return None if inner is None else event.count * inner
  if isinstance(event, dp_accounting.ComposedDpEvent):
    total = 0.0
    for part in event.events:
      inner = _gaussian_precision(part)
      if inner is None:
        return None
      total += inner
    return total
  return None
