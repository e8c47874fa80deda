"""Evaluation of a training state on the evaluation set of a run."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation.requirements import NEED_PAIRS
from fedjax_face.method.algorithm import Algorithm, State

VALIDATION = "validation/"
"""Before the name of a metric that people who validate gave."""

EmbedFn = Callable[[jax.Array], jax.Array]


class Outcome(NamedTuple):
  """Metrics with intervals, and a ROC curve.

  Attributes:
    metrics: name -> protocols.Metric.
    roc: `roc_curve.ThinnedRoc`; None where no protocol gives one.
    validation: metrics of the people who validate, without intervals.
  """

  metrics: dict[str, Any]
  roc: Any = None
  validation: Mapping[str, float] = types.MappingProxyType({})

  def values(self) -> dict[str, float]:
    """The metrics without their intervals."""
    return {name: metric.value for name, metric in self.metrics.items()} | dict(self.validation)


class Evaluator:
  """Protocols on one data set, compiled once for all evaluations of a run.

  Args:
    algorithm: whose `embed` is evaluated.
    options: the config's `evaluation` section: `protocols`, `fars`, `batch_size`, `bootstrap`, and
      perhaps `flip`.
    dataset: people who did not train.
    pairs: for protocols that need them.
    seed: of resamples, galleries and shuffles.
    templates: the lists of a template protocol, or None.
    validation: people who judge on the way, so that nobody who looks at the course of training
      looks at `dataset`; None: `dataset` does.
  """

  def __init__(self, algorithm: Algorithm, options: Mapping[str, Any], dataset: FaceDataset,
               pairs: Pairs | None, seed: int, templates: Any = None,
               validation: FaceDataset | None = None):
    if algorithm.embed is None:
      raise ValueError(f"algorithm {algorithm.name} trains no embeddings")
    self._embed = jax.jit(algorithm.embed)
    self._validation = None if validation is None else Evaluator(
        algorithm, {**options, "protocols": of_validation(options["protocols"])}, validation, None,
        seed)
    self._options, self._dataset, self._pairs, self._seed = options, dataset, pairs, seed
    self._templates = templates

  def values(self, state: State) -> dict[str, float]:
    """Metrics without intervals, for the course of training: of who validates, if anybody."""
    if self._validation is not None:
      found = self._validation.values(state)
      return {f"{VALIDATION}{name}": value for name, value in found.items()}
    from fedjax_face.evaluation.protocols import metrics_of  # scipy: slow to import
    data = self._data(self._embedding(state), bootstrap=0)
    return Outcome(metrics_of(list(self._options["protocols"]), data)).values()

  def outcome(self, state: State, band: bool = True) -> Outcome:
    """Metrics with intervals, and the ROC curve, with or without its band, from one pass over the
    images.
    """
    found = self.outcome_of(self._embedding(state), band)
    return found if self._validation is None else found._replace(validation=self.values(state))

  def outcome_of(self, embed_fn: EmbedFn, band: bool = False) -> Outcome:
    """The same of any embedding function, uint8 [B, H, W, C] -> [B, D]."""
    from fedjax_face.evaluation.protocols import curve_of, metrics_of
    names = list(self._options["protocols"])
    data = self._data(embed_fn, self._options["bootstrap"])
    return Outcome(metrics_of(names, data), curve_of(names, data, band))

  def _embedding(self, state: State) -> EmbedFn:
    return functools.partial(self._embed, on_one_device(state))

  def _data(self, embed_fn: EmbedFn, bootstrap: int) -> Any:
    from fedjax_face.evaluation.evaluated import Evaluation
    options = self._options
    return Evaluation(
      embed_fn, self._dataset, self._pairs, tuple(options["fars"]), options["batch_size"],
      bootstrap, self._seed, options.get("flip", False), self._templates)


def of_validation(names: Sequence[str]) -> tuple[str, ...]:
  """Protocols for people who validate: those that need neither pairs nor lists."""
  own = tuple(name for name in names if name not in NEED_PAIRS and name != "templates")
  return own or ("recall_all_pairs",)


def on_one_device(state: State) -> State:
  """The copy of a replicated state on this process's first device."""
  return jax.tree.map(
    lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, state)
