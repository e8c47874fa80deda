"""Prototypes of classes that silos share: each tells the mean embeddings of its own images."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.federated import memory
from fedjax_face.federated.client import ClientResult
from fedjax_face.federated.head_life import BoundLife, HeadLife, Surroundings
from fedjax_face.federated.heads import HeadStrategy
from fedjax_face.federated.memory import Ending, Memory
from fedjax_face.losses.prototypes import Prototypes
from fedjax_face.method.algorithm import Communication, tree_bytes
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import non_private

CHANNEL = "class prototypes"
PROTOTYPES_LEAVE = non_private(
    CHANNEL, "person", Adjacency.ADD_OR_REMOVE_ONE, "the server and every silo",
    "sums of embeddings of each class and their numbers leave every silo without noise")
NOT_COVERED = (
    "Checkpoints of this simulation hold every silo's own head, which never leaves a real silo.",
)


class Kept(NamedTuple):
  """Each silo's own head, arrays [N, ...], and the prototypes of all silos together."""

  heads: Any
  prototypes: Prototypes


class _Entry(NamedTuple):
  """A silo's own head, and of its images the sum of embeddings [L, D] and number [L] by class."""

  head: Any
  totals: jax.Array
  counts: jax.Array


def told_by_all() -> HeadLife:
  """Every silo keeps a head of its own for all classes; class prototypes are all that is shared.

  A silo sends the sum of its images' embeddings by class and their number, over the local steps of
  the round; the mean over the silos that took part is everybody's prototype in the next round. A
  class that nobody had keeps its prototype. Needs a loss that sums them up:
  `losses.prototypes.to_prototypes`.

  Source: Tan et al., AAAI 2022 (FedProto), Algorithm 1 and equation 6.
  """
  return HeadLife("all", _bound)


def _bound(given: Surroundings) -> BoundLife:
  if given.clients.silos is None:
    raise ValueError(f"method.clients: {given.setting.method} needs silos, which last")
  silos = given.clients.silos(given.train, given.setting.seed).num_silos
  shape = (given.train.num_labels, given.model.embedding_dim)

  def init(key: jax.Array) -> tuple[dict[str, Any], Kept]:
    keys = jax.vmap(lambda silo: jax.random.fold_in(key, silo))(jnp.arange(silos))
    nothing = Prototypes(jnp.zeros(shape), jnp.zeros(shape[0], bool))
    return {}, Kept(jax.vmap(given.model.init_head)(keys), nothing)

  def own(kept: Kept, clients: jax.Array) -> _Entry:
    return _Entry(memory.take(kept.heads, clients), jnp.zeros((len(clients), *shape)),
                  jnp.zeros((len(clients), shape[0])))

  def finish(kept: Kept, entries: _Entry, clients: jax.Array, ending: Ending):
    count = entries.counts.sum(axis=0)
    means = entries.totals.sum(axis=0) / jnp.maximum(count, 1.0)[:, None]
    before = kept.prototypes
    told = Prototypes(jnp.where((count > 0)[:, None], means, before.means),
                      before.known | (count > 0))
    return Kept(memory.put(kept.heads, entries.head, clients), told), {}

  def entry(result: ClientResult) -> _Entry:
    return _Entry(result.params["head"], *result.totals.sums)

  numbers = tree_bytes(jax.eval_shape(lambda: init(jax.random.key(0))[1].prototypes.means))
  return BoundLife(HeadStrategy(
      init=init,
      memory=Memory(common=lambda kept: kept.prototypes, own=own, finish=finish),
      start=lambda public, told, own, *rest: {"head": own.head, "prototypes": told},
      released=lambda before, after: {},
      entry=entry,
      channels={CHANNEL: Communication.equal(numbers, numbers + 4 * shape[0])},
      releases=(PROTOTYPES_LEAVE,)), not_covered=NOT_COVERED)
