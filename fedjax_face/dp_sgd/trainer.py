"""DP-SGD by one trainer as a method: parts bound to a training set, and what its steps reveal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dp_accounting
import jax

from fedjax_face.dp_sgd.gradients import Gradient
from fedjax_face.dp_sgd.optimizers import AveragedOptimizer
from fedjax_face.dp_sgd.sampling import UnitSampling
from fedjax_face.dp_sgd.step import Augment, Descent, Metrics, Params, descent
from fedjax_face.dp_sgd.units import Units, units_per_person
from fedjax_face.method import Method, Setting, noise_multiplier, refuse_noise, require_unit
from fedjax_face.method.algorithm import (
  NO_COMMUNICATION,
  Algorithm,
  Data,
  HParams,
  Measure,
  always,
  joined,
  with_values,
)
from fedjax_face.options import OptionError
from fedjax_face.privacy import noise
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.privacy.ledger import Release, non_private


class Model(NamedTuple):
  """What is trained on the rows of a training set.

  Its parameters are {"network": ..., "weights": ...}: a network, and what weighs its tasks.

  Attributes:
    init: key -> parameters.
    loss: (parameters, Data of N rows) -> float32 [N, T], whose sum over the tasks is a row's loss.
    tasks: T.
    augment: (Data of N rows, a key for each) -> Data; None: rows stay as they are.
    project: parameters -> the nearest allowed.
    predict: (parameters, uint8 [B, H, W, C]) -> what the network says.
    start: parameters -> what another run can start from.
    measure: parameters -> metrics that follow from them alone.
    measures: what these show.
    fixed: group of parameters that is empty -> the option by which it is, for errors.
    not_covered: sentences for the privacy statement.
  """

  init: Callable[[jax.Array], Params]
  loss: Callable[[Params, Data], jax.Array]
  tasks: int
  augment: Augment | None
  project: Callable[[Params], Params]
  predict: Callable[[Params, jax.Array], Any]
  start: Callable[[Params], Any]
  measure: Callable[[Params], Metrics]
  measures: Mapping[str, Measure]
  fixed: Mapping[str, str]
  not_covered: tuple[str, ...]


Learner = Callable[[Any, Setting], Model]
"""(training set, Setting) -> Model."""


def dp_sgd(units: Units, learner: Learner, gradient: Gradient,
           optimizer: AveragedOptimizer) -> Method:
  """Clipped gradients of a sample of units, Gaussian noise on their sum, an optimiser's step.

  Every step releases the parameters. Binding it raises ValueError for a start from a set that is
  not declared public, for both or neither of a noise multiplier and a target epsilon, and for
  parts and data that do not go together.

  Raises:
    OptionError: the gradient bounds nothing.
  """
  clip_of = gradient.clip
  if clip_of is None:
    raise OptionError(f"gradient={gradient.name}: expected one that clips, as the noise is scaled "
                      "to the bound: joint, grouped, per_task or stacked")

  def bind(train: Any, setting: Setting, hparams: HParams) -> Algorithm:
    _require_public_start(setting)
    require_unit(setting, units.name)
    model = learner(train, setting)
    clip = clip_of(units.adjacency, model.tasks)
    _require_parameters(clip, gradient.name, model.fixed)
    sampling = units.bind(train, gradient.views, setting.mesh.size)

    def release(multiplier: float) -> Release:
      return Release(
          "model", units.name, units.adjacency, sampling.event(multiplier), "everyone",
          note=f"clipped gradients ({gradient.name}), independent Gaussian noise every step")

    multiplier = noise_multiplier(
        hparams["gradient"].get("noise_multiplier"), setting, units.adjacency,
        lambda z: dp_accounting.SelfComposedDpEvent(release(z).event, setting.rounds),
        "method.gradient.noise_multiplier")
    added = noise.gaussian()
    if setting.watch is not None:
      added = setting.watch.noise(added, multiplier, sampling.probability)
    steps = descent(gradient.sum(model.loss, clip), clip, added, sampling.expected,
                    optimizer.transform, model.augment, model.project)
    return _algorithm(
        train, setting, units.name, sampling, model, steps,
        with_values(hparams, {"gradient": {"noise_multiplier": multiplier}}), release(multiplier),
        {"clip norm C": hparams["gradient"]["clip_norm"], "sensitivity / C": clip.sensitivity,
         "noise stddev / C": multiplier * clip.sensitivity})

  return Method(bind, data="face_tasks", unit=units.name)


def sgd(units: Units, learner: Learner, gradient: Gradient,
        optimizer: AveragedOptimizer) -> Method:
  """The same steps without clipping and noise; not private.

  Binding it raises OptionError for a target epsilon.

  Raises:
    OptionError: the gradient clips, which nothing here needs.
  """
  if gradient.clip is not None:
    raise OptionError(f"gradient={gradient.name}: expected unclipped, as no noise is added here")

  def bind(train: Any, setting: Setting, hparams: HParams) -> Algorithm:
    refuse_noise(setting, None, "method.gradient.noise_multiplier", f"method={setting.method}")
    model = learner(train, setting)
    sampling = units.bind(train, gradient.views, setting.mesh.size)
    steps = descent(gradient.sum(model.loss, None), None, None, sampling.expected,
                    optimizer.transform, model.augment, model.project)
    return _algorithm(
        train, setting, units.name, sampling, model, steps, hparams,
        non_private("model", units.name, units.adjacency, "everyone", "training without noise"),
        {})

  return Method(bind, data="face_tasks", unit=units.name)


def _algorithm(
    train: Any, setting: Setting, unit: str, sampling: UnitSampling, model: Model,
    steps: Descent, hparams: HParams, release: Release,
    mechanism: Mapping[str, float]) -> Algorithm:
  """Steps with their ledger entry."""
  def step(state, data, cohort, hparams, keys):
    state, metrics = steps.step(state, data, cohort, hparams, keys)
    return state, metrics | model.measure(state.params)

  return Algorithm(
      name=setting.method,
      init=lambda key: steps.init(model.init(key), hparams),
      cohort=sampling.cohort,
      step=step,
      hparams=hparams,
      releases=(release,),
      not_covered=(*sampling.not_covered, *model.not_covered),
      predict=lambda state, images: model.predict(state.average, images),
      start=lambda state: model.start(state.average),
      channels={"model": always(NO_COMMUNICATION)},
      metrics=joined(steps.metrics, model.measures),
      sampling=sampling.words,
      population=sampling.population,
      units_per_person=units_per_person(train, unit),
      mechanism=mechanism)


def _require_public_start(setting: Setting) -> None:
  if setting.start is not None and not setting.start_is_public:
    raise ValueError("start.public=False: pre-training on private regions would release them "
                     "without accounting; pre-train on a public set and say so, or not at all")


def _require_parameters(clip: GradientClip, gradient: str, fixed: Mapping[str, str]) -> None:
  """Refuses a clip of a group in which there is nothing."""
  for group, option in fixed.items():
    if group in dict(clip.shares):
      raise OptionError(f"method.gradient={gradient} with {option}: fixed {group} have no gradient "
                        "to clip; expected joint, per_task or stacked")
