"""From sections of a config to parts that are asked for by themselves: by audits and attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import flax.linen as nn
from jax.sharding import Mesh

from fedjax_face import options
from fedjax_face.algorithms import sections, translate
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.embedding_model import EmbeddingModel
from fedjax_face.federated.local import local_steps
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.training import backbone_release, train_locally
from fedjax_face.method import Progress, Watch
from fedjax_face.models import registry as models
from fedjax_face.models.heads import Head
from fedjax_face.privacy import calibration
from fedjax_face.privacy.adjacency import Adjacency

__all__ = ["Ingredients", "Progress", "Watch", "aggregator", "backbone", "backbone_release",
           "clients", "head", "model", "noise_multiplier", "refuse_noise"]


class Ingredients(NamedTuple):
  """What an algorithm is made from.

  Attributes:
    config: the run's config (or any mapping of the same structure).
    train: the private training set: a FaceDataset, or a RegionSet for a network of several tasks.
    mesh: devices, axis `clients`.
    backbone: parameters to start from, or None for a random start.
    public: a set declared public, or None.
    progress: called with (noise multiplier, epsilon) while noise is calibrated.
    watch: of an audit; None in any run that is not one.
  """

  config: Any
  train: Any
  mesh: Mesh
  backbone: Any = None
  public: FaceDataset | None = None
  progress: Progress | None = None
  watch: Watch | None = None


def clients(config: Any) -> Clients:
  """Silos if the config has a `silos` section, otherwise virtual clients of users."""
  with sections.keys_of_config():
    return options.build(Clients, translate.clients(config), "method.clients")


def model(config: Any, train: FaceDataset, num_classes: int) -> EmbeddingModel:
  """The config's backbone and head for images like those of `train`."""
  steps = local_steps(flip=config.model.get("flip", False))
  return train_locally(backbone(config.model), options.made(head(config)),
                       options.made(steps)).model(train, num_classes)


def backbone(options_: Any) -> nn.Module:
  """`model.backbone` with its embedding dimensions and `model.backbone_options`.

  Raises:
    ValueError: another name, or an option that it does not take or refuses.
  """
  with sections.keys_of_config():
    return models.backbone(
        options_.backbone, options_.embedding_dim, **options_.get("backbone_options", {}))


def head(config: Any) -> Head:
  """`model.head`, with its scalars of `hparams`.

  Raises:
    ValueError: another name.
  """
  return sections.built(Head, "head", config.model.head, config.hparams)


def aggregator(config: Any, who: Participation, rounds: int) -> Aggregator:
  """`privacy.aggregator`, a name of `federated.aggregates`, with what it takes of the config.

  Raises:
    ValueError: another name, an option out of range, or correlated noise without an enforced
      separation of rounds.
  """
  with sections.keys_of_config():
    return options.build(Aggregate, translate.aggregate(config), "method.aggregate").bind(
        who, rounds)


def noise_multiplier(
    config: Any, run_event: Callable[[float], dp_accounting.DpEvent], adjacency: Adjacency,
    progress: Progress | None, largest: float = 10_000.0) -> float:
  """`hparams.noise_multiplier`, or the smallest that reaches `privacy.epsilon`.

  Args:
    config: gives exactly one of the two.
    run_event: noise multiplier -> event of the whole run.
    adjacency: under which the target is meant.
    progress: called with (noise multiplier, epsilon) while the noise is calibrated.
    largest: where the search gives up.

  Raises:
    ValueError: both or neither are given, a multiplier out of range, or a target out of reach.
  """
  calibration.require_exactly_one({
      "privacy.epsilon": config.privacy.epsilon,
      "hparams.noise_multiplier": config.hparams.noise_multiplier})
  if config.privacy.epsilon is None:
    multiplier = config.hparams.noise_multiplier
    if not 0 <= multiplier < math.inf:
      raise ValueError(f"hparams.noise_multiplier={multiplier}: expected a number, at least 0")
    return multiplier
  return calibration.calibrate_noise(
      run_event, config.privacy.epsilon, config.privacy.delta, adjacency, progress=progress,
      largest_noise=largest, name="privacy.epsilon")


def refuse_noise(config: Any, what: str) -> None:
  """Raises ValueError if the config asks for privacy or noise where `what` adds none."""
  for name, value in (("privacy.epsilon", config.privacy.epsilon),
                      ("hparams.noise_multiplier", config.hparams.noise_multiplier)):
    if value is not None:
      raise ValueError(f"{name}={value} cannot be had with {what}, which adds no noise: "
                       f"set --config.{name}=None")
