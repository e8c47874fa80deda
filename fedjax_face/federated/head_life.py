"""The life of a head in a method: where it comes from, where it goes, what of it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import identity_of
from fedjax_face.federated import class_table, heads
from fedjax_face.federated.class_table import ClassPlaces, Correct, FirstSight
from fedjax_face.federated.clients import Classes, Clients
from fedjax_face.federated.embedding_model import EmbeddingModel
from fedjax_face.federated.exchange import SILENT
from fedjax_face.federated.exchange import Exchange as BoundExchange
from fedjax_face.federated.exchanges import Exchange, SiloClasses
from fedjax_face.federated.heads import HeadStrategy, InitHead
from fedjax_face.federated.prototypes import of_public_backbone, public_people
from fedjax_face.federated.silo_people import class_rows
from fedjax_face.losses.corrections import Correction
from fedjax_face.method import HParams, Setting
from fedjax_face.method.algorithm import ClassEmbeddings, ClassRows
from fedjax_face.models.heads import COSINE_INIT_STD, Head
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, non_private

StartOfThrowAway = Literal["shared_frame", "per_client", "local_prototypes"]
StartOfSilo = Literal["shared_frame", "public_prototypes", "local_prototypes"]

SERVER_SEES_CLASSES = non_private(
    "class embeddings", "person", Adjacency.ADD_OR_REMOVE_ONE, "the server",
    "the server receives the class embedding of every person and every silo's mean training "
    "cosine, without noise")
CLIENTS_SEE_CORRECTIONS = non_private(
    "corrections", "person", Adjacency.ADD_OR_REMOVE_ONE, "every silo",
    "the correction that a silo receives is a mix of the class embeddings of other silos, from "
    "which it can recover them (fedjax_face.attacks.leak_back)")
_OF_SILOS_NOT_COVERED = (
    "A histogram of the cosines between class embeddings of different silos is written to the "
    "summary without noise.",
    "Checkpoints of this simulation hold the class embeddings of every silo, and where it has them "
    "its people's prototypes, its control variate and its own view of pooled clusters, also where "
    "these never leave a real silo.",
)


class Surroundings(NamedTuple):
  """What the life of a head is bound to.

  Attributes:
    train: facts of the training set.
    clients: of the method.
    head: its form.
    model: backbone and head of a client.
    one_class: backbone and head of one class.
    setting: of the run.
    hparams: of the whole method.
  """

  train: FaceDataset
  clients: Clients
  head: Head
  model: EmbeddingModel
  one_class: Callable[[], EmbeddingModel]
  setting: Setting
  hparams: HParams


class BoundLife(NamedTuple):
  """What became of it.

  Attributes:
    strategy: of the round.
    releases: beside those of the strategy.
    not_covered: sentences for the privacy statement.
    class_embeddings: those that outlive a round, or None.
  """

  strategy: HeadStrategy
  releases: tuple[Release, ...] = ()
  not_covered: tuple[str, ...] = ()
  class_embeddings: ClassEmbeddings | None = None


class HeadLife(NamedTuple):
  """The life of a head.

  Attributes:
    classes: that a client's head numbers.
    bind: Surroundings -> BoundLife.
  """

  classes: Classes
  bind: Callable[[Surroundings], BoundLife]


def thrown_away(start_head: StartOfThrowAway, classes: Classes) -> HeadLife:
  """Never sent, stored or averaged; see `heads.fresh` (DP-FedEmb's partial aggregation)."""
  return HeadLife(classes, lambda given: BoundLife(
      heads.fresh(given.model.init_head, start_head, given.model.prototype_head)))


def shared_by_all() -> HeadLife:
  """One head for all clients and all classes, aggregated with the backbone (FedAvg)."""
  return HeadLife("all", lambda given: BoundLife(heads.shared(given.model.init_head)))


class Silos(NamedTuple):
  """The class embeddings of a run's silos, bound.

  Attributes:
    classes: as an exchange asks.
    init: key -> head of all classes.
    given: what they are bound to.
    exchange: of the run.
    seen: what comes from pixels before the first round, or None.
  """

  classes: SiloClasses
  init: InitHead
  given: Surroundings
  exchange: BoundExchange
  seen: FirstSight | None

  @property
  def places(self) -> ClassPlaces:
    """Of the classes in the table."""
    return self.classes.places


Life = Callable[[Silos, Any], tuple[HeadStrategy, tuple[Release, ...]]]
"""(silos, prototypes or None) -> strategy, and what leaves beside it."""


def kept_by_silos(start_head: StartOfSilo, corrected: Life | None = None,
                  exchange: Exchange | None = None) -> HeadLife:
  """Every silo has class embeddings of its own, for its own people.

  Args:
    start_head: `shared_frame`, as a head of one class starts them; `public_prototypes`, each
      person's prototype under the public backbone; `local_prototypes`, the means of a silo's own
      images when it trains first.
    corrected: `at_server` or `at_home`; None: nobody corrects them.
    exchange: what silos publish of them beside that; None: nothing.
  """

  def bind(given: Surroundings) -> BoundLife:
    if given.clients.silos is None:
      raise ValueError(f"method.clients: {given.setting.method} needs silos, which last and hold "
                       "people of their own")
    classes = _classes(given)
    spoken = SILENT if exchange is None else exchange.bind(
        classes, given.setting, given.hparams.get("exchange", {}))
    silos = Silos(classes, _drawn_classes(given, classes), given, spoken,
                  _first_sight(given, classes, start_head, spoken))
    start = given.model.prototype_head if start_head == "local_prototypes" else None
    strategy, releases = (private if corrected is None else corrected)(silos, start)
    owner = jnp.asarray(classes.places.owner)
    return BoundLife(
        strategy, releases,
        (*_OF_SILOS_NOT_COVERED, *(() if exchange is None else exchange.not_covered)),
        lambda state: ClassRows(state.heads.class_embeddings, owner))

  return HeadLife("own", bind)


def private(silos: Silos, prototypes: Any) -> tuple[HeadStrategy, tuple[Release, ...]]:
  """Nobody corrects them (FedPE)."""
  return class_table.private(silos.init, silos.places, silos.exchange, prototypes, silos.seen), ()


def at_server(correction: Correction) -> Life:
  """The server is sent all of them, corrects them and sends them back: no guarantee."""

  def life(silos: Silos, prototypes: Any) -> tuple[HeadStrategy, tuple[Release, ...]]:
    given = silos.given
    correct = class_table.gradient_steps(
        correction.gradient(given.head.normalised, "clients"), silos.places, given.setting.mesh,
        correction.steps, given.model.geometry)
    return (class_table.corrected(silos.init, silos.places, correct, prototypes, silos.seen),
            (SERVER_SEES_CLASSES, CLIENTS_SEE_CORRECTIONS))

  return life


def at_home(correction: Correction) -> Life:
  """Every silo corrects its own by what the exchange has published of the others."""

  def life(silos: Silos, prototypes: Any) -> tuple[HeadStrategy, tuple[Release, ...]]:
    given, exchange = silos.given, silos.exchange
    if exchange.anchors is None:
      raise ValueError("method.exchange.mechanism.pooled: pooled clusters belong to no silo, so "
                       "they cannot be anchors of the correction; set it to False")
    correct: Correct = class_table.steps_at_home(
        correction.gradient(given.head.normalised, None), silos.places, correction.steps,
        exchange.anchors, given.model.geometry)
    return class_table.corrected_at_home(
        silos.init, silos.places, correct, exchange, prototypes, silos.seen), ()

  return life


def _classes(given: Surroundings) -> SiloClasses:
  assert given.clients.silos is not None
  train, setting = given.train, given.setting
  dealt = given.clients.silos(train, setting.seed)
  held = class_rows(dealt.silo, train.label, dealt.num_silos)
  places = class_table.places(held.owner, dealt.num_silos, given.model.embedding_dim,
                              setting.mesh.size)
  row_of_label = np.zeros(train.num_labels, np.int32)
  row_of_label[held.label] = np.arange(len(held.label))
  return SiloClasses(train, places, row_of_label, given.model.embed, held.label)


def _first_sight(given: Surroundings, classes: SiloClasses, start_head: StartOfSilo,
                 exchange: BoundExchange) -> FirstSight | None:
  """Each person's prototype under the public backbone, where class embeddings start from it, as
  long as a cosine head's, or the exchange publishes it; None where nobody looks.
  """
  starts = start_head == "public_prototypes"
  if not (starts or exchange.starts_seeing):
    return None
  setting, embed, places = given.setting, given.model.embed, classes.places
  public_people(setting)  # refuses a start that is not public
  row, size = classes.row_of_label[given.train.label], len(places.owner)
  return FirstSight(
      lambda images: of_public_backbone(setting, embed, images, row, size),
      COSINE_INIT_STD * math.sqrt(places.dim) if starts else None)


def _drawn_classes(given: Surroundings, classes: SiloClasses) -> InitHead:
  """Class embeddings as a head of one class starts them.

  Each is drawn from the identity of the first person who has the label: where another leaves, they
  stay as they were.
  """
  train, labels = given.train, classes.labels
  init_one = given.one_class().init_head
  identity = _identity_of_labels(train)[labels]
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
