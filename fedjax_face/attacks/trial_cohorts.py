"""Who takes part in the trials of a game; the only place where an audit draws it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax

from fedjax_face.data import cohorts
from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws

CohortOf = Callable[[Draws, int], Cohort]

_MOST = 4  # two populations, two streams
_known: dict[tuple[weakref.ref[Any], tuple[int, ...]], Cohort] = {}


def cohorts_of_trials(cohort: CohortOf, start: int, rounds: int, trials: int, seed: int) -> Cohort:
  """The cohorts of rounds `start`, `start` + 1, ... of each trial: leaves [trials, rounds, ...].

  Populations that differ in the canary get the same cohorts from the same seed, but for the canary.
  The last ones are kept, as long as `cohort` lives, for the next game with the same one.

  Args:
    cohort: of a run's sampling, (draws, round) -> Cohort.
    start, rounds, trials: as above.
    seed: with the number of a trial, the root of its draws.
  """
  numbers = start, rounds, trials, seed
  found = _known.get((weakref.ref(cohort), numbers))
  if found is None:
    drawn = cohorts.stack([
        cohort(draws, start + r) for draws in (Draws.of((seed, trial)) for trial in range(trials))
        for r in range(rounds)])
    found = jax.tree.map(lambda leaf: leaf.reshape(trials, rounds, *leaf.shape[1:]), drawn)
    _known[weakref.ref(cohort, _forget), numbers] = found
    while len(_known) > _MOST:
      del _known[next(iter(_known))]
  return found


def _forget(gone: weakref.ref[Any]) -> None:
  for key in [key for key in _known if key[0] is gone]:
    del _known[key]
