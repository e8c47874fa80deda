"""A linear probe by hand, and under noise that hides what it reads."""

import numpy as np
import pytest
from scipy import stats

from fedjax_face.attacks import attribute
from fedjax_face.attacks.error_rates import gaussian_bound


def people(count, sigma, seed, dim=6):
  """Activations whose first coordinate is +-1 with the trait."""
  rng = np.random.default_rng(seed)
  trait = rng.random(count) < 0.6
  rows = np.zeros((count, dim // 2, 2))
  rows[:, 0, 0] = np.where(trait, 1, -1)
  return rows + sigma * rng.normal(size=rows.shape), trait


def test_probe_by_hand():
  """Projects on the difference, with the mean in between, and leans to the larger kind."""
  probe = attribute.linear_probe(np.array([[0.0], [2.0], [2.0], [0.0]]),
                                 [False, True, True, False], 1e-9)
  np.testing.assert_array_equal(probe(np.array([[0.9], [1.1]])), [False, True])
  shrunk = attribute.linear_probe(np.array([[0.0], [2.0], [2.0]]), [False, True, True], 1e9)
  assert shrunk(np.array([[-50.0]])).all()


def test_both_ways_to_solve_agree():
  """Zero coordinates change the system that is solved and not the answer."""
  rows, trait = people(40, 0.8, 0)
  wide = np.concatenate([rows.reshape(40, -1), np.zeros((40, 60))], axis=1)
  narrow_probe = attribute.linear_probe(rows, trait, 0.1)
  wide_probe = attribute.linear_probe(wide, trait, 0.1)
  np.testing.assert_array_equal(narrow_probe(rows), wide_probe(wide))


def attack(sigma, bound):
  return attribute.attribute_attack(*people(2000, sigma, 1), *people(20_000, sigma, 2), ridge=1e-3,
                                    bound=bound)


def test_clear_activations_give_the_trait_away():
  result = attack(0.1, gaussian_bound(0.5))
  assert result.accuracy.value == 1 and result.chance == pytest.approx(0.6, abs=0.03)
  assert result.exceeds_bound


def test_the_best_accuracy_under_noise_is_reached_and_not_exceeded():
  sigma = 4.0
  result = attack(sigma, gaussian_bound(2 / sigma))
  assert result.accuracy.low < result.largest < result.accuracy.high
  assert result.chance < result.largest < stats.norm.cdf(1)
  assert not result.exceeds_bound


@pytest.mark.parametrize("rows, trait, ridge, message", [
    (np.ones((2, 1)), [True, True], 1.0, "2 of them set; expected as many, of both kinds"),
    (np.ones((3, 1)), [True, False], 1.0, "3 activations and 2 attributes"),
    (np.ones((2, 1)), [True, False], 0.0, "ridge 0.0: expected a positive number"),
])
def test_what_makes_no_sense_is_refused(rows, trait, ridge, message):
  with pytest.raises(ValueError, match=message):
    attribute.linear_probe(rows, trait, ridge)
