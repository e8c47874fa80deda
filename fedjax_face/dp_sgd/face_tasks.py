"""The five face tasks as what DP-SGD trains: a network, the tasks' losses and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_face.data import pixels
from fedjax_face.dp_sgd.step import Augment, Params
from fedjax_face.dp_sgd.trainer import Learner, Model
from fedjax_face.losses import multi_task
from fedjax_face.losses.multi_task import TASKS, Frame, Targets
from fedjax_face.losses.tasks import Tasks
from fedjax_face.method import Setting
from fedjax_face.method.algorithm import Data, Measure
from fedjax_face.models.frozen import freeze
from fedjax_face.models.task_networks import Network
from fedjax_face.options import OptionError

MIRRORS = {21: multi_task.AFLW_MIRROR, 5: multi_task.FIVE_POINT_MIRROR}
"""Number of landmarks -> which of them each becomes in the mirror."""


def five_tasks(network: Network, tasks: Tasks) -> Learner:
  """A network that is trained on five tasks of labelled regions, those unknown masked.

  It is bound to a RegionSet and a Setting. That raises OptionError for frozen layers without a
  network to start from, or that it lacks, and for mirrors of landmarks that are not known.
  """
  def bind(train: Any, setting: Setting) -> Model:
    landmarks = train.targets["landmarks"].shape[1]
    module, weighting = network.bind(landmarks), tasks.weighting()
    trained, whole = _trained_part(setting.start, network.frozen)

    def init(key: jax.Array) -> Params:
      image = jnp.zeros((1, *train.images.shape[1:]))
      fresh = lambda: module.init(key, image)["params"]
      return {"network": fresh() if trained is None else trained, "weights": weighting.init()}

    def outputs(params: Params, images: jax.Array) -> Any:
      return module.apply({"params": whole(params["network"])}, pixels.normalise(images))

    def loss(params: Params, rows: Data) -> jax.Array:
      everywhere = jnp.ones(rows.images.shape[0], bool)
      losses, applies = multi_task.task_losses(
          outputs(params, rows.images), Targets(**rows.targets), everywhere)
      return weighting.terms(params["weights"], losses, applies)

    def measure(params: Params) -> dict[str, jax.Array]:
      learned = weighting.weights(params["weights"])
      return {f"weight_{task}": learned[i] for i, task in enumerate(TASKS)}

    learns = bool(jax.tree.leaves(jax.eval_shape(weighting.init)))
    return Model(
        init=init,
        loss=loss,
        tasks=len(TASKS),
        augment=_mirrors(landmarks, train.frame) if tasks.flip else None,
        project=lambda params: params | {"weights": weighting.project(params["weights"])},
        predict=outputs,
        start=lambda params: whole(params["network"]),
        measure=measure,
        measures={f"weight_{task}": Measure("the tasks' learned weights", covered_by="model")
                  for task in TASKS},
        fixed={} if learns else {"weights": f"method.tasks={tasks.name}"},
        not_covered=NOT_COVERED if train.persons_known else (*NOT_COVERED, PERSONS_UNKNOWN))

  return bind


def _trained_part(start: Any, frozen: Sequence[str]) -> tuple[Any, Callable[[Any], Any]]:
  """Parameters to start from without those of `frozen` layers, and what adds these."""
  if not frozen:
    return start, lambda params: params
  path = f"method.network.frozen={tuple(frozen)}"
  if start is None:
    raise OptionError(f"{path} without pretrain: layers that never train would stay random")
  try:
    return freeze(start, frozen)
  except ValueError as error:
    raise OptionError(f"{path}: {error}") from error


def _mirrors(landmarks: int, frame: Frame) -> Augment:
  """Random mirror images with their labels."""
  if landmarks not in MIRRORS:
    raise OptionError(f"method.tasks.flip: no mirror is known for {landmarks} landmarks; expected "
                      f"one of {', '.join(map(str, MIRRORS))}")

  def augment(data: Data, keys: jax.Array) -> Data:
    images, targets = multi_task.random_mirror(
        data.images, Targets(**data.targets), MIRRORS[landmarks], keys, frame)
    return Data(images, targets._asdict())

  return augment


PERSONS_UNKNOWN = (
    "A source of photographs does not say which faces are of one person: a person may be on more "
    "photographs than the largest number that the statement names.")
NOT_COVERED = (
    "The trainer holds the photographs, their labels and their gradients: it is trusted, and what "
    "is protected is what it publishes.",
    "The constant predictor beside the results is that of the training set, without noise.",
)
