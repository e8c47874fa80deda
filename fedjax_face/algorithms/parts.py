"""From sections of a config to the parts that the pages choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import dp_accounting
import flax.linen as nn
import optax
from jax.sharding import Mesh

from fedjax_face.algorithms import hparams, sections
from fedjax_face.data import pixels
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.silos import Silos, partition
from fedjax_face.draws import Draws
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.algorithm import HParams
from fedjax_face.federated.client import ClientUpdate
from fedjax_face.federated.embedding_model import EmbeddingModel, embedding_model, no_augmentation
from fedjax_face.federated.local import Drift, Local
from fedjax_face.federated.optimizers import momentum
from fedjax_face.federated.participation import (
    Participation,
    participation,
    silo_participation,
)
from fedjax_face.losses.consensus import Consensus, consensus
from fedjax_face.models import registry as models
from fedjax_face.models.heads import Head
from fedjax_face.privacy import accounting, calibration, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, events_used, is_non_private

Progress = Callable[[float, float], None]

_SILOS = 0x73696C6F  # keeps the split into silos apart from other uses of the same seed


class Watch(Protocol):
  """Puts the canaries of an audit into what is summed, and reads them in what is released."""

  def aggregator(self, watched: Aggregator, who: Participation) -> Aggregator:
    """The aggregator of client updates, watched."""

  def noise(self, watched: noise.Noise, noise_multiplier: float, rate: float) -> noise.Noise:
    """The noise of sums of gradients, watched; `rate` is that of a unit in a step."""


class Ingredients(NamedTuple):
  """What every page is made from.

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


def participants(given: Ingredients) -> Participation:
  """Silos if the config has a `silos` section, otherwise virtual clients of users."""
  config = given.config
  if not config.get("silos"):
    return participation(config.cohort, given.train)
  claims = config.privacy.epsilon is not None or config.hparams.noise_multiplier is not None
  return silo_participation(config.cohort, given.train, silos(given), given.mesh.size,
                            config.training.clients_per_chunk, private=claims)


def silos(given: Ingredients) -> Silos:
  """The split of the training people that the config's `silos` section and `seed` describe."""
  config = given.config
  options = dict(config.silos)
  return partition(options, given.train, Draws.of((config.seed, _SILOS)))


def client_model(given: Ingredients, who: Participation) -> EmbeddingModel:
  """The model that a client trains: a head for all labels, or for as many as it can hold."""
  everything = given.config.cohort.classes == "all"
  return model(given.config, given.train,
               given.train.num_labels if everything else who.own_classes)


def client_update(config: Any, trained: EmbeddingModel, who: Participation) -> ClientUpdate:
  """What a client does: the `local` section, with its scalars of `hparams`.

  Raises:
    ValueError: a name or a number that it does not take, a negative proximal weight whether it is
      used or not, or control variates for clients that are drawn anew every round.
  """
  own = hparams.nested(config.hparams).get("local", {})
  pull = own.get("drift", {})
  sections.built(Drift, "local.drift", "fedprox", pull)
  drift = sections.built(Drift, "local.drift", config.local.drift, pull)
  said = {**config.local, **own, "epochs": config.cohort.epochs,
          "batch_size": config.cohort.batch_size, "drift": drift}
  return sections.built(Local, "local", "local_steps", said).bind(
      trained.loss, who.lasting_clients)


def model(config: Any, train: FaceDataset, num_classes: int) -> EmbeddingModel:
  """The config's backbone and head for images like those of `train`."""
  options = config.model
  augment = pixels.random_flip if options.flip else no_augmentation
  classifier = head(config).bind(num_classes, options.embedding_dim)
  return embedding_model(
      backbone(options), classifier, train.images.shape[1:], options.embedding_dim, augment,
      consensus_loss(config))


def backbone(options: Any) -> nn.Module:
  """`model.backbone` with its embedding dimensions and `model.backbone_options`.

  Raises:
    ValueError: another name, or an option that it does not take or refuses.
  """
  with sections.keys_of_config():
    return models.backbone(
        options.backbone, options.embedding_dim, **options.get("backbone_options", {}))


def head(config: Any) -> Head:
  """`model.head`, with its scalars of `hparams`.

  Raises:
    ValueError: another name.
  """
  return sections.built(Head, "head", config.model.head, config.hparams)


def consensus_loss(config: Any) -> Consensus | None:
  """`exchange.loss`, where the config has an exchange.

  Raises:
    ValueError: another form, a head that lends no geometry, or an angle or weight out of range.
  """
  options, scalars = config.get("exchange"), config.hparams
  if not options:
    return None
  if head(config).geometry is None:
    raise ValueError(f"model.head={config.model.head}: the consensus-aware loss adds to a margin "
                     "head; expected cosface or arcface")
  if not 0 < scalars.cap_angle <= math.pi / 2:
    raise ValueError(f"hparams.cap_angle={scalars.cap_angle}: expected an angle in (0, pi/2]")
  if not 0 < scalars.foreign_weight < math.inf:
    raise ValueError(f"hparams.foreign_weight={scalars.foreign_weight}: expected a number above 0")
  if not 0 <= scalars.hinge_weight < math.inf:
    raise ValueError(f"hparams.hinge_weight={scalars.hinge_weight}: expected a number, at least 0")
  return consensus(options.loss)


def server_momentum(own: HParams) -> optax.GradientTransformation:
  """v = mu v + g; w -= lr v."""
  return momentum().transform(own)


def aggregator(privacy: Any, who: Participation, rounds: int) -> Aggregator:
  """`privacy.aggregator`, a name of `federated.aggregates`, with what it takes of `privacy`.

  Raises:
    ValueError: another name, an option out of range, or correlated noise without an enforced
      separation of rounds.
  """
  said = dict(privacy)
  if "correlated" in said:
    said["strategy"] = said["correlated"]
  return sections.built(Aggregate, "aggregate", privacy.aggregator, said).bind(who, rounds)


def backbone_release(chosen: Aggregator, who: Participation, own: HParams) -> Release:
  """What one round reveals through the aggregated update, at the aggregator's own hparams."""
  event = chosen.event(own)
  sampled = chosen.adds_noise and chosen.covers == 1
  return Release(
      channel="backbone",
      unit="person",
      adjacency=who.adjacency,
      event=who.amplify(event) if sampled else event,
      seen_by="everyone",
      covers=who.rounds_per_event if sampled else chosen.covers,
      note=chosen.words,
  )


def with_noise(
    config: Any, chosen: Aggregator, who: Participation, progress: Progress | None,
    beside: Sequence[Release] = ()
) -> dict[str, Any]:
  """The config's hyperparameters, nested, with the noise multiplier that a target epsilon asks for.

  The target, `privacy.epsilon`, is the total of a person over the aggregated update and every
  release beside it.

  Raises:
    ValueError: both or neither of privacy.epsilon and hparams.noise_multiplier are given for an
      aggregator that adds noise; either for one that adds none; a clip norm or multiplier out of
      range; a target out of reach.
  """
  whole = hparams.nested(config.hparams)
  own = whole["aggregate"]
  if not own["clip_norm"] > 0:
    raise ValueError(f"hparams.clip_norm={own['clip_norm']}: expected a number above 0")
  if not chosen.adds_noise:
    refuse_noise(config, f"privacy.aggregator={config.privacy.aggregator}")
    return whole | {"aggregate": own | {"noise_multiplier": 0.0}}

  def run_event(noise_multiplier: float) -> dp_accounting.DpEvent:
    release = backbone_release(chosen, who, own | {"noise_multiplier": noise_multiplier})
    return dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(r.event, events_used(config.rounds, r.covers))
        for r in (release, *beside)])

  if config.privacy.epsilon is not None:
    _check_room(config, who, beside)
  return whole | {"aggregate": own | {"noise_multiplier": noise_multiplier(
      config, run_event, who.adjacency, progress, min(10_000.0, 0.999 * chosen.largest_noise))}}


def _check_room(config: Any, who: Participation, beside: Sequence[Release]) -> None:
  """Refuses a total epsilon that the releases beside the update use up."""
  for release in beside:
    if is_non_private(release.event):
      raise ValueError(f"privacy.epsilon={config.privacy.epsilon} cannot be had: channel "
                       f"{release.channel!r} has no guarantee ({release.note})")
  if beside:
    alone = accounting.epsilon(dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(r.event, events_used(config.rounds, r.covers))
        for r in beside]), config.privacy.delta, who.adjacency).best
    if alone >= config.privacy.epsilon:
      raise ValueError(f"privacy.epsilon={config.privacy.epsilon} is the total, and channel "
                       f"{beside[0].channel!r} alone takes {alone:.3g} of it: raise it, or lower "
                       "exchange.epsilon")


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


TRUSTED_SUM = (
    "The server that sums the clients' clipped updates and adds the noise sees them before the "
    "noise: it is trusted, or replaced by secure aggregation with the noise inside.",
)


def refuse_noise(config: Any, what: str) -> None:
  """Raises ValueError if the config asks for privacy or noise where `what` adds none."""
  for name, value in (("privacy.epsilon", config.privacy.epsilon),
                      ("hparams.noise_multiplier", config.hparams.noise_multiplier)):
    if value is not None:
      raise ValueError(f"{name}={value} cannot be had with {what}, which adds no noise: "
                       f"set --config.{name}=None")


NOT_COVERED = (
    "The number of people is taken as public: sampling probabilities, numbers of clients and what "
    "a mean is divided by rest on it, and are the same with and without any one person.",
    "The set of class labels (the size of the heads) is taken as public.",
)
