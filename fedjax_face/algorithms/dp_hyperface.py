"""DP HyperFace: five face tasks trained together by DP-SGD, and what it is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.hparams import nested, with_values
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data import pixels
from fedjax_face.federated import dp_sgd
from fedjax_face.federated.algorithm import (
    NO_COMMUNICATION,
    Algorithm,
    Data,
    HParams,
    Measure,
    always,
    joined,
)
from fedjax_face.losses import multi_task
from fedjax_face.losses.multi_task import TASKS, Targets, TaskWeighting
from fedjax_face.models import registry as models
from fedjax_face.models.frozen import freeze
from fedjax_face.privacy import noise, per_example
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, non_private
from fedjax_face.privacy.per_example import GradientClip

ADJACENCY = Adjacency.ADD_OR_REMOVE_ONE


def dp_hyperface(given: Ingredients) -> Algorithm:
  """DP-SGD on HyperFace with learned task weights (Zhang et al., Front. Neurorobotics 2020).

  The sum of a step holds the network's gradient and that of the task weights, clipped together.

  Raises:
    ValueError: a target epsilon after pre-training on a set that is not declared public, or values
      that do not go together.
  """
  config = given.config
  if config.get("pretrain") and not config.pretrain.get("public", False):
    raise ValueError("pretrain.public=False: pre-training on private regions would release them "
                     "without accounting; pre-train on a public set and say so, or not at all")
  sampling = _sampling(given)
  clip = gradient_clip(config.privacy)

  def release(noise_multiplier: float) -> Release:
    return Release("model", config.cohort.unit, ADJACENCY, sampling.event(noise_multiplier),
                   "everyone", note=f"clipped gradients ({config.privacy.clip}), independent "
                                    "Gaussian noise every step")

  def run_event(noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.SelfComposedDpEvent(release(noise_multiplier).event, config.rounds)

  if not 0 < config.hparams.clip_norm < math.inf:
    raise ValueError(f"hparams.clip_norm={config.hparams.clip_norm}: expected a number above 0 and "
                     "below infinity, as the noise is scaled to it")
  if config.privacy.clip == "grouped" and config.model.task_weights == "fixed":
    raise ValueError("privacy.clip=grouped with model.task_weights=fixed: fixed weights have no "
                     "gradient to clip; expected joint, per_task or stacked")
  multiplier = parts.noise_multiplier(config, run_event, ADJACENCY, given.progress)
  weighting = task_weighting(config.model)
  return _training(
      "dp_hyperface", given, sampling, weighting,
      per_example.clipped_gradient_sum(
          _loss(given, weighting), clip, config.privacy.form, config.cohort.views,
          config.cohort.units_at_once),
      clip, noise.gaussian(), multiplier, release(multiplier))


def hyperface(given: Ingredients) -> Algorithm:
  """The same steps without clipping and noise (Ranjan et al., TPAMI 2017); not private."""
  return _not_private("hyperface", given, task_weighting(given.config.model))


def face_detector(given: Ingredients) -> Algorithm:
  """HyperFace's shared layers as a classifier of faces: the published first stage; not private."""
  detection_only = multi_task.fixed_weights([float(task == "detection") for task in TASKS])
  return _not_private("face_detector", given, detection_only)


def _not_private(name: str, given: Ingredients, weighting: TaskWeighting) -> Algorithm:
  parts.refuse_noise(given.config, f"algorithm={name}")
  options = given.config.cohort
  released = non_private("model", options.unit, ADJACENCY, "everyone", "training without noise")
  return _training(
      name, given, _sampling(given), weighting,
      per_example.unclipped_gradient_sum(
          _loss(given, weighting), options.views, options.units_at_once),
      None, None, 0.0, released)


def _training(
    name: str, given: Ingredients, sampling: dp_sgd.UnitSampling, weighting: TaskWeighting,
    gradient_sum: per_example.ClippedGradientSum, clip: GradientClip | None,
    noise_: noise.Noise | None, noise_multiplier: float, release: Release) -> Algorithm:
  """Wires chosen parts into steps, and their ledger entry."""
  config, network = given.config, task_network(given)
  trained, whole = _trained_part(given)
  hparams = with_values(nested(config.hparams, clips="gradient"),
                        {"gradient": {"noise_multiplier": noise_multiplier}})
  if given.watch is not None and noise_ is not None:
    noise_ = given.watch.noise(noise_, noise_multiplier, sampling.probability)
  project = lambda params: params | {"weights": weighting.project(params["weights"])}
  steps = dp_sgd.descent(gradient_sum, clip, noise_, sampling.expected,
                         _optimizer(config.model.optimizer), _augment(given), project)

  def init(key: jax.Array) -> dp_sgd.SgdState:
    image = jnp.zeros((1, *given.train.images.shape[1:]))
    fresh = lambda: network.init(key, image)["params"]
    return steps.init({"network": fresh() if given.backbone is None else trained,
                       "weights": weighting.init()}, hparams)

  def step(state, data, cohort, hparams, keys):
    state, metrics = steps.step(state, data, cohort, hparams, keys)
    learned = weighting.weights(state.params["weights"])
    return state, metrics | {f"weight_{task}": learned[i] for i, task in enumerate(TASKS)}

  return Algorithm(
      name=name,
      init=init,
      cohort=sampling.cohort,
      step=step,
      hparams=hparams,
      releases=(release,),
      not_covered=(*sampling.not_covered, *NOT_COVERED,
                   *(() if given.train.persons_known else (PERSONS_UNKNOWN,))),
      predict=lambda state, images: network.apply(
          {"params": whole(state.average["network"])}, pixels.normalise(images)),
      start=lambda state: whole(state.average["network"]),
      channels={"model": always(NO_COMMUNICATION)},
      metrics=joined(steps.metrics, {
          f"weight_{task}": Measure("the tasks' learned weights", covered_by="model")
          for task in TASKS}),
      sampling=sampling.words,
      population=sampling.population,
      units_per_person=_units_per_person(given),
      mechanism={} if clip is None else {
          "clip norm C": hparams["gradient"]["clip_norm"], "sensitivity / C": clip.sensitivity,
          "noise stddev / C": noise_multiplier * clip.sensitivity},
  )


def _units_per_person(given: Ingredients) -> dict[str, int]:
  """Units on photographs that show a person, of the person with the most; none for the unit person.

  Where a source does not say who is who, a person may have more than is counted here.
  """
  unit, regions = given.config.cohort.unit, given.train.regions
  on_face = regions.person >= 0
  if unit == "person" or not on_face.any():
    return {}
  shown = np.unique(np.stack([regions.original[on_face], regions.person[on_face]]), axis=1)
  units = np.unique(np.stack([regions.original, given.train.units(unit)]), axis=1)[0]
  of_photograph = np.bincount(units)
  return {unit: int(np.bincount(shown[1], weights=of_photograph[shown[0]]).max())}


def task_network(given: Ingredients) -> Any:
  """The network of `model`, for the landmarks of the training set."""
  options = given.config.model
  landmarks = given.train.targets["landmarks"].shape[1]
  return models.task_network(options.network, landmarks, **options.get("network_options", {}))


def _trained_part(given: Ingredients) -> tuple[Any, Callable[[Any], Any]]:
  """Parameters of the pre-trained network without those of `model.frozen`, and what adds these.

  Raises:
    ValueError: frozen layers that are not pre-trained, or that the network lacks.
  """
  if not given.config.model.frozen:
    return given.backbone, lambda params: params
  if given.backbone is None:
    raise ValueError(f"model.frozen={tuple(given.config.model.frozen)} without pretrain: layers "
                     "that never train would stay random")
  return freeze(given.backbone, given.config.model.frozen)


def task_weighting(options: Any) -> TaskWeighting:
  """`model.task_weights`: `fixed` (`model.fixed_weights`) or `uncertainty` (`model.weight_scale`).

  Raises:
    ValueError: another name.
  """
  if options.task_weights == "fixed":
    return multi_task.fixed_weights(options.fixed_weights)
  if options.task_weights == "uncertainty":
    return multi_task.uncertainty_weights(options.weight_scale)
  raise ValueError(f"model.task_weights {options.task_weights!r} is not one of fixed, uncertainty")


def gradient_clip(options: Any) -> GradientClip:
  """`privacy.clip`: `joint`, `grouped` (`privacy.weights_share`), `per_task`, `stacked`.

  Raises:
    ValueError: another name.
  """
  clips: Mapping[str, Callable[[], GradientClip]] = {
      "joint": lambda: per_example.joint(ADJACENCY),
      "grouped": lambda: per_example.grouped(
          {"network": 1.0, "weights": options.weights_share}, ADJACENCY),
      "per_task": lambda: per_example.per_task(len(TASKS), ADJACENCY),
      "stacked": lambda: per_example.per_task(len(TASKS), ADJACENCY, stacked=True),
  }
  if options.clip not in clips:
    raise ValueError(f"privacy.clip {options.clip!r} is not one of {', '.join(clips)}")
  return clips[options.clip]()


def _sampling(given: Ingredients) -> dp_sgd.UnitSampling:
  options = given.config.cohort
  return dp_sgd.poisson_units(
      given.train.units(options.unit), given.train.unit_identities(options.unit), options.unit,
      probability=options.get("sampling_probability"), expected=options.batch_size,
      capacity=options.capacity, rows=options.regions_per_unit, views=options.views,
      devices=given.mesh.size)


def _loss(given: Ingredients, weighting: TaskWeighting):
  """(params, Data of N regions) -> [N, 5], whose sum over the tasks is a region's loss."""
  network, whole = task_network(given), _trained_part(given)[1]

  def loss(params, rows: Data) -> jax.Array:
    outputs = network.apply({"params": whole(params["network"])}, pixels.normalise(rows.images))
    everywhere = jnp.ones(rows.images.shape[0], bool)
    losses, applies = multi_task.task_losses(outputs, Targets(**rows.targets), everywhere)
    return weighting.terms(params["weights"], losses, applies)

  return loss


def _augment(given: Ingredients) -> dp_sgd.Augment | None:
  """Random mirror images with their labels, if `model.flip`."""
  if not given.config.model.flip:
    return None
  mirror_of = {21: multi_task.AFLW_MIRROR, 5: multi_task.FIVE_POINT_MIRROR}
  landmarks = given.train.targets["landmarks"].shape[1]
  if landmarks not in mirror_of:
    raise ValueError(f"model.flip: no mirror is known for {landmarks} landmarks; expected one of "
                     f"{', '.join(map(str, mirror_of))}")
  frame = given.config.data.regions.get("frame", "corner")

  def augment(data: Data, keys: jax.Array) -> Data:
    images, targets = multi_task.random_mirror(
        data.images, Targets(**data.targets), mirror_of[landmarks], keys, frame)
    return Data(images, targets._asdict())

  return augment


def _optimizer(name: str) -> Callable[[HParams], optax.GradientTransformation]:
  """`model.optimizer`: `sgd`, `momentum` or `adam`, with a learning rate of its own for the tasks'
  weights.

  Raises:
    ValueError: another name.
  """
  kinds = {
      "sgd": lambda hparams: optax.identity(),
      "momentum": lambda hparams: optax.trace(hparams["momentum"]),
      "adam": lambda hparams: optax.scale_by_adam(),
  }
  if name not in kinds:
    raise ValueError(f"model.optimizer {name!r} is not one of {', '.join(kinds)}")

  def build(hparams: HParams) -> optax.GradientTransformation:
    rates = {"network": hparams["learning_rate"],
             "weights": hparams["learning_rate"] * hparams["weight_learning_rate_scale"]}
    descend = optax.stateless(lambda updates, _: {
        part: optax.tree.scale(-rates[part], update) for part, update in updates.items()})
    return optax.chain(kinds[name](hparams), descend)

  return build


PERSONS_UNKNOWN = (
    "A source of photographs does not say which faces are of one person: a person may be on more "
    "photographs than the largest number that the statement names.")
NOT_COVERED = (
    "The trainer holds the photographs, their labels and their gradients: it is trusted, and what "
    "is protected is what it publishes.",
    "The constant predictor beside the results is that of the training set, without noise.",
)
