"""What silos tell each other of their class embeddings from one round to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.federated.memory import Ending
from fedjax_face.losses.class_pairs import Anchors
from fedjax_face.losses.consensus import ForeignPoints
from fedjax_face.method.algorithm import NOTHING, Communication, HParams, Measure
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clustering import ClusterMechanism, Clusters
from fedjax_face.privacy.ledger import Release

# `every` for a publication in the first round alone, however long a run grows.
ONCE = 1 << 30

# (class embeddings [N, C, D], Ending) -> unit vectors [N, C, D], one for each person
Rows = Callable[[jax.Array, Ending], jax.Array]
FirstRows = Callable[[jax.Array], jax.Array]


class Exchange(NamedTuple):
  """Publication by the silos and selection for a silo.

  Attributes:
    init: (unit f32 [R, D], the first means of the classes in their table, where it `starts_seeing`)
      -> kept.
    publish: (kept, class embeddings [N, C, D], Ending with its own hparams) -> (kept, metrics).
    select: (kept, client id) -> what the client is given, by name.
    anchors: (kept, own hparams) -> the published points as anchors of a correction.
    channels: bytes of a round, by name.
    metrics: what `publish` measures.
    releases: what a round reveals.
    hparams: its own, that its mechanism was calibrated to.
    needs_all_images: it embeds the whole set, not only the images of a cohort.
    starts_seeing: it publishes means of the images under the backbone that the run starts from.
  """

  init: Callable[..., Any]
  publish: Callable[[Any, jax.Array, Ending], tuple[Any, dict[str, jax.Array]]]
  select: Callable[[Any, jax.Array], dict[str, Any]]
  anchors: Callable[[Any, HParams], Anchors] | None
  channels: Mapping[str, Communication]
  metrics: Mapping[str, Measure]
  releases: tuple[Release, ...]
  hparams: HParams
  needs_all_images: bool = False
  starts_seeing: bool = False


SILENT = Exchange(
    init=lambda: (),
    publish=lambda kept, class_embeddings, ending: (kept, {}),
    select=lambda kept, client: {},
    anchors=None,
    channels=NOTHING,
    metrics=NOTHING,
    releases=(),
    hparams={},
)


class Published(NamedTuple):
  """The clusters in force, and the rounds that have ended.

  Attributes:
    clusters: leaves [N, Q, ...]; without people before the first publication.
    round: int32 scalar.
    means: f32 [R, D], what is clustered where that was seen before the first round; else ().
  """

  clusters: Clusters
  round: jax.Array
  means: Any = ()


def cluster_exchange(mechanism: ClusterMechanism, real: jax.Array, dim: int, *, rows: Rows,
                     every: int, rounds: int, noise_multiplier: float,
                     needs_all_images: bool, first: FirstRows | None = None) -> Exchange:
  """Clusters of every silo's people, published after rounds 1, 1 + every, 1 + 2 every, ...

  A silo is given all clusters but its own; where sums are pooled over silos, those of the total
  less its own share.

  Args:
    mechanism: how rows become clusters, and what that costs.
    real: bool [N, C], which places of the table of class embeddings are taken; public.
    dim: D.
    rows: what is clustered. The guarantee is about one row, so a row must follow from its person's
      own data and from what is released anyway.
    every: rounds between publications; `ONCE` for one alone.
    rounds: of the run, over which the bytes of the publications are averaged.
    noise_multiplier: noise over the sensitivity of one publication; 0 where the mechanism sets its
      own.
    needs_all_images: `rows` reads `Ending.images`.
    first: the first means of the classes -> what is clustered in the place of `rows`; None: `rows`.
  """
  silos, places = real.shape
  size = places if mechanism.clusters is None else mechanism.clusters

  def init(*means: jax.Array) -> Published:
    empty = Clusters(jnp.zeros((silos, size, dim)), jnp.zeros((silos, size)),
                     jnp.zeros((silos, size)))
    return Published(empty, jnp.int32(0), *means)

  def publish(kept: Published, class_embeddings, ending: Ending):
    clustered = lambda: (rows(class_embeddings, ending) if first is None else first(kept.means))
    clusters = jax.lax.cond(
        kept.round % every == 0,
        # Without the barrier the compiler works constant rows out, slowly.
        lambda: mechanism.publish(
            *jax.lax.optimization_barrier((clustered(), real)),
            ending.hparams["noise_multiplier"], ending.key)[0],
        lambda: kept.clusters)
    return Published(clusters, kept.round + 1, kept.means), metrics(clusters)

  def metrics(clusters: Clusters) -> dict[str, jax.Array]:
    if mechanism.pooled:  # a silo's own view, which must not leave it
      return {}
    return {"clusters_in_force": (clusters.people > 0).sum() / silos}

  def select(kept: Published, client) -> dict[str, Any]:
    clusters = kept.clusters
    if mechanism.pooled:
      return {"foreign": ForeignPoints(*(leaf[client] for leaf in clusters))}
    foreign = (jnp.arange(silos) != client)[:, None]
    people = jnp.where(foreign, clusters.people, 0)
    flat = lambda leaf: leaf.reshape(silos * size, *leaf.shape[2:])
    return {"foreign": ForeignPoints(*map(
        flat, (clusters.centres, people, clusters.concentration)))}

  def anchors(kept: Published, hparams) -> Anchors:
    clusters = kept.clusters
    weight = clusters.people.reshape(-1)
    owner = jnp.where(weight > 0, jnp.repeat(jnp.arange(silos), size), -1)
    cosine = jnp.full_like(weight, hparams["anchor_cosine"])
    return Anchors(clusters.centres.reshape(-1, dim), owner, weight, cosine)

  publications = -(-rounds // every)
  return Exchange(
      init, publish, select, None if mechanism.pooled else anchors,
      {"clusters": _communication(mechanism, real, dim, publications / rounds)},
      {} if mechanism.pooled else {"clusters_in_force": Measure(
          "numbers of clusters", covered_by="clusters")},
      (Release("clusters", "person", Adjacency.ADD_OR_REMOVE_ONE,
               mechanism.event(noise_multiplier), "every silo and the server", covers=every,
               note=mechanism.words),),
      {"noise_multiplier": noise_multiplier}, needs_all_images, first is not None)


def _communication(mechanism: ClusterMechanism, real: Any, dim: int, share: float
                   ) -> Communication:
  """Bytes of a round, averaged over the run: own clusters up, those of the others (or the pooled
  ones) down.
  """
  silos = len(real)
  if mechanism.clusters is None:
    each = jnp.asarray(real).sum(axis=1)
  else:
    each = jnp.full(silos, mechanism.clusters)
  up = each * (4 * mechanism.numbers(dim))
  down = up if mechanism.pooled else up.sum() - up
  spread = lambda value: round(float(value) * share)
  return Communication(spread(down.mean()), spread(up.mean()), spread(down.max()),
                       spread(up.max()))
