"""Epsilon of a DpEvent by two accountants: Renyi DP and privacy loss distributions.

A noise multiplier is noise / sensitivity under the stated adjacency; see `accountants`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import threading
from collections.abc import Iterator

import numpy as np
from dp_accounting.dp_event import DpEvent
from dp_accounting.rdp import rdp_privacy_accountant

from fedjax_face.privacy import time_limit
from fedjax_face.privacy.accountants import (
    RDP_ORDERS,
    PldAccountant,
    RdpAccountant,
    composed_pld,
)
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.gaussian_events import merge_gaussians


@dataclasses.dataclass(frozen=True)
class EpsilonReport:
  """Epsilon by both accountants; every finite value is a valid upper bound on its own.

  Attributes:
    rdp: by Renyi DP; nan where that accountant cannot handle the event, inf if it finds no bound.
    pld: by privacy loss distribution, discretised pessimistically; nan and inf likewise.
    best: the smaller of the two that exist; nan when neither does, inf when nothing is promised.
    note: which accountant gave `best`, and the reason for each nan or bound given up.
  """

  rdp: float
  pld: float
  best: float
  note: str


def epsilon(event: DpEvent, delta: float, adjacency: Adjacency) -> EpsilonReport:
  """Smallest epsilon at `delta` of `event`, by RDP and by PLD.

  Raises:
    ValueError: delta outside (0, 1).
  """
  _check_delta(delta)
  (rdp, rdp_reason), (pld, pld_reason) = (
      _bound_or_nan(accountant, event, delta, adjacency) for accountant in ("rdp", "pld"))
  return report(rdp, pld, rdp_reason, pld_reason)


def _bound_or_nan(accountant: str, event: DpEvent, delta: float,
                  adjacency: Adjacency) -> tuple[float, str | None]:
  reason = unsupported(event, adjacency, accountant)
  return (math.nan, reason) if reason else _bound(accountant, event, delta, adjacency)


def report(rdp: float, pld: float, rdp_reason: str | None = None,
           pld_reason: str | None = None) -> EpsilonReport:
  """Builds the report: the smaller of two valid bounds, and in words which one it is."""
  notes = [f"{name} not available: {reason}"
           for name, reason in (("RDP", rdp_reason), ("PLD", pld_reason)) if reason]
  if math.isnan(rdp) and math.isnan(pld):
    return EpsilonReport(rdp, pld, math.nan, "; ".join(notes))
  best = float(np.nanmin([rdp, pld]))
  if math.isinf(best):
    notes.insert(0, "no finite guarantee")
  else:
    notes.insert(0, f"best by {'PLD' if best == pld else 'RDP'}")
  return EpsilonReport(rdp, pld, best, "; ".join(notes))


def epsilon_by(accountant: str, event: DpEvent, delta: float, adjacency: Adjacency) -> float:
  """Epsilon by one accountant, "rdp" or "pld"; inf where it finds no bound in the time it has.

  Raises:
    ValueError: unknown accountant, delta outside (0, 1), or an event it cannot account for.
  """
  _check_delta(delta)
  reason = unsupported(event, adjacency, accountant)
  if reason:
    raise ValueError(f"accountant {accountant!r} cannot account for {event}: {reason}")
  return _bound(accountant, event, delta, adjacency)[0]


def smallest_finite(event: DpEvent, delta: float, adjacency: Adjacency) -> float:
  """Epsilon by PLD where that is finite, else by RDP: a valid bound at the price of one.

  PLD is the tighter one wherever it has a bound; for a tiny delta or a huge epsilon it has none.

  Raises:
    ValueError: delta outside (0, 1), or an event that neither can account for.
  """
  able = [name for name in ("pld", "rdp") if not unsupported(event, adjacency, name)]
  value = math.inf
  for accountant in able or ["pld"]:
    value = epsilon_by(accountant, event, delta, adjacency)
    if math.isfinite(value):
      break
  return value


def _bound(accountant: str, event: DpEvent, delta: float,
           adjacency: Adjacency) -> tuple[float, str | None]:
  """(epsilon of an event that the accountant supports, why it gave up if it did)."""
  try:
    with time_limit.limited(f"epsilon by {accountant.upper()}"):
      if accountant == "rdp":
        return epsilon_from_rdp(rdp_curve(event, adjacency), delta), None
      composed = composed_pld(event, adjacency)
      if composed is None:
        return math.inf, "the privacy loss is too large for its grid"
      return float(composed.get_epsilon(delta)), None
  except time_limit.TookTooLong:
    return math.inf, f"it took more than {time_limit.SECONDS:.0f} s"


def unsupported(event: DpEvent, adjacency: Adjacency, accountant: str) -> str | None:
  """Why "rdp" or "pld" cannot account for `event` under `adjacency`; None if it can."""
  makers = {"rdp": RdpAccountant, "pld": PldAccountant}
  if accountant not in makers:
    raise ValueError(f"accountant must be 'rdp' or 'pld', got {accountant!r}")
  details = makers[accountant](adjacency)._maybe_compose(merge_gaussians(event), 1, False)
  if details is None:
    return None
  if details.error_message == "Unsupported event.":
    return f"{type(details.invalid_event).__name__} is not supported"
  return details.error_message


def rdp_curve(event: DpEvent, adjacency: Adjacency) -> np.ndarray:
  """RDP of `event` at `RDP_ORDERS`, float64 [orders]; curves of composed events add up."""
  with _quiet():
    return np.array(RdpAccountant(adjacency).compose(merge_gaussians(event)).rdp)


def epsilon_from_rdp(rdp: np.ndarray, delta: float) -> float:
  """Converts an RDP curve at `RDP_ORDERS` (Canonne, Kamath, Steinke 2020, Prop. 12)."""
  if np.all(np.isinf(rdp)):
    return math.inf
  with _quiet():
    return float(rdp_privacy_accountant.compute_epsilon(RDP_ORDERS, rdp, delta)[0])


def _check_delta(delta: float) -> None:
  if not 0 < delta < 1:
    raise ValueError(f"delta must be in (0, 1), got {delta}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences dp_accounting's log line per skipped order (skipping an order is sound).

  In this thread alone, and by a filter of each call: they may overlap.
  """
  own, logger = threading.get_ident(), logging.getLogger("absl")
  silent = lambda record: record.thread != own or record.levelno >= logging.ERROR
  logger.addFilter(silent)
  try:
    yield
  finally:
    logger.removeFilter(silent)
