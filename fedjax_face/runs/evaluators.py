"""What judges a run, by what it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedjax_face.evaluation import requirements
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.runs.settings import Evaluation, protocols


def evaluator_of(evaluation: Evaluation, algorithm: Algorithm, sources: Any, seed: int) -> Any:
  """The evaluator of a run: `values(state)` without and `outcome(state)` with intervals.

  Args:
    evaluation: how it is judged.
    algorithm: bound.
    sources: the sets of the run.
    seed: of resamples.
  """
  return _OF[evaluation.feeds](algorithm, evaluation.section(), sources, seed)


def require(evaluation: Evaluation, sources: Any) -> list[str]:
  """Refuses, before anything is trained, an evaluation that the sets of a run cannot answer.

  Rates that nobody asked for, the usual ones, may be too small: their metrics say so.

  Returns:
    What is to be said of it.

  Raises:
    ValueError: as `requirements.require` and `require_measurable`.
  """
  if evaluation.feeds != "embeddings":
    return []
  asked, usual = evaluation.options, protocols().options["fars"]
  names, fars, label = asked["protocols"], asked["fars"], sources.evaluation.label
  requirements.require(names, label, sources.pairs)
  requirements.require_measurable(
      [far for far in fars if far not in usual], names, label, sources.pairs)
  if (judges := getattr(sources, "validation", None)) is not None:
    from fedjax_face.runs.evaluator import of_validation
    try:
      requirements.require(of_validation(names), judges.label, None)
    except ValueError as error:
      raise ValueError(f"data.validation: {error}") from None
  missing = requirements.unmeasured(evaluation.headline, names, fars)
  return [f"evaluation.headline: {', '.join(missing)}: not among what evaluation.names and "
          "evaluation.fars measure, so no table names it first"] if missing else []


def _embeddings(algorithm: Algorithm, asked: Mapping[str, Any], sources: Any, seed: int) -> Any:
  from fedjax_face.runs.evaluator import Evaluator
  return Evaluator(algorithm, asked, sources.evaluation, sources.pairs, seed,
                   sources.templates, getattr(sources, "validation", None))


def _face_tasks(algorithm: Algorithm, asked: Mapping[str, Any], sources: Any, seed: int) -> Any:
  from fedjax_face.runs.face_tasks import FaceTaskEvaluator
  return FaceTaskEvaluator(algorithm, asked, sources, seed)


def _classes(algorithm: Algorithm, asked: Mapping[str, Any], sources: Any, seed: int) -> Any:
  from fedjax_face.runs.classification import ClassificationEvaluator
  return ClassificationEvaluator(algorithm, asked, sources, seed)


_OF: Mapping[str, Callable[[Algorithm, Mapping[str, Any], Any, int], Any]] = {
    "embeddings": _embeddings, "face_tasks": _face_tasks, "classes": _classes}
