"""Median, trimmed mean and Krum by hand, and against clients that send what they like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.federated import aggregators, robust
from fedjax_face.method import Budget
from fedjax_face.options import OptionError
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.privacy.ledger import is_non_private
from tests.federated import toys
from tests.federated.test_participation import scheme
from tests.federated.test_round import make_round, run
from tests.methods import tiny

CLIP = UpdateClip(1, Adjacency.ADD_OR_REMOVE_ONE)
UNCLIPPED = {"aggregate": {"clip_norm": np.inf}, "server": {"learning_rate": 1.0}}
STATISTICS = {"coordinate_median": robust.median_of, "trimmed_mean": robust.trimmed_mean_of(0.25),
              "krum": robust.nearest_of(1, 1), "multi_krum": robust.nearest_of(1, 3)}
HONEST = [(1.0, 2.0), (1.2, 2.1), (0.9, 1.7), (1.1, 2.2), (1.0, 2.05)]
POISON = [(-1e6, 1e6), (np.nan, 0.0), (1e38, -1e38)]


def aggregator(name):
  return robust.robust(CLIP, STATISTICS[name], name)


def moved(chosen, updates, clients=None, hparams=UNCLIPPED, chunk=1, mesh=None):
  state, metrics = run(make_round(updates, chosen, hparams, chunk, mesh),
                       toys.cohort_of(range(len(updates)), clients), hparams)
  return -np.asarray(state.params["backbone"]), metrics


@pytest.mark.parametrize("name, expected", [
    ("coordinate_median", (2.0, 4.5)),       # of 0 1 3 9 and of 1 4 5 8
    ("trimmed_mean", (2.0, 4.5)),            # the mean of the two in the middle
    ("krum", (1.0, 4.0)),                    # one neighbour: (0, 5) is as near, and comes later
    ("multi_krum", (4 / 3, 10 / 3)),         # without (9, 8)
])
def test_four_updates_by_hand(name, expected):
  """With f = 1 of four, one neighbour counts: distances 2, 13, 80, 2 to the nearest."""
  got, _ = moved(aggregator(name), [(1, 4), (3, 1), (9, 8), (0, 5)])
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_krum_sums_the_distances_to_its_neighbours():
  """f = 1 of 6, so three: the points 0 1 3 6 10 15 score 46, 30, 22, 50, 90, 231."""
  rows = {"w": jnp.array([0.0, 1, 3, 6, 10, 15])[:, None]}
  everybody = jnp.ones(6, bool)
  assert robust.nearest_of(1, 1)(rows, everybody)["w"] == 3
  assert robust.nearest_of(1, 2)(rows, everybody)["w"] == 2      # 3 and 1
  absent = everybody.at[2].set(False)       # two neighbours: 0 1 6 10 15 score 37, 26, 41, 41, 106
  assert robust.nearest_of(1, 1)(rows, absent)["w"] == 1


def test_a_trimmed_mean_leaves_out_the_stated_share_of_those_present():
  rows, everybody = {"w": jnp.array([9.0, 0, 2, 4, -7, 5])}, jnp.ones(6, bool)
  statistic = robust.trimmed_mean_of(0.34)
  assert statistic(rows, everybody)["w"] == 3                            # of 2 and 4
  assert statistic(rows, everybody.at[0].set(False))["w"] == 2           # one of five: 0, 2, 4
  assert [robust.trimmed(0.1, n) for n in (9, 10, 20)] == [0, 1, 2]
  assert robust.trimmed(0.29, 100) == 29


def test_the_median_of_an_odd_number_is_one_of_them():
  rows = {"w": jnp.array([[5.0, 1.0], [2.0, 8.0], [3.0, 2.0], [0.0, 0.0]])}
  got = robust.median_of(rows, jnp.array([True, True, True, False]))["w"]
  np.testing.assert_array_equal(got, [3, 2])


@pytest.mark.parametrize("bad", POISON, ids=["large", "nan", "huge"])
@pytest.mark.parametrize("name", STATISTICS)
def test_a_poisoned_client_moves_the_mean_and_not_these(name, bad):
  low, high = np.min(HONEST, axis=0), np.max(HONEST, axis=0)
  inside = lambda update: bool(((low <= update) & (update <= high)).all())
  assert inside(moved(aggregator(name), [*HONEST, bad])[0])
  if np.isfinite(bad).all():
    assert not inside(moved(aggregators.weighted_mean(), [*HONEST, bad])[0])


@pytest.mark.parametrize("name", STATISTICS)
def test_updates_are_clipped_first_and_absent_clients_count_for_nothing(name):
  hparams = UNCLIPPED | {"aggregate": {"clip_norm": 1.0}}
  got, metrics = moved(aggregator(name), [(3, 4)] * 4 + [(0, 0)] * 2, [0, 1, 2, 3, -1, -1], hparams)
  np.testing.assert_allclose(got, (0.6, 0.8), rtol=1e-6)
  assert metrics["clipped_fraction"] == 1 and metrics["clients"] == 4
  nobody, metrics = moved(aggregator(name), [(3, 4)] * 2, [-1, -1])
  np.testing.assert_array_equal(nobody, 0)


@pytest.mark.parametrize("name", STATISTICS)
def test_chunks_change_nothing(name):
  updates = np.random.default_rng(0).normal(size=(6, 2))
  one, _ = moved(aggregator(name), updates)
  np.testing.assert_array_equal(moved(aggregator(name), updates, chunk=3)[0], one)


@pytest.mark.parametrize("part", [
    ff.coordinate_median(), ff.trimmed_mean(trim=0.34), ff.krum(malicious=0, selected=2)],
    ids=["coordinate_median", "trimmed_mean", "krum"])
def test_a_claim_of_privacy_is_refused(part):
  clients = ff.replace(tiny.CLIENTS, per_round=3)
  with pytest.raises(OptionError, match="epsilon=8.0 cannot be had.*sensitivity is not proved"):
    tiny.bound(tiny.dp_fedemb(aggregate=part, clients=clients), privacy=Budget(8.0, 1e-5))


def test_a_method_trains_with_them_and_says_that_the_server_sees_every_update():
  algorithm = tiny.bound(tiny.fedavg(
      aggregate=ff.trimmed_mean(trim=0.34), server=ff.fedyogi(),
      clients=ff.replace(tiny.CLIENTS, per_round=3)))
  state, metrics = tiny.run(algorithm)
  assert np.isfinite(metrics["loss"])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params,
                       tiny.start(algorithm).params)
  assert all(jax.tree.leaves(moved))
  [release] = algorithm.releases
  assert is_non_private(release.event) and "the server sees every client's update" in release.note


@pytest.mark.parametrize("make, words", [
    (lambda: ff.trimmed_mean(trim=0.1), "trim=0.1: leaves out none of the 4 clients"),
    (lambda: ff.krum(malicious=1), r"malicious=1: 2 f \+ 2 must be below the 4 clients"),
    (lambda: ff.krum(malicious=0, selected=5), "selected=5: expected at most 4"),
    (lambda: ff.krum(malicious=-1), "krum.malicious=-1: expected a whole number, at least 0"),
    (lambda: ff.trimmed_mean(trim=0.5), r"trim=0.5: expected a number in \(0, 0.5\)"),
    (lambda: ff.krum(noise_multiplier=1.0), "krum takes no noise_multiplier"),
])
def test_what_cannot_hold_is_refused_in_one_line(make, words):
  with pytest.raises(OptionError, match=words) as caught:
    make().bind(scheme("fixed")._replace(clients=4), 1)
  assert "\n" not in str(caught.value)
