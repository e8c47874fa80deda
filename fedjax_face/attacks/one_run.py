"""An audit of a real run in one run: canaries added by coin flips, found again in what is released.

Each of m canaries is a user whose data move the noised sum as far as the claim allows, in a secret
direction of its own. A fair coin decides whether it is in the data set; if so it takes part as any
user does. The adversary sees what the run releases and every canary's direction, adds up how far
all rounds moved along it, and names the canaries of the largest scores as members. How many of
these names are right bounds epsilon from below: by the coins alone, so one run is enough.

The bound is that of Steinke, Nasr and Jagielski, NeurIPS 2023 (arXiv 2305.08846, Theorem 5.2), with
random directions as in Andrew et al., ICLR 2024 (arXiv 2302.03098), whose estimate stands beside
it: the epsilon of two Gaussians as far apart as the scores of members and of others. The bound
needs no assumption and is weak; the estimate assumes that scores are Gaussian, and sees half the
noise. Either one above the claim is a violation.

Canaries join the sum behind the clip, by coins of their own. So this sees noise that is missing or
too small, in the run that is made; not how a client is clipped, who is sampled, noise that repeats
over rounds or tensors (scores add up over both), or the count noise of adaptive clipping. For these
there are the games (`audit`) and the checks that the tests make of every mechanism.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
from jax_privacy import auditing

from fedjax_face.draws import Draws
from fedjax_face.federated.aggregators import Aggregator, Sums
from fedjax_face.federated.participation import Participation
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.privacy.noise import Noise
from fedjax_face.split.mechanism import gaussian_epsilon

SHARES_GUESSED = (1 / 64, 1 / 16, 1 / 4)
# Standard errors below the estimate: one false alarm in a thousand.
DEVIATIONS = 3.1


class OneRun(NamedTuple):
  """What was claimed and what one run shows.

  Attributes:
    claimed: epsilon of the accountant for the audited channel.
    measured: lower bound on epsilon at the given confidence.
    estimate: epsilon of two Gaussians like the scores of members and others; no bound.
    estimate_at_least: the same at the lower end of an interval of their distance.
    delta: of all three.
    confidence: of the lower bound.
    canaries: m, members or not.
    largest_measurable: the bound if every guess were right.
  """

  claimed: float
  measured: float
  estimate: float
  estimate_at_least: float
  delta: float
  confidence: float
  canaries: int
  largest_measurable: float

  @property
  def violated(self) -> bool:
    """Whether the run reveals more than it claims, by the bound or by the estimate."""
    return max(self.measured, self.estimate_at_least) > self.claimed


class WatchedState(NamedTuple):
  """State of what is watched, the round, and the canaries' scores f32 [m] so far."""

  inner: Any
  round: jax.Array
  scores: jax.Array


@dataclasses.dataclass(frozen=True)
class Canaries:
  """Canaries of a run, and how they get into what is summed.

  Attributes:
    included: bool [m], by fair coins that the adversary does not know.
    key: of directions and of who takes part when; the adversary knows the directions.
  """

  included: np.ndarray
  key: jax.Array

  @classmethod
  def drawn(cls, count: int, root: bytes) -> Canaries:
    """`count` canaries by the coins of a root, which must be secret where they shall be."""
    if count < 2:
      raise ValueError(f"canaries={count}: expected at least 2")
    draws = Draws.of(root)
    coins = draws.coins(np.arange(count, dtype=np.uint64), 0.5, "in the training set")
    words = draws.bits(np.zeros(1, np.uint64), "directions of canaries").view(np.uint32)
    return cls(coins, jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32"))

  def aggregator(self, watched: Aggregator, who: Participation) -> Aggregator:
    """The aggregator with the canaries among the clients of every round.

    A canary moves the sum by `sensitivity * clip_norm`, all that the claim allows one user.
    """
    clip = UpdateClip(who.users_per_client, who.adjacency)
    rate = 1.0 if watched.covers > 1 else sampling_rate(who)
    groups = who.rounds_per_event

    def release(sums: Sums, state: WatchedState, hparams, key):
      length = clip.sensitivity * getattr(state.inner, "clip_norm", hparams["clip_norm"])
      update = self._joined(sums.update, state.round, length, rate, groups)
      mean, inner, metrics = watched.release(
          sums._replace(update=update), state.inner, hparams, key)
      return mean, self._next(state, inner, mean), metrics

    return watched._replace(
        init=lambda params, hparams: self._first(watched.init(params, hparams)),
        clip=lambda update, state, hparams: watched.clip(update, state.inner, hparams),
        release=release,
        forget=lambda state: state._replace(inner=watched.forget(state.inner)))

  def noise(self, watched: Noise, noise_multiplier: float, rate: float) -> Noise:
    """The noise of sums of gradients, with the canaries added before it.

    Args:
      watched: the run's.
      noise_multiplier: z of the run; the noise is z times the sensitivity, a canary's length.
      rate: with which a unit takes part in a step.

    Raises:
      ValueError: no noise.
    """
    if not noise_multiplier > 0:
      raise ValueError(f"noise multiplier {noise_multiplier}: there is no noise to audit")

    def add(total, state: WatchedState, stddev, key):
      length = stddev / noise_multiplier
      joined = self._joined(total, state.round, length, rate, 1)
      noisy, inner = watched.add(joined, state.inner, stddev, key)
      return noisy, self._next(state, inner, noisy)

    return watched._replace(init=lambda total: self._first(watched.init(total)), add=add)

  def scores(self, state: Any) -> np.ndarray:
    """f64 [m], from the final state of a run, wherever in it they are kept."""
    kept = [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_watched) if _is_watched(leaf)]
    if len(kept) != 1:
      raise ValueError(f"the state holds the scores of {len(kept)} audits; expected one")
    return np.asarray(kept[0].scores, np.float64)

  def _first(self, inner: Any) -> WatchedState:
    return WatchedState(inner, jnp.int32(0), jnp.zeros(len(self.included)))

  def _next(self, state: WatchedState, inner: Any, released: Any) -> WatchedState:
    def score(index):
      direction = self._direction(index, released)
      return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), direction, released)))

    scores = jax.lax.map(score, jnp.arange(len(self.included)))
    return WatchedState(inner, state.round + 1, state.scores + scores)

  def _joined(self, total: Any, round_: jax.Array, length: Any, rate: float, groups: int) -> Any:
    """The sum with the canaries that are in the set and whose coin says so."""
    count = len(self.included)
    coins = jax.random.uniform(jax.random.fold_in(self._key(1), round_), (count,)) < rate
    turn = jnp.arange(count) % groups == round_ % groups
    acts = jnp.asarray(self.included) & coins & turn

    def add(index, total):
      weight = length * acts[index]
      return jax.tree.map(lambda t, d: t + weight * d, total, self._direction(index, total))

    return jax.lax.fori_loop(0, count, add, total)

  def _direction(self, index: jax.Array, like: Any) -> Any:
    """A unit vector over all tensors: random signs."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(self._key(0), index), len(leaves))
    size = sum(leaf.size for leaf in leaves)
    signs = [jax.random.rademacher(key, leaf.shape, jnp.float32) / math.sqrt(size)
             for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, signs)

  def _key(self, use: int) -> jax.Array:
    return jax.random.fold_in(self.key, use)


def _is_watched(leaf: Any) -> bool:
  return isinstance(leaf, WatchedState)


def sampling_rate(who: Participation) -> float:
  """With which a user takes part in a round in which it may, as the claim counts it; else 1."""
  match who.amplify(dp_accounting.GaussianDpEvent(1.0)):
    case dp_accounting.PoissonSampledDpEvent(probability, _):
      return float(probability)
    case dp_accounting.SampledWithoutReplacementDpEvent(population, size, _):
      return size / population
  return 1.0


def judge(scores: np.ndarray, included: np.ndarray, claimed: float, delta: float,
          confidence: float) -> OneRun:
  """The bound that the canaries' scores give, beside the claim.

  The largest scores are guessed to be members, a number of them fixed in advance; several numbers
  share the probability to err.

  Args:
    scores: [m], larger for members.
    included: bool [m], the coins.
    claimed: epsilon of the accountant.
    delta: of claim and measurement, far below 1 / m.
    confidence: of the bound.

  Raises:
    ValueError: all coins fell alike, or scores that are not finite.
  """
  if not np.isfinite(scores).all() or included.all() or not included.any():
    raise ValueError("the audit needs finite scores of canaries in and outside the set; give more "
                     "canaries, or look for the round that diverged")
  inside, outside = scores[included], scores[~included]
  guesses = sorted({max(1, round(share * len(scores))) for share in SHARES_GUESSED})
  significance = (1 - confidence) / len(guesses)
  best = lambda inside, outside: max(
      _bound(inside, outside, number, significance, delta) for number in guesses)
  distance, error = _distance(inside, outside)
  estimate, at_least = (gaussian_epsilon(max(0.0, d), delta)
                        for d in (distance, distance - DEVIATIONS * error))
  return OneRun(claimed, best(inside, outside), estimate, at_least, delta, confidence, len(scores),
                best(1.0 + np.arange(len(inside)), -1.0 - np.arange(len(outside))))


def _distance(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
  """Between the means in standard deviations (Cohen's d), and its standard error."""
  apart = float(inside.mean() - outside.mean())
  spread = math.sqrt((inside.var() + outside.var()) / 2)
  if not spread:
    return (math.inf if apart > 0 else 0.0), 0.0
  distance = apart / spread
  return distance, math.sqrt(1 / len(inside) + 1 / len(outside)
                             + distance**2 / (2 * (len(inside) + len(outside))))


def _bound(inside: np.ndarray, outside: np.ndarray, guesses: int, significance: float,
           delta: float) -> float:
  threshold = np.sort(np.concatenate([inside, outside]))[-guesses]
  return float(auditing.CanaryScoreAuditor(inside, outside).epsilon_one_run(
      significance, delta, threshold_strategy=auditing.Explicit(float(threshold))))
