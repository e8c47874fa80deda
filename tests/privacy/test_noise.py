"""Independent and correlated noise: deviation, correlation, and the sensitivity that is claimed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.privacy import noise

ROUNDS, SEPARATION = 12, 3


def rows(mechanism, rounds, size, seed=0):
  """The noise of each round, [rounds, size], for unit deviation."""
  state, seen = mechanism.init(jnp.zeros(size)), []
  for t in range(rounds):
    key = jax.random.fold_in(jax.random.key(seed), t)
    noisy, state = mechanism.add(jnp.zeros(size), state, 1.0, key)
    seen.append(np.asarray(noisy, np.float64))
  return np.stack(seen)


def strategy(mechanism, rounds):
  """C: the inverse of the map from independent to added noise, read off the mechanism itself."""
  size = 200_000
  added = rows(mechanism, rounds, size)
  covariance = added @ added.T / size
  return np.linalg.inv(np.linalg.cholesky(covariance))


def test_gaussian_rounds_are_independent_with_unit_deviation():
  size = 100_000
  covariance = np.cov(rows(noise.gaussian(), 3, size))
  np.testing.assert_allclose(covariance, np.eye(3), atol=5 / np.sqrt(size))
  assert noise.gaussian().relative_sensitivity == 1


@pytest.mark.parametrize("kind", ["banded", "buffered_toeplitz"])
def test_sensitivity_covers_every_participation_pattern(kind):
  """Brute force over all patterns with the enforced separation, on the C that is really used."""
  mechanism = noise.correlated(kind, ROUNDS, SEPARATION)
  matrix = strategy(mechanism, ROUNDS)
  worst = 0.0
  for pattern in itertools.product([0, 1], repeat=ROUNDS):
    chosen = np.flatnonzero(pattern)
    if len(chosen) and (len(chosen) == 1 or np.diff(chosen).min() >= SEPARATION):
      worst = max(worst, np.linalg.norm(matrix[:, chosen].sum(axis=1)))
  assert worst <= mechanism.relative_sensitivity * 1.02
  assert worst >= mechanism.relative_sensitivity * 0.9
  assert mechanism.covers == ROUNDS


def test_correlated_noise_cancels_over_rounds():
  """The error of the running sum is smaller than that of independent noise of equal privacy."""
  mechanism = noise.correlated("banded", ROUNDS, SEPARATION)
  added = rows(mechanism, ROUNDS, 20_000) * mechanism.relative_sensitivity
  independent = rows(noise.gaussian(), ROUNDS, 20_000) * np.sqrt(-(-ROUNDS // SEPARATION))
  error = lambda noise: np.cumsum(noise, axis=0).std(axis=1).mean()
  assert error(added) < 0.9 * error(independent)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="min_separation must be between 1 and rounds=4"):
    noise.correlated("banded", 4, 5)
  with pytest.raises(ValueError, match="banded, buffered_toeplitz"):
    noise.correlated("tree", 4, 2)
