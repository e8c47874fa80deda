"""DP-FedEmb (Xu, Collins, Wang, Panait, Oh, Augenstein, Liu, Schroff, McMahan, CVPR 2023)."""

from __future__ import annotations

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.federated import embedding_algorithm
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.federated import heads
from fedjax_face.federated.algorithm import Algorithm


def dp_fedemb(given: Ingredients) -> Algorithm:
  """User-level DP for image embeddings: virtual clients, partial aggregation, local fine-tuning.

  Each virtual client of several users starts from the global backbone and a throw-away head,
  trains both on its users' images, and sends only the clipped change of the backbone; the noised
  mean of these changes is a gradient for the server's momentum SGD.
  """
  config = given.config
  who = parts.participants(given)
  model = parts.client_model(given, who)
  return embedding_algorithm(
      "dp_fedemb", given, model, who,
      client_update=parts.client_update(config, model, who),
      heads=heads.fresh(model.init_head, config.model.head_init, model.prototype_head),
      aggregator=parts.aggregator(config.privacy, who, config.rounds),
      server_optimizer=parts.server_momentum)
