"""What silos tell each other beside their updates, as a part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated import exchange
from fedjax_face.federated.class_table import ClassPlaces
from fedjax_face.federated.exchange import ONCE, FirstRows, Rows
from fedjax_face.federated.mechanisms import Mechanism, Surroundings, anchor_table
from fedjax_face.federated.memory import Ending
from fedjax_face.federated.prototypes import of_public_backbone, prototypes, public_people
from fedjax_face.losses.beside import Beside
from fedjax_face.losses.consensus import consensus_aware
from fedjax_face.method import HParams, Setting
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.options import OptionError, Traced, above, at_least, register, within
from fedjax_face.privacy import calibration, clustering, public_directions
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.claims import require_sensitivity
from fedjax_face.privacy.clustering import ClusterMechanism
from fedjax_face.privacy.ledger import events_used

NOT_COVERED = (
    "The guarantee of the clusters is conditional on the backbone: what its exchange reveals is a "
    "channel of its own, with its own guarantee or none.",
    "The choice of the public set, of the number of clusters and of the loss is not accounted for.",
)
_TRAINED_TOGETHER = (
    "a silo's class embeddings are trained together, so one person more or less moves all of them "
    "(exchange.rows=class_embeddings)")
_PUBLIC = 0x7075626C  # keeps the choice of public points apart from other uses of the same seed
NotNegative = Annotated[int, at_least(0)]


class SiloClasses(NamedTuple):
  """The class embeddings of a run's silos, as far as an exchange asks.

  Attributes:
    train: facts of the training set.
    places: of the classes in the table.
    row_of_label: int32 [L], row of each label in the table.
    embed: (backbone parameters, uint8 [B, H, W, C]) -> unit f32 [B, D].
    labels: int32 [C], label of each class in the table, without padding.
  """

  train: FaceDataset
  places: ClassPlaces
  row_of_label: np.ndarray
  embed: Callable[[Any, jax.Array], jax.Array]
  labels: np.ndarray


class Exchange(NamedTuple):
  """A publication by the silos, before these are known.

  Attributes:
    bind: (SiloClasses, Setting, own hparams) -> exchange.Exchange.
    loss: what the published points add to a client's loss, or None.
    not_covered: sentences for the privacy statement.
  """

  bind: Callable[[SiloClasses, Setting, HParams], exchange.Exchange]
  loss: Beside | None
  not_covered: tuple[str, ...] = ()


register.kind(Exchange)


@register.exchange
def clusters(*, mechanism: Mechanism = anchor_table(),
             rows: Literal["prototypes", "class_embeddings"] = "prototypes",
             every: NotNegative = 0, projection: NotNegative = 0,
             public_iterations: NotNegative = 20,
             epsilon: Annotated[float, above(0)] | None = None,
             noise_multiplier: Annotated[Traced, above(0)] | None = None,
             anchor_cosine: Annotated[Traced, within("[-1, 1]")] = 0.6,
             loss: Beside = consensus_aware()) -> Exchange:
  """Clusters of every silo's people, which the other silos take as negatives.

  Args:
    mechanism: how rows become clusters, and what that costs.
    rows: what is clustered: `prototypes`, means of each person's own images under a released
      backbone, or `class_embeddings`, which have no guarantee.
    every: rounds between publications; 0 for one alone, from the public backbone.
    projection: principal directions of public people that are kept; 0 for all dimensions.
    public_iterations: of the clustering of public people.
    epsilon: of the publications of a whole run together, for each person; one of it and the noise
      multiplier is given where the mechanism adds noise.
    noise_multiplier: noise over the sensitivity of one publication.
    anchor_cosine: mean training cosine that a correction ascribes to the anchors.
    loss: what the points of others add to a client's loss.

  Binding it raises ValueError for points that should be public and are not, more clusters than
  people, or both or neither of an epsilon and a noise multiplier.

  Source: Meng et al., ICLR 2022 (PrivacyFace), with mechanisms whose privacy holds.
  """
  del anchor_cosine  # traced
  if epsilon is not None and noise_multiplier is not None:
    raise OptionError(f"epsilon={epsilon} beside noise_multiplier={noise_multiplier}: give one")
  if loss.reads_counts and not mechanism.publishes_counts:
    raise OptionError("loss.form=v3 weighs clusters by their numbers of people, which the "
                      "mechanism with its count_weight does not publish; expected v0, v1 or v2")
  if rows == "class_embeddings" and not every:
    raise OptionError("rows=class_embeddings with every=0: class embeddings are untrained when the "
                      "public backbone publishes; set every")
  asked = _Asked(mechanism, rows, every, projection, public_iterations, epsilon)
  return Exchange(lambda silos, setting, own: _bound(asked, silos, setting, own), loss, NOT_COVERED)


class _Asked(NamedTuple):
  mechanism: Mechanism
  rows: str
  every: int
  projection: int
  public_iterations: int
  epsilon: float | None


def _bound(asked: _Asked, silos: SiloClasses, setting: Setting, own: HParams) -> exchange.Exchange:
  if not silos.train.persons_are_labels:
    raise ValueError("method.exchange: a cluster stands for people, so every person needs one "
                     "class")
  largest, every = silos.places.real.shape[1], asked.every or ONCE
  if asked.mechanism.clusters is not None and asked.mechanism.clusters > largest:
    raise ValueError(f"method.exchange.mechanism.clusters={asked.mechanism.clusters}: expected 1 "
                     f"to {largest} (people of the largest silo)")
  _require_noise(asked, own)
  mechanism = _mechanism(asked, silos, setting, events_used(setting.rounds, every))
  require_sensitivity(mechanism.event(1.0), mechanism.sensitivity,
                      f"method.exchange.mechanism ({mechanism.words})")
  if asked.rows == "class_embeddings":
    mechanism = mechanism._replace(
        event=lambda noise_multiplier: dp_accounting.NonPrivateDpEvent(), adds_noise=False,
        words=f"{mechanism.words}; no guarantee: {_TRAINED_TOGETHER}")
  of_first = asked.rows == "prototypes" and not asked.every
  return exchange.cluster_exchange(
      mechanism, jnp.asarray(silos.places.real), silos.places.dim,
      rows=_rows(asked, silos, setting), every=every, rounds=setting.rounds,
      noise_multiplier=_noise_multiplier(asked, mechanism, every, setting, own),
      needs_all_images=asked.rows == "prototypes" and asked.every > 0,
      first=_first_rows(silos) if of_first else None)


def _require_noise(asked: _Asked, own: HParams) -> None:
  """Refuses more or less than one of the options that set the noise, and those that do not."""
  said = {"epsilon": asked.epsilon, "noise_multiplier": own.get("noise_multiplier")}
  only_claimed = asked.mechanism.noise == ("epsilon",)
  taken = asked.mechanism.noise if asked.rows == "prototypes" or only_claimed else ()
  for name, value in said.items():
    if name not in taken and value is not None:
      raise ValueError(f"method.exchange.{name}={value}: this mechanism, on rows={asked.rows}, "
                       "does not take its noise from it: leave it out (None)")
  if taken:
    calibration.require_exactly_one({f"method.exchange.{name}": said[name] for name in taken})


def _noise_multiplier(asked: _Asked, mechanism: ClusterMechanism, every: int, setting: Setting,
                      own: HParams) -> float:
  """What is said, or what `epsilon` asks for over the whole run; 0 without noise of this kind."""
  if not mechanism.adds_noise:
    return 0.0
  if asked.epsilon is None:
    return float(own["noise_multiplier"])
  publications = events_used(setting.rounds, every)
  event = lambda noise: dp_accounting.SelfComposedDpEvent(mechanism.event(noise), publications)
  return calibration.calibrate_noise(
      event, asked.epsilon, setting.privacy.delta, Adjacency.ADD_OR_REMOVE_ONE,
      progress=setting.progress, name="method.exchange.epsilon")


def _mechanism(asked: _Asked, silos: SiloClasses, setting: Setting,
               publications: int) -> ClusterMechanism:
  """The mechanism with anchors and candidates from public people, where it needs some."""

  def of_public_people() -> np.ndarray:
    public = public_people(setting)
    return np.asarray(of_public_backbone(
        setting, silos.embed, public.images, public.label, public.num_labels))

  def bound(people: Callable[[], np.ndarray]) -> ClusterMechanism:
    def centres(number: int) -> np.ndarray:
      _at_most(number, public_people(setting).num_labels, "mechanism", "public people")
      rng = np.random.default_rng([setting.seed, _PUBLIC])
      return public_directions.spherical_kmeans(people(), number, rng, asked.public_iterations)
    return asked.mechanism.bind(Surroundings(
        centres, asked.epsilon, setting.privacy.delta, publications))

  if not asked.projection:
    return bound(of_public_people)
  _at_most(asked.projection, silos.places.dim, "projection", "dimensions of an embedding")
  _at_most(asked.projection, public_people(setting).num_labels, "projection", "public people")

  @functools.cache
  def people_and_basis() -> tuple[np.ndarray, np.ndarray]:
    people = of_public_people()
    return people, public_directions.principal_directions(people, asked.projection)

  def inside() -> np.ndarray:
    people, basis = people_and_basis()
    return np.asarray(l2_normalise(jnp.asarray(people @ basis)))

  return clustering.projected(bound(inside), people_and_basis()[1])


def _at_most(asked: int, number: int, option: str, of_what: str) -> None:
  """Refuses more directions than there are; before the public people are embedded."""
  if asked > number:
    raise ValueError(f"method.exchange.{option}: {asked} public directions, expected at most "
                     f"{number} ({of_what})")


def _first_rows(silos: SiloClasses) -> FirstRows:
  """What one publication clusters: the prototypes that were seen before the first round."""
  return lambda means: _by_silo(means, silos.places)


def _rows(asked: _Asked, silos: SiloClasses, setting: Setting) -> Rows:
  """What every publication clusters anew."""
  if asked.rows == "class_embeddings":
    return lambda class_embeddings, ending: l2_normalise(class_embeddings)
  row, size = silos.row_of_label[silos.train.label], len(silos.places.owner)
  of_people = prototypes(silos.embed, public_people(setting).images, size)

  def rows(class_embeddings, ending: Ending):
    return _by_silo(of_people(ending.params["backbone"], ending.images, jnp.asarray(row)),
                    silos.places)

  return rows


def _by_silo(means: jax.Array, places: ClassPlaces) -> jax.Array:
  return means.at[jnp.asarray(places.rows)].get(mode="fill", fill_value=0)
