"""Evaluation of a training state on the evaluation set of a run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.pairs import Pairs
from fedjax_face.federated.algorithm import Algorithm, State

CURVE_POINTS = 24
SMALLEST_FAR = 1e-4
_CURVES = {"recall_all_pairs": "recall_all_pairs@far=", "tar_at_far": "tar@far="}


class Outcome(NamedTuple):
  """Metrics with intervals, and a ROC curve.

  Attributes:
    metrics: name -> protocols.Metric.
    roc: `far`, `tar`, `low`, `high`, each [T], and the protocol and the smallest FAR that rests on
      ten false accepts; None where no protocol gives one.
  """

  metrics: dict[str, Any]
  roc: dict[str, Any] | None

  def values(self) -> dict[str, float]:
    """The metrics without their intervals."""
    return {name: metric.value for name, metric in self.metrics.items()}


class Evaluator:
  """Protocols on one data set, compiled once for all evaluations of a run.

  Args:
    algorithm: whose `embed` is evaluated.
    options: the config's `evaluation` section: `protocols`, `fars`, `batch_size`, `bootstrap`, and
      perhaps `flip`.
    dataset: people who did not train.
    pairs: for protocols that need them.
    seed: of resamples, galleries and shuffles.
  """

  def __init__(self, algorithm: Algorithm, options: Mapping[str, Any], dataset: FaceDataset,
               pairs: Pairs | None, seed: int):
    if algorithm.embed is None:
      raise ValueError(f"algorithm {algorithm.name} trains no embeddings")
    self._embed = jax.jit(algorithm.embed)
    self._options, self._dataset, self._pairs, self._seed = options, dataset, pairs, seed

  def values(self, state: State) -> dict[str, float]:
    """Metrics without intervals, for the course of training."""
    fars = tuple(self._options["fars"])
    return Outcome(self._evaluate(state, fars, bootstrap=0), None).values()

  def outcome(self, state: State) -> Outcome:
    """Metrics with intervals, and the ROC curve with its band, from one pass over the images."""
    asked = tuple(self._options["fars"])
    curve = next((name for name in self._options["protocols"] if name in _CURVES), None)
    if curve is None:
      return Outcome(self._evaluate(state, asked, self._options["bootstrap"]), None)
    negatives = self._negatives(curve)
    smallest = max(SMALLEST_FAR, 10 / max(negatives, 10))
    grid = tuple(float(f"{far:.4g}") for far in np.geomspace(smallest, 1, CURVE_POINTS + 1)[:-1])
    fars = tuple(sorted({*asked, *grid}))
    metrics = self._evaluate(state, fars, self._options["bootstrap"])
    extra = {f"{far:g}" for far in fars} - {f"{far:g}" for far in asked}
    kept = {name: m for name, m in metrics.items() if name.rpartition("far=")[2] not in extra}
    points = [metrics.get(f"{_CURVES[curve]}{far:g}") for far in fars]
    if None in points:
      return Outcome(kept, None)
    roc = {"protocol": curve, "smallest_reliable_far": 10 / max(negatives, 1), "far": list(fars)}
    return Outcome(kept, roc | {
      name: [getattr(point, field) for point in points]
      for name, field in (("tar", "value"), ("low", "low"), ("high", "high"))})

  def _evaluate(self, state: State, fars: tuple[float, ...], bootstrap: int) -> dict[str, Any]:
    from fedjax_face.evaluation.protocols import evaluate  # scipy: slow to import
    return evaluate(
      list(self._options["protocols"]), functools.partial(self._embed, on_one_device(state)),
      self._dataset, self._pairs, fars=fars, batch_size=self._options["batch_size"],
      bootstrap=bootstrap, seed=self._seed, flip=self._options.get("flip", False))

  def _negatives(self, curve: str) -> int:
    if curve == "tar_at_far" and self._pairs is not None:
      return int(np.sum(~self._pairs.same))
    counts = np.bincount(self._dataset.label).astype(np.int64)
    total = int(counts.sum())
    return (total * (total - 1) - int((counts * (counts - 1)).sum())) // 2


def on_one_device(state: State) -> State:
  """The copy of a replicated state on this process's first device."""
  return jax.tree.map(
    lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, state)
