"""Rates, intervals and bounds by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from fedjax_face.attacks import error_rates
from fedjax_face.attacks.error_rates import epsilon_bound, gaussian_bound, unbounded
from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.privacy.curves import gaussian_delta


def test_gaussian_bound_by_hand():
  assert gaussian_bound(0)(0.3) == pytest.approx(0.3)
  assert gaussian_bound(1)(0.5) == pytest.approx(0.841345, abs=1e-6)
  assert gaussian_bound(2)(stats.norm.cdf(-1)) == pytest.approx(stats.norm.cdf(1))
  assert gaussian_bound(math.inf)(0.01) == 1


def test_epsilon_bound_by_hand():
  bound = epsilon_bound(math.log(3), 0.1)
  assert bound(0.1) == pytest.approx(0.4)                  # 3 * 0.1 + 0.1
  assert bound(0.6) == pytest.approx(0.9)                  # 1 - (1 - 0.1 - 0.6) / 3
  assert bound(1.0) == 1
  assert epsilon_bound(math.inf, 0)(1e-9) == 1
  assert epsilon_bound(1e4, 0)(0.01) == 1


def test_gaussian_bound_lies_under_every_epsilon_of_its_curve():
  rates = np.linspace(0.001, 0.999, 99)
  for epsilon in (0.5, 2.0, 5.0):
    loose = epsilon_bound(epsilon, float(gaussian_delta(epsilon, 0.5)))
    assert all(gaussian_bound(2.0)(rate) <= loose(rate) + 1e-12 for rate in rates)


def test_largest_auc():
  assert error_rates.largest_auc(unbounded) == pytest.approx(1)
  assert error_rates.largest_auc(gaussian_bound(1.5)) == pytest.approx(
      stats.norm.cdf(1.5 / math.sqrt(2)), abs=1e-7)
  # The two lines meet at rate 1/4, rate 3/4: two triangles and a trapezoid.
  assert error_rates.largest_auc(epsilon_bound(math.log(3), 0)) == pytest.approx(0.75, abs=1e-6)


def test_largest_binary_accuracy():
  """With even shares the best is (1 + TV) / 2 = Phi(mu / 2); knowing nothing, the larger share."""
  assert error_rates.largest_binary_accuracy(0.5, gaussian_bound(2)) == pytest.approx(
      stats.norm.cdf(1), abs=1e-5)
  assert error_rates.largest_binary_accuracy(0.3, gaussian_bound(0)) == pytest.approx(0.7, abs=1e-6)
  assert error_rates.largest_binary_accuracy(0.2, unbounded) == pytest.approx(1)
  assert error_rates.largest_binary_accuracy(0.2, gaussian_bound(1)) == pytest.approx(
      error_rates.largest_binary_accuracy(0.8, gaussian_bound(1)))


def test_largest_label_accuracy_is_that_of_randomised_response():
  even = np.full(4, 0.25)
  assert error_rates.largest_label_accuracy(even, math.log(3)) == pytest.approx(3 / 6)
  assert error_rates.largest_label_accuracy(even, math.inf) == 1
  assert error_rates.largest_label_accuracy(np.array([0.7, 0.2, 0.1]), 0.0) == pytest.approx(0.7)
  # Randomised response on two labels answers rightly with 3/4; ignoring it is right with 0.9.
  assert error_rates.largest_label_accuracy(np.array([0.9, 0.1]), math.log(3)) == pytest.approx(0.9)


def test_largest_identification():
  assert error_rates.largest_identification(np.full(5, 0.2), gaussian_bound(0)) == (
      pytest.approx(0.2))
  assert error_rates.largest_identification(np.full(5, 0.2), gaussian_bound(1)) == pytest.approx(
      stats.norm.cdf(stats.norm.ppf(0.2) + 1))


def test_largest_identification_holds_for_the_best_guess():
  """Ten orthogonal messages: the nearest one is the best guess and stays under the bound."""
  rng, sigma = np.random.default_rng(0), 1.0
  sent = rng.integers(0, 10, 20_000)
  received = np.eye(10)[sent] + sigma * rng.normal(size=(len(sent), 10))
  right = np.mean(received.argmax(axis=1) == sent)
  assert 0.3 < right < error_rates.largest_identification(
      np.full(10, 0.1), gaussian_bound(math.sqrt(2) / sigma))


def test_clopper_pearson_by_hand():
  """No success in n: the upper end is 1 - tail^(1/n)."""
  value, low, high = error_rates.clopper_pearson(0, 20, 0.95)
  assert (value, low) == (0, 0) and high == pytest.approx(1 - 0.025 ** (1 / 20))
  assert error_rates.clopper_pearson(20, 20, 0.95) == pytest.approx((1, 0.025 ** (1 / 20), 1))
  exact = stats.binomtest(7, 30).proportion_ci(0.9, "exact")
  assert error_rates.clopper_pearson(7, 30, 0.9) == pytest.approx((7 / 30, *exact))
  with pytest.raises(ValueError, match="4 successes of 3 trials"):
    error_rates.clopper_pearson(4, 3)


def test_auc_by_hand():
  positives, negatives = np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0])
  value, low, high = error_rates.auc(positives, negatives)
  assert value == pytest.approx((3 + 1.5) / 6)
  # Placements 1, 1/2 of the positives and 1/2, 3/4, 1 of the negatives.
  half = 1.959964 * math.sqrt(0.125 / 2 + 0.0625 / 3)
  assert (low, high) == pytest.approx((0.75 - half, 1.0), abs=1e-5)
  apart = error_rates.auc(np.ones(3), np.zeros(3))
  assert apart.value == 1 and math.isnan(apart.low)


def test_power_by_hand():
  """Of 100 negatives one may pass at 1 %: the threshold is the second largest, and is not passed
  by a positive that equals it.
  """
  negatives = np.arange(100.0)
  positives = np.array([98.0, 98.5, 120.0, -1.0])
  point = error_rates.power(positives, negatives, 0.01, gaussian_bound(1), 0.95)
  assert point.false_positive_rate == error_rates.clopper_pearson(1, 100, 0.95)
  assert point.true_positive_rate == error_rates.clopper_pearson(2, 4, 0.95)
  assert point.bound == pytest.approx(gaussian_bound(1)(0.01))
  assert not point.exceeds_bound
  none_may = error_rates.power(positives, negatives, 0.001, unbounded)
  assert none_may.true_positive_rate.value == 0.25
  assert none_may.false_positive_rate.value == 0 < none_may.false_positive_rate.high


def test_verdict_needs_both_intervals():
  """TPR of 0.5 at 1 % lies over the bound of mu = 1 (0.092), once there are enough trials."""
  rng = np.random.default_rng(0)
  shifted = lambda n: (rng.normal(2.33, 1, n), rng.normal(0, 1, n))
  verdict = lambda n: error_rates.separation(*shifted(n), gaussian_bound(1)).points[0].exceeds_bound
  assert not verdict(5) and verdict(2000)


def test_separation_stays_under_its_own_bound_and_says_so():
  rng = np.random.default_rng(1)
  result = error_rates.separation(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000),
                                  gaussian_bound(1))
  assert not result.exceeds_bound
  assert result.auc.low < result.largest_auc < result.auc.high
  assert [point.target for point in result.points] == [0.01, 0.001]


def test_guess_between_chance_and_bound():
  guess = error_rates.guesses(np.array([True] * 9 + [False]), 0.5, 0.6)
  assert guess.accuracy == error_rates.clopper_pearson(9, 10) and guess.chance == 0.5
  assert not guess.exceeds_bound                           # 9 of 10: at least 0.555
  assert error_rates.guesses(np.array([True] * 90 + [False] * 10), 0.5, 0.6).exceeds_bound
  assert isinstance(guess.accuracy, Estimate)


@pytest.mark.parametrize("call, message", [
    (lambda: gaussian_bound(-1), "mu -1: expected a number of at least 0"),
    (lambda: epsilon_bound(math.nan, 0), "epsilon nan: expected"),
    (lambda: error_rates.separation([], [1.0], unbounded), r"positives: scores of shape \[0\]"),
    (lambda: error_rates.separation([1.0], [math.nan], unbounded), "negatives: .* no nan"),
    (lambda: error_rates.power(np.ones(2), np.ones(2), 1.0, unbounded), "rate 1.0: expected"),
])
def test_what_makes_no_sense_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
