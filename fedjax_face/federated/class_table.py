"""Private class embeddings of silos in one table, and the server's correction of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_face.federated import memory
from fedjax_face.federated.client import ClientResult
from fedjax_face.federated.exchange import SILENT, Exchange
from fedjax_face.federated.heads import HeadStrategy, InitHead, replicated
from fedjax_face.federated.local_prototypes import PrototypeHead
from fedjax_face.federated.memory import Ending, Memory
from fedjax_face.losses.class_pairs import Anchors, Correction, own_anchors
from fedjax_face.method.algorithm import (
  NOTHING,
  Communication,
  HParams,
  Measure,
  joined,
  part_of,
)
from fedjax_face.models.margins import Geometry, HeadGeometry

_ROW_SPEC = P("clients")
# Rows are a multiple of this, so that 1, 2, 4, ... 64 devices can go on from one checkpoint.
_ROWS_TOGETHER = 64
_OF_CORRECTION = {"correction_norm": Measure("how far a correction moved the class embeddings")}


class ClassTable(NamedTuple):
  """Class embeddings of all silos.

  Attributes:
    class_embeddings: f32 [R, D], sorted by silo, without padding between silos; rows are divided
      over the devices, and the last ones may be padding.
    cosine: f32 [N], each silo's mean cosine of embedding and class embedding in its last training.
    exchanged: what silos have told each other, kept by the exchange.
    trained: bool [N], silos that have trained; () where nobody asks.
  """

  class_embeddings: jax.Array
  cosine: jax.Array
  exchanged: Any = ()
  trained: Any = ()


class _Rows(NamedTuple):
  """What a silo has of the table: its class embeddings [C, D], its mean cosine, `trained`."""

  class_embeddings: jax.Array
  cosine: jax.Array
  trained: Any


class FirstSight(NamedTuple):
  """What the table takes from pixels of the training set before the first round.

  Attributes:
    look: uint8 [N, H, W, C] -> unit f32 [R, D], a mean for each row, zero for padding.
    length: of a class embedding, which starts as its mean; None: it starts as it is drawn.
  """

  look: Callable[[Any], jax.Array]
  length: float | None


class ClassPlaces(NamedTuple):
  """Which rows of the table belong to which silo; host arrays, static.

  Attributes:
    owner: int32 [R], silo of each row, -1 for padding.
    rows: int32 [N, C], row of each class of each silo; R where a silo has fewer than C classes.
    dim: D.
  """

  owner: np.ndarray
  rows: np.ndarray
  dim: int

  @property
  def real(self) -> np.ndarray:
    """bool [N, C], False where a silo has fewer than C classes."""
    return self.rows < len(self.owner)

  def channels(self) -> dict[str, Communication]:
    """Bytes of a silo's class embeddings and mean cosine, up, and of what comes back, down."""
    counts = self.real.sum(axis=1) * self.dim * 4
    mean, largest = round(counts.mean()), int(counts.max())
    return {"class embeddings": Communication(0, mean + 4, 0, largest + 4),
            "corrections": Communication(mean, 0, largest, 0)}


def places(owner: np.ndarray, num_silos: int, dim: int, devices: int) -> ClassPlaces:
  """Places of class embeddings in a table that `devices` devices share evenly.

  Args:
    owner: int [C_all], silo of each class, ascending.
    num_silos: N; some may have no class.
    dim: D.
    devices: of the mesh.
  """
  counts = np.bincount(owner, minlength=num_silos)
  together = math.lcm(_ROWS_TOGETHER, devices)
  total = -(-len(owner) // together) * together
  rows = np.full((len(counts), counts.max()), total, np.int32)
  for silo, (start, count) in enumerate(zip(np.cumsum(counts) - counts, counts, strict=True)):
    rows[silo, :count] = np.arange(start, start + count)
  padded = np.full(total, -1, np.int32)
  padded[:len(owner)] = owner
  return ClassPlaces(padded, rows, dim)


# (table, hparams of the whole method: it holds a correction, and a head and anchors lend to it)
Correct = Callable[[ClassTable, HParams], tuple[ClassTable, dict[str, jax.Array]]]
PublishedAnchors = Callable[[Any, HParams], Anchors]


def private(init_table: InitHead, where: ClassPlaces, exchange: Exchange = SILENT,
            prototypes: PrototypeHead | None = None,
            seen: FirstSight | None = None) -> HeadStrategy:
  """Every silo keeps its class embeddings to itself: none is sent or averaged (FedPE).

  Args:
    init_table: key -> head parameters with the class embeddings of all silos, without padding.
    prototypes: replaces a silo's rows by the means of its own images when it trains first; a class
      that has no image in that first pass (`clients.max_examples`) keeps the row that it was drawn.
    where: places of the silos' classes.
    exchange: what silos tell each other of them; default nothing.
    seen: what comes from pixels before the first round; None: nothing.
  """
  return _table(init_table, where, lambda table, hparams: (table, {}), NOTHING, NOTHING, exchange,
                prototypes, seen)


def corrected_at_home(init_table: InitHead, where: ClassPlaces, correct: Correct,
                      exchange: Exchange, prototypes: PrototypeHead | None = None,
                      seen: FirstSight | None = None) -> HeadStrategy:
  """Every silo corrects its own class embeddings by what others have published, and sends none.

  Args:
    init_table: key -> head parameters with the class embeddings of all silos, without padding.
    where: places of the silos' classes.
    correct: (table, hparams) -> (table, metrics), as from `steps_at_home`: what it makes of a
      silo's rows may depend on these and on `table.exchanged` alone.
    exchange: what silos tell each other.
    prototypes, seen: as for `private`.
  """
  return _table(init_table, where, correct, NOTHING, _OF_CORRECTION, exchange, prototypes, seen)


def corrected(init_table: InitHead, where: ClassPlaces, correct: Correct,
              prototypes: PrototypeHead | None = None,
              seen: FirstSight | None = None) -> HeadStrategy:
  """Silos send their class embeddings; the server corrects all of them and sends them back.

  Args:
    init_table: key -> head parameters with the class embeddings of all silos, without padding.
    where: places of the silos' classes.
    correct: (table, hparams) -> (table, metrics), the server's step.
    prototypes, seen: as for `private`; the start is then part of what a silo sends.
  """
  return _table(init_table, where, correct, where.channels(), _OF_CORRECTION, SILENT, prototypes,
                seen)


def _table(init_table: InitHead, where: ClassPlaces, correct: Correct,
           channels: Mapping[str, Communication], metrics: Mapping[str, Measure],
           exchange: Exchange, prototypes: PrototypeHead | None, seen: FirstSight | None
           ) -> HeadStrategy:
  slots = jnp.asarray(where.rows)
  size, silos = len(where.owner), len(where.rows)

  def init(key, means=None):
    means = jnp.full((size, where.dim), jnp.nan) if means is None else means
    if seen is not None and seen.length is not None:
      embeddings = seen.length * means
    else:
      embeddings = _only_class_embeddings(init_table(key))
    padding = size - len(embeddings)
    exchanged = exchange.init(means) if exchange.starts_seeing else exchange.init()
    return {}, ClassTable(jnp.pad(embeddings, ((0, padding), (0, 0))), jnp.zeros(silos),
                          exchanged, jnp.zeros(silos, bool) if prototypes else ())

  def rows_of(clients: jax.Array) -> jax.Array:
    return jnp.where(clients[:, None] >= 0, slots[clients], size)

  def held(table: ClassTable, rows: jax.Array) -> jax.Array:
    return table.class_embeddings.at[rows].get(mode="fill", fill_value=0)

  def own(table: ClassTable, clients: jax.Array) -> _Rows:
    return _Rows(held(table, rows_of(clients)), memory.take(table.cosine, clients),
                 memory.take(table.trained, clients))

  def finish(table: ClassTable, entries: _Rows, clients: jax.Array, ending: Ending):
    embeddings = table.class_embeddings.at[rows_of(clients)].set(
        entries.class_embeddings, mode="drop")
    cosine = memory.put(table.cosine, entries.cosine, clients)
    table, of_correction = correct(
        ClassTable(embeddings, cosine, table.exchanged,
                   memory.put(table.trained, entries.trained, clients)), ending.hparams)
    exchanged, of_exchange = exchange.publish(
        table.exchanged, held(table, slots),
        ending._replace(hparams=part_of(ending.hparams, "exchange")))
    return table._replace(exchanged=exchanged), of_correction | of_exchange

  def start(public, exchanged, own: _Rows, client, key, images, batches):
    head = {"params": {"class_embeddings": own.class_embeddings}}
    if prototypes is not None:
      first = lambda: prototypes(head, public["backbone"], images, batches)["head"]
      head = jax.lax.cond(own.trained, lambda: head, first)
    return {"head": head, **exchange.select(exchanged, client)}

  def entry(result: ClientResult) -> _Rows:
    totals = result.totals
    return _Rows(_only_class_embeddings(result.params["head"]),
                 totals.cosine / jnp.maximum(totals.examples, 1.0),
                 jnp.array(True) if prototypes else ())

  return HeadStrategy(
      init=init,
      memory=Memory(common=lambda table: table.exchanged, own=own, finish=finish),
      start=start,
      released=lambda before, after: {},
      entry=entry,
      channels=joined(channels, exchange.channels),
      metrics=joined(metrics, exchange.metrics),
      sharding=lambda table: replicated(table)._replace(class_embeddings=_ROW_SPEC),
      releases=exchange.releases,
      hparams={"exchange": exchange.hparams} if exchange.hparams else NOTHING,
      needs_all_images=exchange.needs_all_images,
      look=None if seen is None else seen.look,
  )


def _only_class_embeddings(head: Any) -> jax.Array:
  names = set(head["params"])
  if names != {"class_embeddings"}:
    raise ValueError(f"a head with parameters {', '.join(sorted(names))} cannot be kept in a table "
                     "of class embeddings: use method.head=linear, cosface or arcface")
  return head["params"]["class_embeddings"]


def gradient_steps(correction: Correction, where: ClassPlaces, mesh: Mesh, steps: int,
                   geometry: HeadGeometry | None = None) -> Correct:
  """W <- W - strength * learning rate * gradient, `steps` times; both of hparams `correction`.

  The table is divided over the devices, as in a partially connected layer of classes; anchors are
  the class embeddings themselves, taken anew before every step.

  Args:
    correction: the gradient, for rows and anchors divided over the mesh axis `clients`.
    where: places of the silos' classes.
    mesh: devices.
    steps: server steps a round.
    geometry: of the head, lent to the correction; None of a head that has none.

  Raises:
    ValueError: `steps` below 1.
  """
  _check_steps(steps)
  owner = jnp.asarray(where.owner)

  def on_one_device(embeddings, owner, cosine, hparams):
    rate, scalars, lent = _of_steps(hparams, geometry)

    def one_step(_, embeddings):
      gradient = correction(
          embeddings, owner, own_anchors(embeddings, owner, cosine), scalars, lent)
      return embeddings - rate * gradient

    return jax.lax.fori_loop(0, steps, one_step, embeddings)

  spread = jax.shard_map(
      on_one_device, mesh=mesh, in_specs=(_ROW_SPEC, _ROW_SPEC, P(), P()), out_specs=_ROW_SPEC,
      check_vma=False)

  def correct(table: ClassTable, hparams) -> tuple[ClassTable, dict[str, jax.Array]]:
    before = jax.lax.with_sharding_constraint(
        table.class_embeddings, NamedSharding(mesh, _ROW_SPEC))
    return _corrected(table, spread(before, owner, table.cosine, hparams))

  return correct


def steps_at_home(correction: Correction, where: ClassPlaces, steps: int,
                  published: PublishedAnchors, geometry: HeadGeometry | None = None) -> Correct:
  """The steps of `gradient_steps`, made by every silo for itself from what others have published.

  An anchor's push is shared out over the rows that it is held against: here those of one silo, so
  that nothing of a silo depends on the class embeddings of another.

  Args:
    correction: the gradient, for all rows of a silo on one device.
    where: places of the silos' classes.
    steps: a round.
    published: (what the exchange keeps, its own hparams) -> Anchors.
    geometry: as for `gradient_steps`.

  Raises:
    ValueError: `steps` below 1.
  """
  _check_steps(steps)
  slots, real = jnp.asarray(where.rows), jnp.asarray(where.real)

  def correct(table: ClassTable, hparams) -> tuple[ClassTable, dict[str, jax.Array]]:
    rate, scalars, lent = _of_steps(hparams, geometry)
    anchors = published(table.exchanged, part_of(hparams, "exchange"))

    def one_silo(silo):
      number, rows, real = silo
      owner = jnp.where(real, number, -1)
      one_step = lambda _, rows: rows - rate * correction(rows, owner, anchors, scalars, lent)
      return jax.lax.fori_loop(0, steps, one_step, rows)

    before = table.class_embeddings
    held = before.at[slots].get(mode="fill", fill_value=0)
    after = jax.lax.map(one_silo, (jnp.arange(len(slots)), held, real))
    return _corrected(table, before.at[slots].set(after, mode="drop"))

  return correct


def _of_steps(hparams: HParams, geometry: HeadGeometry | None
              ) -> tuple[jax.Array, HParams, Geometry | None]:
  """The rate of a step, the correction's own hparams, and what the head lends to it."""
  scalars = part_of(hparams, "correction")
  lent = None if geometry is None else geometry(part_of(hparams, "head"))
  return scalars["strength"] * scalars["learning_rate"], scalars, lent


def _corrected(table: ClassTable, after: jax.Array) -> tuple[ClassTable, dict[str, jax.Array]]:
  before = table.class_embeddings
  moved = jnp.linalg.norm(after - before) / jnp.maximum(jnp.linalg.norm(before), 1e-12)
  return table._replace(class_embeddings=after), {"correction_norm": moved}


def _check_steps(steps: int) -> None:
  if steps < 1:
    raise ValueError(f"correction.steps={steps}: expected at least 1")
