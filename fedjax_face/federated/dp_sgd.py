"""One trainer's steps of DP-SGD: Poisson samples of units, clipped sums, noise, an optimiser.

Source: Abadi et al., CCS 2016, Algorithm 1; averaged parameters as in De et al., arXiv 2204.13650.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.data.cohorts import Cohort, Poisson
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, combined, part_identities
from fedjax_face.federated.algorithm import Data, HParams, Measure, Metrics, StepKeys, part_of
from fedjax_face.privacy.noise import Noise
from fedjax_face.privacy.per_example import ClippedGradientSum, GradientClip

_AUGMENTATION = 0x6175676D  # keeps the coins of the augmentation apart from the noise

Params = Any
Augment = Callable[[Data, jax.Array], Data]  # rows, and a key for each


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


def poisson_units(unit: np.ndarray, identity: np.ndarray, name: str, *, expected: int,
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
  for key, value in (("batch_size", expected), ("regions_per_unit", rows), ("views", views)):
    if value < 1:
      raise ValueError(f"cohort.{key}={value}: expected at least 1")
  if probability is None and expected > population:
    raise ValueError(f"cohort.batch_size={expected} {name}s a step, but the training set has "
                     f"{population}")
  if capacity < expected or capacity % devices:
    raise ValueError(f"cohort.capacity={capacity}: expected at least cohort.batch_size={expected} "
                     f"and a multiple of the {devices} devices")
  if probability is not None and not 0 < probability <= 1:
    raise ValueError(f"cohort.sampling_probability={probability}: expected a number in (0, 1]")
  chance = expected / population if probability is None else probability
  rows = min(rows, int(units.counts.max()))

  def cohort(draws: Draws, round_number: int) -> Cohort:
    sampled = Poisson(chance).sample(draws, round_number, units.identity)
    sampled = sampled[draws.first(units.identity[sampled], capacity, "finds room", round_number)]
    examples = np.zeros((capacity, rows), np.int32)
    mask = np.zeros((capacity, rows), bool)
    for place, number in enumerate(sampled):
      own = units.examples(number)
      chosen = own[draws.order(parts[own], "order", round_number)[:rows]]
      examples[place, :len(chosen)], mask[place, :len(chosen)] = chosen, True
    shape = (devices, capacity // devices, rows * views)
    examples = np.repeat(examples, views, axis=1)
    view = combined(parts[examples], np.tile(np.arange(views, dtype=np.uint64), rows))
    drawn = draws.bits(view, "augmentation", round_number) >> np.uint64(32)
    return Cohort(
        examples=examples.reshape(shape),
        labels=np.zeros(shape, np.int32),
        mask=np.repeat(mask, views, axis=1).reshape(shape),
        num_classes=np.zeros(devices, np.int32),
        client=np.arange(devices, dtype=np.int32),
        draw=drawn.astype(np.uint32).reshape(shape))

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


def _number_is_public(name: str, of_probability: bool, of_room: bool) -> tuple[str, ...]:
  """What the guarantee leaves out because the accounting uses the number of units."""
  uses = [use for use, used in (("the sampling probability follows from it", of_probability),
                                ("the limit of a step is accounted with it", of_room)) if used]
  if not uses:
    return ()
  return (f"The number of {name}s N is treated as public: {' and '.join(uses)}, and the guarantee "
          f"compares sets of which one has one {name} more, at the values that follow from that "
          "known N.",)


class SgdState(NamedTuple):
  """Parameters, the optimiser's and the noise's state, averaged parameters, steps done."""

  params: Params
  optimizer: Any
  noise: Any
  average: Params
  steps: jax.Array


class Descent(NamedTuple):
  """Steps as a pair of pure functions.

  Attributes:
    init: (params, hparams) -> SgdState.
    step: (SgdState, Data, Cohort, HParams, StepKeys) -> (SgdState, metrics).
    metrics: what a step measures.
  """

  init: Callable[[Params, HParams], SgdState]
  step: Callable[[SgdState, Data, Cohort, HParams, StepKeys], tuple[SgdState, Metrics]]
  metrics: Mapping[str, Measure]


METRICS = {
    "loss": Measure("training loss"),
    "units": Measure("numbers of units"),
    "gradient_norm": Measure("gradient norms"),
    "clipped_fraction": Measure("the clipped fraction"),
}
_SIGNAL_TO_NOISE = {"signal_to_noise": Measure("the signal-to-noise ratio")}


def descent(
    gradient_sum: ClippedGradientSum,
    clip: GradientClip | None,
    noise: Noise | None,
    expected: float,
    optimizer: Callable[[HParams], optax.GradientTransformation],
    augment: Augment | None,
    project: Callable[[Params], Params],
) -> Descent:
  """( sum of clipped gradients + noise ) / expected units, then an optimiser's step.

  Args:
    gradient_sum: (params, rows, mask, clip norm) -> the sum, see `per_example`.
    clip: how `gradient_sum` clips; it knows the sensitivity. None where it does not clip.
    noise: added to the sum with standard deviation noise_multiplier * sensitivity * clip_norm, the
      tasks of a stacked sum apart; None adds none.
    expected: the divisor, a constant.
    optimizer: own hparams -> optimiser.
    augment: (rows, a key for each) -> rows, before the gradient; a row's key comes from the noise
      key and `Cohort.draw`. None: rows stay as they are.
    project: parameters -> the nearest allowed, after every step.

  Raises:
    ValueError: noise without a clip.

  hparams: of `gradient` `clip_norm` and `noise_multiplier`; of `optimizer` `decay` (weight of the
  past in the averaged parameters, 0: no averaging; early on less, (1 + t) / (10 + t)) and `of`,
  which the optimiser reads.
  """

  if noise is not None and clip is None:
    raise ValueError("noise needs a clip, whose sensitivity it is scaled to")
  stacked = clip is not None and clip.stacked

  def init(params: Params, hparams: HParams) -> SgdState:
    total = params
    if clip is not None and clip.stacked:
      total = jax.tree.map(
          lambda leaf: jnp.zeros((clip.tasks, *leaf.shape), leaf.dtype), params)
    state = () if noise is None else noise.init(total)
    descend = optimizer(part_of(hparams, "optimizer", "of"))
    return SgdState(params, descend.init(params), state, params, jnp.int32(0))

  def step(state, data, cohort, hparams, keys):
    scalars, shape = part_of(hparams, "gradient"), cohort.examples.shape
    examples = cohort.examples.reshape(-1)
    mask = cohort.mask.reshape(-1, shape[-1])
    rows = jax.tree.map(lambda leaf: leaf[examples], data)
    if augment is not None:
      secret = jax.random.fold_in(keys.noise, _AUGMENTATION)
      rows = augment(rows, jax.vmap(jax.random.fold_in, (None, 0))(secret, cohort.draw.reshape(-1)))
    batch = jax.tree.map(lambda leaf: leaf.reshape(*mask.shape, *leaf.shape[1:]), rows)
    total = gradient_sum(state.params, batch, mask, scalars["clip_norm"])
    gradient, noise_state = total.gradient, state.noise
    metrics = _metrics(total, mask, scalars)
    if noise is not None:
      stddev = scalars["noise_multiplier"] * clip.sensitivity * scalars["clip_norm"]
      gradient, noise_state = noise.add(gradient, noise_state, stddev, keys.noise)
      size = sum(leaf.size for leaf in jax.tree.leaves(gradient))
      metrics["signal_to_noise"] = optax.tree.norm(total.gradient) / (
          stddev * jnp.sqrt(float(size)))
    if stacked:
      gradient = jax.tree.map(lambda leaf: leaf.sum(0), gradient)
    mean = optax.tree.scale(1 / expected, gradient)
    descend = optimizer(part_of(hparams, "optimizer", "of"))
    updates, optimizer_state = descend.update(mean, state.optimizer, state.params)
    params = project(optax.apply_updates(state.params, updates))
    steps = state.steps + 1
    decay = jnp.minimum(part_of(hparams, "optimizer")["decay"], (1 + steps) / (10 + steps))
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
    return SgdState(params, optimizer_state, noise_state, average, steps), metrics

  def _metrics(total, mask, scalars):
    units = mask.any(1)
    count = jnp.maximum(units.sum(), 1)
    return {"loss": total.loss.sum() / count, "units": units.sum().astype(jnp.float32),
            "gradient_norm": total.norm.sum() / count,
            "clipped_fraction": (total.norm > scalars["clip_norm"]).sum() / count}

  return Descent(init, step, METRICS if noise is None else METRICS | _SIGNAL_TO_NOISE)
