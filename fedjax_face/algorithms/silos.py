"""What the methods for silos with private class embeddings have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.federated import embedding_algorithm
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.prototypes import of_public_backbone
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.silos import class_rows
from fedjax_face.draws import identity_of
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm, ClassRows
from fedjax_face.federated.class_table import ClassPlaces
from fedjax_face.federated.embedding_model import EmbeddingModel
from fedjax_face.federated.heads import HeadStrategy, InitHead
from fedjax_face.federated.local_prototypes import PrototypeHead
from fedjax_face.losses.class_pairs import Correction
from fedjax_face.models.heads import COSINE_INIT_STD
from fedjax_face.models.margins import HeadGeometry
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, non_private

SERVER_SEES_CLASSES = non_private(
    "class embeddings", "person", Adjacency.ADD_OR_REMOVE_ONE, "the server",
    "the server receives the class embedding of every person and every silo's mean training "
    "cosine, without noise")
CLIENTS_SEE_CORRECTIONS = non_private(
    "corrections", "person", Adjacency.ADD_OR_REMOVE_ONE, "every silo",
    "the correction that a silo receives is a mix of the class embeddings of other silos, from "
    "which it can recover them (fedjax_face.attacks.leak_back)")
NOT_COVERED = (
    "A histogram of the cosines between class embeddings of different silos is written to the "
    "summary without noise.",
    "Checkpoints of this simulation hold the class embeddings of every silo, and where it has them "
    "its control variate and its own view of pooled clusters, also where these never leave a real "
    "silo.",
)
_STARTS = ("local_prototypes", "prototypes", "shared_frame")


class Table(NamedTuple):
  """How the class embeddings of a run's silos are kept.

  Attributes:
    init: key -> head of all classes.
    places: of the classes in the table.
    row_of_label: int32 [L], row of each label in the table.
    embed: (backbone parameters, uint8 [B, H, W, C]) -> unit f32 [B, D].
    prototypes: gives a silo the means of its own images to start from, or None.
    geometry: what the head lends to corrections, or None.
  """

  init: InitHead
  places: ClassPlaces
  row_of_label: np.ndarray
  embed: Callable[[Any, jax.Array], jax.Array]
  prototypes: PrototypeHead | None = None
  geometry: HeadGeometry | None = None


def corrected_silos(name: str, given: Ingredients, correction: Correction) -> Algorithm:
  """`silo_algorithm` whose server moves all class embeddings after every round, and says so.

  Args:
    name: of the algorithm.
    given: config with sections `silos` and `correction`, training set, devices.
    correction: gradient of the class embeddings, for rows divided over the mesh axis `clients`.
  """

  def heads(table: Table) -> HeadStrategy:
    return class_table.corrected(table.init, table.places, class_table.gradient_steps(
        correction, table.places, given.mesh, given.config.correction.steps, table.geometry),
                                 table.prototypes)

  return silo_algorithm(name, given, heads, releases=(SERVER_SEES_CLASSES, CLIENTS_SEE_CORRECTIONS))


def silo_algorithm(name: str, given: Ingredients, heads: Callable[[Table], HeadStrategy],
                   releases: Sequence[Release] = (), not_covered: Sequence[str] = ()) -> Algorithm:
  """Silos train backbone and own class embeddings; the backbone is aggregated.

  Args:
    name: of the algorithm.
    given: config with a `silos` section, training set, devices.
    heads: what becomes of the class embeddings.
    releases: what a round reveals beside the aggregated update.
    not_covered: sentences for the privacy statement.

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
    if key in config.hparams and not 0 <= config.hparams[key] < math.inf:
      raise ValueError(f"hparams.{key}={config.hparams[key]}: expected a number, at least 0")
  start = config.model.head_init
  if start not in _STARTS:
    raise ValueError(f"model.head_init {start!r} is not one of {', '.join(_STARTS)}")
  who = parts.participants(given)
  model = parts.client_model(given, who)
  silos = parts.silos(given)
  held = class_rows(silos.silo, given.train.label, silos.num_silos)
  places = class_table.places(held.owner, silos.num_silos, config.model.embedding_dim,
                              given.mesh.size)
  row_of_label = np.zeros(given.train.num_labels, np.int32)
  row_of_label[held.label] = np.arange(len(held.label))
  table = Table(_init_classes(given, model, held.label), places, row_of_label, model.embed,
                model.prototype_head if start == "local_prototypes" else None, model.geometry)
  return embedding_algorithm(
      name, given, model, who,
      client_update=parts.client_update(config, model, who),
      heads=heads(table),
      aggregator=parts.aggregator(config.privacy, who, config.rounds),
      server_optimizer=parts.server_momentum,
      class_embeddings=lambda state: ClassRows(
          state.heads.class_embeddings, jnp.asarray(places.owner)),
      releases=releases,
      not_covered=(*NOT_COVERED, *not_covered))


def _init_classes(given: Ingredients, model: EmbeddingModel, labels: np.ndarray) -> InitHead:
  """Class embeddings of the labels [C] as a head of one class starts them, or
  (`model.head_init=prototypes`) each person's prototype under the public backbone, as long as a
  cosine head starts class embeddings.

  Each is drawn from the identity of the first person who has the label: where another leaves, they
  stay as they were.
  """
  if given.config.model.head_init == "prototypes":
    row_of_label = np.zeros(given.train.num_labels, np.int32)
    row_of_label[labels] = np.arange(len(labels))
    means = of_public_backbone(
        given, model.embed, given.train.images, row_of_label[given.train.label], len(labels))
    length = COSINE_INIT_STD * math.sqrt(means.shape[1])
    return lambda key: {"params": {"class_embeddings": length * means}}
  init_one = parts.model(given.config, given.train, 1).init_head
  identity = _identity_of_labels(given.train)[labels]
  words = jnp.asarray(np.stack([identity >> np.uint64(32), identity & np.uint64(2**32 - 1)], -1),
                      jnp.uint32)

  def init(key: jax.Array) -> Any:
    of_class = lambda pair: init_one(jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1]))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(of_class)(words))

  return init


def _identity_of_labels(dataset: FaceDataset) -> np.ndarray:
  """uint64 [L]: of each label that has images, from its name or, without names, its person."""
  identity = np.zeros(dataset.num_labels, np.uint64)
  if dataset.names:
    return identity_of(dataset.names)
  label, first = np.unique(dataset.label, return_index=True)
  identity[label] = dataset.identities[first]
  return identity
