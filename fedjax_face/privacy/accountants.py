"""The two accountants behind `accounting`: dp_accounting's, which read our conventions.

A noise multiplier is noise / sensitivity under the stated adjacency. dp_accounting's RDP accountant
reads it so; its PLD accountant reads noise / (largest norm of ONE record) under replace-one, which
doubles the sensitivity. The subclasses here make both read it our way.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterator
from typing import Any

import attr
import dp_accounting
import numpy as np
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import common as pld_common
from dp_accounting.pld import pld_pmf, pld_privacy_accountant, privacy_loss_distribution
from dp_accounting.rdp import rdp_privacy_accountant

from fedjax_face.privacy import curves, time_limit
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.gaussian_events import merge_gaussians

RDP_ORDERS = np.array(
    [1 + i / 50 for i in range(1, 50)] + [2 + i / 10 for i in range(90)]
    + list(range(11, 65)) + [80, 96, 128, 256, 512, 1024], dtype=np.float64)

_ACCURACY = 0.002           # variance that the grid may add, as a share of the true loss variance
_COARSEST, _DEFAULT = 2e-3, 1e-4
_LARGEST_GRID = 1e6         # points
WIDEST = 0.5                # of a grid interval; beyond, nobody needs the digits of epsilon
_TAIL = 10.0                # standard deviations kept of the Gaussian loss

_FIXED_SIZE = dp_accounting.SampledWithoutReplacementDpEvent
_POISSON_REASON = ("Poisson sampling is accounted under add-or-remove-one or zero-out, "
                   "not under replace-one")
_FIXED_SIZE_REASON = "fixed-size sampling without replacement is accounted under replace-one only"


def composed_pld(event: DpEvent, adjacency: Adjacency) -> PldAccountant | None:
  """The accountant after the event; None where the loss is too wide for its grid.

  It is not to be composed further: the last few are kept, as a statement asks for the total, for
  each channel and for the attacker's curve, and progress asks before.
  """
  merged = merge_gaussians(event)
  interval = discretisation(merged)
  if interval > WIDEST:
    return None
  return _composed(_Keyed(_frozen(merged), merged), adjacency, interval)


@dataclasses.dataclass(frozen=True)
class _Keyed:
  """An event under a key that can be hashed, as lists of events cannot."""

  key: Hashable
  event: DpEvent = dataclasses.field(compare=False)


def _frozen(value: Any) -> Hashable:
  """Equal for equal events, and for no others; what cannot be compared is equal to nothing.

  A class without fields of its own may hold more than the fields of the class that it inherits.
  """
  if isinstance(value, DpEvent):
    if "__attrs_attrs__" not in vars(type(value)):
      return object()
    return type(value), *(_frozen(getattr(value, field.name)) for field in attr.fields(type(value)))
  if isinstance(value, (list, tuple)):
    return type(value), *map(_frozen, value)
  if isinstance(value, np.ndarray):
    return value.shape, value.dtype.str, value.tobytes()
  return value if isinstance(value, Hashable) else object()


@functools.lru_cache(maxsize=4)
def _composed(keyed: _Keyed, adjacency: Adjacency, interval: float) -> PldAccountant:
  return PldAccountant(adjacency, interval).compose(keyed.event)


def _sampled_gaussian_pmf(sampling_rate: float, noise_multiplier: float, interval: float,
                          direction: str) -> pld_pmf.PLDPmf:
  """Pessimistic (connect-the-dots) distribution of the loss of `curves.sampled_gaussian_delta`."""
  largest = _gaussian_loss_range(noise_multiplier)
  gain = np.logaddexp(math.log(sampling_rate) + largest, math.log1p(-sampling_rate)
                      if sampling_rate < 1 else -np.inf)
  loss = -math.log1p(-sampling_rate) if sampling_rate < 1 else np.inf
  upper = min(gain, loss) if direction == "add" else gain
  lower = min(gain, loss) if direction == "remove" else gain
  bottom, top = math.floor(-lower / interval), math.ceil(upper / interval)
  grid = np.arange(bottom, top + 1) * interval
  deltas = curves.sampled_gaussian_delta(grid, sampling_rate, noise_multiplier, direction)
  return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
      interval, bottom, top, np.minimum.accumulate(deltas.clip(0, 1)))


@functools.lru_cache(maxsize=8)
def _sampled_gaussian_pld(
    sampling_rate: float, noise_multiplier: float, interval: float, replace_one: bool,
) -> privacy_loss_distribution.PrivacyLossDistribution:
  """Both directions; one where they agree (no sampling) or are covered by "replace"."""
  pmf = functools.partial(_sampled_gaussian_pmf, sampling_rate, noise_multiplier, interval)
  if replace_one or sampling_rate == 1:
    return privacy_loss_distribution.PrivacyLossDistribution(pmf("replace"))
  return privacy_loss_distribution.PrivacyLossDistribution(pmf("remove"), pmf("add"))


def discretisation(event: DpEvent) -> float:
  """Grid interval of the PLD, chosen so that the grid hardly widens the composed loss.

  One step on a grid of interval h adds at most about h^2/4 to the variance of its loss, so we take
  h = sqrt(0.002 * mean variance of a step), at most 2e-3: coarse when a few hundred rounds carry
  the loss, fine (about 1e-5) when it comes from hundreds of thousands of small steps. The loss is
  rounded pessimistically: a coarser grid gives a larger epsilon, never a wrong one. 1e-4 for
  events whose variance we have no formula for.
  """
  steps, variance, largest = 0, 0.0, 0.0
  for count, q, z in _sampled_gaussians(event, 1):
    if q is None or z is None:
      return _DEFAULT
    if z <= 0 or q <= 0:
      continue
    steps += count
    # The Renyi divergence of order 2: the variance to first order, and never below the mean.
    variance += count * max(0.0, float(np.logaddexp(math.log1p(-q * q) if q < 1 else -np.inf,
                                                    2 * math.log(q) + z**-2)))
    largest = max(largest, _gaussian_loss_range(z))
  if not steps or not variance:
    return _DEFAULT
  finest = (variance + largest + 2 * _TAIL * math.sqrt(variance)) / _LARGEST_GRID
  return max(min(math.sqrt(_ACCURACY * variance / steps), _COARSEST), finest)


def _sampled_gaussians(event: DpEvent,
                       count: int) -> Iterator[tuple[int, float | None, float | None]]:
  """(count, sampling rate, multiplier) of every Gaussian; (count, None, None) for the rest."""
  match event:
    case dp_accounting.NoOpDpEvent() | dp_accounting.NonPrivateDpEvent():
      return
    case dp_accounting.SelfComposedDpEvent():
      yield from _sampled_gaussians(event.event, count * event.count)
    case dp_accounting.ComposedDpEvent():
      for part in event.events:
        yield from _sampled_gaussians(part, count)
    case dp_accounting.GaussianDpEvent():
      # Gaussians without sampling compose in closed form: one step, whatever the count.
      yield 1, 1.0, event.noise_multiplier / math.sqrt(max(count, 1))
    case dp_accounting.PoissonSampledDpEvent(event=dp_accounting.GaussianDpEvent(z)):
      yield count, event.sampling_probability, z
    case _FIXED_SIZE(event=dp_accounting.GaussianDpEvent(z)):
      yield count, event.sample_size / event.source_dataset_size, z
    case dp_accounting.TruncatedSubsampledGaussianDpEvent():
      yield count, event.sampling_probability, event.noise_multiplier
    case _:
      yield count, None, None


class RdpAccountant(rdp_privacy_accountant.RdpAccountant):
  """dp_accounting's, with an adjacency, our orders, and fractional orders by quadrature."""

  def __init__(self, adjacency: Adjacency):
    super().__init__(RDP_ORDERS, adjacency.relation)

  def _maybe_compose(self, event: DpEvent, count: int, do_compose: bool) -> Any:
    time_limit.check()
    match event:
      case dp_accounting.TruncatedSubsampledGaussianDpEvent():
        return _refused(event, "truncated Poisson sampling has no RDP bound")
      case _FIXED_SIZE() if not _is_replace_one(self):
        return _refused(event, _FIXED_SIZE_REASON)
      case dp_accounting.PoissonSampledDpEvent() if _is_replace_one(self):
        return _refused(event, _POISSON_REASON)
      case dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)) if (
          0 < q < 1 and z > 0):
        if do_compose:
          self._rdp += count * _poisson_gaussian_rdp_curve(q, z)
        return None
      case _FIXED_SIZE(_, size, dp_accounting.GaussianDpEvent(z)) if size and z == 0:
        if do_compose:
          self._rdp += math.inf
        return None
      case _FIXED_SIZE(n, size, dp_accounting.GaussianDpEvent(z)):
        if do_compose:
          self._rdp += count * _fixed_size_gaussian_rdp_curve(n, size, z)
        return None
    return super()._maybe_compose(event, count, do_compose)


class PldAccountant(pld_privacy_accountant.PLDAccountant):
  """dp_accounting's, with Gaussians (sampled or not) by `curves.sampled_gaussian_delta`."""

  _pld: privacy_loss_distribution.PrivacyLossDistribution

  def __init__(self, adjacency: Adjacency, interval: float = _DEFAULT):
    super().__init__(adjacency.relation, interval)

  def _maybe_compose(self, event: DpEvent, count: int, do_compose: bool) -> Any:
    replace_one = _is_replace_one(self)
    time_limit.check()
    match event:
      case _FIXED_SIZE() if not replace_one:
        return _refused(event, _FIXED_SIZE_REASON)
      case (dp_accounting.PoissonSampledDpEvent()
            | dp_accounting.TruncatedSubsampledGaussianDpEvent()) if replace_one:
        return _refused(event, _POISSON_REASON)
      case _FIXED_SIZE(n, size, dp_accounting.GaussianDpEvent(z)):
        return self._gaussian(size / n, z, count, do_compose)
      case dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)):
        return self._gaussian(q, z, count, do_compose)
      case dp_accounting.GaussianDpEvent(z):
        return self._gaussian(1.0, z / math.sqrt(max(count, 1)), 1, do_compose)
      case dp_accounting.ZCDpEvent(rho, xi) if rho == 0 and xi >= 0:
        # A bound on the Renyi divergence of every order is pure xi-DP.
        if do_compose:
          self._pld = self._pld.compose(privacy_loss_distribution.from_privacy_parameters(
              pld_common.DifferentialPrivacyParameters(xi, 0.0),
              self._value_discretization_interval).self_compose(count))
        return None
      case dp_accounting.ZCDpEvent():
        return _refused(event, "a zCDP bound has no privacy loss distribution")
    return super()._maybe_compose(event, count, do_compose)

  def _gaussian(self, sampling_rate: float, noise_multiplier: float, count: int,
                do_compose: bool) -> None:
    if not do_compose or sampling_rate == 0:
      return
    if noise_multiplier == 0:
      self._contains_non_dp_event = True
      return
    one = _sampled_gaussian_pld(sampling_rate, noise_multiplier,
                                self._value_discretization_interval, _is_replace_one(self))
    self._pld = self._pld.compose(one.self_compose(count))


@functools.lru_cache(maxsize=256)
def _poisson_gaussian_rdp_curve(sampling_rate: float, noise_multiplier: float) -> np.ndarray:
  """RDP at `RDP_ORDERS`: whole orders by dp_accounting's exact sum, the others by quadrature."""
  whole = RDP_ORDERS == np.round(RDP_ORDERS)
  curve = np.empty_like(RDP_ORDERS)
  exact = rdp_privacy_accountant.RdpAccountant(RDP_ORDERS[whole])
  exact.compose(dp_accounting.PoissonSampledDpEvent(
      sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier)))
  curve[whole] = exact.rdp
  for i in np.flatnonzero(~whole):
    time_limit.check()
    curve[i] = curves.poisson_gaussian_rdp(sampling_rate, noise_multiplier, RDP_ORDERS[i])
  return _between_whole_orders(curve, whole)


@functools.lru_cache(maxsize=256)
def _fixed_size_gaussian_rdp_curve(population: int, size: int,
                                   noise_multiplier: float) -> np.ndarray:
  """RDP at `RDP_ORDERS` of one round, kept: a run asks for it at every checkpoint."""
  one = rdp_privacy_accountant.RdpAccountant(RDP_ORDERS, Adjacency.REPLACE_ONE.relation)
  return np.array(one.compose(_FIXED_SIZE(
      population, size, dp_accounting.GaussianDpEvent(noise_multiplier))).rdp)


def _between_whole_orders(curve: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """Fills nan from whole orders: (order - 1) RDP is convex and 0 at order 1, so chords bound it."""
  missing = np.isnan(curve)
  known = np.append(1.0, RDP_ORDERS[whole])
  scaled = np.append(0.0, (RDP_ORDERS[whole] - 1) * curve[whole])
  curve[missing] = np.interp(RDP_ORDERS[missing], known, scaled) / (RDP_ORDERS[missing] - 1)
  return curve


def _is_replace_one(accountant: dp_accounting.PrivacyAccountant) -> bool:
  return accountant.neighboring_relation == dp_accounting.NeighboringRelation.REPLACE_ONE


def _refused(event: DpEvent,
             reason: str) -> dp_accounting.PrivacyAccountant.CompositionErrorDetails:
  return dp_accounting.PrivacyAccountant.CompositionErrorDetails(event, reason)


def _gaussian_loss_range(noise_multiplier: float) -> float:
  """Largest loss kept of one Gaussian release: its mean and ten standard deviations."""
  mu = 1 / noise_multiplier
  return mu * mu / 2 + _TAIL * mu
