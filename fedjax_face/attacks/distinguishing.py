"""Which of two pictures was sent? The likelihood-ratio test against the Gaussian guarantee.

The attacker knows both clean activations and the noise law. The log-likelihood ratio is then the
projection of what it received on their difference, and no test does better (Neyman and Pearson):
with distance Delta' between the two, TPR = Phi(Phi^-1(FPR) + Delta' / sigma), which reaches the
guarantee Phi(Phi^-1(FPR) + mu) where Delta' is the sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.attacks.error_rates import (
    FALSE_POSITIVE_RATES,
    LEVEL,
    Separation,
    gaussian_bound,
    separation,
)

# (clipped activations [B, ...], keys [B]) -> what the server receives [B, ...].
Release = Callable[[jax.Array, jax.Array], jax.Array]
# Releases drawn at once.
CHUNK = 64


class Pair(NamedTuple):
  """Two activations: their rows, and the distance between them."""

  first: int
  second: int
  distance: float


class Distinguishing(NamedTuple):
  """What the test reached.

  Attributes:
    guarantee: against the claim for any two pictures, mu.
    pair: against what noise of the claimed size allows for these two, distance / sigma. The sharper
      check of the noise where the two are nearer than the sensitivity.
    distance: between the clean activations.
  """

  guarantee: Separation
  pair: Separation
  distance: float

  @property
  def exceeds_bound(self) -> bool:
    """Whether either bound is broken."""
    return self.guarantee.exceeds_bound or self.pair.exceeds_bound


def worst_pair(features: np.ndarray | jax.Array) -> Pair:
  """The two rows of clipped activations [N, ...] that lie farthest apart."""
  rows = np.asarray(features, np.float64).reshape(len(features), -1)
  if len(rows) < 2:
    raise ValueError(f"worst_pair needs at least two activations, got {len(rows)}")
  norms = np.sum(rows**2, axis=1)
  squares = norms[:, None] + norms - 2 * rows @ rows.T
  first, second = np.unravel_index(np.argmax(squares), squares.shape)
  return Pair(int(first), int(second), float(np.linalg.norm(rows[first] - rows[second])))


def canaries(shape: tuple[int, ...], clip_norm: float, non_negative: bool
             ) -> tuple[jax.Array, jax.Array]:
  """Two activations as far apart as clipping lets them be: sqrt(2) C where non-negative, else 2C.

  Args:
    shape: of one activation, with at least two entries.
    clip_norm: C, the norm of both.
    non_negative: whether activations are.

  Returns:
    Two float32 [*shape].
  """
  size = int(np.prod(shape))
  if size < 2:
    raise ValueError(f"shape {shape}: expected at least two entries")
  first = jnp.zeros(size).at[0].set(clip_norm)
  second = jnp.zeros(size).at[1].set(clip_norm) if non_negative else -first
  return first.reshape(shape), second.reshape(shape)


def distinguish(release: Release, first: jax.Array, second: jax.Array, key: jax.Array, *,
                sigma: float, mu: float, trials: int,
                false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
                level: float = LEVEL) -> Distinguishing:
  """Sends each of two activations `trials` times and guesses which it was.

  Args:
    release: the mechanism as the device runs it; a key for each example.
    first: float32 [...], clipped activation of the picture that the attacker suspects.
    second: likewise, of the other.
    key: of the mechanism's keys.
    sigma: standard deviation of the noise that is claimed.
    mu: of the claim for any two pictures, sensitivity / sigma for one release.
    trials: releases of each; a false positive rate is measured well from 10 / rate on.
    false_positive_rates: of the test.
    level: of each interval and verdict.

  Raises:
    ValueError: the two activations are the same, or sigma is not positive.
  """
  difference = jnp.asarray(first) - jnp.asarray(second)
  distance = float(jnp.linalg.norm(difference))
  if not distance > 0:
    raise ValueError("the two activations are the same: nothing tells them apart")
  if not sigma > 0:
    raise ValueError(f"sigma {sigma}: expected a positive number")
  middle, direction = (first + second) / 2, difference / distance

  @jax.jit
  def scores(sent: jax.Array, keys: jax.Array) -> jax.Array:
    score = lambda key: jnp.vdot(release(sent[None], key[None])[0] - middle, direction)
    return jax.lax.map(score, keys, batch_size=CHUNK)

  positives, negatives = (
      np.asarray(scores(sent, jax.random.split(one, trials)), np.float64)
      for sent, one in zip((first, second), jax.random.split(key), strict=True))
  judge = lambda claimed: separation(
      positives, negatives, gaussian_bound(claimed), false_positive_rates=false_positive_rates,
      level=level)
  return Distinguishing(judge(mu), judge(distance / sigma), distance)
