"""Adaptive clipping by hand, the split of its budget, and what each aggregator claims."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.federated import aggregators
from fedjax_face.federated.aggregators import Sums
from fedjax_face.privacy import noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip

ONE_USER = UpdateClip(1, Adjacency.ADD_OR_REMOVE_ONE)
SEVERAL = UpdateClip(8, Adjacency.REPLACE_ONE)


def sums(below, clients, update=(0.0, 0.0)):
  return Sums(jnp.asarray(update), *(jnp.float32(v) for v in (clients, clients, below, 0.0)))


def adaptive(clip=ONE_USER, clients=100, stddev=0.05):
  return aggregators.adaptive_clip(clip, clients, quantile=0.5, learning_rate=0.2,
                                   count_stddev_per_client=stddev)


def test_value_multiplier_is_the_stated_split():
  value = float(aggregators.value_multiplier(1.0, 5.0))
  assert value**-2 + (2 * 5.0) ** -2 == pytest.approx(1.0, rel=1e-6)


def test_noise_that_leaves_nothing_for_the_updates_is_refused():
  with pytest.raises(ValueError, match=r"must be below 2 \* count_stddev = 0.8"):
    adaptive(clients=8).event({"noise_multiplier": 0.9})


@pytest.mark.parametrize("below, factor", [(100, -0.1), (50, 0.0), (0, 0.1)])
def test_clip_norm_follows_the_quantile_geometrically(below, factor):
  """C exp(-0.2 (share - 0.5)), without noise on the count."""
  chosen = adaptive(stddev=1e-7)
  hparams = {"clip_norm": 2.0, "noise_multiplier": 0.0}
  state = chosen.init(jnp.zeros(2), hparams)
  _, after, metrics = chosen.release(sums(below, 100), state, hparams, jax.random.key(0))
  np.testing.assert_allclose(after.clip_norm, 2.0 * np.exp(factor), rtol=1e-4)
  assert metrics["clip_norm"] == 2.0


def test_adaptive_update_noise_uses_the_current_clip_norm():
  chosen, size = adaptive(), 50_000
  hparams = {"clip_norm": 3.0, "noise_multiplier": 1.0}
  state = chosen.init(jnp.zeros(size), hparams)
  mean, _, _ = chosen.release(
      sums(50, 100, np.zeros(size)), state, hparams, jax.random.key(1))
  expected = float(aggregators.value_multiplier(1.0, 5.0)) * 3.0 / 100
  assert np.std(mean) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("clip, divisor", [(ONE_USER, 1.0), (SEVERAL, 2.0)])
def test_event_is_relative_to_the_sensitivity(clip, divisor):
  for chosen in (aggregators.noised_mean(clip, 100, noise.gaussian()), adaptive(clip)):
    event = chosen.event({"noise_multiplier": 1.2})
    assert event == dp_accounting.GaussianDpEvent(1.2 / divisor)


def test_aggregators_without_noise_claim_nothing():
  for chosen in (aggregators.weighted_mean(), aggregators.clipped_mean(ONE_USER, 4)):
    assert chosen.event({}) == dp_accounting.NonPrivateDpEvent()
    assert not chosen.adds_noise
