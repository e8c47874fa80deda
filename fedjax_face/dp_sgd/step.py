"""One trainer's steps of DP-SGD: clipped sums over units, noise, an optimiser, an average.

Source: Abadi et al., CCS 2016, Algorithm 1; averaged parameters as in De et al., arXiv 2204.13650.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_face.data.cohorts import Cohort
from fedjax_face.method.algorithm import Data, HParams, Measure, Metrics, StepKeys, part_of
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.privacy.noise import Noise
from fedjax_face.privacy.per_example import ClippedGradientSum, ClippedSum

_AUGMENTATION = 0x6175676D  # keeps the coins of the augmentation apart from the noise

Params = Any
Augment = Callable[[Data, jax.Array], Data]  # rows, and a key for each


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
    clip: how `gradient_sum` clips; it knows the sensitivity. None where it does not clip: then no
      clip norm is read.
    noise: added to the sum with standard deviation noise_multiplier * sensitivity * clip_norm, the
      tasks of a stacked sum apart; None adds none.
    expected: the divisor, a constant.
    optimizer: own hparams -> optimiser.
    augment: (rows, a key for each) -> rows, before the gradient; a row's key comes from the noise
      key and `Cohort.draw`. None: rows stay as they are.
    project: parameters -> the nearest allowed, after every step.

  Raises:
    ValueError: noise without a clip.

  hparams: of `gradient` `clip_norm` where it clips, `noise_multiplier` where noise is added; of
  `optimizer` `decay` (weight of the past in the averaged parameters, 0: no averaging; early on
  less, (1 + t) / (10 + t)) and `of`, which the optimiser reads.
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
    bound = jnp.inf if clip is None else scalars["clip_norm"]
    total = gradient_sum(state.params, batch, mask, bound)
    gradient, noise_state = total.gradient, state.noise
    metrics = _metrics(total, mask, bound)
    if noise is not None:
      stddev = scalars["noise_multiplier"] * clip.sensitivity * bound
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

  return Descent(init, step, METRICS if noise is None else METRICS | _SIGNAL_TO_NOISE)


def _metrics(total: ClippedSum, mask: jax.Array, bound: jax.typing.ArrayLike) -> Metrics:
  units = mask.any(1)
  count = jnp.maximum(units.sum(), 1)
  return {"loss": total.loss.sum() / count, "units": units.sum().astype(jnp.float32),
          "gradient_norm": total.norm.sum() / count,
          "clipped_fraction": (total.norm > bound).sum() / count}
