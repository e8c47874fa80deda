"""The contract between a method and everything that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws
from fedjax_face.privacy.ledger import Release

State = Any
HParams = Mapping[str, Any]
Metrics = dict[str, jax.Array]


class Data(NamedTuple):
  """The rows that a cohort's indices point into: all on the device, or those of this dispatch.

  Attributes:
    images: uint8 [N, H, W, C], of jax or numpy.
    targets: a pytree of arrays [N, ...], where there is more to learn than the cohort's labels.
  """

  images: Any
  targets: Any = ()


class StepKeys(NamedTuple):
  """The keys of one step, already folded with the round: separate streams for separate uses."""

  client: jax.Array
  noise: jax.Array


class Communication(NamedTuple):
  """Bytes that a client receives and sends in one step, counted on the actual arrays.

  Attributes:
    down, up: mean over the clients.
    largest_down, largest_up: of the client that exchanges most.
  """

  down: int
  up: int
  largest_down: int
  largest_up: int

  @classmethod
  def equal(cls, down: int, up: int) -> Communication:
    """The same for every client."""
    return cls(down, up, down, up)

  def plus(self, other: Communication) -> Communication:
    """Both together."""
    return Communication(*(a + b for a, b in zip(self, other, strict=True)))


class ClassRows(NamedTuple):
  """Class embeddings f32 [R, D] and the silo of each, int32 [R], -1 for padding."""

  class_embeddings: jax.Array
  owner: jax.Array


ClassEmbeddings = Callable[[State], ClassRows]


def _replicated(state: State) -> Any:
  return jax.tree.map(lambda leaf: PartitionSpec(), state)


NO_COMMUNICATION = Communication.equal(0, 0)


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """A training method: pure functions, its default hyperparameters, and what it reveals.

  Attributes:
    name: one of `algorithms.registry`.
    init: key -> State, a pytree of arrays.
    cohort: (draws of the participation root, round) -> Cohort of static shapes; every draw about a
      unit from its identity.
    step: (State, Data, Cohort, HParams, StepKeys) -> (State, Metrics); pure, may be jitted,
      scanned over rounds, and vmapped over hparams.
    hparams: scalars of the step; a change of value never recompiles.
    releases: what ONE step reveals, for the ledger.
    not_covered: sentences for the privacy statement.
    communication: State (or its shapes) -> bytes per client and step.
    sampling: how the privacy units of a step are chosen, in words.
    population: number of privacy units that can take part; of several units, unit -> number.
    embed: (State, uint8 [B, H, W, C]) -> unit-norm f32 [B, D], of a method that trains embeddings.
    predict: (State, uint8 [B, H, W, C]) -> what its network says, of any other method.
    parts: what the method is made of, where its evaluation or attacks need more than `predict`.
    start: State -> what another run can start from; default the backbone.
    forget: State -> State without what only later noise needs; for what a finished run leaves.
    notes: sentences for the record.
    class_embeddings: State -> class embeddings that outlive a round, or None where there are none.
    sharding: State (or its shapes) -> a `PartitionSpec` for each array of it.
    needs_all_images: a step reads the whole set, so `Data` must hold all of it.
    averages_over: clients that a noised mean of updates of `state.params` is divided by; None where
      there is no such mean.
    prepare: (Data, HParams, StepKeys) -> Data that the steps get instead, computed once before the
      first round, and again alike where a run goes on; None where they get the data themselves.
  """

  name: str
  init: Callable[[jax.Array], State]
  cohort: Callable[[Draws, int], Cohort]
  step: Callable[[State, Data, Cohort, HParams, StepKeys], tuple[State, Metrics]]
  hparams: dict[str, float]
  releases: tuple[Release, ...]
  not_covered: tuple[str, ...]
  communication: Callable[[State], Communication]
  sampling: str
  population: int | Mapping[str, int]
  embed: Callable[[State, jax.Array], jax.Array] | None = None
  predict: Callable[[State, jax.Array], Any] | None = None
  parts: Any = None
  start: Callable[[State], Any] = lambda state: state.params["backbone"]
  forget: Callable[[State], State] = lambda state: state
  notes: tuple[str, ...] = ()
  class_embeddings: ClassEmbeddings | None = None
  sharding: Callable[[State], Any] = _replicated
  needs_all_images: bool = False
  averages_over: int | None = None
  prepare: Callable[[Data, HParams, StepKeys], Data] | None = None


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays (or shapes) of a pytree."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
