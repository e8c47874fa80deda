"""The contract between a method and everything that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.data.cohorts import Cohort
from fedjax_face.privacy.ledger import Release

State = Any
HParams = Mapping[str, Any]
Metrics = dict[str, jax.Array]


class Data(NamedTuple):
  """The images that a cohort's indices point into.

  Attributes:
    images: uint8 [N, H, W, C]; the whole set on the device, or only the rows of this dispatch.
  """

  images: jax.Array


class StepKeys(NamedTuple):
  """The keys of one step, already folded with the round: separate streams for separate uses."""

  client: jax.Array
  noise: jax.Array


class Communication(NamedTuple):
  """Bytes that one client receives and sends in one step, counted on the actual arrays."""

  down: int
  up: int


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """A training method: pure functions, its default hyperparameters, and what it reveals.

  Attributes:
    name: one of `algorithms.registry`.
    init: key -> State, a pytree of arrays.
    cohort: (host generator, round) -> Cohort of static shapes.
    step: (State, Data, Cohort, HParams, StepKeys) -> (State, Metrics); pure, may be jitted,
      scanned over rounds, and vmapped over hparams.
    hparams: scalars of the step; a change of value never recompiles.
    releases: what ONE step reveals, for the ledger.
    not_covered: sentences for the privacy statement.
    embed: (State, uint8 [B, H, W, C]) -> unit-norm f32 [B, D].
    communication: State (or its shapes) -> bytes per client and step.
    sampling: how the privacy units of a step are chosen, in words.
    population: number of privacy units that can take part.
    forget: State -> State without what only later noise needs; for what a finished run leaves.
  """

  name: str
  init: Callable[[jax.Array], State]
  cohort: Callable[[np.random.Generator, int], Cohort]
  step: Callable[[State, Data, Cohort, HParams, StepKeys], tuple[State, Metrics]]
  hparams: dict[str, float]
  releases: tuple[Release, ...]
  not_covered: tuple[str, ...]
  embed: Callable[[State, jax.Array], jax.Array]
  communication: Callable[[State], Communication]
  sampling: str
  population: int
  forget: Callable[[State], State] = lambda state: state


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays (or shapes) of a pytree."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
