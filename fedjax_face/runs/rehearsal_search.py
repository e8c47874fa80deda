"""Which of many settings does best: heats of growing length, the best of each go on.

Source: Jamieson, Talwalkar, AISTATS 2016 (successive halving).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_face.runs import candidates, loop
from fedjax_face.runs.candidates import Candidate
from fedjax_face.runs.rehearsal_stage import Stage

FINALISTS = 2
SECOND_HEAT = 3 / 8          # of all settings
HEATS = (1 / 3, 2 / 3)       # of the rounds: after fewer, large steps look best
CLOCK = (0.3, 0.55)          # of the time, when the heats end

Say = Callable[[str], None]


@dataclasses.dataclass
class Trial:
  """A setting, and how it did.

  Attributes:
    number: 0 for the run's own values.
    candidate: what was asked for.
    values: the same as numbers, path -> value; empty before it played.
    scores: (rounds, repetition) -> score; nan where it diverged.
    state: after the most rounds of repetition 0.
  """

  number: int
  candidate: Candidate
  values: dict[str, Any] = dataclasses.field(default_factory=dict)
  scores: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
  state: Any = None

  @property
  def rounds(self) -> int:
    """The most that it played."""
    return max((rounds for rounds, _ in self.scores), default=0)

  @property
  def last(self) -> list[float]:
    """Its scores after the most rounds, by repetition."""
    return [score for (rounds, _), score in sorted(self.scores.items()) if rounds == self.rounds]


class Search:
  """Plays settings on a stage and keeps those that score best.

  Args:
    stage: where.
    metric: of the stage's evaluator.
    unit: `candidates.step_unit` of the run.
    method: of the run.
    say: told how each setting did.
  """

  def __init__(self, stage: Stage, metric: str, unit: float, method: Any, say: Say):
    self._stage, self._metric, self._unit = stage, metric, unit
    self._method, self._say = method, say

  def run(self, pool: Sequence[Trial], rounds: int, repetitions: int, minutes: float | None = None
          ) -> list[Trial]:
    """The finalists, best first.

    Args:
      pool: settings; the first two always play.
      rounds: of the final.
      repetitions: of the finalists, with noise and data order of their own.
      minutes: when out of them, settings are left out and the final is shortened.

    Raises:
      ValueError: none is left that did not diverge.
    """
    began, alive = time.monotonic(), list(pool)
    sizes = (len(pool), max(FINALISTS, math.ceil(SECOND_HEAT * len(pool))))
    for size, part, share in zip(sizes, HEATS, CLOCK, strict=True):
      if len(pool) > FINALISTS:
        end = math.inf if minutes is None else began + 60 * minutes * share
        alive = self._heat(alive[:size], math.ceil(part * rounds), end)
    finalists = alive[:FINALISTS]
    if minutes is not None and finalists:
      left = began + 60 * minutes - time.monotonic()
      a_round = max(self._stage.seconds_per_round, 1e-9)  # 0: none was timed yet
      affordable = left / (a_round * len(finalists) * repetitions)
      rounds = min(rounds, max(int(affordable), finalists[0].rounds, 1))
    for repetition in range(repetitions):
      for trial in finalists:
        self._play(trial, rounds, repetition)
    ranked = self._ranked(finalists)
    if not ranked:
      raise ValueError("all settings that were left in the rehearsal diverged; lower "
                       "method.local.learning_rate and method.server.learning_rate")
    return ranked

  def _heat(self, trials: Sequence[Trial], rounds: int, end: float) -> list[Trial]:
    """Plays all of them, or those that there is time for; the best first."""
    for place, trial in enumerate(trials):
      if place >= FINALISTS and time.monotonic() > end:
        self._say(f"out of time: {len(trials) - place} candidate(s) not played to {rounds} rounds")
        trials = trials[:place]
        break
      self._play(trial, rounds, 0)
    return self._ranked(trials)

  def _ranked(self, trials: Iterable[Trial]) -> list[Trial]:
    """Those that did not diverge, best first."""
    sign = -1 if lower_is_better(self._metric) else 1
    whole = [trial for trial in trials if trial.last and not np.isnan(trial.last).any()]
    return sorted(whole, key=lambda trial: (-sign * statistics.fmean(trial.last), trial.number))

  def _play(self, trial: Trial, rounds: int, repetition: int) -> None:
    """Repetition 0 goes on from where the trial is, the others begin at the start."""
    if (rounds, repetition) in trial.scores:
      return
    start, state = (0, self._stage.start)
    if repetition == 0 and trial.state is not None:
      start, state = trial.rounds, trial.state
    score = math.nan
    try:
      trial.values = trial.values or self._resolved(trial.candidate)
      state = self._stage.play(trial.values, state, start, rounds, repetition)
      score = self._stage.evaluator.values(state).get(self._metric, math.nan)
    except (loop.NonFiniteState, _NoUpdates):
      pass
    if repetition == 0:
      trial.state = state
    trial.scores[rounds, repetition] = score
    self._say(f"candidate {trial.number}, {rounds} rounds, repetition {repetition + 1}: "
              f"{self._metric} {score:.4f}; {in_words(trial.values or trial.candidate.values)}")

  def _resolved(self, candidate: Candidate) -> dict[str, Any]:
    norms = None if candidate.quantile is None else self._stage.norms(candidate.values)
    if norms is not None and not len(norms):
      raise _NoUpdates
    return candidates.resolved(candidate, norms, self._unit, self._method)


class _NoUpdates(Exception):
  """No client made an update that is finite and not zero."""


def lower_is_better(metric: str) -> bool:
  """True of an equal error rate."""
  return metric.rpartition("/")[2].startswith("eer")


def in_words(values: Mapping[str, Any]) -> str:
  """"aggregate clip norm 0.041, local epochs 2"."""
  words = lambda path: path.removeprefix("method.").replace(".", " ").replace("_", " ")
  return ", ".join(f"{words(path)} {value:g}" for path, value in values.items())
