"""Federated training as a method: clients, local training, heads, aggregate and server wired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import dp_accounting
import flax.linen as nn
import jax

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.clients import Clients, Work
from fedjax_face.federated.embedding_model import EmbeddingModel, embedding_model
from fedjax_face.federated.head_life import BoundLife, HeadLife, Surroundings
from fedjax_face.federated.local import Local
from fedjax_face.federated.optimizers import Optimizer
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.round import check_divides, federated_round
from fedjax_face.losses.beside import Beside
from fedjax_face.method import Method, Setting, noise_multiplier, refuse_noise, require_unit, under
from fedjax_face.method.algorithm import Algorithm, HParams, part_of, with_values
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.embedding import embedding_dim
from fedjax_face.models.heads import Head
from fedjax_face.options import OptionError
from fedjax_face.privacy import accounting
from fedjax_face.privacy.claims import require_true_claim
from fedjax_face.privacy.ledger import Release, events_used, is_non_private
from fedjax_face.privacy.statement import MOST_PEOPLE

NOT_COVERED = (
    "The number of people is taken as public: sampling probabilities, numbers of clients and what "
    "a mean is divided by rest on it, and are the same with and without any one person.",
    "The set of class labels (the size of the heads) is taken as public.",
)
TRUSTED_SUM = (
    "The server that sums the clients' clipped updates and adds the noise sees them before the "
    "noise: it is trusted, or replaced by secure aggregation with the noise inside.",
)


class Trained(NamedTuple):
  """What a client trains, and how.

  Attributes:
    backbone: images -> embeddings.
    head: its form.
    local: steps on the client's images.
    beside: what the loss adds for what a client was told, or None.
    beside_at: where the scalars of `beside` are in the hparams of the method.
  """

  backbone: Backbone
  head: Head
  local: Local
  beside: Beside | None = None
  beside_at: tuple[str, ...] = ("exchange", "loss")

  def model(self, train: FaceDataset, num_classes: int) -> EmbeddingModel:
    """Backbone and a head of so many classes, for images like those of `train`."""
    shape, backbone = tuple(train.images.shape[1:]), cast(nn.Module, self.backbone)
    dim = embedding_dim(backbone, shape)
    return embedding_model(
        backbone, self.head.bind(num_classes, dim), shape, dim, self.local.augment,
        self.beside, self.beside_at)


def train_locally(backbone: Backbone, head: Head, local: Local, beside: Beside | None = None,
                  beside_at: tuple[str, ...] = ("exchange", "loss")) -> Trained:
  """What a client trains: a backbone with a head, by its local steps.

  Args:
    backbone: images -> embeddings.
    head: a classifier of the client's people.
    local: steps on the client's images.
    beside: what the loss adds for what others have published.
    beside_at: name of that part in the call of the method.

  Raises:
    OptionError: one that needs a margin head beside another head.
  """
  if isinstance(backbone, type):
    raise OptionError(f"backbone={backbone.__name__}: expected a module, not its class")
  if beside is not None and beside.needs_margin and head.geometry is None:
    raise OptionError("head: the consensus-aware loss adds to a margin head; expected cosface or "
                      "arcface")
  return Trained(backbone, head, local, beside, beside_at)


def federated(clients: Clients, trained: Trained, *, heads: HeadLife, aggregate: Aggregate,
              server: Optimizer) -> Method:
  """Clients train, their clipped and noised mean update is a gradient for the server.

  Args:
    clients: who takes part.
    trained: what a client trains, and how.
    heads: where its head comes from and goes.
    aggregate: from updates to a mean update.
    server: optimiser of the global model.
  """
  parts = _Parts(clients, trained, heads, aggregate, server)
  return Method(lambda train, setting, hparams: _bound(parts, train, setting, hparams))


class _Parts(NamedTuple):
  clients: Clients
  trained: Trained
  heads: HeadLife
  aggregate: Aggregate
  server: Optimizer


def _bound(parts: _Parts, train: FaceDataset, setting: Setting, hparams: HParams) -> Algorithm:
  require_unit(setting, "person")
  who = _participants(parts, train, setting, hparams)
  trained = parts.trained
  classes = train.num_labels if parts.heads.classes == "all" else who.own_classes
  if parts.clients.silos is None:  # which say it of each silo, and may be told of other classes
    require_classes(classes, "every client's head has the classes of one person alone: raise "
                    "method.clients.users_per_client, or method.classes=all"
                    if train.num_labels > 1 else "the training set has no other")
  with under("method.backbone"):
    model = trained.model(train, classes)
  client_update = trained.local.bind(model.loss, who.lasting_clients)
  life = parts.heads.bind(Surroundings(
      train, parts.clients, trained.head, model, lambda: trained.model(train, 1), setting,
      hparams))
  with under("method.aggregate"):
    aggregator = parts.aggregate.bind(who, setting.rounds)
  own = part_of(hparams, "aggregate")
  require_true_claim(
      lambda z: aggregator.event({**own, "noise_multiplier": z}), aggregator.sensitivity,
      aggregator.largest_noise, aggregator.adds_noise, f"method.aggregate ({aggregator.words})")
  check_divides(who.slots, setting.mesh, setting.clients_per_chunk)
  beside = (*client_update.releases, *life.strategy.releases, *life.releases)
  hparams = with_values(hparams, life.strategy.hparams)
  hparams = with_values(hparams, {"aggregate": _noise(
      aggregator, who, setting, own, beside)})
  return _algorithm(parts, who, model, client_update, life, aggregator, setting, hparams, beside)


def require_classes(classes: int, why: str) -> None:
  """Refuses a head of one class; `why` says where the others are, in the words of options.

  Raises:
    OptionError: as its loss would be 0 and nothing would be learned, while noise is paid for.
  """
  if classes < 2:
    raise OptionError(f"method: a softmax over a single class has no gradient, and {why}")


def _participants(parts: _Parts, train: FaceDataset, setting: Setting,
                  hparams: HParams) -> Participation:
  said = part_of(hparams, "aggregate").get("noise_multiplier")
  local = parts.trained.local
  with under("method.clients"):
    return parts.clients.bind(train, setting.seed, Work(
        local.epochs, local.batch_size, parts.heads.classes, setting.mesh.size,
        setting.clients_per_chunk, claims=setting.privacy.epsilon is not None or said is not None))


def _algorithm(parts: _Parts, who: Participation, model: EmbeddingModel, client_update: Any,
               life: BoundLife, aggregator: Aggregator, setting: Setting, hparams: HParams,
               beside: Sequence[Release]) -> Algorithm:
  round_ = federated_round(
      client_update=client_update,
      heads=life.strategy,
      aggregator=aggregator if setting.watch is None else setting.watch.aggregator(aggregator, who),
      server_optimizer=parts.server.transform,
      hparams=hparams,
      mesh=setting.mesh,
      clients_per_chunk=setting.clients_per_chunk,
  )

  def init(key: jax.Array, *seen: Any):
    backbone_key, round_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    backbone = model.init_backbone(backbone_key) if setting.start is None else setting.start
    return round_.init(round_key, backbone, *seen)

  own = part_of(hparams, "aggregate")
  return Algorithm(
      name=setting.method,
      init=init,
      cohort=who.cohort,
      step=round_.step,
      hparams=hparams,
      releases=(backbone_release(aggregator, who, own), *beside),
      not_covered=(*NOT_COVERED, *(TRUSTED_SUM if aggregator.adds_noise else ()),
                   *who.not_covered, *life.not_covered),
      embed=lambda state, images: model.embed(state.params["backbone"], images),
      channels=round_.channels,
      metrics=round_.metrics,
      sampling=who.words,
      notes=who.notes,
      population=who.population,
      forget=round_.forget,
      class_embeddings=life.class_embeddings,
      sharding=round_.sharding,
      needs_all_images=life.strategy.needs_all_images,
      look=life.strategy.look,
      mechanism=_mechanism(aggregator, who, own),
      averages_over=who.clients if aggregator.adds_noise else None,
  )


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


def _noise(chosen: Aggregator, who: Participation, setting: Setting, own: HParams,
           beside: Sequence[Release]) -> dict[str, float]:
  """The noise multiplier that the budget asks for, which is the total over all releases.

  Raises:
    ValueError: both or neither of an epsilon and a noise multiplier for an aggregator that adds
      noise; either for one that adds none; a target out of reach.
  """
  path = "method.aggregate.noise_multiplier"
  if not chosen.adds_noise:
    refuse_noise(setting, own.get("noise_multiplier"), path, f"method.aggregate ({chosen.words})")
    return {}

  def run_event(multiplier: float) -> dp_accounting.DpEvent:
    release = backbone_release(chosen, who, {**own, "noise_multiplier": multiplier})
    return _run_event((release, *beside), setting.rounds)

  if math.isinf(own["clip_norm"]):
    raise OptionError("method.aggregate.clip_norm=inf: the noise is scaled to it; expected a "
                      "number above 0 and below infinity")
  if setting.privacy.epsilon is not None:
    _check_room(setting, who, beside)
  return {"noise_multiplier": noise_multiplier(
      own.get("noise_multiplier"), setting, who.adjacency, run_event, path,
      min(10_000.0, 0.999 * chosen.largest_noise))}


def _run_event(releases: Sequence[Release], rounds: int) -> dp_accounting.DpEvent:
  return dp_accounting.ComposedDpEvent([
      dp_accounting.SelfComposedDpEvent(r.event, events_used(rounds, r.covers))
      for r in releases])


def _check_room(setting: Setting, who: Participation, beside: Sequence[Release]) -> None:
  """Refuses a total epsilon that the releases beside the update use up."""
  epsilon = setting.privacy.epsilon
  assert epsilon is not None
  for release in beside:
    if is_non_private(release.event):
      raise ValueError(f"privacy.epsilon={epsilon} cannot be had: channel "
                       f"{release.channel!r} has no guarantee ({release.note})")
  if beside:
    alone = accounting.epsilon(
        _run_event(beside, setting.rounds), setting.privacy.delta, who.adjacency).best
    if alone >= epsilon:
      raise ValueError(f"privacy.epsilon={epsilon} is the total, and channel "
                       f"{beside[0].channel!r} alone takes {alone:.3g} of it: raise it, or lower "
                       "method.exchange.epsilon")


def _mechanism(aggregator: Aggregator, who: Participation, own: HParams
               ) -> dict[str, float | str]:
  """The numbers of clipping and noise, by their names in the statement."""
  if not aggregator.adds_noise:
    return {}
  return {"clip norm C": own["clip_norm"], "noise stddev / C": own["noise_multiplier"],
          "sensitivity / C": aggregator.sensitivity, "mean over clients": who.clients,
          MOST_PEOPLE: who.users_per_client}
