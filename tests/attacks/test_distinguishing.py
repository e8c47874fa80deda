"""The likelihood-ratio test meets the guarantee at the right noise and breaks it at half of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_face.attacks import distinguishing

SHAPE, CLIP_NORM, SIGMA, TRIALS = (2, 3, 2), 3.0, 2.0, 4096


def gaussian(sigma, activations, keys):
  noise = jax.vmap(lambda key: jax.random.normal(key, activations.shape[1:]))(keys)
  return activations + sigma * noise


def play(sigma=SIGMA, non_negative=False, pair=None, release=None, mu=None):
  first, second = pair or distinguishing.canaries(SHAPE, CLIP_NORM, non_negative)
  sensitivity = np.sqrt(2) * CLIP_NORM if non_negative else 2 * CLIP_NORM
  return distinguishing.distinguish(
      release or functools.partial(gaussian, sigma), first, second, jax.random.key(0),
      sigma=SIGMA, mu=mu or sensitivity / SIGMA, trials=TRIALS, level=0.99)


@pytest.mark.parametrize("non_negative", [False, True])
def test_right_noise_reaches_the_guarantee_and_stays_under_it(non_negative):
  result = play(non_negative=non_negative)
  assert not result.exceeds_bound
  point = result.guarantee.points[0]
  assert point.bound == pytest.approx(
      stats.norm.cdf(stats.norm.ppf(0.01) + result.distance / SIGMA))
  assert point.true_positive_rate.value == pytest.approx(point.bound, abs=0.06)
  assert result.guarantee.auc.value == pytest.approx(result.guarantee.largest_auc, abs=0.02)


def test_half_the_noise_is_caught():
  result = play(sigma=SIGMA / 2)
  assert all(point.exceeds_bound for point in result.guarantee.points)
  assert result.pair.exceeds_bound and result.exceeds_bound


def test_half_the_noise_is_caught_between_near_pictures_too():
  """The pair is three times nearer than the sensitivity: it keeps within the guarantee for any two,
  and not within what the claimed noise allows for it.
  """
  first, second = distinguishing.canaries(SHAPE, CLIP_NORM / 3, False)
  assert not play(pair=(first, second)).exceeds_bound
  halved = play(sigma=SIGMA / 2, pair=(first, second))
  assert not halved.guarantee.exceeds_bound
  assert halved.pair.exceeds_bound and halved.exceeds_bound


def test_a_release_that_forgets_to_clip_is_caught():
  """The claim is for 2C; without clipping, the two are twice as far apart."""
  pair = distinguishing.canaries(SHAPE, 2 * CLIP_NORM, False)
  assert play(pair=pair).guarantee.exceeds_bound

  def clipped(activations, keys):
    norm = jnp.linalg.norm(activations.reshape(len(keys), -1), axis=1).reshape(-1, 1, 1, 1)
    return gaussian(SIGMA, activations * jnp.minimum(1, CLIP_NORM / norm), keys)

  assert not play(pair=pair, release=clipped).guarantee.exceeds_bound


def test_one_noise_for_all_examples_is_no_defence():
  """Cached noise with a key that does not depend on the example: every release is the same."""
  fixed = lambda activations, keys: activations + SIGMA * jax.random.normal(
      jax.random.key(7), activations.shape)
  assert play(release=fixed, mu=0.5).guarantee.exceeds_bound


def test_canaries():
  first, second = distinguishing.canaries((2, 2), 3.0, True)
  np.testing.assert_array_equal(first, [[3, 0], [0, 0]])
  np.testing.assert_array_equal(second, [[0, 3], [0, 0]])
  first, second = distinguishing.canaries((4,), 3.0, False)
  np.testing.assert_array_equal(first - second, [6, 0, 0, 0])


def test_worst_pair_by_hand():
  rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, -3.0], [0.5, 4.0]]).reshape(4, 1, 2)
  assert distinguishing.worst_pair(rows) == (2, 3, pytest.approx(np.hypot(0.5, 7)))


@pytest.mark.parametrize("call, message", [
    (lambda: play(pair=(jnp.ones(SHAPE), jnp.ones(SHAPE))), "activations are the same"),
    (lambda: distinguishing.worst_pair(np.ones((1, 2))), "at least two activations, got 1"),
    (lambda: distinguishing.canaries((1,), 1.0, True), r"shape \(1,\): expected at least two"),
    (lambda: distinguishing.distinguish(
        gaussian, jnp.ones(2), jnp.zeros(2), jax.random.key(0), sigma=0.0, mu=1.0, trials=1),
     "sigma 0.0: expected a positive number"),
])
def test_what_makes_no_sense_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
