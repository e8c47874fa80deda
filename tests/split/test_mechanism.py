"""Clip and noise at the cut: formulas by hand, the exact curve, refused arguments."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from fedjax_face.split.mechanism import (
    ActivationClip,
    example_keys,
    gaussian_epsilon,
    gaussian_mu,
    noise_multiplier_for,
    noised,
)

RNG = np.random.default_rng(0)
KEYS = example_keys(jax.random.key(0), jnp.arange(3))


def exact_delta(epsilon, mu):
  """The curve of the specification, written out."""
  return special.ndtr(-epsilon / mu + mu / 2) - math.exp(epsilon) * special.ndtr(
      -epsilon / mu - mu / 2)


def test_clip_by_hand():
  clipped = ActivationClip(False)(jnp.array([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
  np.testing.assert_allclose(clipped, [[0.6, -0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
  np.testing.assert_allclose(ActivationClip(True)(jnp.array([[3.0, -4.0]]), 1.0), [[1, 0]])


def test_norms_are_per_example_over_all_axes():
  x = jnp.asarray(RNG.normal(size=(5, 3, 3, 2)) * 10, jnp.float32)
  x = x.at[0, 0, 0, 0].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf).at[2].multiply(1e30)
  norms = jnp.linalg.norm(ActivationClip(False)(x, 0.7).reshape(5, -1), axis=1)
  assert (norms <= 0.7 * (1 + 1e-6)).all()
  np.testing.assert_allclose(norms[jnp.array([0, 1, 3, 4])], 0.7, rtol=1e-6)


def test_an_infinite_clip_norm_changes_nothing():
  x = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
  np.testing.assert_array_equal(ActivationClip(False)(x, math.inf), x)
  gradient = jax.grad(lambda x: jnp.sum(ActivationClip(False)(x, math.inf) * 2))(x)
  np.testing.assert_array_equal(gradient, np.full((2, 3), 2))


@pytest.mark.parametrize(("non_negative", "pair", "sensitivity"), [
    (False, [[5.0, 0.0], [-5.0, 0.0]], 2.0), (True, [[5.0, 0.0], [0.0, 5.0]], math.sqrt(2))])
def test_the_sensitivity_is_reached_and_never_exceeded(non_negative, pair, sensitivity):
  clip = ActivationClip(non_negative)
  assert clip.sensitivity == sensitivity
  worst = clip(jnp.array(pair), 0.5)
  np.testing.assert_allclose(jnp.linalg.norm(worst[0] - worst[1]), 0.5 * sensitivity, rtol=1e-6)
  others = clip(jnp.asarray(RNG.normal(size=(200, 4)), jnp.float32), 0.5)
  distances = jnp.linalg.norm(others[:, None] - others[None], axis=-1)
  assert distances.max() <= 0.5 * sensitivity * (1 + 1e-6)


def test_vjp_is_that_of_the_specification():
  # C / ||a|| (I - a a^T / ||a||^2) where clipped, I where not; finite at 0.
  a, g = RNG.normal(size=4), RNG.normal(size=4)
  a *= 2 / np.linalg.norm(a)
  vjp = lambda a, c: jax.vjp(lambda x: ActivationClip(False)(x[None], c)[0],
                             jnp.asarray(a, jnp.float32))[1](jnp.asarray(g, jnp.float32))[0]
  expected = 0.5 / 2 * (g - a * (a @ g) / 4)
  np.testing.assert_allclose(vjp(a, 0.5), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(vjp(a, 3.0), g, rtol=1e-6)
  np.testing.assert_allclose(vjp(0 * a, 3.0), g, rtol=1e-6)


def test_noise_has_the_stated_deviation():
  keys = example_keys(jax.random.key(1), jnp.arange(4))
  sent = noised(jnp.zeros((4, 5000)), ActivationClip(True), 0.5, 3.0, keys)
  expected = 3 * math.sqrt(2) * 0.5
  # The sample deviation of 20,000 normals is within 4 / sqrt(40,000) = 2 % almost surely.
  np.testing.assert_allclose(sent.std(), expected, rtol=0.02)
  assert abs(sent.mean()) < 4 * expected / math.sqrt(20_000)
  assert abs(np.corrcoef(sent)[0, 1]) < 4 / math.sqrt(5000)


@pytest.mark.parametrize(("non_negative", "pair"), [
    (False, [[5.0, 0.0], [-5.0, 0.0]]), (True, [[5.0, 0.0], [0.0, 5.0]])])
def test_the_worst_pair_is_as_far_apart_as_the_accounting_says(non_negative, pair):
  # Along their difference two sets of releases are mu = 1 / z deviations apart; with half the
  # noise 2 mu, which the same test must not take for mu.
  z, count = 2.0, 4000
  keys = example_keys(jax.random.key(2), jnp.arange(2 * count))
  activations = jnp.repeat(jnp.array(pair), count, axis=0)
  direction = jnp.array(pair)[0] - jnp.array(pair)[1]

  def distance(noise_multiplier):
    sent = noised(activations, ActivationClip(non_negative), 0.3, noise_multiplier, keys)
    first, second = (sent @ direction).reshape(2, count)
    return float((first.mean() - second.mean()) / first.std())

  error = 4 * math.sqrt(2 / count)
  assert abs(distance(z) - 1 / z) < error
  assert distance(z / 2) > 1 / z + error


def test_noise_of_an_example_does_not_depend_on_the_batch():
  x = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
  together = noised(x, ActivationClip(False), 1.0, 1.0, KEYS)
  others = noised(x.at[0].set(9.0), ActivationClip(False), 1.0, 1.0, KEYS)
  np.testing.assert_array_equal(together[1:], others[1:])
  assert (together[0] != others[0]).any()


def test_no_noise_is_the_clipped_activation():
  x = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
  clip = ActivationClip(False)
  np.testing.assert_array_equal(noised(x, clip, 1.0, 0.0, KEYS), clip(x, 1.0))
  np.testing.assert_array_equal(noised(x, clip, math.inf, 0.0, KEYS), x)


def test_scalars_may_be_traced():
  x = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
  send = lambda c, z: noised(x, ActivationClip(False), c, z, KEYS)
  np.testing.assert_allclose(jax.jit(send)(0.5, 2.0), send(0.5, 2.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mu", [0.05, 0.7, 3.0, 20.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_epsilon_lies_on_the_exact_curve(mu, delta):
  epsilon = gaussian_epsilon(mu, delta)
  if epsilon > 0:
    np.testing.assert_allclose(exact_delta(epsilon, mu), delta, rtol=1e-6)
    np.testing.assert_allclose(gaussian_mu(epsilon, delta), mu, rtol=1e-8)
  else:
    assert exact_delta(0, mu) <= delta


@pytest.mark.parametrize("epsilon", [0.1, 1, 8, 50, 400])
def test_the_multiplier_meets_its_epsilon(epsilon):
  z = noise_multiplier_for(epsilon, 1e-5)
  np.testing.assert_allclose(gaussian_epsilon(1 / z, 1e-5), epsilon, rtol=1e-9)


def test_known_multipliers():
  # The classical formula at epsilon 1 and delta 1e-5: sqrt(2 ln 125000) = 4.8448.
  assert noise_multiplier_for(1, 1e-5, "classical_gaussian") == pytest.approx(4.8448, abs=1e-4)
  assert noise_multiplier_for(1, 1e-5) == pytest.approx(3.7306, abs=1e-4)
  assert noise_multiplier_for(math.inf, 1e-5) == 0
  assert gaussian_epsilon(math.inf, 1e-5) == math.inf


@pytest.mark.parametrize(("call", "message"), [
    (lambda: noise_multiplier_for(1, 1e-5, "laplace"), "spends d times epsilon"),
    (lambda: noise_multiplier_for(2, 1e-5, "classical_gaussian"),
     r"at epsilon 2: its formula is proved for epsilon in \(0, 1\]"),
    (lambda: noise_multiplier_for(1, 1e-5, "uniform"), "unknown mechanism 'uniform'"),
    (lambda: noise_multiplier_for(0, 1e-5), "epsilon must be positive, got 0"),
    (lambda: noise_multiplier_for(1, 0), r"delta must be in \(0, 1\), got 0"),
    (lambda: gaussian_epsilon(-1, 1e-5), "mu must not be negative"),
    (lambda: ActivationClip(True)(jnp.ones((1, 2)), 0.0), "clip_norm must be positive, got 0"),
    (lambda: ActivationClip(True)(jnp.ones((1, 2)), -1.0), "clip_norm must be positive, got -1"),
    (lambda: ActivationClip(True)(jnp.ones((1, 2)), math.nan), "clip_norm must be positive"),
    (lambda: noised(jnp.ones((3, 2)), ActivationClip(True), 1.0, -1.0, KEYS),
     "noise_multiplier must be finite and at least 0, got -1"),
    (lambda: noised(jnp.ones((3, 2)), ActivationClip(True), math.inf, 1.0, KEYS),
     "clip_norm must be finite"),
])
def test_refused_arguments(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
