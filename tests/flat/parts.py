"""From sections of a config to parts that are asked for by themselves: by audits and attacks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.embedding_model import EmbeddingModel
from fedjax_face.federated.local import local_steps
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.training import backbone_release, train_locally
from fedjax_face.models import registry as models
from fedjax_face.models.heads import Head
from tests.flat import sections, translate

__all__ = ["aggregator", "backbone", "backbone_release",
           "clients", "head", "model"]


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
    return options.build(Aggregate, translate.aggregator(config), "method.aggregate").bind(
        who, rounds)
