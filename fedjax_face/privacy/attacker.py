"""What an epsilon and a delta mean: how many members an attacker can find, and how good that is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from dp_accounting.dp_event import DpEvent

from fedjax_face.privacy import accountants, accounting, time_limit
from fedjax_face.privacy.adjacency import Adjacency

FALSE_POSITIVES = 0.01
SOURCE = ("ranges of Ponomareva et al., \"How to DP-fy ML\", JAIR 77 (2023), section 5.2: epsilon "
          "up to 1 strong, up to 10 reasonable (here: moderate), above weak to none; NIST SP "
          "800-226 (2025) warns that no range fits every use")
_LARGEST_EPSILON = 100.0   # above, the curve is not worth its computation


class Verdict(NamedTuple):
  """`strong`, `moderate`, `weak` or `none`, and why."""

  word: str
  why: str


def verdict(epsilon: float, delta: float, population: int, pinned: bool) -> Verdict:
  """How good a guarantee is for each of `population` units, by the ranges of `SOURCE`.

  Args:
    epsilon: inf or nan where there is no bound.
    delta: in (0, 1).
    population: number of units.
    pinned: whether the seeds of the noise are known.
  """
  if not epsilon < math.inf:
    return Verdict("none", "no bound holds")
  if pinned:
    return Verdict("none", "whoever knows the seeds can take the noise off")
  if delta * population >= 1:
    return Verdict("none", f"delta is not below 1/{population}")
  if epsilon <= 1:
    return Verdict("strong", "epsilon is at most 1")
  if epsilon <= 10:
    return Verdict("moderate", "epsilon is above 1 and at most 10")
  return Verdict("weak", "epsilon is above 10")


def most_found(event: DpEvent, adjacency: Adjacency, epsilon: float, delta: float,
               false_positives: float = FALSE_POSITIVES) -> float:
  """Largest share of members that an attacker finds who accuses so many non-members wrongly.

  From the trade-off curve: every (epsilon, delta) that holds gives the two lines
  min(e^epsilon f + delta, 1 - e^-epsilon (1 - delta - f)) at f false positives, and the smallest
  of all holds (Kairouz, Oh, Viswanath 2015; Dong, Roth, Su 2022, Proposition 2.5). The curve is
  that of the privacy loss distribution; where there is none, it takes too long or is too wide for
  its grid, or epsilon is above 100, the one pair is used.

  Args:
    event: everything that was released about a unit.
    adjacency: what the attacker has to tell apart.
    epsilon, delta: a pair that holds; epsilon inf or nan: none.
    false_positives: f in (0, 1).

  Returns:
    A share in [f, 1], never below the true bound.
  """
  if not epsilon < math.inf:
    return 1.0
  epsilons, deltas = np.array([epsilon]), np.array([delta])
  if epsilon <= _LARGEST_EPSILON and not accounting.unsupported(event, adjacency, "pld"):
    try:
      with time_limit.limited("the bound on an attacker"):
        grid = np.linspace(0, max(epsilon, 1e-3) * 1.5, 200)
        found = _deltas(event, adjacency, grid)
        epsilons, deltas = np.append(epsilons, grid), np.append(deltas, found)
    except (time_limit.TookTooLong, OverflowError):
      pass  # the one pair holds all the same
  epsilons = np.minimum(epsilons, 700)  # e^700 is more than any share
  lines = np.minimum(np.exp(epsilons) * false_positives + deltas,
                     1 - np.exp(-epsilons) * (1 - deltas - false_positives))
  return float(np.clip(lines.min(), false_positives, 1.0))


def _deltas(event: DpEvent, adjacency: Adjacency, epsilons: np.ndarray) -> np.ndarray:
  """The delta of each epsilon, 1 where the loss is too wide for its grid."""
  composed = accountants.composed_pld(event, adjacency)
  if composed is None:
    return np.ones_like(epsilons)
  return np.asarray(composed._pld.get_delta_for_epsilon(epsilons))
