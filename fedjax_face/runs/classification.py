"""Evaluation of split learning: accuracy on other images of the same people, noised and not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedjax_face.data.sources import Sources
from fedjax_face.evaluation.confidence import resampled_mean
from fedjax_face.evaluation.metric import Metric
from fedjax_face.method.algorithm import Algorithm, State
from fedjax_face.runs.evaluator import Outcome, on_one_device
from fedjax_face.split.accounting import (
  accuracy_ceiling,
  information_ceiling,
  require_below_ceiling,
)
from fedjax_face.split.system import SplitSystem

_NOISED = 0x6E6F6973  # keeps the evaluation's noise apart from other uses of the same seed


class ClassificationEvaluator:
  """Accuracy of whole devices with the server's part: without noise, and on noised activations.

  Every evaluation image is sent once, with noise of its own. An accuracy on noised activations
  above what their noise allows ends the run: it is a bug.

  Args:
    algorithm: trained.
    asked: `batch_size` and `bootstrap`.
    sources: its data; the people of `evaluation` are those of `train`.
    seed: of resamples and of the evaluation's noise.
  """

  def __init__(self, algorithm: Algorithm, asked: Mapping[str, Any], sources: Sources, seed: int):
    self._asked, self._seed, self._evaluation = asked, seed, sources.evaluation
    self._system: SplitSystem = algorithm.parts
    self._logits = jax.jit(self._system.logits, static_argnums=4)
    self._multiplier = algorithm.hparams["activations"]["noise_multiplier"]

  def values(self, state: State) -> dict[str, float]:
    """Both accuracies, for the course of training."""
    return {name: float(right.mean()) for name, right in self.right(state).items()}

  def outcome(self, state: State) -> Outcome:
    """Both accuracies with intervals over people, and the ceiling of the noised one.

    Raises:
      RuntimeError: the accuracy on noised activations is above its ceiling.
    """
    people, system = self._evaluation.person, self._system
    rng = np.random.default_rng(self._seed)
    resamples = max(self._asked["bootstrap"], 1)
    right = self.right(state)
    counts = np.bincount(self._evaluation.label)
    frequent = float(counts.max() / counts.sum())
    metrics = {name: Metric.resampled(
        float(values.mean()), resampled_mean(values.astype(float), people, resamples, rng),
        f"{len(values)} images of {len(counts)} people; the most frequent class {frequent:.3f}",
        frequent) for name, values in right.items()}
    mu = 1 / self._multiplier if self._multiplier else math.inf
    ceiling = accuracy_ceiling(information_ceiling(
        mu, system.clip.non_negative, math.prod(system.split.shape)), counts)
    require_below_ceiling(int(right["accuracy_noised"].sum()), len(people), ceiling)
    metrics["accuracy_ceiling"] = Metric(
        ceiling, note="Fano: the most that one noised activation allows")
    return Outcome(metrics)

  def right(self, state: State) -> dict[str, np.ndarray]:
    """Which images [N] are classified rightly: `accuracy` without and `accuracy_noised` with noise.
    """
    state, system = on_one_device(state), self._system
    owner = system.device_of_person[self._evaluation.person]
    found = {name: np.zeros(len(owner), bool) for name in ("accuracy", "accuracy_noised")}
    shared = not system.schedule.device_is_trained
    key = jax.random.key(self._seed)
    for number in range(1 if shared else system.devices):
      rows = np.arange(len(owner)) if shared else np.flatnonzero(owner == number)
      device = system.device_of(state, number)
      for name, own in (("accuracy", None),
                        ("accuracy_noised", jax.random.fold_in(key, _NOISED + number))):
        found[name][rows] = self._predicted(device, state.server.params, rows, own) == (
            self._evaluation.label[rows])
    return found

  def _predicted(self, device: Any, server: Any, rows: np.ndarray,
                 key: jax.Array | None) -> np.ndarray:
    size = self._asked["batch_size"]
    found = []
    for begin in range(0, len(rows), size):
      chosen = np.resize(rows[begin:begin + size], size)
      own = None if key is None else jax.random.fold_in(key, begin)
      logits = self._logits(device, server, self._evaluation.images[chosen], own, self._multiplier)
      found.append(np.asarray(logits.argmax(-1)))
    return np.concatenate(found)[:len(rows)]
