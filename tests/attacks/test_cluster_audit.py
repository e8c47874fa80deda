"""The games pass every mechanism that keeps its promise and catch each one that does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import cluster_audit
from fedjax_face.privacy import clustering
from fedjax_face.privacy.clustering import Transcript

EPSILON, DELTA = 2.5, 1e-2
GAMES = cluster_audit.games(EPSILON, DELTA)
TRIALS = 10_000
RIGOROUS = [game for game in GAMES if game.claim is None]
ADAPTIVE = [game for game in RIGOROUS
            if game.mechanism.name in ("dp_lloyd", "exponential_caps")]
AXES = np.eye(cluster_audit.DIMENSION, dtype=np.float32)
BORDER = 10 * (AXES[0] + AXES[1]) / np.sqrt(2)
play = functools.partial(cluster_audit.play, trials=TRIALS, delta=DELTA, confidence=0.99, seed=0)


@functools.cache
def noise_and_claim(game):
  noise = cluster_audit.noise_for(game, EPSILON, DELTA)
  return noise, cluster_audit.claimed_epsilon(game, noise, DELTA)


@pytest.mark.parametrize("game", RIGOROUS, ids=lambda game: game.name)
def test_half_the_noise_is_caught_and_all_of_it_passes(game):
  noise, claimed = noise_and_claim(game)
  assert claimed == pytest.approx(EPSILON, abs=0.01)
  real, halved = play(game, noise, claimed), play(game, noise / 2, claimed)
  assert 0.4 * claimed < real.measured <= claimed and not real.violated
  assert halved.violated and halved.claimed == claimed


@pytest.mark.parametrize("make", [cluster_audit.published_tie, cluster_audit.published_blob])
def test_published_dplc_reveals_all_that_the_trials_can_show(make):
  game = make(EPSILON, DELTA)
  noise, claimed = noise_and_claim(game)
  assert (noise, claimed) == (0.0, EPSILON)
  result = play(game, noise, claimed)
  assert result.violated
  assert result.measured == pytest.approx(
      cluster_audit.largest_measurable(TRIALS, DELTA, 0.99), rel=1e-3)


def test_published_dplc_splits_its_claim_over_its_clusters():
  """With one cluster's noise each, two clusters would claim twice epsilon and delta."""
  game = cluster_audit.published_tie(EPSILON, DELTA)
  own = clustering.dplc_published(clusters=2, angle=cluster_audit.ANGLE, smallest=1,
                                  epsilon=EPSILON / 2, delta=DELTA / 2)
  centres = [mechanism.publish(game.rows, game.present[0], 0.0, jax.random.key(1))[0].centres
             for mechanism in (game.mechanism, own)]
  np.testing.assert_array_equal(*centres)


def test_every_mechanism_with_a_claim_has_a_game():
  assert {game.mechanism.name for game in GAMES} == {
      "client_mean", "client_mean_projected", "anchor_table", "dp_lloyd", "exponential_caps",
      "dplc_published"}
  assert any(game.mechanism.pooled for game in GAMES)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
def test_data_sets_differ_in_one_row_of_one_silo(game):
  changed = np.argwhere(game.present[0] != game.present[1])
  assert changed.tolist() == [[0, 0]]  # the first
  assert game.present[0].all()


def broken_game(mechanism, publish):
  """The table game of a mechanism whose `publish` is replaced behind its back."""
  return cluster_audit.table_game("broken", mechanism._replace(publish=publish), BORDER)


def test_rows_that_are_not_shortened_are_caught():
  mechanism = clustering.client_mean()

  def unbounded(rows, real, noise_multiplier, key):
    total = (rows * real[..., None]).sum(1, keepdims=True)
    return mechanism.publish(rows, real, 0.0, key)[0], Transcript(
        (total + noise_multiplier * jax.random.normal(key, total.shape))[None],
        jnp.full(total.shape[:2], -1))

  game = broken_game(mechanism, unbounded)
  assert play(game, *noise_and_claim(game)).violated


def test_counts_that_are_not_charged_are_caught():
  mechanism = clustering.anchor_table(AXES, count_weight=2.0)
  uncharged = lambda rows, real, noise, key: mechanism.publish(
      rows, real, noise / mechanism.sensitivity, key)
  game = broken_game(mechanism, uncharged)
  assert play(game, *noise_and_claim(game)).violated


@pytest.mark.parametrize("game", ADAPTIVE, ids=lambda game: game.name)
def test_adaptive_scores_are_log_likelihood_ratios(game):
  """Under the second data set the likelihood ratio has mean 1."""
  scores = cluster_audit.trial_scores(game, 1, 2.0, TRIALS, seed=3)
  ratio = np.exp(scores.astype(np.float64))
  assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(len(ratio)))


def test_score_of_a_cap_by_hand():
  """z = 1, share 1/2: eps_sel = sqrt 2, sums of variance 2; 3 or 2 rows in the chosen cap, 3 in
  another and none in two.
  """
  game = cluster_audit.caps_game("cap", AXES, AXES[0], clusters=1, count_weight=0.0)
  seen = Transcript(jnp.zeros((1, 1, 1, 4)).at[0, 0, 0, 0].set(3.75), jnp.array([[0]]))
  weight = np.sqrt(2)
  share = lambda first: np.exp(first * weight) / (
      np.exp(first * weight) + np.exp(3 * weight) + 2)
  expected = np.log(share(3) / share(2)) + (3.75 - 2.5) / 2
  assert float(game.score(None, seen, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_score_of_lloyd_by_hand():
  """One row along an anchor in either data set's table: T (seen - (t0 + t1) / 2) / (T z^2)."""
  game = cluster_audit.lloyd_game("lloyd", AXES, 5 * AXES[2], count_weight=0.0)
  tables = np.zeros((cluster_audit.ITERATIONS, 1, 4, 4), np.float32)
  tables[:, 0, 2, 2] = 1.0
  seen = Transcript(jnp.asarray(tables), jnp.full((1, 4), -1))
  assert float(game.score(None, seen, 2.0)) == pytest.approx(0.5 / 4, rel=1e-5)


def test_with_and_without():
  rows, present = cluster_audit.with_and_without(np.eye(3, 2), silos=2)
  assert rows.shape == (2, 3, 2) and rows.dtype == np.float32
  assert present.tolist() == [[[True] * 3] * 2, [[False, True, True], [True] * 3]]


def test_two_blobs():
  assert cluster_audit.two_blobs(1, 2, np.array([0.6, 0.8])).tolist() == [
      [0.6, 0.8], [1, 0], [0, 1], [0, 1]]


def test_what_perfect_guesses_show():
  """No error among 500: a rate of at most 1 - 0.005^(1/500) = 0.01054 at 99.5 % confidence each."""
  assert cluster_audit.largest_measurable(1000, 0.01, 0.99) == pytest.approx(
      np.log((1 - 0.0105404 - 0.01) / 0.0105404), abs=1e-4)
  assert cluster_audit.largest_measurable(2, 0.01, 0.99) == 0.0
