"""The contract between a method and everything that runs it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import PartitionSpec

from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws
from fedjax_face.privacy.ledger import Release

State = Any
HParams = Mapping[str, Any]  # of a part its own scalars, of what holds parts theirs by their names
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


def part_of(hparams: HParams, *path: str) -> HParams:
  """The mapping of one part among those of what holds it; empty of a part without scalars."""
  for part in path:
    hparams = hparams.get(part, {})
  return hparams


def with_values(hparams: HParams, values: HParams) -> dict[str, Any]:
  """Nested hparams with those of another nested mapping added or in their place."""
  whole = dict(hparams)
  for name, value in values.items():
    inner = isinstance(value, Mapping) and isinstance(whole.get(name), Mapping)
    whole[name] = with_values(whole[name], value) if inner else value
  return whole


def flattened(hparams: HParams, path: str = "") -> dict[str, Any]:
  """The scalars of nested hparams by their paths: "local.learning_rate"."""
  found: dict[str, Any] = {}
  for name, value in hparams.items():
    found |= flattened(value, f"{path}{name}.") if isinstance(value, Mapping) else {
        path + name: value}
  return found


def at_paths(values: Mapping[str, Any]) -> dict[str, Any]:
  """The other way round."""
  whole: dict[str, Any] = {}
  for path, value in values.items():
    for name in reversed(path.split(".")):
      value = {name: value}
    whole = with_values(whole, value)
  return whole


def always(moved: Communication) -> Callable[[State], Communication]:
  """A channel whose bytes do not depend on the state."""
  return lambda state: moved


def _replicated(state: State) -> Any:
  return jax.tree.map(lambda leaf: PartitionSpec(), state)


NO_COMMUNICATION = Communication.equal(0, 0)
NOTHING: Mapping[str, Any] = types.MappingProxyType({})

T = TypeVar("T")


class Measure(NamedTuple):
  """What a metric of a step shows.

  Attributes:
    words: for the privacy statement, e.g. "training loss".
    covered_by: the channel of the releases that it follows from; None: it is measured on private
      data without noise, and the statement says so.
  """

  words: str
  covered_by: str | None = None


def joined(*declared: Mapping[str, T]) -> dict[str, T]:
  """What several parts declare, by name.

  Raises:
    ValueError: two of them use one name.
  """
  whole: dict[str, T] = {}
  for part in declared:
    if shared := whole.keys() & part.keys():
      raise ValueError(f"two parts declare {min(shared)!r}: expected a name of its own for each "
                       "channel and metric")
    whole |= part
  return whole


@dataclasses.dataclass(frozen=True)
class Algorithm:
  """A training method: pure functions, its default hyperparameters, and what it reveals.

  Attributes:
    name: of the method.
    init: (key, what `look` saw) -> State, a pytree of arrays; without the latter, of the same
      shapes, and not a number where that would count.
    cohort: (draws of the participation root, round) -> Cohort of static shapes; every draw about a
      unit from its identity.
    step: (State, Data, Cohort, HParams, StepKeys) -> (State, Metrics); pure, may be jitted,
      scanned over rounds, and vmapped over hparams.
    hparams: scalars of the step, nested as its parts are; a change of value
      never recompiles.
    releases: what ONE step reveals, for the ledger.
    channels: everything that leaves a client or the trainer, or comes to it: name -> (State (or
      its shapes) -> bytes per client and step). A channel is released under its name, or said to
      be `uncovered`.
    metrics: everything that a step measures, by name; the loop refuses any other.
    not_covered: sentences for the privacy statement; those that follow from `uncovered` and
      `metrics` are added.
    sampling: how the privacy units of a step are chosen, in words.
    population: number of privacy units that can take part; of several units, unit -> number.
    embed: (State, uint8 [B, H, W, C]) -> unit-norm f32 [B, D], of a method that trains embeddings.
    predict: (State, uint8 [B, H, W, C]) -> what its network says, of any other method.
    uncovered: channel -> the sentence of the statement that says why it has no release.
    parts: what the method is made of, where its evaluation or attacks need more than `predict`.
    start: State -> what another run can start from; default the backbone.
    forget: State -> State without what only later noise needs; for what a finished run leaves.
    notes: sentences for the record.
    class_embeddings: State -> class embeddings that outlive a round, or None where there are none.
    sharding: State (or its shapes) -> a `PartitionSpec` for each array of it.
    needs_all_images: a step reads the whole set, so `Data` must hold all of it.
    units_per_person: privacy unit -> the most such units that one person of the training set has,
      where a person may have several.
    mechanism: numbers of the mechanism for the statement, by their names there.
    averages_over: clients that a noised mean of updates of `state.params` is divided by; None where
      there is no such mean.
    prepare: (Data, HParams, StepKeys) -> Data that the steps get instead, computed once before the
      first round, and again alike where a run goes on; None where they get the data themselves.
    look: uint8 [N, H, W, C], the images of the training set -> what the state before the first
      round holds of them, arrays; None where that holds nothing of them.
    record: () -> entries of summary.json that the runs of this method alone have.
    method: the call that it was bound from, a part; None of one that was made by hand.
    facts: what it was bound to (`data.facts`); None of one that was made by hand.
  """

  name: str
  init: Callable[..., State]
  cohort: Callable[[Draws, int], Cohort]
  step: Callable[[State, Data, Cohort, HParams, StepKeys], tuple[State, Metrics]]
  hparams: HParams
  releases: tuple[Release, ...]
  channels: Mapping[str, Callable[[State], Communication]]
  metrics: Mapping[str, Measure]
  not_covered: tuple[str, ...]
  sampling: str
  population: int | Mapping[str, int]
  embed: Callable[[State, jax.Array], jax.Array] | None = None
  predict: Callable[[State, jax.Array], Any] | None = None
  uncovered: Mapping[str, str] = dataclasses.field(default_factory=dict)
  parts: Any = None
  start: Callable[[State], Any] = lambda state: state.params["backbone"]
  forget: Callable[[State], State] = lambda state: state
  notes: tuple[str, ...] = ()
  class_embeddings: ClassEmbeddings | None = None
  sharding: Callable[[State], Any] = _replicated
  needs_all_images: bool = False
  units_per_person: Mapping[str, int] = dataclasses.field(default_factory=dict)
  mechanism: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
  averages_over: int | None = None
  prepare: Callable[[Data, HParams, StepKeys], Data] | None = None
  look: Callable[[Any], Any] | None = None
  record: Callable[[], Mapping[str, Any]] = dict
  method: Any = None
  facts: Any = None

  def __post_init__(self) -> None:
    """Completes `not_covered`; raises ValueError for what leaves and is not accounted for."""
    released = {release.channel for release in self.releases}
    for channel in self.channels:
      if channel not in released and channel not in self.uncovered:
        raise ValueError(
            f"algorithm {self.name}: channel {channel!r} leaves, but is neither released nor "
            "uncovered: expected a Release of that channel (`non_private` where nothing is "
            "promised), or a sentence for the statement that says why none is needed")
    for channel in self.uncovered:
      if channel not in self.channels or channel in released:
        raise ValueError(f"algorithm {self.name}: uncovered names {channel!r}, which "
                         f"{'is released' if channel in released else 'is not a channel'}")
    for name, measure in self.metrics.items():
      if measure.covered_by is not None and measure.covered_by not in released:
        raise ValueError(f"algorithm {self.name}: metric {name!r} is said to follow from channel "
                         f"{measure.covered_by!r}, which is not released")
    whole = dict.fromkeys((*_unnoised(self.metrics), *self.not_covered, *self.uncovered.values()))
    object.__setattr__(self, "not_covered", tuple(whole))

  def communication(self, state: State) -> Communication:
    """Bytes per client and step of all channels together; of a state or its shapes."""
    total = NO_COMMUNICATION
    for count in self.channels.values():
      total = total.plus(count(state))
    return total

  def require_declared(self, measured: Iterable[str]) -> None:
    """Raises ValueError for a metric that a step measures and `metrics` does not name."""
    for name in sorted(set(measured) - set(self.metrics)):
      raise ValueError(
          f"algorithm {self.name}: a step measures {name!r}, which is not declared: expected it in "
          "`metrics`, with the release that covers it or as measured without noise")


def _unnoised(metrics: Mapping[str, Measure]) -> tuple[str, ...]:
  """The sentence that names every metric without noise; none where there is no such metric."""
  words = list(dict.fromkeys(m.words for m in metrics.values() if m.covered_by is None))
  if not words:
    return ()
  listed = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
  return (f"Of every step, {listed} are written to the metrics without noise, and from there to "
          "figures, warnings and the status of the run, which may stop by them; keep them private "
          "or treat them as not protected.",)


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays (or shapes) of a pytree."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
