"""Units of DP-SGD that differ in one: what its noisy sums tell apart, against the claim.

One unit, a photograph say, has a gradient as long as its clip lets it be; all others have none.
The neighbour lacks it, be it the first, a middle or the last unit, or (the same with the two data
sets exchanged) has it added. The adversary knows the direction and sees every noisy sum, but not in
which steps the unit took part. Sampling, clipping, noise and the division are those of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.attacks.audit import PUSH, STRENGTH, Audit, Direction, canary_row, judged
from fedjax_face.attacks.audit import direction as unit_direction
from fedjax_face.attacks.trial_cohorts import cohorts_of_trials
from fedjax_face.data.cohorts import Cohort
from fedjax_face.dp_sgd.sampling import UnitSampling
from fedjax_face.dp_sgd.step import Descent, descent
from fedjax_face.method.algorithm import Data, HParams, StepKeys
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.privacy.noise import Noise
from fedjax_face.privacy.per_example import Form, clipped_gradient_sum

ADJACENCY = Adjacency.ADD_OR_REMOVE_ONE
ROWS = 2                    # of each unit


def canary_steps(clip: GradientClip, form: Form, noise: Noise, expected: float,
                 towards: Direction) -> Descent:
  """The run's steps on canaries, with a server that publishes the noisy sum over `expected`.

  A row with the role PUSH has a gradient along `towards`, the same for each of the clip's tasks;
  other rows have none.
  """
  tasks = clip.tasks or 1

  def loss(params, data: Data):
    role = (data.images[:, 0, 0, 0] == PUSH).astype(jnp.float32)
    along = jax.tree.map(lambda unit, leaf: (unit * leaf).sum(),
                         in_groups(clip, towards), params)
    return -STRENGTH * role[:, None] * sum(jax.tree.leaves(along)) * jnp.ones((1, tasks))

  return descent(clipped_gradient_sum(loss, clip, form), clip, noise, expected,
                 lambda hparams: optax.sgd(1.0), None, lambda params: params)


def in_groups(clip: GradientClip, towards: Direction) -> Any:
  """The direction as parameters that fill every group of the clip: a copy for each prefix."""
  return {prefix or "rest": dict(towards) for prefix, _ in clip.shares}


def _hparams(clip_norm: float, noise_multiplier: float) -> HParams:
  return {"gradient": {"clip_norm": clip_norm, "noise_multiplier": noise_multiplier},
          "optimizer": {"decay": 0.0}}


def observe(steps: Descent, images: np.ndarray, drawn: Cohort, hparams: HParams,
            like: Any, along: Any, seed: int) -> np.ndarray:
  """Noisy means along a direction, f32 [trials, steps]."""
  def one_trial(cohort, key):
    state = steps.init(jax.tree.map(jnp.zeros_like, like), hparams)

    def one_step(state, inputs):
      index, cohort = inputs
      keys = StepKeys(key, jax.random.fold_in(key, index))
      new, _ = steps.step(state, Data(jnp.asarray(images)), cohort, hparams, keys)
      moved = jax.tree.map(lambda a, b, unit: ((b - a) * unit).sum(), state.params, new.params,
                           along)
      return new, sum(jax.tree.leaves(moved))

    return jax.lax.scan(one_step, state, (jnp.arange(drawn.mask.shape[1]), cohort))[1]

  keys = jax.random.split(jax.random.key(seed), drawn.mask.shape[0])
  return np.asarray(jax.jit(jax.vmap(one_trial))(drawn, keys))


def scores(seen: np.ndarray, reach: float, stddev: float, rate: float) -> np.ndarray:
  """Log-likelihood ratio of a unit that takes part with probability `rate` and of none.

  Args:
    seen: [trials, steps], along the direction in which the unit moves the mean.
    reach: how far it does.
    stddev: of the noise along it.
    rate: q.
  """
  with np.errstate(divide="ignore"):
    acts = np.log(rate) + (reach * seen - reach**2 / 2) / stddev**2
    return np.logaddexp(np.log1p(-rate), acts).sum(axis=1)


def audit(
    make_sampling: Callable[[np.ndarray], UnitSampling], clip: GradientClip, form: Form,
    noise: Noise, event: Any, noise_multiplier: float, *, units: int, rate: float, steps: int,
    trials: int, delta: float, confidence: float, seed: int, place: str = "first",
    towards: str = "random", clip_norm: float = 1.0, claimed_clip: GradientClip | None = None,
) -> Audit:
  """Plays the game and compares the measured epsilon with the claim.

  Args:
    make_sampling: unit of each row -> the run's sampling.
    clip: the run's.
    form: of the gradient sum.
    noise: the run's.
    event: DpEvent that the ledger holds for `steps` steps.
    noise_multiplier: noise over sensitivity of the run.
    units: in the larger data set.
    rate: with which a unit takes part in a step.
    steps: length of the game.
    trials: runs on each data set; half of them choose the threshold, half measure.
    delta, confidence: of claim and measurement.
    seed: of samples and noise.
    place: of the unit: `first`, `middle` or `last`.
    towards: of its gradient within every group of parameters.
    clip_norm: S.
    claimed_clip: whose sensitivity the noise is scaled to; default `clip`.
  """
  declared = clip if claimed_clip is None else claimed_clip
  scaled = noise_multiplier * declared.sensitivity / clip.sensitivity
  hparams = _hparams(clip_norm, scaled)
  canary = canary_row(units, place)
  unit = np.repeat(np.arange(units), ROWS)
  roles = np.where(unit == canary, PUSH, 0).astype(np.uint8)
  worlds = [np.ones(len(unit), bool), unit != canary]
  samplings = [make_sampling(unit[there]) for there in worlds]
  along = in_groups(clip, unit_direction(towards))
  descents = canary_steps(clip, form, noise, samplings[0].expected, unit_direction(towards))
  moved, toward = _reach(descents, clip, clip_norm, along, samplings[0].expected)
  stddev = (scaled * clip.sensitivity * clip_norm / samplings[0].expected
            * (np.sqrt(clip.tasks) if clip.stacked else 1.0))

  def world_scores(world: int) -> np.ndarray:
    drawn = cohorts_of_trials(samplings[world].cohort, 0, steps, trials, seed + world)
    images = roles[worlds[world]].reshape(-1, 1, 1, 1)
    seen = observe(descents, images, drawn, hparams, along, toward, seed + world)
    return scores(seen, moved, stddev, rate)

  return judged(world_scores(0), world_scores(1), delta=delta, confidence=confidence, seed=seed,
                claimed=accounting.epsilon(event, delta, ADJACENCY).best)


def _reach(steps: Descent, clip: GradientClip, clip_norm: float, like: Any, expected: float
           ) -> tuple[float, Any]:
  """How far one unit moves the mean without noise, and the unit vector in which it does."""
  quiet = _hparams(clip_norm, 0.0)
  state = steps.init(jax.tree.map(jnp.zeros_like, like), quiet)
  pushing = np.full((ROWS, 1, 1, 1), PUSH, np.uint8)
  alone = Cohort(np.arange(ROWS, dtype=np.int32)[None, None], np.zeros((1, 1, ROWS), np.int32),
                 np.ones((1, 1, ROWS), bool), np.zeros(1, np.int32), np.zeros(1, np.int32))
  new, _ = jax.jit(steps.step)(state, Data(jnp.asarray(pushing)), alone, quiet,
                               StepKeys(jax.random.key(0), jax.random.key(0)))
  moved = jax.tree.map(jnp.subtract, new.params, state.params)
  norm = float(optax.tree.norm(moved))
  return norm, optax.tree.scale(1 / norm, moved)
