"""Cluster mechanisms: sensitivity by brute force, noise, accounting, utility, refused arguments."""

import functools
import itertools
import math

import chex
import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.privacy import accounting, calibration, cluster_tables, clustering
from fedjax_face.privacy.adjacency import Adjacency

DIMS, ROWS, TRIALS = 6, 9, 300
RNG = np.random.default_rng(0)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


ANCHORS = unit(RNG.normal(size=(4, DIMS)))
CAPS = {"clusters": 3, "angle": 1.2, "selection_share": 0.4}
NOISY = {
    "client_mean pooled": clustering.client_mean(count_weight=0.7, pooled=True),
    "anchor_table": clustering.anchor_table(ANCHORS, count_weight=0.5),
    "dp_lloyd": clustering.dp_lloyd(ANCHORS, iterations=3, count_weight=0.5),
    "dp_lloyd pooled": clustering.dp_lloyd(ANCHORS, iterations=3, pooled=True),
    "exponential_caps": clustering.exponential_caps(ANCHORS, count_weight=0.5, **CAPS),
    "projected": clustering.projected(clustering.anchor_table(unit(ANCHORS[:, :3])),
                                      np.linalg.qr(RNG.normal(size=(DIMS, 3)))[0]),
}
PUBLISHED = {"clusters": 2, "angle": 0.5, "smallest": 2, "epsilon": 1.0, "delta": 1e-5}
EXACT = {
    "dplc_published": clustering.dplc_published(**PUBLISHED),
    "kmeans": clustering.kmeans(ANCHORS, iterations=3),
    "all_rows": clustering.all_rows(),
}
EVERY = NOISY | EXACT


def silos(count, rows=ROWS):
  made = unit(np.random.default_rng(1).normal(size=(count, rows, DIMS)))
  return made.astype(np.float32), np.ones((count, rows), bool)


def without_the_trial_row():
  real = np.ones((2, ROWS), bool)
  real[0, -1] = False
  return real


def strange_rows():
  """[TRIALS, D]: short, unit and long, longer than float32 can square, NaN, infinite, zero."""
  rng = np.random.default_rng(2)
  rows = unit(rng.normal(size=(TRIALS, DIMS))) * rng.choice([0.1, 1, 100], size=(TRIALS, 1))
  rows[:4], rows[4:8] = ANCHORS, 3 * ANCHORS
  rows[8:12] = np.array([[np.nan], [np.inf], [0], [1e30]])
  return rows.astype(np.float32)


@functools.cache
def trials(name):
  """(rows [TRIALS, D], real [2, n], multiplier, keys) -> what two silos publish in every trial.

  A trial's row is the last of the first silo. Compiled once for all tests of a mechanism.
  """
  chex.clear_trace_counter()
  rows, _ = silos(2)

  def publish(extra, real, noise_multiplier, keys):
    one = lambda row, key: EVERY[name].publish(
        jnp.asarray(rows).at[0, -1].set(row), real, noise_multiplier, key)
    return jax.vmap(one)(extra, keys)

  return jax.jit(chex.assert_max_traces(publish, 1))


def keys(seed):
  return jax.random.split(jax.random.key(seed), TRIALS)


def publish(mechanism, rows, noise_multiplier=0.0, key=0, real=None):
  rows = np.asarray(rows, np.float32)
  real = np.ones(rows.shape[:2], bool) if real is None else real
  return jax.jit(mechanism.publish)(rows, real, noise_multiplier, jax.random.key(key))


@pytest.mark.parametrize("name", NOISY)
def test_one_row_moves_the_whole_first_table_by_at_most_the_sensitivity(name):
  """The first table: later ones of Lloyd start from what was released, which is another test."""
  mechanism, (_, real) = NOISY[name], silos(2)
  without = trials(name)(strange_rows(), without_the_trial_row(), 0.0, keys(0))[1]
  added = trials(name)(strange_rows(), real, 0.0, keys(0))[1]
  same = (np.asarray(added.chosen) == np.asarray(without.chosen)).all((1, 2))
  assert same.sum() >= 100
  change = np.asarray(added.tables) - np.asarray(without.tables)
  change = change[same, 0, :1 if mechanism.pooled else 2]
  moved = np.linalg.norm(change.reshape(len(change), -1), axis=1)
  assert moved.max() <= mechanism.sensitivity + 1e-5
  assert moved.max() >= mechanism.sensitivity * (0.9 if name == "projected" else 1 - 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_rows_that_are_not_real_count_for_nothing_even_nan(name):
  same_key = jnp.broadcast_to(jax.random.key(1), TRIALS)
  clusters, transcript = trials(name)(strange_rows(), without_the_trial_row(), 0.3, same_key)
  for leaf in (*clusters, *transcript):
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_ranges(name):
  mechanism, (_, real) = EVERY[name], silos(2)
  clusters, transcript = trials(name)(strange_rows(), real, 0.3, keys(2))
  count = ROWS if mechanism.clusters is None else mechanism.clusters
  chex.assert_shape(clusters.centres, (TRIALS, 2, count, DIMS))
  chex.assert_shape([clusters.people, clusters.concentration, transcript.chosen],
                    (TRIALS, 2, count))
  chex.assert_type([*clusters, *transcript], [jnp.float32] * 4 + [jnp.int32])
  present = np.asarray(clusters.people) > 0
  np.testing.assert_allclose(np.linalg.norm(clusters.centres, axis=-1), present, atol=1e-5)
  assert (np.asarray(clusters.people)[present] >= 1).all()
  assert 0 <= np.min(clusters.concentration) <= np.max(clusters.concentration) <= 1
  tables = transcript.tables.shape[1] if mechanism.pooled else 1
  assert mechanism.numbers(DIMS) == tables * transcript.tables.shape[-1]


def test_jit_equals_eager():
  name, (rows, real) = "exponential_caps", silos(2)
  eager = EVERY[name].publish(rows, real, 0.3, jax.random.key(3))
  compiled = trials(name)(np.tile(rows[0, -1], (TRIALS, 1)), real, 0.3,
                          jnp.broadcast_to(jax.random.key(3), TRIALS))
  chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], compiled), eager, atol=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_noise_has_the_deviation_that_is_accounted_for(name):
  """Tables of silos without people, hence noise only, at a multiplier of 2."""
  mechanism, (_, real) = NOISY[name], silos(2)
  tables = np.concatenate([
      trials(name)(strange_rows(), np.zeros_like(real), 2.0, keys(seed))[1].tables
      for seed in range(8)])                                              # [trials, T, 2, Q, W]
  event = mechanism.event(2.0)
  for part in ("events", "event"):
    event = getattr(event, part, event)
    event = event[0] if isinstance(event, list) else event
  claimed = event.noise_multiplier * mechanism.sensitivity
  first, second = tables[:, :, 0], tables[:, :, 1]
  assert abs(first.std() / claimed - 1) < 5 / math.sqrt(2 * first.size)
  assert abs(first.mean() / claimed) < 5 / math.sqrt(first.size)
  correlation = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]
  if mechanism.pooled:
    np.testing.assert_array_equal(first, second)
  else:
    assert abs(correlation(first, second)) < 5 / math.sqrt(first.size)
  for t in range(1, tables.shape[1]):
    assert abs(correlation(first[:, t - 1], first[:, t])) < 5 / math.sqrt(first[:, t].size)


def test_lloyd_pays_sqrt_of_its_iterations():
  table = clustering.anchor_table(ANCHORS)
  for iterations in (1, 4):
    lloyd = clustering.dp_lloyd(ANCHORS, iterations=iterations)
    expected = dp_accounting.GaussianDpEvent(2.0 * math.sqrt(iterations))
    if iterations > 1:
      expected = dp_accounting.SelfComposedDpEvent(expected, iterations)
    assert lloyd.event(2.0) == expected
    assert accounting.epsilon(lloyd.event(2.0), 1e-5, Adjacency.ADD_OR_REMOVE_ONE).pld == (
        pytest.approx(accounting.epsilon(table.event(2.0), 1e-5,
                                         Adjacency.ADD_OR_REMOVE_ONE).pld, rel=1e-6))


def test_lloyd_is_a_chain_of_tables_each_from_the_released_one():
  rows, _ = silos(1, rows=40)
  transcript = publish(clustering.dp_lloyd(ANCHORS, iterations=3), rows)[1]
  tables = np.asarray(transcript.tables[:, 0])
  anchors, rows = ANCHORS, rows[0]
  for table in tables:
    nearest = (rows @ anchors.T).argmax(1)
    np.testing.assert_allclose(table, np.eye(4)[nearest].T @ rows, atol=1e-5)
    anchors = unit(table)
  assert np.abs(tables[0] - tables[-1]).max() > 0.1


def test_anchor_table_by_hand():
  rows = [[[1, 0], [0.6, 0.8], [0, 2.0], [5, 5]]]
  real = np.array([[True, True, True, False]])
  mechanism = clustering.anchor_table(np.eye(2), count_weight=0.5)
  clusters, transcript = publish(mechanism, rows, real=real)
  np.testing.assert_allclose(transcript.tables[0, 0], [[1, 0, 0.5], [0.6, 1.8, 1.0]], atol=1e-6)
  np.testing.assert_allclose(clusters.people, [[1, 2]])
  np.testing.assert_allclose(clusters.concentration, [[1, math.sqrt(3.6) / 2]], rtol=1e-5)
  np.testing.assert_allclose(clusters.centres[0, 1], [0.31623, 0.94868], atol=1e-5)


def test_pooled_silo_sees_the_noisy_total_less_its_own_sums():
  rows, real = silos(3)
  pooled = clustering.anchor_table(ANCHORS, count_weight=0.5, significance=0.0, pooled=True)
  clusters, transcript = publish(pooled, rows, 0.1)
  cells = np.eye(4)[np.argmax(rows @ ANCHORS.T, -1)]
  counted = np.concatenate([rows, np.full((3, ROWS, 1), 0.5)], -1)
  own = np.einsum("knq,knw->kqw", cells, counted)
  noisy = np.asarray(transcript.tables[0])
  noise = noisy - own.sum(0)
  assert 0 < np.abs(noise).max() < 1
  np.testing.assert_allclose(noise, np.broadcast_to(noise[:1], noise.shape), atol=1e-6)
  expected = cluster_tables.read_clusters(
      jnp.asarray(noisy - own), 0.1 * pooled.sensitivity, 0.5, 0.0)
  chex.assert_trees_all_close(clusters, expected, atol=1e-4)
  real[1:] = False
  people = np.asarray(publish(pooled, rows, real=real)[0].people)
  assert (people[0] == 0).all() and (people[1:] > 0).any()


def test_weak_clusters_are_dropped_by_their_noisy_norm():
  """D = 2, sigma = 1, significance 2: kept above 2 (1 + 2 * 1) = 6; R from 25 - 2 over 6 people."""
  tables = jnp.array([[[2.5, 0, 3], [2.4, 0, 3], [3, 4, 6], [0, 0, 0]]])
  clusters = cluster_tables.read_clusters(tables, 1.0, 1.0, 2.0)
  np.testing.assert_array_equal(clusters.people, [[3, 0, 6, 0]])
  np.testing.assert_allclose(clusters.concentration[0, 2], math.sqrt(23) / 6, rtol=1e-6)
  np.testing.assert_allclose(clusters.centres[0, :3], [[1, 0], [0, 0], [0.6, 0.8]], atol=1e-6)
  silent = cluster_tables.read_clusters(tables, 0.0, 1.0, 2.0)
  np.testing.assert_array_equal(silent.people, [[3, 3, 6, 0]])


def test_utility_law():
  """cos(p~, p) = 1 / sqrt(1 + d sigma^2 / (n R)^2) of the spec, on average over 400 releases."""
  dims, people, sigma = 64, 60, 4.0
  rng = np.random.default_rng(6)
  rows = unit(np.eye(dims)[0] + 0.15 * rng.normal(size=(people, dims)))
  strength = np.linalg.norm(rows.sum(0))                                            # n R
  mechanism = clustering.client_mean(significance=0.0)
  clusters, _ = publish(mechanism, np.broadcast_to(rows, (400, people, dims)), sigma, 7)
  cosine = np.asarray(clusters.centres)[:, 0] @ (rows.sum(0) / strength)
  law = 1 / math.sqrt(1 + dims * sigma**2 / strength**2)
  assert 0.5 < law < 0.85
  assert cosine.mean() == pytest.approx(law, abs=0.02)


@pytest.mark.parametrize("releases, sigma", [(1, 3.731), (5, 8.342), (10, 11.797)])
def test_noise_for_epsilon_one(releases, sigma):
  for mechanism in (clustering.client_mean(), NOISY["anchor_table"], NOISY["dp_lloyd"]):
    compose = lambda z, one=mechanism: dp_accounting.SelfComposedDpEvent(one.event(z), releases)
    found = calibration.calibrate_noise(compose, 1.0, 1e-5, Adjacency.ADD_OR_REMOVE_ONE)
    assert found == pytest.approx(sigma, abs=0.0015)


def test_exponential_caps_cost_what_their_multiplier_says():
  """Choices and sums together are 1 / (2 z^2) zCDP: RDP a / (2 z^2) of order a, as a Gaussian."""
  event = NOISY["exponential_caps"].event(4.0)
  curve = accounting.rdp_curve(event, Adjacency.ADD_OR_REMOVE_ONE)
  np.testing.assert_allclose(curve, accounting.RDP_ORDERS / 32, rtol=1e-6)
  assert NOISY["exponential_caps"].event(0) == dp_accounting.NonPrivateDpEvent()
  assert math.isinf(accounting.epsilon(
      NOISY["anchor_table"].event(0), 1e-5, Adjacency.ADD_OR_REMOVE_ONE).best)


def test_exponential_mechanism_chooses_with_the_probabilities_of_the_formula():
  """Pairs of choices over 20,000 silos with the same six rows, caps of 3, 2 and 1 of them."""
  candidates, draws, share, multiplier = np.eye(4)[:3], 20_000, 0.5, 2.0
  rows = np.eye(4)[[0, 0, 0, 1, 1, 2]]
  mechanism = clustering.exponential_caps(
      candidates, clusters=2, angle=0.3, selection_share=share)
  many = np.broadcast_to(rows, (draws, *rows.shape))
  chosen = np.asarray(publish(mechanism, many, multiplier, 8)[1].chosen)
  weight = np.exp(2 / multiplier * math.sqrt(share / 2) * np.array([3, 2, 1]))
  for first, second in itertools.permutations(range(3), 2):
    expected = weight[first] / weight.sum() * weight[second] / (weight.sum() - weight[first])
    measured = ((chosen == [first, second]).all(1)).mean()
    assert abs(measured - expected) < 4.5 * math.sqrt(expected / draws)
  assert (chosen[:, 0] != chosen[:, 1]).all()


def test_a_row_is_in_at_most_one_cap_sum():
  inside = jnp.asarray(np.random.default_rng(9).random((12, 50)) < 0.4)
  chosen, members = cluster_tables.choose_caps(inside, 6, 2.0, jax.random.key(10))
  assert members.sum(0).max() == 1
  assert len(set(chosen.tolist())) == 6
  taken = np.zeros(50, bool)
  for cap, member in zip(chosen.tolist(), np.asarray(members), strict=True):
    np.testing.assert_array_equal(member, np.asarray(inside[cap]) & ~taken)
    taken |= member


def test_without_noise_the_fullest_caps_are_taken_and_summed():
  rows = np.eye(4)[None, [1, 1, 1, 0, 0, 2]]
  mechanism = clustering.exponential_caps(
      np.eye(4)[:3], clusters=2, angle=0.3, selection_share=0.5, count_weight=1.0)
  clusters, transcript = publish(mechanism, rows)
  np.testing.assert_array_equal(transcript.chosen, [[1, 0]])
  np.testing.assert_allclose(transcript.tables[0, 0], [[0, 3, 0, 0, 3], [2, 0, 0, 0, 2]])
  np.testing.assert_allclose(clusters.people, [[3, 2]])


def published_with_and_without(rows, removed, angle):
  """The one cluster of DPLC, all but without noise, of [N, n, D] with and without a row each."""
  mechanism = clustering.dplc_published(
      clusters=1, angle=angle, smallest=1, epsilon=1e9, delta=1e-5)
  with_all = np.ones(rows.shape[:2], bool)
  without = np.arange(rows.shape[1]) != np.asarray(removed)[:, None]
  centres = publish(mechanism, np.concatenate([rows, rows]),
                    real=np.concatenate([with_all, without]))[0].centres[:, 0]
  return np.split(np.asarray(centres), 2)


def test_published_dplc_flips_a_right_angle_for_one_added_row():
  rows = np.eye(2)[None, [0, 0, 0, 1, 1, 1, 1]]
  more, tie = published_with_and_without(rows, [6], 0.5)
  np.testing.assert_allclose([tie[0], more[0]], np.eye(2), atol=1e-6)


def test_published_dplc_moves_its_mean_far_beyond_the_claimed_bound():
  """Removing the selected row of one blob; the bound claimed for the mean is 2 sin(angle) / |A|."""
  angle, rng = math.radians(45), np.random.default_rng(3)
  blobs = unit(np.eye(8)[0] + rng.normal(size=(5, 300, 8)) / math.sqrt(8)).astype(np.float32)
  inside = blobs @ blobs.swapaxes(1, 2) >= math.cos(angle)
  selected = inside.sum(2).argmax(1)
  members = inside[np.arange(5), selected]
  before, after = published_with_and_without(blobs, selected, angle)
  total = np.einsum("kn,knd->kd", members, blobs)
  np.testing.assert_allclose(before, unit(total), atol=1e-4)
  sine = np.sqrt(1 - (before * after).sum(1)**2)
  least_move = np.linalg.norm(total, axis=1) * sine                 # of the mean, times |A|
  assert np.median(least_move / (2 * math.sin(angle))) > 10


def test_published_dplc_noise_and_stopping():
  rows = np.eye(3)[[0] * 40 + [1] * 30 + [2]]
  mechanism = clustering.dplc_published(clusters=3, angle=0.2, smallest=2, epsilon=1.0, delta=0.1)
  clusters, _ = publish(mechanism, np.broadcast_to(rows, (2000, *rows.shape)), 0.0, 12)
  np.testing.assert_array_equal(np.asarray(clusters.people)[0], [1, 1, 0])
  sigma = 2 * math.sin(0.2) / 40 * math.sqrt(2 * math.log(12.5))
  first = np.asarray(clusters.centres)[:, 0]
  tangent = first[:, 1] / first[:, 0]
  assert tangent.std() == pytest.approx(sigma, rel=0.1)


def test_ceilings_are_exact_and_marked_as_not_private():
  rows = np.eye(3)[None, [0, 0, 0, 1, 1]] * 2.0
  real = np.arange(5)[None] < 4
  centres = publish(clustering.kmeans(np.eye(3)[:2], iterations=2), rows, 9.0, real=real)[0]
  np.testing.assert_array_equal(centres.people, [[3, 1]])
  np.testing.assert_allclose(centres.concentration, [[1, 1]], rtol=1e-6)
  everyone = publish(clustering.all_rows(), rows, 9.0, real=real)[0]
  np.testing.assert_allclose(everyone.centres[0], np.eye(3)[[0, 0, 0, 1, 1]] * real[0][:, None],
                             atol=1e-6)
  for mechanism in EXACT.values():
    assert mechanism.event(3.0) == dp_accounting.NonPrivateDpEvent()
    assert not mechanism.adds_noise and mechanism.words.startswith("no guarantee")


def test_projection_publishes_in_the_basis_and_returns_to_all_dimensions():
  basis = np.eye(DIMS)[:, :2]
  mechanism = clustering.projected(clustering.client_mean(count_weight=1.0), basis)
  clusters, transcript = publish(mechanism, [[[0.6, 0, 0.8, 0, 0, 0]]])
  np.testing.assert_allclose(transcript.tables[0, 0], [[0.6, 0, 1]], atol=1e-6)
  np.testing.assert_allclose(clusters.centres[0, 0], np.eye(DIMS)[0], atol=1e-6)
  assert mechanism.numbers(DIMS) == 3
  assert mechanism.sensitivity == math.sqrt(2)
  assert "2 public dimensions" in mechanism.words


def caps(**changes):
  return clustering.exponential_caps(ANCHORS, **(CAPS | changes))


def as_published(**changes):
  return clustering.dplc_published(**(PUBLISHED | changes))


@pytest.mark.parametrize("make, message", [
    (lambda: caps(angle=0), r"angle must be in \(0, pi/2\] radians, got 0"),
    (lambda: caps(angle=1.6), "angle must be"),
    (lambda: as_published(angle=math.nan), "angle must be"),
    (lambda: caps(clusters=0), "clusters must be at least 1, got 0"),
    (lambda: as_published(clusters=0), "clusters must be at least 1, got 0"),
    (lambda: caps(clusters=5), "clusters must be at most the 4 candidates, got 5"),
    (lambda: caps(selection_share=0), r"selection_share must be in \(0, 1\), got 0"),
    (lambda: caps(selection_share=1), "selection_share must be"),
    (lambda: caps(count_weight=-1), "count_weight must be finite and at least 0, got -1"),
    (lambda: clustering.client_mean(count_weight=math.inf), "count_weight must be finite"),
    (lambda: clustering.client_mean(significance=-0.1), "significance must be finite"),
    (lambda: as_published(smallest=0), "smallest must be at least 1, got 0"),
    (lambda: as_published(epsilon=0), "epsilon must be positive and finite, got 0"),
    (lambda: as_published(delta=1), r"delta must be in \(0, 1\), got 1"),
    (lambda: clustering.dp_lloyd(ANCHORS, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: clustering.kmeans(ANCHORS, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: clustering.anchor_table(1.01 * ANCHORS), "anchors must be unit vectors: row 0 has no"),
    (lambda: clustering.anchor_table(ANCHORS[0]), r"anchors must be unit vectors \[Q, D\], got"),
    (lambda: clustering.anchor_table(np.nan * ANCHORS), "anchors must be unit vectors: row 0 has"),
    (lambda: clustering.projected(clustering.all_rows(), np.ones((4, 2))), "basis must be orthono"),
    (lambda: clustering.projected(NOISY["anchor_table"], np.eye(4)), "rows must have 6 dimensions"),
])
def test_bad_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize("name, shape, message", [
    ("kmeans", (1, 3, DIMS), "clusters must be at most the 3 rows of a silo, got 4"),
    ("dplc_published", (1, 1, DIMS), "clusters must be at most the 1 rows of a silo, got 2"),
    ("anchor_table", (1, 8, 5), "rows must have 6 dimensions, got 5"),
    ("projected", (1, 8, 5), "rows must have 6 dimensions, got 5"),
    ("all_rows", (8, DIMS), r"rows must be \[N, n, D\]"),
])
def test_bad_rows_are_refused(name, shape, message):
  with pytest.raises(ValueError, match=message):
    EVERY[name].publish(jnp.zeros(shape), jnp.ones(shape[:2], bool), 1.0, jax.random.key(0))
