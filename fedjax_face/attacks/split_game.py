"""The game of split learning: what the edge server tells apart by the messages of a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fedjax_face import options
from fedjax_face.attacks import split_audit
from fedjax_face.attacks.audit import Audit
from fedjax_face.attacks.game import CONFIDENCE, Played, Terms, row
from fedjax_face.attacks.split_audit import ADJACENCY, SplitNoise
from fedjax_face.privacy import calibration
from fedjax_face.split.accounting import Schedule
from fedjax_face.split.learning import UNITS


class SplitGame:
  """The mode of a method's device part, its labels and a unit, on a device with a few images."""

  images, images_per_person = 3, 2

  def __init__(self, device: Any, labels: Any, unit: str, terms: Terms):
    """Of the parts `method.device` and `method.labels`, and of what a budget protects.

    Raises:
      ValueError: another unit than an image or a person.
    """
    if unit not in UNITS:
      raise ValueError(f"privacy.unit={unit!r}: expected {' or '.join(UNITS)}")
    self._unit, self._terms, self._labels = unit, terms, options.made(labels).policy
    part = options.made(device)
    self._gradient_ratio = part.noise_ratio
    self._schedule = Schedule(
        part.mode, terms.rounds, 1, self.images, self.images_per_person, self.images)

  def _noise(self, multiplier: float) -> SplitNoise:
    ratio = self._gradient_ratio
    return SplitNoise(multiplier, None if ratio is None else ratio * multiplier)

  def noise_for(self, epsilon: float) -> float:
    """Noise over sensitivity of the activations that claims `epsilon`."""
    return calibration.calibrate_noise(
        lambda z: split_audit.event(self._schedule, self._noise(z), self._labels, self._unit),
        epsilon, self._terms.delta, ADJACENCY)

  def play(self, noise: float) -> list[Played]:
    """The device as it is and the broken ones."""
    unit = self._unit
    games = [Played(f"intact; the first {unit} replaced", False, self.images,
                    self._one(noise)),
             Played(f"intact; the last {unit} replaced", False, self.images,
                    self._one(noise, place="last")),
             Played("intact, activations that may be negative; the first replaced", False,
                    self.images, self._one(noise, non_negative=False)),
             Played("broken: half the noise", True, self.images, self._one(noise, less=0.5))]
    if self._schedule.mode == "frozen_cached" and self._schedule.epochs > 1:
      games.append(Played(f"broken: new noise in each of {self._schedule.epochs} passes, one "
                          "claimed", True, self.images, self._one(noise, played="frozen_fresh")))
    return games

  def _one(self, noise: float, place: str = "first", less: float = 1.0, non_negative: bool = True,
           played: str | None = None) -> Audit:
    schedule, terms = self._schedule, self._terms
    claimed = split_audit.claim(
        schedule, self._noise(noise), self._labels, self._unit, terms.delta)
    real = schedule if played is None else dataclasses.replace(schedule, mode=played)
    return split_audit.audit(
        real, self._noise(noise).scaled(less), self._labels, claimed, unit=self._unit,
        non_negative=non_negative, trials=terms.trials, delta=terms.delta, confidence=CONFIDENCE,
        seed=terms.seed, place=place)

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    return {
        "channel": "messages of a device", "unit": self._unit, "adjacency": ADJACENCY.value,
        "adjacency_in_words": ADJACENCY.words(self._unit), "delta": self._terms.delta,
        "confidence": CONFIDENCE, "rounds": self._schedule.epochs, "trials": self._terms.trials,
        "sampling": "every image in every pass", "mode": self._schedule.mode,
        "labels": self._labels.policy, "games": [row(game) for game in games],
    }
