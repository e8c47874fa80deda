"""FedAvg with one global head (McMahan et al. 2017) and its private form (McMahan et al. 2018)."""

from __future__ import annotations

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.federated import embedding_algorithm
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.federated import heads
from fedjax_face.federated.algorithm import Algorithm


def fedavg(given: Ingredients) -> Algorithm:
  """Backbone and head are trained, clipped, noised and averaged.

  The baseline of DP-FedEmb; with silos, the oracle that shares every class embedding.
  """
  config = given.config
  if config.cohort.classes != "all":
    raise ValueError(f"cohort.classes={config.cohort.classes!r}: algorithm=fedavg has one head for "
                     "all clients, so only 'all' is accepted")
  if config.model.head_init != "shared_frame":
    raise ValueError(f"model.head_init={config.model.head_init!r}: the one head of "
                     "algorithm=fedavg is no client's own, so only 'shared_frame' is accepted")
  who = parts.participants(given)
  model = parts.client_model(given, who)
  return embedding_algorithm(
      "fedavg", given, model, who,
      client_update=parts.client_update(config, model, who),
      heads=heads.shared(model.init_head),
      aggregator=parts.aggregator(config.privacy, who, config.rounds),
      server_optimizer=parts.server_momentum)
