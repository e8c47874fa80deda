"""One federated round, assembled from its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fedjax_face.federated.aggregators import Aggregator, Sums
from fedjax_face.federated.client import ClientBatches, ClientUpdate, Totals
from fedjax_face.federated.heads import HeadStrategy
from fedjax_face.federated.memory import Ending
from fedjax_face.method.algorithm import (
  Communication,
  Data,
  HParams,
  Measure,
  Metrics,
  StepKeys,
  always,
  joined,
  part_of,
  tree_bytes,
)
from fedjax_face.privacy.clipping import zero_if_not_finite

ServerOptimizer = Callable[[HParams], optax.GradientTransformation]


class FederatedState(NamedTuple):
  """What the server keeps between rounds.

  Attributes:
    params: what is aggregated and sent to clients: `backbone`, and `head` where it is shared.
    heads: what the head strategy keeps.
    clients: what the client update keeps.
    aggregator: state of clipping and noise.
    server: state of the server optimiser.
  """

  params: dict[str, Any]
  heads: Any
  clients: Any
  aggregator: Any
  server: Any


class _Given(NamedTuple):
  """What heads and client update hand out for a round, to all clients or to each its own."""

  heads: Any
  clients: Any


class FederatedRound(NamedTuple):
  """The functions of a round, what it moves and measures, how its state forgets and is placed.

  `channels` and `metrics` are those of `Algorithm`.
  """

  init: Callable[..., FederatedState]
  step: Callable[..., tuple[FederatedState, Metrics]]
  channels: Mapping[str, Callable[[FederatedState], Communication]]
  metrics: Mapping[str, Measure]
  forget: Callable[[FederatedState], FederatedState]
  sharding: Callable[[FederatedState], FederatedState]


class _Contribution(NamedTuple):
  """One client's part of the sums; `chance` is ln(its classes) for each example, as the loss."""

  sums: Sums
  totals: Totals
  chance: jax.Array
  not_finite: jax.Array


def federated_round(
    *,
    client_update: ClientUpdate,
    heads: HeadStrategy,
    aggregator: Aggregator,
    server_optimizer: ServerOptimizer,
    hparams: HParams,
    mesh: Mesh,
    clients_per_chunk: int,
) -> FederatedRound:
  """Broadcast, local training, clip, sum, noise, server step.

  Clients are divided over the mesh axis `clients`; on each device they run in chunks, the clients
  of a chunk vectorised, the chunks one after another. Memory therefore grows with the chunk, not
  with the cohort, but for what an aggregator keeps of every client (`Share.kept`).

  Args:
    client_update: what a client does with its data.
    heads: where a client's head comes from and where it goes.
    aggregator: from updates to a mean update.
    server_optimizer: own hparams -> optimiser, applied to the mean of (global - local) as a
      gradient.
    hparams: the values that initialise optimiser and aggregator state; as in every step, those of
      `aggregate` and `server` go to these parts, the whole to client update and heads, which hold
      parts of their own.
    mesh: has the axis `clients`, whose size divides the number of clients.
    clients_per_chunk: clients run side by side on a device; must divide its share of the clients.
  """

  def init(key: jax.Array, backbone: Any, *seen: Any) -> FederatedState:
    public, kept = heads.init(key, *seen)
    params = {"backbone": backbone, **public}
    return FederatedState(params, kept, client_update.init(params),
                          aggregator.init(params, part_of(hparams, "aggregate")),
                          server_optimizer(part_of(hparams, "server")).init(params))

  def one_client(server: FederatedState, common: _Given, own: _Given, images, cohort, key, hparams):
    batches = ClientBatches(cohort.examples, cohort.labels, cohort.mask, cohort.num_classes,
                            cohort.first_pass)
    given = heads.start(server.params, common.heads, own.heads, cohort.client,
                        jax.random.fold_in(key, 0), images, batches)
    start = {"backbone": server.params["backbone"], **given}
    result = client_update.run(start, common.clients, own.clients, images, batches, hparams,
                               jax.random.fold_in(key, 1))
    update = {
        "backbone": jax.tree.map(jnp.subtract, start["backbone"], result.params["backbone"]),
        **heads.released(given, result.params),
    }
    entries = _Given(heads.entry(result), result.entry)
    (update, _), finite = zero_if_not_finite((update, entries))
    took_part = cohort.client >= 0
    counts = took_part & finite
    weight = aggregator.weight(cohort.mask.sum()) * counts
    clipped, norm, below = aggregator.clip(
        update, server.aggregator, part_of(hparams, "aggregate"))
    share = aggregator.share(clipped, weight)
    sums = Sums(share.summed, weight, 1.0 * took_part, 1.0 * (below & counts),
                jnp.where(counts, norm, 0.0))
    totals = jax.tree.map(lambda total: jnp.where(finite, total, 0.0),
                          result.totals._replace(sums=()))
    kept = jax.tree.map(lambda new, old: jnp.where(counts, new, old), entries, own)
    classes = given["held"].sum() if "held" in given else cohort.num_classes
    chance = totals.examples * jnp.log(jnp.maximum(classes, 1))
    return _Contribution(sums, totals, chance, 1.0 * (took_part & ~finite)), (share.kept, kept)

  def sum_over_clients(server, common, own, images, cohort, keys, hparams):
    """Runs on one device with its share of the clients; returns totals over all devices."""
    run = lambda own, cohort, key: one_client(server, common, own, images, cohort, key, hparams)
    total, kept = _sum_in_chunks(run, (own, cohort, keys), clients_per_chunk)
    return jax.lax.psum(total, "clients"), kept

  spread = jax.shard_map(
      sum_over_clients,
      mesh=mesh,
      in_specs=(P(), P(), P("clients"), P(), P("clients"), P("clients"), P()),
      out_specs=(P(), P("clients")),
      check_vma=False,
  )

  def step(state: FederatedState, data: Data, cohort: Any, hparams, keys: StepKeys):
    client_keys = jax.vmap(lambda client: jax.random.fold_in(keys.client, client))(cohort.client)
    common = _Given(heads.memory.common(state.heads), client_update.memory.common(state.clients))
    own = _Given(heads.memory.own(state.heads, cohort.client),
                 client_update.memory.own(state.clients, cohort.client))
    server = state._replace(heads=(), clients=(), server=())
    total, (each, entries) = spread(
        server, common, own, data.images, cohort, client_keys, hparams)
    mean, aggregator_state, released = aggregator.release(
        total.sums._replace(each=each), state.aggregator, part_of(hparams, "aggregate"),
        jax.random.fold_in(keys.noise, 0))
    update, server_state = server_optimizer(part_of(hparams, "server")).update(
        mean, state.server, state.params)
    params = optax.apply_updates(state.params, update)
    ending = lambda use: Ending(params, data.images, hparams, jax.random.fold_in(keys.noise, use))
    kept_heads, of_heads = heads.memory.finish(
        state.heads, entries.heads, cohort.client, ending(1))
    kept_clients, of_clients = client_update.memory.finish(
        state.clients, entries.clients, cohort.client, ending(2))
    new_state = FederatedState(params, kept_heads, kept_clients, aggregator_state, server_state)
    return new_state, _metrics(total) | released | of_heads | of_clients

  def of_update(state: FederatedState) -> Communication:
    return Communication.equal(tree_bytes(state.params), tree_bytes(state.params))

  channels = joined(
      {"backbone": of_update},
      {name: always(moved) for name, moved in heads.channels.items()},
      {name: _of_params(count) for name, count in client_update.channels.items()})
  metrics = joined(METRICS, aggregator.metrics, heads.metrics, client_update.metrics)

  def forget(state: FederatedState) -> FederatedState:
    return state._replace(aggregator=aggregator.forget(state.aggregator))

  def sharding(state: FederatedState) -> FederatedState:
    specs = jax.tree.map(lambda leaf: P(), state)
    return specs._replace(heads=heads.sharding(state.heads))

  return FederatedRound(init, step, channels, metrics, forget, sharding)


def _of_params(count: Callable[[Any], Communication]) -> Callable[[FederatedState], Communication]:
  """Bytes that depend on the aggregated parameters alone."""
  return lambda state: count(state.params)


METRICS = {
    "loss": Measure("training loss"),
    "chance_loss": Measure("that of chance"),
    "accuracy": Measure("accuracy"),
    "cosine": Measure("mean cosines with the true class"),
    "examples": Measure("numbers of examples"),
    "clients": Measure("numbers of clients"),
    "clients_not_finite": Measure("clients whose update was not finite"),
    "update_norm": Measure("update norms"),
    "clipped_fraction": Measure("the clipped fraction"),
}


def _metrics(total: _Contribution) -> Metrics:
  """Means over the examples and clients whose update was finite; 0 of a round without any.

  The loss of a round in which clients took part, and none of them finitely, is not a number.
  """
  sums, totals = total.sums, total.totals
  examples = jnp.maximum(totals.examples, 1.0)
  diverged = (total.not_finite > 0) & (totals.examples == 0)
  finite = jnp.maximum(sums.clients - total.not_finite, 1.0)
  clipped = sums.clients - total.not_finite - sums.below
  return {
      "loss": jnp.where(diverged, jnp.nan, totals.loss / examples),
      "chance_loss": total.chance / examples,
      "accuracy": totals.correct / examples,
      "cosine": totals.cosine / examples,
      "examples": totals.examples,
      "clients": sums.clients,
      "clients_not_finite": total.not_finite,
      "update_norm": sums.norm / finite,
      "clipped_fraction": clipped / finite,
  }


def _sum_in_chunks(run: Callable[..., tuple[Any, Any]], xs: Any, chunk: int) -> tuple[Any, Any]:
  """Sums run(x)[0] over the leading axis and stacks run(x)[1]; chunks of it are vectorised.

  A chunk of one is not vectorised at all: a loop whose length depends on the data stays a loop.

  Raises:
    ValueError: `chunk` does not divide the length.
  """
  length = jax.tree.leaves(xs)[0].shape[0]
  _check_chunk(length, chunk)

  def one_chunk(total, x):
    if chunk == 1:
      part, kept = run(*x)
      return jax.tree.map(jnp.add, total, part), kept
    parts, kept = jax.vmap(run)(*x)
    return jax.tree.map(lambda t, p: t + p.sum(axis=0), total, parts), kept

  chunked = xs if chunk == 1 else jax.tree.map(
      lambda leaf: leaf.reshape(length // chunk, chunk, *leaf.shape[1:]), xs)
  shapes = jax.eval_shape(lambda x: run(*x)[0], jax.tree.map(lambda leaf: leaf[0], xs))
  zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  total, kept = jax.lax.scan(one_chunk, zero, chunked)
  if chunk > 1:
    kept = jax.tree.map(lambda leaf: leaf.reshape(length, *leaf.shape[2:]), kept)
  return total, kept


def check_divides(clients: int, mesh: Mesh, chunk: int) -> None:
  """Raises ValueError unless devices share the clients evenly, and chunks those of a device."""
  devices = math.prod(mesh.devices.shape)
  if clients % devices:
    raise ValueError(
        f"method.clients.per_round={clients} must be a multiple of the {devices} devices in use")
  _check_chunk(clients // devices, chunk)


def _check_chunk(clients: int, chunk: int) -> None:
  if clients % chunk:
    raise ValueError(
        f"compute.clients_per_chunk={chunk} must divide the {clients} clients of one device "
        f"(accepted: {', '.join(str(n) for n in range(1, clients + 1) if clients % n == 0)})")
