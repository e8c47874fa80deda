"""A federated round around an embedding model, as an Algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.hparams import with_values
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.algorithm import Algorithm, ClassEmbeddings, HParams
from fedjax_face.federated.client import ClientUpdate
from fedjax_face.federated.embedding_model import EmbeddingModel
from fedjax_face.federated.heads import HeadStrategy
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.round import ServerOptimizer, check_divides, federated_round
from fedjax_face.privacy.ledger import Release
from fedjax_face.privacy.statement import MOST_PEOPLE


def embedding_algorithm(
    name: str,
    given: Ingredients,
    model: EmbeddingModel,
    who: Participation,
    *,
    client_update: ClientUpdate,
    heads: HeadStrategy,
    aggregator: Aggregator,
    server_optimizer: ServerOptimizer,
    releases: Sequence[Release] = (),
    not_covered: Sequence[str] = (),
    class_embeddings: ClassEmbeddings | None = None,
) -> Algorithm:
  """Wires chosen parts into a round, its ledger entries and its evaluation.

  Args:
    name: of the algorithm.
    given: config, training set, devices, initial backbone.
    model: backbone and head.
    who: participation of users.
    client_update: what a client does.
    heads: where heads come from and go.
    aggregator: from updates to a mean update.
    server_optimizer: own hparams -> optimiser of the server.
    releases: what a round reveals beside the aggregated update.
    not_covered: sentences for the privacy statement beside those of every federated method.
    class_embeddings: state -> class embeddings that outlive a round, where there are some.

  Raises:
    ValueError: the devices cannot share the clients evenly, or the privacy section is inconsistent.
  """
  check_divides(who.slots, given.mesh)
  beside = (*client_update.releases, *heads.releases, *releases)
  hparams = with_values(
      parts.with_noise(given.config, aggregator, who, given.progress, beside), heads.hparams)
  round_ = federated_round(
      client_update=client_update,
      heads=heads,
      aggregator=aggregator if given.watch is None else given.watch.aggregator(aggregator, who),
      server_optimizer=server_optimizer,
      hparams=hparams,
      mesh=given.mesh,
      clients_per_chunk=given.config.training.clients_per_chunk,
  )

  def init(key: jax.Array):
    backbone_key, round_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    backbone = model.init_backbone(backbone_key) if given.backbone is None else given.backbone
    return round_.init(round_key, backbone)

  return Algorithm(
      name=name,
      init=init,
      cohort=who.cohort,
      step=round_.step,
      hparams=hparams,
      releases=(parts.backbone_release(aggregator, who, hparams["aggregate"]), *beside),
      not_covered=(*parts.NOT_COVERED, *(parts.TRUSTED_SUM if aggregator.adds_noise else ()),
                   *who.not_covered, *not_covered),
      embed=lambda state, images: model.embed(state.params["backbone"], images),
      channels=round_.channels,
      metrics=round_.metrics,
      sampling=who.words,
      notes=who.notes,
      population=who.population,
      forget=round_.forget,
      class_embeddings=class_embeddings,
      sharding=round_.sharding,
      needs_all_images=heads.needs_all_images,
      mechanism=_mechanism(aggregator, who, hparams["aggregate"]),
      averages_over=who.clients if aggregator.adds_noise else None,
  )


def _mechanism(aggregator: Aggregator, who: Participation, own: HParams
               ) -> dict[str, float | str]:
  """The numbers of clipping and noise, by their names in the statement."""
  if not aggregator.adds_noise:
    return {}
  return {"clip norm C": own["clip_norm"], "noise stddev / C": own["noise_multiplier"],
          "sensitivity / C": aggregator.sensitivity, "mean over clients": who.clients,
          MOST_PEOPLE: who.users_per_client}
