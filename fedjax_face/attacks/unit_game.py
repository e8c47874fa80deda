"""The game of DP-SGD on units: what the noisy sums of a method's gradients tell apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import dp_accounting
import numpy as np

from fedjax_face import options
from fedjax_face.attacks import unit_audit
from fedjax_face.attacks.audit import Audit
from fedjax_face.attacks.game import CONFIDENCE, Played, Terms, row
from fedjax_face.attacks.unit_audit import ADJACENCY
from fedjax_face.dp_sgd.sampling import UnitSampling, poisson_sampling
from fedjax_face.draws import identity_of
from fedjax_face.losses.multi_task import TASKS
from fedjax_face.privacy import accounting, calibration
from fedjax_face.privacy import noise as mechanisms


class UnitGame:
  """Clip and noise of a method's gradients on a few units, with the sampling that a run has."""

  units = 6

  def __init__(self, units: Any, gradient: Any, terms: Terms):
    """Of the parts `method.units` and `method.gradient`, which clips."""
    self._clip = options.made(gradient).clip(ADJACENCY, len(TASKS))
    self._form = options.record(gradient).arguments.get("form", "scanned")
    self._name, self._unit = options.call(gradient)["name"], options.made(units).name
    self._terms = terms
    self._sampled = functools.cache(self._sampling_of)

  def _sampling(self, unit: np.ndarray, rate: float, capacity: int) -> UnitSampling:
    """Poisson samples of the units with a rate that does not follow from their number."""
    return self._sampled(tuple(unit.tolist()), rate, capacity)

  def _sampling_of(self, unit: tuple[int, ...], rate: float, capacity: int) -> UnitSampling:
    return poisson_sampling(
        np.array(unit), identity_of(unit), self._unit, expected=round(rate * self.units),
        capacity=capacity, rows=unit_audit.ROWS, views=1, devices=1, probability=rate)

  def _event(self, noise: float, rate: float, capacity: int) -> dp_accounting.DpEvent:
    one = self._sampling(np.arange(self.units), rate, capacity).event(noise)
    return dp_accounting.SelfComposedDpEvent(one, self._terms.rounds)

  def noise_for(self, epsilon: float) -> float:
    """Noise over sensitivity that claims `epsilon` where all units take part."""
    return calibration.calibrate_noise(
        lambda noise: self._event(noise, 1.0, self.units), epsilon, self._terms.delta, ADJACENCY)

  def play(self, noise: float) -> list[Played]:
    """The real steps, and two broken ones where nothing else hides them."""
    unit, real = self._unit, self._one(noise, 1.0, "first")
    fourth = accounting.epsilon(self._event(noise, 0.25, self.units), self._terms.delta, ADJACENCY)
    return [
        Played(f"intact, every {unit} in every step; the first {unit} removed", False,
               self.units, real),
        Played(f"intact, every {unit} in every step; the last {unit} removed, all layers",
               False, self.units, self._one(noise, 1.0, "last", towards="all_layers")),
        Played(f"intact, every second {unit} in a step; the first {unit} removed", False,
               self.units, self._one(noise, 0.5, "first")),
        Played(f"intact, room for half of the {unit}s; the first {unit} removed", False,
               self.units, self._one(noise, 0.5, "first", capacity=self.units // 2)),
        Played("broken: half the noise", True, self.units,
               self._one(noise, 1.0, "first", less=0.5)),
        Played(f"broken: every {unit} in every step, every fourth claimed", True, self.units,
               real._replace(claimed=fourth.best)),
    ]

  def _one(self, noise: float, rate: float, place: str, towards: str = "random", less: float = 1.0,
           capacity: int | None = None) -> Audit:
    terms, room = self._terms, self.units if capacity is None else capacity
    event = self._event(noise, rate, room)
    return unit_audit.audit(
        lambda unit: self._sampling(unit, rate, room), self._clip, self._form,
        mechanisms.gaussian(), event, noise * less, units=self.units, rate=rate,
        steps=terms.rounds, trials=terms.trials, delta=terms.delta, confidence=CONFIDENCE,
        seed=terms.seed, place=place, towards=towards)

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    terms = self._terms
    return {
        "channel": "model", "unit": self._unit, "adjacency": ADJACENCY.value,
        "adjacency_in_words": ADJACENCY.words(self._unit), "delta": terms.delta,
        "confidence": CONFIDENCE, "rounds": terms.rounds, "trials": terms.trials,
        "sampling": "poisson", "clip": self._name, "games": [row(game) for game in games],
    }
