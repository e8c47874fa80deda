"""FedAvg with one global head (McMahan et al. 2017) and its private form (McMahan et al. 2018)."""

from __future__ import annotations

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.federated import embedding_algorithm
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.federated import client, heads
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.federated.participation import participation


def fedavg(given: Ingredients) -> Algorithm:
  """The baseline of DP-FedEmb: backbone and head are trained, clipped, noised and averaged."""
  config = given.config
  if config.cohort.classes != "all":
    raise ValueError(f"cohort.classes={config.cohort.classes!r}: algorithm=fedavg has one head for "
                     "all clients, so only 'all' is accepted")
  model = parts.model(config, given.train, given.train.num_labels)
  who = participation(config.cohort, given.train)
  training = client.local_training(
      model.loss, client.optimizers(config.local.optimizer), parts.stages(config.local))
  return embedding_algorithm(
      "fedavg", given, model, who,
      client_update=client.fresh_optimizer(training),
      heads=heads.shared(model.init_head),
      aggregator=parts.aggregator(config.privacy, who, config.rounds),
      server_optimizer=parts.server_momentum)
