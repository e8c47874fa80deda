"""Kinds of methods: what each is fed with, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedjax_face.data import sources


class Family(NamedTuple):
  """Methods that share their data and their evaluation.

  Attributes:
    load: (`data` section, seed) -> the sets of a run: `train` and perhaps `public` with `name`,
      `images` and `targets`; `evaluation`; `notes`; `not_covered`.
    evaluator: (algorithm, config, sets) -> `values(state)` and `outcome(state)`.
  """

  load: Callable[[Mapping[str, Any], int], Any]
  evaluator: Callable[[Any, Any, Any], Any]


def family_of(algorithm: str) -> Family:
  """The family of `config.algorithm`; embeddings for a name that is not known."""
  if algorithm in FACE_TASKS:
    return _face_tasks()
  return _classification() if algorithm in CLASSIFICATION else _embeddings()


FACE_TASKS = frozenset({"dp_hyperface", "face_detector", "hyperface"})
CLASSIFICATION = frozenset({"dp_activations"})


def _embeddings() -> Family:
  from fedjax_face.training.evaluator import Evaluator
  return Family(sources.load, lambda algorithm, config, sets: Evaluator(
      algorithm, config.evaluation, sets.evaluation, sets.pairs, config.seed))


def _face_tasks() -> Family:
  from fedjax_face.data import region_sources
  from fedjax_face.training.face_tasks import FaceTaskEvaluator
  return Family(region_sources.load, FaceTaskEvaluator)


def _classification() -> Family:
  from fedjax_face.data import closed_set
  from fedjax_face.training.classification import ClassificationEvaluator
  return Family(closed_set.load, ClassificationEvaluator)
