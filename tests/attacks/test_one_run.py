"""An audit in one run holds for real mechanisms and catches broken ones."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import one_run
from fedjax_face.attacks.one_run import Canaries
from fedjax_face.federated import aggregators
from fedjax_face.federated.aggregators import Sums
from fedjax_face.privacy import accounting, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from tests.privacy import cases

DELTA, CONFIDENCE = 1e-5, 0.99
SHAPES = {"bias": (), "kernel": (40, 50), "wide": (20_000,)}
HPARAMS = {"clip_norm": 0.5, "noise_multiplier": 6.0}


def everybody():
  """Poisson sampling in which all take part; a client holds several, so 2C is claimed."""
  return cases.sampling("poisson", users=4)


def scores(aggregator, who, canaries, hparams, rounds):
  nothing, zero = jax.tree.map(jnp.zeros, SHAPES, is_leaf=lambda s: isinstance(s, tuple)), 0.0
  watched = canaries.aggregator(aggregator, who)
  state = watched.init(nothing, hparams)
  release = jax.jit(watched.release)
  for index in range(rounds):
    key = jax.random.fold_in(jax.random.key(7), index)
    sums = Sums(nothing, *(jnp.float32(zero) for _ in range(4)))
    _, state, _ = release(sums, state, hparams, key)
  return canaries.scores({"aggregator": state})


def play(make=None, less=1.0, rounds=1, count=1200):
  who, canaries = everybody(), Canaries.drawn(count, bytes([1] * 32))
  clip = UpdateClip(who.users_per_client, who.adjacency)
  aggregator = (make or (lambda clip, clients: aggregators.noised_mean(
      clip, clients, noise.gaussian())))(clip, who.clients)
  event = dp_accounting.SelfComposedDpEvent(aggregator.event(HPARAMS), rounds)
  claimed = accounting.epsilon(event, DELTA, Adjacency.ADD_OR_REMOVE_ONE).best
  hparams = HPARAMS | {"noise_multiplier": HPARAMS["noise_multiplier"] * less}
  found = scores(aggregator, who, canaries, hparams, rounds)
  return one_run.judge(found, canaries.included, claimed, DELTA, CONFIDENCE)


def adaptive(clip, clients):
  return aggregators.adaptive_clip(clip, clients, quantile=0.5, learning_rate=0.2,
                                   count_stddev_per_client=8.0)


@pytest.mark.parametrize("make, rounds", [(None, 1), (None, 3), (adaptive, 2)])
def test_real_mechanisms_stay_under_their_claim(make, rounds):
  result = play(make, rounds=rounds)
  assert 0 < result.measured and not result.violated
  assert result.measured <= result.largest_measurable
  assert 0.2 * result.claimed < result.estimate < 1.5 * result.claimed


@pytest.mark.parametrize("make, less", [
    (None, 0.0), (None, 0.2), (adaptive, 0.2), (None, 0.5), (adaptive, 0.5)])
def test_noise_that_is_missing_or_far_too_small_is_caught(make, less):
  assert play(make, less=less).violated


def test_canaries_move_the_sum_as_far_as_the_claim_allows_and_only_members():
  """Without noise and alone, a canary's score is S C over the K that a mean divides by."""
  who = everybody()
  clip = UpdateClip(who.users_per_client, who.adjacency)
  aggregator = aggregators.noised_mean(clip, who.clients, noise.gaussian())
  for member in (True, False):
    canaries = Canaries(np.array([member]), jax.random.key(0))
    found = scores(aggregator, who, canaries, HPARAMS | {"noise_multiplier": 0.0}, 2)
    np.testing.assert_allclose(found, [2 * 2.0 * 0.5 / 2 * member], rtol=1e-5)


def test_a_unit_of_dp_sgd_is_as_long_as_its_noise_over_z():
  canaries = Canaries(np.array([True]), jax.random.key(0))
  watched = canaries.noise(noise.gaussian(), 2.0, 1.0)
  total = {"a": jnp.zeros(7), "b": jnp.zeros((2, 3))}
  stddev = 1e-4
  noisy, state = watched.add(total, watched.init(total), stddev, jax.random.key(1))
  exact, _ = noise.gaussian().add(total, noise.gaussian().init(total), stddev, jax.random.key(1))
  moved = jax.tree.map(jnp.subtract, noisy, exact)
  norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in moved.values()))
  assert norm == pytest.approx(stddev / 2, rel=1e-3)
  assert canaries.scores(state).shape == (1,)


def test_members_take_part_as_often_as_users():
  canaries = Canaries(np.ones(4000, bool), jax.random.key(0))
  total = jnp.zeros(1)
  moved = [float(canaries._joined(total, jnp.int32(r), 1.0, 0.25, 2)[0]) for r in range(2)]
  acts = np.array([[float(Canaries(np.arange(200) == i, jax.random.key(0))._joined(
      total, jnp.int32(r), 1.0, 1.0, 2)[0]) != 0 for i in range(4)] for r in range(2)])
  np.testing.assert_array_equal(acts, [[True, False, True, False], [False, True, False, True]])
  assert moved[0] != moved[1]


@pytest.mark.parametrize("kind, expected", [
    ("fixed", 4 / 24), ("poisson", 4 / 24), ("cyclic_fixed", 4 / 8), ("cyclic_poisson", 4 / 8)])
def test_rates_are_those_of_the_claim(kind, expected):
  assert one_run.sampling_rate(cases.sampling(kind)) == pytest.approx(expected)


def test_guesses_by_hand():
  """64 canaries told apart without error: 1, 4 and 16 guesses, all right."""
  included = np.arange(64) < 32
  result = one_run.judge(np.where(included, 1.0, 0.0) + np.arange(64) / 1000, included, 1.0, 1e-9,
                         0.99)
  likeliest = (0.01 / 3) ** (1 / 16)
  assert result.measured == pytest.approx(np.log(likeliest / (1 - likeliest)), abs=1e-3)
  assert result.measured == pytest.approx(result.largest_measurable)


def test_the_estimate_by_hand():
  """Means 2 apart at a standard deviation of 1, eight scores on each side."""
  included = np.arange(16) < 8
  result = one_run.judge(np.tile([1.0, -1.0], 8) + 2.0 * included, included, 1.0, 1e-5, 0.99)
  error = np.sqrt(2 / 8 + 4 / 32)
  assert result.estimate == pytest.approx(one_run.gaussian_epsilon(2.0, 1e-5))
  assert result.estimate_at_least == pytest.approx(
      one_run.gaussian_epsilon(2.0 - one_run.DEVIATIONS * error, 1e-5))


def test_without_noise_there_is_nothing_to_audit():
  with pytest.raises(ValueError, match="no noise to audit"):
    Canaries(np.array([True]), jax.random.key(0)).noise(noise.gaussian(), 0.0, 1.0)


@pytest.mark.parametrize("found, included", [
    ([1.0, np.nan], [True, False]), ([1.0, 0.0], [True, True]), ([1.0, 0.0], [False, False])])
def test_what_cannot_be_judged(found, included):
  with pytest.raises(ValueError, match="finite scores of canaries in and outside"):
    one_run.judge(np.array(found), np.array(included), 1.0, DELTA, CONFIDENCE)


def test_secret_coins_are_fair_and_follow_the_root():
  first, again, other = (Canaries.drawn(2000, bytes([last] * 32)) for last in (1, 1, 2))
  np.testing.assert_array_equal(first.included, again.included)
  assert 900 < first.included.sum() < 1100
  assert 900 < (first.included == other.included).sum() < 1100
  with pytest.raises(ValueError, match="canaries=1: expected at least 2"):
    Canaries.drawn(1, bytes(32))
