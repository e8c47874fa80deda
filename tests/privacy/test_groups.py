"""Group privacy of sampled Gaussians against dp_accounting, closed forms and brute force."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from fedjax_face.privacy import accounting, groups
from fedjax_face.privacy.adjacency import Adjacency

ADD = Adjacency.ADD_OR_REMOVE_ONE
DELTA = 1e-5


def sampled(q, z):
  return dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))


def limited(capacity, population=2000, q=64 / 2000, z=1.0):
  return dp_accounting.TruncatedSubsampledGaussianDpEvent(population, q, capacity, z)


@pytest.mark.parametrize("q, z, steps", [(0.02, 1.0, 200), (0.5, 3.0, 20), (0.001, 0.7, 1000)])
def test_one_unit_is_the_unit_of_the_guarantee(q, z, steps):
  event = dp_accounting.SelfComposedDpEvent(sampled(q, z), steps)
  expected = accounting.epsilon_by("pld", event, DELTA, ADD)
  assert groups.group_epsilon(sampled(q, z), steps, 1, DELTA) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("q, group", [(0.02, 2), (0.3, 4)])
def test_agrees_with_the_mixture_of_gaussians_of_dp_accounting(q, group):
  steps, z = 20, 1.5
  mixture = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
      z, [float(j) for j in range(group + 1)],
      stats.binom.pmf(np.arange(group + 1), group, q).tolist())
  accountant = dp_accounting.pld.PLDAccountant(
      dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 5e-3)
  expected = accountant.compose(mixture, steps).get_epsilon(DELTA)
  found = groups.group_epsilon(sampled(q, z), steps, group, DELTA)
  assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("event", [sampled(1.0, 4.0), dp_accounting.GaussianDpEvent(4.0)])
def test_without_sampling_k_units_are_k_times_the_sensitivity(event):
  expected = accounting.epsilon_by("pld", dp_accounting.SelfComposedDpEvent(
      dp_accounting.GaussianDpEvent(4.0 / 3), 10), DELTA, ADD)
  assert groups.group_epsilon(event, 10, 3, DELTA) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("direction", ["remove", "add"])
def test_delta_of_a_mixture_is_the_integral(direction):
  shifts, weights, z = np.array([0.0, 1.0, 2.0]), np.array([0.64, 0.32, 0.04]), 0.8
  x = np.linspace(-15, 17, 400_001)
  m = sum(p * stats.norm.pdf(x, c, z) for p, c in zip(weights, shifts, strict=True))
  q = stats.norm.pdf(x, 0, z)
  first, second = (m, q) if direction == "remove" else (q, m)
  epsilons = np.array([-3.0, -0.44, -0.1, 0.0, 0.1, 0.4, 0.5, 2.0, 6.0])
  expected = [np.trapezoid(np.maximum(first - math.exp(e) * second, 0), x) for e in epsilons]
  found = groups.mixture_delta(epsilons, shifts, weights, z, direction)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_more_units_cost_more_and_less_than_by_generic_group_privacy():
  found = [groups.group_epsilon(sampled(0.02, 1.0), 100, k, DELTA) for k in (1, 2, 5, 10)]
  assert found == sorted(found)
  for k, epsilon in zip((2, 5, 10), found[1:], strict=True):
    own = epsilon / k  # generic: epsilon / k of one unit, at this delta or a smaller one
    smaller = DELTA / (k * math.exp((k - 1) * own))
    one = accounting.epsilon_by(
        "pld", dp_accounting.SelfComposedDpEvent(sampled(0.02, 1.0), 100), smaller, ADD)
    assert one > own


def test_a_limit_that_is_hardly_reached_costs_nothing_and_one_that_is_doubles_the_sensitivity():
  without = groups.group_epsilon(sampled(64 / 2000, 1.0), 50, 2, DELTA)
  assert groups.group_epsilon(limited(160), 50, 2, DELTA) == pytest.approx(without, rel=1e-3)
  doubled = groups.group_epsilon(sampled(64 / 2000, 0.5), 50, 2, DELTA)
  assert groups.group_epsilon(limited(64), 50, 2, DELTA) == pytest.approx(doubled, rel=2e-2)
  assert groups.group_epsilon(limited(1), 50, 2, DELTA) >= doubled * 0.98


def test_the_bound_holds_for_what_a_crowded_step_really_does():
  """Two units of norm 1 join five of norm -1; at most two of a sample are kept: by enumeration."""
  q, z, capacity, norms = 0.4, 2.0, 2, [-1.0] * 5

  def law(units):
    """Distribution of the sum of a step: every sample, every subset that is kept."""
    sums = {}
    for sample in range(1 << len(units)):
      chosen = [u for i, u in enumerate(units) if sample >> i & 1]
      p = q**len(chosen) * (1 - q)**(len(units) - len(chosen))

      kept = list(itertools.combinations(chosen, min(capacity, len(chosen))))
      for part in kept:
        sums[sum(part)] = sums.get(sum(part), 0) + p / len(kept)
    return sums

  x = np.linspace(-30, 30, 60_001)
  density = lambda units: sum(p * stats.norm.pdf(x, c, z) for c, p in law(units).items())
  small, large = density(norms), density([*norms, 1.0, 1.0])
  event = dp_accounting.TruncatedSubsampledGaussianDpEvent(5, q, capacity, z)
  for delta in (1e-2, 1e-4):
    claimed = math.exp(groups.group_epsilon(event, 1, 2, delta))
    for first, second in ((small, large), (large, small)):
      assert np.trapezoid(np.maximum(first - claimed * second, 0), x) <= delta


def test_what_promises_nothing_is_infinite_and_other_events_are_not_computed():
  assert groups.group_epsilon(dp_accounting.NonPrivateDpEvent(), 3, 2, DELTA) == math.inf
  assert groups.group_epsilon(sampled(0.1, 0.0), 3, 2, DELTA) == math.inf
  assert math.isnan(groups.group_epsilon(dp_accounting.LaplaceDpEvent(1.0), 3, 2, DELTA))
  assert groups.group_epsilon(sampled(0.1, 1.0), 0, 2, DELTA) == 0


@pytest.mark.parametrize("group, steps, delta", [(0, 1, .1), (1, -1, .1), (1, 1, 0.), (1, 1, 1.)])
def test_numbers_out_of_range_are_refused(group, steps, delta):
  with pytest.raises(ValueError, match="expected at least 1"):
    groups.group_epsilon(sampled(0.1, 1.0), steps, group, delta)


@pytest.mark.parametrize("q, z, steps, k, finite", [
    (.01, 1e-3, 1000, 2, False), (.01, 1e-8, 1000, 10, False), (.01, 1e6, 1000, 10, True),
    (.01, 0.05, 1000, 2, False)])
def test_tiny_and_huge_noise_end_with_a_bound(q, z, steps, k, finite):
  found = groups.group_epsilon(sampled(q, z), steps, k, DELTA)
  assert math.isfinite(found) == finite and found >= 0
  if finite:
    without = accounting.epsilon(dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(z / k), steps), DELTA, ADD).best
    assert found <= without * (1 + 1e-6)


def test_what_takes_too_long_is_not_available(monkeypatch):
  monkeypatch.setattr(groups, "_SECONDS", 0.0)
  assert math.isnan(groups.group_epsilon(sampled(1e-5, 1.0), 100_000, 10, DELTA))
  monkeypatch.setattr(groups, "_SECONDS", 2.0)
  groups.group_epsilon(sampled(1e-5, 1.0), 100_000, 10, DELTA)  # ends
