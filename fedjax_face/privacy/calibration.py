"""The smallest noise that meets a privacy target."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable, Mapping

import dp_accounting

from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency

_DECIMALS = 3
_PER_UNIT = 10**_DECIMALS


def require_exactly_one(values: Mapping[str, float | None]) -> tuple[str, float]:
  """Returns the one named value that is not None, e.g. of privacy.epsilon and a noise multiplier.

  Raises:
    ValueError: none or several are given; asking for both a target and a noise is an error because
      one of them would silently be ignored.
  """
  given = {name: value for name, value in values.items() if value is not None}
  if len(given) != 1:
    names = " and ".join(values)
    got = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
    raise ValueError(f"give exactly one of {names}, got {got}")
  return next(iter(given.items()))


def calibrate_noise(
    make_event: Callable[[float], dp_accounting.DpEvent], target_epsilon: float, delta: float,
    adjacency: Adjacency, accountant: str | None = None,
    progress: Callable[[float, float], None] | None = None,
    largest_noise: float = 10_000.0, name: str = "target_epsilon") -> float:
  """Smallest noise multiplier, to three decimals rounded up, with epsilon <= target_epsilon.

  Args:
    make_event: noise multiplier (relative to the sensitivity) -> event of the whole run.
    target_epsilon: > 0, finite.
    delta: in (0, 1).
    adjacency: the relation under which the guarantee is meant.
    accountant: "pld" (tighter) or "rdp"; None: PLD where it can account for the event and finds a
      bound, else RDP.
    progress: called with (candidate multiplier, its epsilon) after every evaluation.
    largest_noise: where the search gives up.
    name: of the target in messages, e.g. "privacy.epsilon".

  Returns:
    z with epsilon(z) <= target_epsilon < epsilon(z - 0.001), given that epsilon falls with z.

  Raises:
    ValueError: the target is not positive and finite, the accountant cannot account for the event,
      or the target is out of reach (the message says what can be reached).
  """
  if not 0 < target_epsilon < math.inf:
    raise ValueError(f"{name}={target_epsilon}: expected a finite number above 0")

  def evaluate(steps: int) -> float:
    noise, event = steps / _PER_UNIT, make_event(steps / _PER_UNIT)
    value = _epsilon(pickle.dumps(event), delta, adjacency, accountant)
    if progress is not None:
      progress(noise, value)
    return value

  largest = math.floor(largest_noise * _PER_UNIT)
  low, high = _bracket(evaluate, target_epsilon, largest, name)
  while high - low > 1:
    middle = (low + high) // 2
    if evaluate(middle) <= target_epsilon:
      high = middle
    else:
      low = middle
  return high / _PER_UNIT


@functools.lru_cache(maxsize=256)
def _epsilon(pickled: bytes, delta: float, adjacency: Adjacency, accountant: str | None) -> float:
  """Of an event, which has no hash; a run is bound once to check it and again to train."""
  event = pickle.loads(pickled)
  if accountant is None:
    return accounting.smallest_finite(event, delta, adjacency)
  return accounting.epsilon_by(accountant, event, delta, adjacency)


def _bracket(evaluate: Callable[[int], float], target: float, largest: int, name: str
             ) -> tuple[int, int]:
  """(too small, large enough) within a factor of two, in steps of 0.001; too small may be 0."""
  steps = min(_PER_UNIT, largest)
  value = evaluate(steps)
  if value <= target:
    while steps > 1 and evaluate(steps // 2) <= target:
      steps //= 2
    return steps // 2, steps
  while value > target:
    if steps == largest:
      raise ValueError(
          f"{name}={target:g} cannot be reached: epsilon is still {value:.3g} at the "
          f"largest noise multiplier tried, {largest / _PER_UNIT:g}")
    low, steps = steps, min(2 * steps, largest)
    value = evaluate(steps)
  return low, steps
