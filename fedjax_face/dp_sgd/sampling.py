"""Samples of units: who takes part in a step, and what that is worth in the accounting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import dp_accounting
import numpy as np

from fedjax_face.data.cohorts import Cohort, Poisson
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, combined, part_identities


class UnitSampling(NamedTuple):
  """How a step's units are chosen, and what that is worth in the accounting.

  Attributes:
    cohort: (draws of the participation root, round) -> Cohort of examples [devices, units, rows of
      a unit].
    event: noise multiplier -> event of one step, which counts the random choice of units.
    expected: expected number of units in a step, which a mean divides by.
    probability: of a unit in a step, as `event` counts it.
    population: number of units.
    words: for the privacy statement.
    not_covered: sentences for the privacy statement.
  """

  cohort: Callable[[Draws, int], Cohort]
  event: Callable[[float], dp_accounting.DpEvent]
  expected: float
  probability: float
  population: int
  words: str
  not_covered: tuple[str, ...] = ()


def poisson_sampling(unit: np.ndarray, identity: np.ndarray, name: str, *, expected: int,
                     capacity: int, rows: int, views: int, devices: int,
                     probability: float | None = None) -> UnitSampling:
  """Every unit takes part in a step by its own coin; of more than `capacity`, a random subset.

  A unit with more than `rows` rows takes part with a random subset of them. All draws about a unit
  and its rows come from its identity.

  Args:
    unit: int [N], the unit of each row.
    identity: uint64 [N], the stable identity of the unit of each row.
    name: what a unit is, for the statement.
    expected: units of a step on average.
    capacity: most units of a step; places that stay empty cost nothing.
    rows: most rows of a unit in a step.
    views: how often each row is repeated, to be augmented in different ways.
    devices: that share the units; divides `capacity`.
    probability: of a unit in a step; None: `expected` over the number of units, which is then
      treated as public and kept for every neighbouring set, as the statement says.

  Raises:
    ValueError: a number out of range, or more units a step than there are.
  """
  units, parts = Users.from_person(unit, identity=identity), part_identities(identity)
  population = units.num_users
  if probability is None and expected > population:
    raise ValueError(f"method.units.batch_size={expected} {name}s a step, but the training set has "
                     f"{population}")
  if capacity < expected or capacity % devices:
    raise ValueError(f"method.units.capacity={capacity}: expected at least "
                     f"method.units.batch_size={expected} and a multiple of the {devices} devices")
  chance = expected / population if probability is None else probability
  coins, rows = Poisson(chance), min(rows, int(units.counts.max()))

  def cohort(draws: Draws, round_number: int) -> Cohort:
    sampled = coins.sample(draws, round_number, units.identity)
    sampled = sampled[draws.first(units.identity[sampled], capacity, "finds room", round_number)]
    examples, mask = np.zeros((capacity, rows), np.int32), np.zeros((capacity, rows), bool)
    own = [units.examples(number) for number in sampled]
    place, row, rank = _in_order(own, parts, draws, round_number)
    kept = rank < rows
    examples[place[kept], rank[kept]], mask[place[kept], rank[kept]] = row[kept], True
    return _seen(np.repeat(examples, views, axis=1), np.repeat(mask, views, axis=1), parts, views,
                 devices, draws, round_number)

  def event(noise_multiplier: float) -> dp_accounting.DpEvent:
    if capacity > population:  # also with one unit more, nobody is left out
      return dp_accounting.PoissonSampledDpEvent(
          chance, dp_accounting.GaussianDpEvent(noise_multiplier))
    return dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
        dataset_size=population, sampling_probability=chance,
        truncated_batch_size=capacity, noise_multiplier=noise_multiplier)

  origin = ("from their number, which is treated as public" if probability is None
            else "given, not derived from their number")
  return UnitSampling(
      cohort, event, float(expected), chance, population,
      f"each of {population} {name}s independently with probability {chance:.6g} a step "
      f"(Poisson; {origin}), at most {capacity}, of which a random subset otherwise",
      _number_is_public(name, probability is None, capacity <= population))


def _in_order(own: Sequence[np.ndarray], parts: np.ndarray, draws: Draws, round_number: int
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of every row of the sampled units: (place of its unit, row, rank in its unit's own order)."""
  counts = np.array([len(rows) for rows in own], np.int64)
  place = np.repeat(np.arange(len(own)), counts)
  row = np.concatenate([*own, np.zeros(0, np.int64)]).astype(np.int64)
  order = np.lexsort((parts[row], draws.bits(parts[row], "order", round_number), place))
  rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
  return place, row[order], rank


def _seen(examples: np.ndarray, mask: np.ndarray, parts: np.ndarray, views: int, devices: int,
          draws: Draws, round_number: int) -> Cohort:
  """Rows [capacity, views of rows] of a step, shared by devices; each view has its own coins."""
  capacity, width = examples.shape
  shape = (devices, capacity // devices, width)
  view = combined(parts[examples], np.tile(np.arange(views, dtype=np.uint64), width // views))
  drawn = draws.bits(view, "augmentation", round_number) >> np.uint64(32)
  return Cohort(
      examples=examples.reshape(shape),
      labels=np.zeros(shape, np.int32),
      mask=mask.reshape(shape),
      num_classes=np.zeros(devices, np.int32),
      client=np.arange(devices, dtype=np.int32),
      draw=drawn.astype(np.uint32).reshape(shape))


def _number_is_public(name: str, of_probability: bool, of_room: bool) -> tuple[str, ...]:
  """What the guarantee leaves out because the accounting uses the number of units."""
  uses = [use for use, used in (("the sampling probability follows from it", of_probability),
                                ("the limit of a step is accounted with it", of_room)) if used]
  if not uses:
    return ()
  return (f"The number of {name}s N is treated as public: {' and '.join(uses)}, and the guarantee "
          f"compares sets of which one has one {name} more, at the values that follow from that "
          "known N.",)
