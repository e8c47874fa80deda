"""What the methods for silos with private class embeddings have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.federated import embedding_algorithm
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data.silos import class_rows
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm, ClassRows
from fedjax_face.federated.class_table import ClassPlaces
from fedjax_face.federated.heads import HeadStrategy, InitHead
from fedjax_face.losses.class_pairs import Correction
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, non_private

SERVER_SEES_CLASSES = non_private(
    "class embeddings", "person", Adjacency.REPLACE_ONE, "the server",
    "the server receives the class embedding of every person and every silo's mean training "
    "cosine, without noise")
CLIENTS_SEE_CORRECTIONS = non_private(
    "corrections", "person", Adjacency.REPLACE_ONE, "every silo",
    "the correction that a silo receives is a mix of the class embeddings of other silos, from "
    "which it can recover them (fedjax_face.attacks.leak_back)")
NOT_COVERED = (
    "A histogram of the cosines between class embeddings of different silos, and how far a "
    "correction moved them, are written to the summary and the metrics without noise.",
    "Checkpoints of this simulation hold the class embeddings of every silo, and its control "
    "variate where it has one, also where these never leave a real silo.",
)


class Table(NamedTuple):
  """How the class embeddings of a run's silos are kept: key -> head of all classes, and places."""

  init: InitHead
  places: ClassPlaces


def corrected_silos(name: str, given: Ingredients, correction: Correction) -> Algorithm:
  """`silo_algorithm` whose server moves all class embeddings after every round, and says so.

  Args:
    name: of the algorithm.
    given: config with sections `silos` and `correction`, training set, devices.
    correction: gradient of the class embeddings, for rows divided over the mesh axis `clients`.
  """

  def heads(table: Table) -> HeadStrategy:
    return class_table.corrected(table.init, table.places, class_table.gradient_steps(
        correction, table.places, given.mesh, given.config.correction.steps))

  return silo_algorithm(name, given, heads, releases=(SERVER_SEES_CLASSES, CLIENTS_SEE_CORRECTIONS))


def silo_algorithm(name: str, given: Ingredients, heads: Callable[[Table], HeadStrategy],
                   releases: Sequence[Release] = ()) -> Algorithm:
  """Silos train backbone and own class embeddings; the backbone is aggregated.

  Args:
    name: of the algorithm.
    given: config with a `silos` section, training set, devices.
    heads: what becomes of the class embeddings.
    releases: what a round reveals beside the aggregated update.

  Raises:
    ValueError: no `silos` section, or heads that are not a silo's own.
  """
  config = given.config
  if not config.get("silos"):
    raise ValueError(f"algorithm={name} needs a silos section, which says who holds whom")
  if config.cohort.classes != "own":
    raise ValueError(f"cohort.classes={config.cohort.classes!r}: algorithm={name} gives every silo "
                     "a head for its own classes, so only 'own' is accepted")
  for key in ("correction_strength", "correction_learning_rate", "spreadout_margin"):
    if not 0 <= config.hparams[key] < math.inf:
      raise ValueError(f"hparams.{key}={config.hparams[key]}: expected a number, at least 0")
  who = parts.participants(given)
  model = parts.client_model(given, who)
  owner = class_rows(parts.silos(given).silo, given.train.label).owner
  places = class_table.places(owner, config.model.embedding_dim, given.mesh.size)
  table = Table(parts.model(config, given.train, len(owner)).init_head, places)
  return embedding_algorithm(
      name, given, model, who,
      client_update=parts.client_update(config, model, who),
      heads=heads(table),
      aggregator=parts.aggregator(config.privacy, who, config.rounds),
      server_optimizer=parts.server_momentum,
      class_embeddings=lambda state: ClassRows(
          state.heads.class_embeddings, jnp.asarray(places.owner)),
      releases=releases,
      not_covered=NOT_COVERED)
