"""The game of `experiments.audit` for split learning: what the edge server tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.audit_games import CONFIDENCE, Played, row

if TYPE_CHECKING:
  from fedjax_face.attacks.audit import Audit


class SplitGame:
  """The config's mode, labels and unit on a device with a few images."""

  images, images_per_person = 3, 2

  def __init__(self, config: Any, rounds: int, trials: int, delta: float):
    from fedjax_face.split.accounting import Schedule
    from fedjax_face.split.labels import LabelPolicy
    options = config.split
    self._unit, self._trials, self._delta, self._seed = (
        config.privacy.unit, trials, delta, config.seed)
    self._labels = LabelPolicy(options.labels, options.label_epsilon,
                               options.label_noise_multiplier, options.labels_in_clear)
    self._schedule = Schedule(
        options.mode, rounds, 1, self.images, self.images_per_person, self.images)
    self._gradient_ratio = config.privacy.gradient_noise_ratio

  def _noise(self, multiplier: float) -> Any:
    from fedjax_face.attacks.split_audit import SplitNoise
    trained = self._schedule.mode == "trained_private"
    return SplitNoise(multiplier, self._gradient_ratio * multiplier if trained else None)

  def noise_for(self, epsilon: float) -> float:
    """Noise over sensitivity of the activations that claims `epsilon`."""
    from fedjax_face.attacks import split_audit
    from fedjax_face.privacy import calibration
    return calibration.calibrate_noise(
        lambda z: split_audit.event(self._schedule, self._noise(z), self._labels, self._unit),
        epsilon, self._delta, split_audit.ADJACENCY)

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
    from fedjax_face.attacks import split_audit
    claimed = split_audit.claim(
        self._schedule, self._noise(noise), self._labels, self._unit, self._delta)
    schedule = self._schedule
    return split_audit.audit(
        schedule if played is None else _of_mode(schedule, played),
        self._noise(noise).scaled(less), self._labels, claimed, unit=self._unit,
        non_negative=non_negative, trials=self._trials, delta=self._delta, confidence=CONFIDENCE,
        seed=self._seed, place=place)

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    from fedjax_face.attacks.split_audit import ADJACENCY
    return {
        "channel": "messages of a device", "unit": self._unit, "adjacency": ADJACENCY.value,
        "adjacency_in_words": ADJACENCY.words(self._unit), "delta": self._delta,
        "confidence": CONFIDENCE, "rounds": self._schedule.epochs, "trials": self._trials,
        "sampling": "every image in every pass", "mode": self._schedule.mode,
        "labels": self._labels.policy, "games": [row(game) for game in games],
    }


def _of_mode(schedule: Any, mode: str) -> Any:
  import dataclasses
  return dataclasses.replace(schedule, mode=mode)
