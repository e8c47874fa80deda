"""What the result of a run is compared with: its own start, no training at all, raw pixels."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax

from fedjax_face.runs import loop
from fedjax_face.runs.evaluator import Evaluator, Outcome, on_one_device
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.mesh import gathered, is_main_process


class Reference(NamedTuple):
  """Something that is evaluated like the model: what it is, in words, and its outcome."""

  words: str
  outcome: Outcome


def references(experiment: Experiment, evaluator: Any = None) -> dict[str, Reference]:
  """Evaluates what the final model is compared with, on the same images and resamples.

  Everything follows from the config, so a run that was interrupted finds the same. All processes
  must call it; only process 0 evaluates.

  Args:
    experiment: of the run; its data are not looked at.
    evaluator: on other images; None: that of the experiment.

  Returns:
    `start`, the state before the first round; of embeddings also `untrained`, the backbone as it is
    initialised, where the start is not that one, and `pixels`. Empty in other processes.
  """
  start = gathered(loop.initial_state(experiment.algorithm, experiment.config.seed,
                                      experiment.mesh), experiment.mesh)
  if not is_main_process():
    return {}
  evaluator = evaluator or experiment.evaluator
  if not isinstance(evaluator, Evaluator):
    return {"start": Reference(experiment.start_words, evaluator.outcome(start))}
  from fedjax_face.evaluation.pixels import pixel_embedding
  found = {"start": Reference(experiment.start_words, evaluator.outcome(start, band=False))}
  if experiment.untrained is not None:
    algorithm, state = experiment.untrained()
    assert algorithm.embed is not None
    embed_fn = functools.partial(jax.jit(algorithm.embed), on_one_device(state))
    found["untrained"] = Reference("untrained", evaluator.outcome_of(embed_fn))
  found["pixels"] = Reference("raw pixels", evaluator.outcome_of(jax.jit(pixel_embedding)))
  return found


def gains(outcome: Outcome, start: Outcome) -> dict[str, dict[str, float]]:
  """Final minus start of each metric that has an interval: `value`, and `low` and `high` of the
  paired percentile interval over people.
  """
  found: dict[str, Any] = {
    name: metric.gain_over(start.metrics[name])
    for name, metric in outcome.metrics.items() if name in start.metrics}
  return {name: gain._asdict() for name, gain in found.items() if gain is not None}
