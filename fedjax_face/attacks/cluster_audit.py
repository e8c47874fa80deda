"""Two silos that differ in one person: what their published clusters tell apart, against the claim.

One row is added to a data set in which it changes the most: on a tie between two blobs, or as the
row that holds one blob together. The mechanism that a run uses publishes both data sets many times
over with independent noise. The adversary knows all other rows, sees everything that leaves the
silo and guesses by the log-likelihood ratio (Neyman-Pearson: no other guess does better), which
gives a lower bound on epsilon. Where a mechanism chooses among candidates, the choice counts too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.attacks.audit import Audit, judged
from fedjax_face.privacy import accounting, calibration, clustering
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clustering import ClusterMechanism, Clusters, Transcript

ADJACENCY = Adjacency.ADD_OR_REMOVE_ONE
UNIT = "person"
DIMENSION = 4
# Rows of each of two blobs: so few that the noise hides which of them is larger.
TIED = 3
# Of the audited row, so that a mechanism that forgets to shorten rows is caught as well.
LENGTH = 10.0
SILOS = 3
ITERATIONS = 3
ANGLE = 0.5
SELECTION_SHARE = 0.5
SIGNIFICANCE = 2.0
# Rows of each blob of published DPLC: its noise falls with their number, its error does not.
PUBLISHED_ROWS = 25

Score = Callable[[Clusters, Transcript, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
  """A mechanism, two neighbouring data sets, and how the adversary tells them apart.

  Attributes:
    name: the mechanism in words.
    mechanism: as a run uses it.
    rows: f32 [N, n, D], of N silos.
    present: bool [2, N, n], which rows the two data sets hold; they differ in one.
    score: (clusters, transcript, noise multiplier) of one publication -> scalar, larger for the
      first data set.
    claim: epsilon that a mechanism with noise of its own claims; None: its event says.
  """

  name: str
  mechanism: ClusterMechanism
  rows: np.ndarray
  present: np.ndarray
  score: Score
  claim: float | None = None


def noise_for(game: Game, epsilon: float, delta: float) -> float:
  """Noise multiplier with which the mechanism claims `epsilon`; 0 where its noise is its own."""
  if not game.mechanism.adds_noise:
    return 0.0
  return calibration.calibrate_noise(game.mechanism.event, epsilon, delta, ADJACENCY)


def claimed_epsilon(game: Game, noise_multiplier: float, delta: float) -> float:
  """Epsilon at `delta` of one publication, for a person added or removed."""
  if game.claim is not None:
    return game.claim
  return accounting.epsilon(game.mechanism.event(noise_multiplier), delta, ADJACENCY).best


def play(game: Game, noise_multiplier: float, claimed: float, *, trials: int, delta: float,
         confidence: float, seed: int) -> Audit:
  """Publishes both data sets `trials` times each and bounds epsilon from below.

  Args:
    game: from `games`, or one's own.
    noise_multiplier: with which the mechanism publishes.
    claimed: epsilon to hold the result against.
    trials: publications of each data set; half of them choose the threshold, half measure.
    delta: of claim and measurement.
    confidence: of the lower bound (Clopper-Pearson); both directions, added and removed, count.
    seed: of the mechanism's keys.
  """
  first, second = (trial_scores(game, world, noise_multiplier, trials, seed + world)
                   for world in (0, 1))
  return judged(first, second, claimed=claimed, delta=delta, confidence=confidence, seed=seed)


def largest_measurable(trials: int, delta: float, confidence: float) -> float:
  """The bound that `play` gives where the adversary is never wrong; 0 from too few trials."""
  wrong = 1 - ((1 - confidence) / 2) ** (1 / (trials - trials // 2))
  return max(0.0, float(np.log((1 - wrong - delta) / wrong))) if wrong + delta < 1 else 0.0


def trial_scores(game: Game, world: int, noise_multiplier: float, trials: int, seed: int
                 ) -> np.ndarray:
  """Scores, f32 [trials], of publications of the first (0) or the second (1) data set."""
  keys = jax.random.split(jax.random.key(seed), trials)
  return np.asarray(_scores(game, game.present[world], noise_multiplier, keys))


@functools.partial(jax.jit, static_argnums=0)
def _scores(game: Game, present: jax.Array, noise_multiplier: jax.Array, keys: jax.Array
            ) -> jax.Array:
  def one(key: jax.Array) -> jax.Array:
    published = game.mechanism.publish(jnp.asarray(game.rows), present, noise_multiplier, key)
    return game.score(*published, noise_multiplier)

  return jax.vmap(one)(keys)


def games(epsilon: float, delta: float) -> tuple[Game, ...]:
  """A game for every mechanism that claims an epsilon.

  Args:
    epsilon, delta: what `dplc_published` claims by its own formula, for all its clusters together
      by basic composition; the other mechanisms get the noise of `noise_for`.
  """
  axes = np.eye(DIMENSION, dtype=np.float32)
  border = LENGTH * (axes[0] + axes[1]) / np.sqrt(2)
  options: dict[str, Any] = {"significance": SIGNIFICANCE}
  mean = clustering.client_mean(**options)
  table = functools.partial(clustering.anchor_table, axes, **options)
  return (
      table_game("client mean", mean, border),
      table_game("client mean, projected", clustering.projected(mean, axes[:, :2]), border),
      table_game("anchor table", table(), border),
      table_game("anchor table with counts", table(count_weight=1.0), border),
      table_game(f"anchor table, {SILOS} silos pooled", table(pooled=True), border),
      lloyd_game(f"Lloyd, {ITERATIONS} iterations", axes, border, count_weight=0.0),
      lloyd_game(f"Lloyd, {ITERATIONS} iterations, counts", axes, border, count_weight=1.0),
      caps_game("exponential cap", axes, LENGTH * axes[0], clusters=1, count_weight=0.0),
      caps_game("exponential caps, 2 with counts", axes, LENGTH * axes[0], clusters=2,
                count_weight=1.0),
      published_tie(epsilon, delta),
      published_blob(epsilon, delta),
  )


def with_and_without(rows: np.ndarray, silos: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Silos of the same rows; in the second data set the first silo lacks the FIRST row.

  Args:
    rows: [n, D].
    silos: N.

  Returns:
    (rows f32 [N, n, D], present bool [2, N, n]).
  """
  present = np.ones((2, silos, len(rows)), bool)
  present[1, 0, 0] = False
  return np.tile(rows.astype(np.float32), (silos, 1, 1)), present


def two_blobs(first: int, second: int, audited: np.ndarray) -> np.ndarray:
  """The audited row [D], then so many along the first axis, so many along the second."""
  axes = np.eye(len(audited), dtype=np.float32)[:2]
  return np.concatenate([audited[None], np.repeat(axes, (first, second), axis=0)])


def table_game(name: str, mechanism: ClusterMechanism, audited: np.ndarray) -> Game:
  """One noisy table: the score projects it on what the audited row adds without noise."""
  rows, present = with_and_without(two_blobs(TIED, TIED, audited),
                                   SILOS if mechanism.pooled else 1)
  exact = jax.jit(lambda world: mechanism.publish(
      jnp.asarray(rows), world, 0.0, jax.random.key(0))[1].tables)
  difference = np.asarray(exact(present[0]) - exact(present[1]))

  def score(clusters: Clusters, transcript: Transcript, noise: jax.Array) -> jax.Array:
    return (transcript.tables * difference).sum()

  return Game(name, mechanism, rows, present, score)


def lloyd_game(name: str, anchors: np.ndarray, audited: np.ndarray, *, count_weight: float
               ) -> Game:
  """Noisy iterations: given the tables before it, each is Gaussian around the sums of the rows
  that are nearest to the directions released so far.
  """
  mechanism = clustering.dp_lloyd(anchors, iterations=ITERATIONS, count_weight=count_weight,
                                  significance=SIGNIFICANCE)
  rows, present = with_and_without(two_blobs(TIED, TIED, audited))
  added = _contributions(rows[0], count_weight)
  vectors, dims = added[:, :rows.shape[2]], rows.shape[2]

  def score(clusters: Clusters, transcript: Transcript, noise: jax.Array) -> jax.Array:
    variance = ITERATIONS * (noise * mechanism.sensitivity) ** 2
    weakest = dims * variance * (1 + SIGNIFICANCE * np.sqrt(2 / dims))
    centres, total = jnp.asarray(anchors), jnp.zeros(())
    for table in transcript.tables[:, 0]:
      cells = jax.nn.one_hot((vectors @ centres.T).argmax(axis=1), len(anchors))
      first, second = ((cells * world[0, :, None]).T @ added for world in present)
      total += _log_ratio(table, first, second, variance)
      sums = table[:, :dims]
      norms = jnp.linalg.norm(sums, axis=1, keepdims=True)
      centres = jnp.where(norms**2 > weakest, sums / norms, centres)
    return total

  return Game(name, mechanism, rows, present, score)


def caps_game(name: str, candidates: np.ndarray, audited: np.ndarray, *, clusters: int,
              count_weight: float) -> Game:
  """Choices and sums: the likelihood of each, given the candidates chosen before.

  With the audited row two caps are equally full, without it one of them lags behind.
  """
  mechanism = clustering.exponential_caps(
      candidates, clusters=clusters, angle=ANGLE, selection_share=SELECTION_SHARE,
      count_weight=count_weight, significance=SIGNIFICANCE)
  rows, present = with_and_without(two_blobs(TIED - 1, TIED, audited))
  added = _contributions(rows[0], count_weight)
  inside = added[:, :rows.shape[2]] @ candidates.T >= np.cos(ANGLE)

  def score(published: Clusters, transcript: Transcript, noise: jax.Array) -> jax.Array:
    per_row = 2 / noise * np.sqrt(SELECTION_SHARE / clusters)
    variance = (noise * mechanism.sensitivity) ** 2 / (1 - SELECTION_SHARE)
    left, free = jnp.asarray(present[:, 0]), jnp.ones(len(candidates), bool)
    total = jnp.zeros(())
    for table, chosen in zip(transcript.tables[0, 0], transcript.chosen[0], strict=True):
      sizes = left.astype(jnp.float32) @ inside
      choice = jax.nn.log_softmax(jnp.where(free, per_row * sizes, -jnp.inf))[:, chosen]
      taken = left & jnp.asarray(inside)[:, chosen]
      first, second = taken.astype(jnp.float32) @ added
      total += choice[0] - choice[1] + _log_ratio(table, first, second, variance)
      left, free = left & ~taken, free.at[chosen].set(False)
    return total

  return Game(name, mechanism, rows, present, score)


def published_tie(epsilon: float, delta: float) -> Game:
  """Two blobs of one size: one row more decides which is published first, 90 degrees away."""
  axes = np.eye(DIMENSION, dtype=np.float32)
  rows = two_blobs(PUBLISHED_ROWS, PUBLISHED_ROWS, axes[1])
  return _published_game("a tie", rows, axes[1] - axes[0], 2, epsilon, delta)


def published_blob(epsilon: float, delta: float) -> Game:
  """One blob: without the row in its middle the fullest cap holds only half of it."""
  angles = np.append(0.0, np.repeat([0.8 * ANGLE, -0.8 * ANGLE], PUBLISHED_ROWS))
  rows = np.zeros((len(angles), DIMENSION), np.float32)
  rows[:, 0], rows[:, 1] = np.cos(angles), np.sin(angles)
  return _published_game("a blob", rows, rows[0] - rows[1], 1, epsilon, delta)


def _published_game(data: str, rows: np.ndarray, direction: np.ndarray, clusters: int,
                    epsilon: float, delta: float) -> Game:
  """Only the clusters leave; the first centre is projected on the way that it moves."""
  mechanism = clustering.dplc_published(clusters=clusters, angle=ANGLE, smallest=1,
                                        epsilon=epsilon / clusters, delta=delta / clusters)

  def score(published: Clusters, transcript: Transcript, noise: jax.Array) -> jax.Array:
    return published.centres[0, 0] @ direction

  return Game(f"DPLC as published, {data}", mechanism, *with_and_without(rows), score, epsilon)


def _contributions(rows: np.ndarray, count_weight: float) -> np.ndarray:
  """What each row [n, D] may add to its cell: itself, at most 1 long, and its weight if counted."""
  shortened = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)
  if count_weight == 0:
    return shortened
  return np.append(shortened, np.full((len(rows), 1), count_weight, np.float32), axis=1)


def _log_ratio(seen: jax.Array, first: jax.Array, second: jax.Array, variance: jax.Array
               ) -> jax.Array:
  """Log-likelihood ratio of two means under independent Gaussian noise."""
  return ((seen - (first + second) / 2) * (first - second)).sum() / variance
