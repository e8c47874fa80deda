"""Samples of units: as often as they should, by their own coins, and what that is worth."""

import dp_accounting
import numpy as np
import pytest

from fedjax_face.dp_sgd.sampling import poisson_sampling
from fedjax_face.draws import Draws, identity_of
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency

ADD = Adjacency.ADD_OR_REMOVE_ONE


def units(unit, **changes):
  options = {"expected": 2, "capacity": 8, "rows": 3, "views": 1, "devices": 1} | changes
  unit = np.asarray(unit)
  return poisson_sampling(unit, identity_of(unit), "image", **options)


def drawn(sampling, seed, round_number=0):
  return sampling.cohort(Draws.of(seed), round_number)


def rows_of(cohort):
  """The rows of each unit that takes part."""
  examples, mask = (x.reshape(-1, x.shape[-1]) for x in (cohort.examples, cohort.mask))
  return [tuple(e[m].tolist()) for e, m in zip(examples, mask, strict=True) if m.any()]


def test_every_unit_takes_part_as_often_as_it_should():
  sampling = units(np.repeat(np.arange(10), 2), expected=3, capacity=10)
  taken = np.zeros(10)
  for seed in range(1000):
    for rows in rows_of(drawn(sampling, seed)):
      taken[rows[0] // 2] += 1
  assert taken.sum() == pytest.approx(3000, abs=4 * np.sqrt(1000 * 10 * .3 * .7))
  np.testing.assert_allclose(taken, 300, atol=4 * np.sqrt(1000 * .3 * .7))
  assert sampling.expected == 3 and sampling.population == 10


def test_beyond_the_capacity_a_uniform_subset_stays():
  sampling = units(np.arange(6), expected=3, capacity=3, rows=1)
  taken, full = np.zeros(6), 0
  for seed in range(2000):
    rows = rows_of(drawn(sampling, seed))
    assert len(rows) <= 3
    full += len(rows) == 3
    for row, in rows:
      taken[row] += 1
  # P(at least 3 of 6 coins of 1/2) = 42 / 64; expected number min(3, B) = (6 + 30 + 126) / 64
  assert full / 2000 == pytest.approx(42 / 64, abs=.045)
  np.testing.assert_allclose(taken / 2000, 162 / 64 / 6, atol=.045)


def test_empty_places_are_masked_and_sizes_never_change():
  sampling = units(np.repeat(np.arange(20), 2), expected=1, capacity=8, rows=2)
  cohorts = [drawn(sampling, seed) for seed in range(20)]
  for cohort in cohorts:
    assert cohort.examples.shape == cohort.mask.shape == (1, 8, 2)
    assert not cohort.examples[~cohort.mask].any()
  assert {c.mask[0].any(1).sum() for c in cohorts} > {0, 1}


def test_more_rows_than_allowed_are_a_uniform_subset():
  sampling = units([0] * 5 + [1], expected=2, capacity=2, rows=2)
  seen = np.zeros(6)
  for seed in range(600):
    rows = rows_of(drawn(sampling, seed))
    assert len(rows[0]) == 2 and set(rows[0]) < set(range(5)) and rows[1] == (5,)
    seen[list(rows[0])] += 1
  np.testing.assert_allclose(seen[:5] / 600, 2 / 5, atol=.09)


def test_a_unit_draws_the_same_whatever_rows_the_others_have():
  before, after = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 2, 2, 2, 2]
  for seed in range(30):
    many, few = (rows_of(drawn(units(unit, rows=2, expected=3, capacity=3), seed))
                 for unit in (before, after))
    for first, second in zip(many[1:], few[1:], strict=True):
      assert tuple(row - 4 for row in first) == second


def test_an_appended_unit_leaves_the_others():
  """At the same probability, which counts as public."""
  for seed in range(30):
    few = rows_of(drawn(units(np.repeat(np.arange(8), 4), expected=2), seed))
    more = rows_of(drawn(units(np.repeat(np.arange(12), 4), expected=3, capacity=9), seed))
    assert [rows for rows in more if rows[0] < 32] == few


def test_views_repeat_rows_and_devices_share_the_units():
  sampling = units(np.repeat(np.arange(4), 2), expected=4, capacity=4, views=3, devices=2)
  cohort = drawn(sampling, 0)
  assert cohort.examples.shape == (2, 2, 6) and cohort.mask.all()
  assert sorted(cohort.examples.reshape(4, 6)[0].tolist()) == [0, 0, 0, 1, 1, 1]
  np.testing.assert_array_equal(cohort.examples[..., 0], cohort.examples[..., 2])
  np.testing.assert_array_equal(cohort.client, [0, 1])


def test_the_event_counts_the_coins_and_the_room():
  roomy = units(np.arange(8), capacity=9).event(1.5)
  assert roomy == dp_accounting.PoissonSampledDpEvent(.25, dp_accounting.GaussianDpEvent(1.5))
  tight = units(np.arange(80), expected=20, capacity=24).event(1.5)
  assert tight == dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
      dataset_size=80, sampling_probability=.25, truncated_batch_size=24, noise_multiplier=1.5)


@pytest.mark.parametrize("changes, message", [
    ({"expected": 9}, "method.units.batch_size=9 images a step, but the training set has 8"),
    ({"probability": 1.5}, "Poisson probability is 1.5; expected above 0 and at most 1"),
    ({"capacity": 1}, "method.units.capacity=1: expected at least method.units.batch_size=2"),
    ({"devices": 3}, "a multiple of the 3 devices"),
])
def test_bad_numbers_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    units(np.arange(8), **changes)


def test_room_for_all_but_one_more_counts_as_limited():
  event = units(np.arange(10), expected=3, capacity=10, rows=1)
  assert isinstance(event.event(1.5), dp_accounting.TruncatedSubsampledGaussianDpEvent)
  assert "the limit of a step is accounted with it" in event.not_covered[0]
  room = units(np.arange(10), expected=3, capacity=11, rows=1)
  assert isinstance(room.event(1.5), dp_accounting.PoissonSampledDpEvent)
  assert "the limit of a step" not in room.not_covered[0]
  epsilon = lambda sampling: accounting.epsilon(sampling.event(1.5), 1e-5, ADD).best
  assert epsilon(room) <= epsilon(event) < 2 * epsilon(room)
