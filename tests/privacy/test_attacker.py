"""The bound on an attacker is that of the exact trade-off curve, and never below it."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from fedjax_face.privacy import accounting, attacker
from fedjax_face.privacy.adjacency import Adjacency

REPLACE, ADD = Adjacency.REPLACE_ONE, Adjacency.ADD_OR_REMOVE_ONE
DELTA = 1e-5


def found(event, adjacency=REPLACE):
  epsilon = accounting.epsilon(event, DELTA, adjacency).best
  return attacker.most_found(event, adjacency, epsilon, DELTA)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.2])
def test_of_a_gaussian_it_is_its_roc_curve(mu):
  exact = stats.norm.cdf(stats.norm.ppf(0.01) + mu)
  assert exact <= found(dp_accounting.GaussianDpEvent(1 / mu)) <= 1.01 * exact


def test_it_is_below_what_the_single_epsilon_gives():
  event = dp_accounting.GaussianDpEvent(1.0)
  epsilon = accounting.epsilon(event, DELTA, REPLACE).best
  assert found(event) < 0.5 * min(1, math.exp(epsilon) * 0.01 + DELTA)


@pytest.mark.parametrize("q", [0.1, 0.5])
def test_no_threshold_on_a_sampled_gaussian_finds_more(q):
  bound = found(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(0.7)), ADD)
  x = stats.norm.isf(0.01, scale=0.7)
  in_data = q * stats.norm.sf(x, 1, 0.7) + (1 - q) * stats.norm.sf(x, 0, 0.7)
  assert in_data <= bound <= 1.02 * in_data


def test_without_a_curve_the_one_pair_is_used():
  event = dp_accounting.ZCDpEvent(0.5)
  assert attacker.most_found(event, REPLACE, 2.0, DELTA) == pytest.approx(
      math.exp(2.0) * 0.01 + DELTA)
  assert attacker.most_found(event, REPLACE, 9.0, DELTA) == pytest.approx(
      1 - math.exp(-9) * (1 - DELTA - 0.01))


@pytest.mark.parametrize("epsilon", [math.inf, math.nan])
def test_without_a_bound_everybody_may_be_found(epsilon):
  assert attacker.most_found(dp_accounting.NonPrivateDpEvent(), ADD, epsilon, DELTA) == 1


@pytest.mark.parametrize("epsilon, delta, pinned, word", [
    (0.5, 1e-6, False, "strong"), (1.0, 1e-6, False, "strong"), (1.01, 1e-6, False, "moderate"),
    (10.0, 1e-6, False, "moderate"), (10.1, 1e-6, False, "weak"), (np.inf, 1e-6, False, "none"),
    (np.nan, 1e-6, False, "none"), (0.5, 1e-6, True, "none"), (0.5, 1e-3, False, "none")])
def test_verdicts(epsilon, delta, pinned, word):
  assert attacker.verdict(epsilon, delta, 1000, pinned).word == word


def test_where_the_curve_takes_too_long_or_does_not_fit_the_one_pair_is_used(monkeypatch):
  pair = min(math.exp(2.0) * 0.01 + DELTA, 1)
  event = dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(
      .01, dp_accounting.GaussianDpEvent(1e-3)), 1000)
  assert attacker.most_found(event, ADD, 2.0, DELTA) == pytest.approx(pair)
  monkeypatch.setattr(attacker.time_limit, "SECONDS", 0.0)
  short = dp_accounting.GaussianDpEvent(1.0)
  assert attacker.most_found(short, ADD, 2.0, DELTA) == pytest.approx(pair)


def test_an_epsilon_beyond_all_numbers_is_no_error():
  assert attacker.most_found(dp_accounting.GaussianDpEvent(1e-3), ADD, 5e5, DELTA) == 1
