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
from fedjax_face.federated.algorithm import NO_COMMUNICATION, Communication
from fedjax_face.federated.client import ClientResult
from fedjax_face.federated.heads import HeadStrategy, InitHead
from fedjax_face.federated.memory import Memory
from fedjax_face.losses.class_pairs import Anchors, Correction, own_anchors

_ROW_SPEC = P("clients")
# Rows are a multiple of this, so that 1, 2, 4, ... 64 devices can go on from one checkpoint.
_ROWS_TOGETHER = 64


class ClassTable(NamedTuple):
  """Class embeddings of all silos.

  Attributes:
    class_embeddings: f32 [R, D], sorted by silo, without padding between silos; rows are divided
      over the devices, and the last ones may be padding.
    cosine: f32 [N], each silo's mean cosine of embedding and class embedding in its last training.
  """

  class_embeddings: jax.Array
  cosine: jax.Array


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

  def communication(self) -> Communication:
    """Bytes of a silo's class embeddings, both ways, and of its mean cosine, up."""
    counts = (self.rows < len(self.owner)).sum(axis=1) * self.dim * 4
    mean, largest = round(counts.mean()), int(counts.max())
    return Communication(mean, mean + 4, largest, largest + 4)


def places(owner: np.ndarray, dim: int, devices: int) -> ClassPlaces:
  """Places of class embeddings in a table that `devices` devices share evenly.

  Args:
    owner: int [C_all], silo of each class, ascending from 0 without gaps.
    dim: D.
    devices: of the mesh.
  """
  counts = np.bincount(owner)
  together = math.lcm(_ROWS_TOGETHER, devices)
  total = -(-len(owner) // together) * together
  rows = np.full((len(counts), counts.max()), total, np.int32)
  for silo, (start, count) in enumerate(zip(np.cumsum(counts) - counts, counts, strict=True)):
    rows[silo, :count] = np.arange(start, start + count)
  padded = np.full(total, -1, np.int32)
  padded[:len(owner)] = owner
  return ClassPlaces(padded, rows, dim)


Correct = Callable[[ClassTable, Mapping[str, Any]], tuple[ClassTable, dict[str, jax.Array]]]


def private(init_table: InitHead, where: ClassPlaces) -> HeadStrategy:
  """Every silo keeps its class embeddings to itself: nothing of them is sent or averaged (FedPE).

  Args:
    init_table: key -> head parameters with the class embeddings of all silos, without padding.
    where: places of the silos' classes.
  """
  return _table(init_table, where, lambda table, hparams: (table, {}), NO_COMMUNICATION)


def corrected(init_table: InitHead, where: ClassPlaces, correct: Correct) -> HeadStrategy:
  """Silos send their class embeddings; the server corrects all of them and sends them back.

  Args:
    init_table: key -> head parameters with the class embeddings of all silos, without padding.
    where: places of the silos' classes.
    correct: (table, hparams) -> (table, metrics), the server's step.
  """
  return _table(init_table, where, correct, where.communication())


def _table(init_table: InitHead, where: ClassPlaces, correct: Correct,
           communication: Communication) -> HeadStrategy:
  slots = jnp.asarray(where.rows)
  size, silos = len(where.owner), len(where.rows)

  def init(key):
    embeddings = _only_class_embeddings(init_table(key))
    padding = size - len(embeddings)
    return {}, ClassTable(jnp.pad(embeddings, ((0, padding), (0, 0))), jnp.zeros(silos))

  def rows_of(clients: jax.Array) -> jax.Array:
    return jnp.where(clients[:, None] >= 0, slots[clients], size)

  def own(table: ClassTable, clients: jax.Array) -> ClassTable:
    embeddings = table.class_embeddings.at[rows_of(clients)].get(mode="fill", fill_value=0)
    return ClassTable(embeddings, memory.take(table.cosine, clients))

  def finish(table: ClassTable, entries: ClassTable, clients: jax.Array, hparams):
    embeddings = table.class_embeddings.at[rows_of(clients)].set(
        entries.class_embeddings, mode="drop")
    cosine = memory.put(table.cosine, entries.cosine, clients)
    return correct(ClassTable(embeddings, cosine), hparams)

  def entry(result: ClientResult) -> ClassTable:
    totals = result.totals
    return ClassTable(_only_class_embeddings(result.params["head"]),
                      totals.cosine / jnp.maximum(totals.examples, 1.0))

  return HeadStrategy(
      init=init,
      memory=Memory(common=lambda table: (), own=own, finish=finish),
      start=lambda public, common, own, key: {"params": {"class_embeddings": own.class_embeddings}},
      released=lambda before, after: {},
      entry=entry,
      communication=communication,
      sharding=lambda leaf: _ROW_SPEC if leaf.ndim == 2 else P(),
  )


def _only_class_embeddings(head: Any) -> jax.Array:
  names = set(head["params"])
  if names != {"class_embeddings"}:
    raise ValueError(f"a head with parameters {', '.join(sorted(names))} cannot be kept in a table "
                     "of class embeddings: use model.head=linear, cosface or arcface")
  return head["params"]["class_embeddings"]


def gradient_steps(correction: Correction, where: ClassPlaces, mesh: Mesh, steps: int,
                   anchors: Callable[..., Anchors] = own_anchors) -> Correct:
  """W <- W - hparams `correction_strength` * `correction_learning_rate` * gradient, `steps` times.

  The table is divided over the devices, as in a partially connected layer of classes; anchors are
  taken anew before every step.

  Args:
    correction: the gradient, for rows and anchors divided over the mesh axis `clients`.
    where: places of the silos' classes.
    mesh: devices.
    steps: server steps a round.
    anchors: (class embeddings [R, D], owner [R], mean cosine [N]) -> Anchors, from which the
      rows of other silos are pushed away; default: the class embeddings themselves.

  Raises:
    ValueError: `steps` below 1.
  """
  if steps < 1:
    raise ValueError(f"correction.steps={steps}: expected at least 1")
  owner = jnp.asarray(where.owner)

  def on_one_device(embeddings, owner, cosine, hparams):
    rate = hparams["correction_strength"] * hparams["correction_learning_rate"]

    def one_step(_, embeddings):
      gradient = correction(embeddings, owner, anchors(embeddings, owner, cosine), hparams)
      return embeddings - rate * gradient

    return jax.lax.fori_loop(0, steps, one_step, embeddings)

  spread = jax.shard_map(
      on_one_device, mesh=mesh, in_specs=(_ROW_SPEC, _ROW_SPEC, P(), P()), out_specs=_ROW_SPEC,
      check_vma=False)

  def correct(table: ClassTable, hparams) -> tuple[ClassTable, dict[str, jax.Array]]:
    before = jax.lax.with_sharding_constraint(
        table.class_embeddings, NamedSharding(mesh, _ROW_SPEC))
    after = spread(before, owner, table.cosine, hparams)
    moved = jnp.linalg.norm(after - before) / jnp.maximum(jnp.linalg.norm(before), 1e-12)
    return table._replace(class_embeddings=after), {"correction_norm": moved}

  return correct
