"""Known epsilons, both accountants against each other, and what neither can do."""

from __future__ import annotations

import logging
import math
import threading

import dp_accounting
import numpy as np
import pytest
from scipy import special

from fedjax_face.privacy import accountants, accounting, curves, time_limit
from fedjax_face.privacy.adjacency import Adjacency

ADD, REPLACE, ZERO = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE, Adjacency.ZERO_OUT
Gaussian = dp_accounting.GaussianDpEvent
FixedSize = dp_accounting.dp_event.SampledWithoutReplacementDpEvent
Truncated = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent


def poisson(noise, rate, steps):
  return dp_accounting.SelfComposedDpEvent(
      dp_accounting.PoissonSampledDpEvent(rate, Gaussian(noise)), steps)


def fixed_size(noise, population, size, steps):
  return dp_accounting.SelfComposedDpEvent(FixedSize(population, size, Gaussian(noise)), steps)


def pld_delta(event, adjacency, epsilon):
  accountant = accountants.PldAccountant(adjacency, accountants.discretisation(event))
  return accountant.compose(event).get_delta(epsilon)


@pytest.mark.parametrize("noise, rdp, pld", [(.62, 12.74, 11.10), (.31, 80.06, 71.27)])
def test_dp_fedemb_emnist(noise, rdp, pld):
  report = accounting.epsilon(poisson(noise, 256 / 6800, 200), 1e-5, ADD)
  assert report.rdp == pytest.approx(rdp, abs=.01)
  assert report.pld == pytest.approx(pld, abs=.01)
  assert report.best == report.pld
  assert "best by PLD" in report.note


def test_many_small_steps_need_the_fine_grid():
  event = poisson(3.97, 32 / 28_000, 437_500)
  assert accountants.discretisation(event) < 2e-5
  assert accounting.epsilon_by("pld", event, 1e-5, ADD) == pytest.approx(.700, abs=.001)


@pytest.mark.parametrize("noise, epsilon", [(.930, 5.0), (.697, 10.0)])
def test_dp_hyperface_by_pld(noise, epsilon):
  event = poisson(noise, 32 / 28_000, 437_500)
  assert accounting.epsilon_by("pld", event, 1e-5, ADD) == pytest.approx(epsilon, rel=.001)


@pytest.mark.parametrize("regions, epsilon", [(2, 11.5), (3, 19.3), (5, 38.7)])
def test_regions_as_units_do_not_protect_a_photograph(regions, epsilon):
  """Each of a photograph's regions by its own coin, with the noise of epsilon 5 for one."""
  together = special.comb(regions, np.arange(regions + 1)) * (32 / 28_000)**np.arange(
      regions + 1) * (1 - 32 / 28_000)**np.arange(regions, -1, -1)
  event = dp_accounting.SelfComposedDpEvent(dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
      .93, list(range(regions + 1)), together.tolist()), 437_500)
  found = accountants.PldAccountant(ADD, 1e-3).compose(event).get_epsilon(1e-5)
  assert found == pytest.approx(epsilon, rel=.011)


@pytest.mark.parametrize("noise, epsilon", [(4.31, .700), (.968, 5.00), (.715, 10.01)])
def test_dp_hyperface_by_rdp(noise, epsilon):
  event = poisson(noise, 32 / 28_000, 437_500)
  assert accounting.epsilon_by("rdp", event, 1e-5, ADD) == pytest.approx(epsilon, abs=.005)


@pytest.mark.parametrize("adjacency", list(Adjacency))
@pytest.mark.parametrize("noise, releases", [(3.731, 1), (8.342, 5), (11.797, 10)])
def test_noise_is_relative_to_the_sensitivity_under_every_adjacency(noise, releases, adjacency):
  event = dp_accounting.SelfComposedDpEvent(Gaussian(noise), releases)
  report = accounting.epsilon(event, 1e-5, adjacency)
  assert report.pld == pytest.approx(1.0, abs=2e-4)
  assert report.rdp == pytest.approx(1.0926, abs=2e-4)


def test_rdp_curves_add_up():
  one = dp_accounting.PoissonSampledDpEvent(.1, Gaussian(1.))
  total = accounting.rdp_curve(dp_accounting.SelfComposedDpEvent(one, 30), ADD)
  np.testing.assert_allclose(total, 30 * accounting.rdp_curve(one, ADD))


def test_fixed_size_pld_covers_rounds_of_opposite_kind():
  """Round 1 with (qP + (1-q)Q, Q), round 2 with (Q, qP + (1-q)Q): neither pair alone covers it."""
  rate, noise = .3, .8
  grid = np.arange(-9 * noise, 1 + 9 * noise, noise / 60)
  weight = noise / 60 / (noise * math.sqrt(2 * math.pi))
  p, q = (np.exp(-(grid - center)**2 / (2 * noise**2)) * weight for center in (1., 0.))
  mixed = rate * p + (1 - rate) * q
  event = fixed_size(noise, 10, 3, 2)
  for epsilon in (.1, .5, 1.):
    upper, lower = np.multiply.outer(mixed, q), np.multiply.outer(q, mixed)
    found = np.maximum(upper - math.exp(epsilon) * lower, 0).sum()
    assert found <= pld_delta(event, REPLACE, epsilon) + 1e-7


def test_fixed_size_pld_of_one_round_is_the_curve():
  epsilons = np.array([0., .2, 1., 2.])
  expected = curves.sampled_gaussian_delta(epsilons, .2, .7, "replace")
  found = [pld_delta(fixed_size(.7, 50, 10, 1), REPLACE, e) for e in epsilons]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)
  assert np.all(found >= expected - 1e-12)


@pytest.mark.parametrize("noise, population, size, steps",
                         [(.62, 6800, 256, 200), (2., 6800, 256, 200), (3., 100, 50, 20)])
def test_fixed_size_pld_is_below_rdp_and_above_poisson_with_the_same_noise(
    noise, population, size, steps):
  report = accounting.epsilon(fixed_size(noise, population, size, steps), 1e-5, REPLACE)
  sampled = accounting.epsilon_by("pld", poisson(noise, size / population, steps), 1e-5, ADD)
  assert sampled < report.pld < report.rdp


def test_fixed_size_sample_of_everybody_is_the_plain_gaussian():
  event = fixed_size(3., 1000, 1000, 10)
  exact = dp_accounting.get_epsilon_gaussian(3. / math.sqrt(10), 1e-5)
  assert accounting.epsilon_by("pld", event, 1e-5, REPLACE) == pytest.approx(exact, abs=1e-4)
  almost = fixed_size(3., 100_000, 99_999, 10)
  assert accounting.epsilon_by("pld", almost, 1e-5, REPLACE) == pytest.approx(exact, abs=1e-3)


def test_fixed_size_epsilon_is_monotone():
  def epsilon(noise=1., size=50, steps=20):
    return accounting.epsilon_by("pld", fixed_size(noise, 1000, size, steps), 1e-5, REPLACE)
  assert epsilon(noise=1.2) < epsilon() < epsilon(noise=.8)
  assert epsilon(size=20) < epsilon() < epsilon(size=200)
  assert epsilon(steps=5) < epsilon() < epsilon(steps=80)


def test_mixed_channels_agree_with_dp_accounting_where_it_shares_our_convention():
  event = dp_accounting.ComposedDpEvent([
      poisson(.9, .05, 40), dp_accounting.SelfComposedDpEvent(Gaussian(4.), 3),
      dp_accounting.LaplaceDpEvent(5.)])
  theirs = dp_accounting.pld.PLDAccountant(ADD.relation, 1e-3).compose(event).get_epsilon(1e-5)
  ours = accountants.PldAccountant(ADD, 1e-3).compose(event).get_epsilon(1e-5)
  assert ours == pytest.approx(theirs, abs=1e-6)


def test_joint_release_of_one_sample_is_one_gaussian():
  both = dp_accounting.ComposedDpEvent([Gaussian(1.), Gaussian(5.)])
  joint = Gaussian((1 + 1 / 25)**-.5)
  for sampled, adjacency in ((lambda e: dp_accounting.PoissonSampledDpEvent(.1, e), ADD),
                             (lambda e: FixedSize(100, 10, e), REPLACE)):
    for accountant in ("rdp", "pld"):
      assert accounting.epsilon_by(accountant, sampled(both), 1e-5, adjacency) == pytest.approx(
          accounting.epsilon_by(accountant, sampled(joint), 1e-5, adjacency))


@pytest.mark.parametrize("event, adjacency, missing", [
    (poisson(1., .1, 5), REPLACE, ("rdp", "pld")),
    (fixed_size(1., 100, 10, 5), ADD, ("rdp", "pld")),
    (Truncated(6800, .03, 320, .62), ADD, ("rdp",)),
    (Truncated(6800, .03, 320, .62), REPLACE, ("rdp", "pld")),
    (dp_accounting.dp_event.ZCDpEvent(.1), ADD, ("pld",)),
    (dp_accounting.UnsupportedDpEvent(), ADD, ("rdp", "pld")),
])
def test_what_an_accountant_cannot_do_is_nan_with_a_reason(event, adjacency, missing):
  report = accounting.epsilon(event, 1e-5, adjacency)
  for name in ("rdp", "pld"):
    assert math.isnan(getattr(report, name)) == (name in missing)
    assert (f"{name.upper()} not available: " in report.note) == (name in missing)
  assert math.isnan(report.best) == (len(missing) == 2)
  with pytest.raises(ValueError, match="cannot account"):
    accounting.epsilon_by(missing[0], event, 1e-5, adjacency)


def test_capacity_on_a_poisson_cohort_costs_a_little():
  plain = accounting.epsilon_by("pld", poisson(.8, .03, 50), 1e-5, ADD)
  tight, loose = (accounting.epsilon_by(
      "pld", dp_accounting.SelfComposedDpEvent(Truncated(6800, .03, capacity, .8), 50), 1e-5, ADD)
      for capacity in (230, 300))
  assert plain - 1e-3 < loose < tight
  assert loose == pytest.approx(plain, abs=.01)


def test_renyi_bound_of_every_order_is_pure_dp():
  pure = dp_accounting.dp_event.ZCDpEvent(rho=0., xi=.5)
  assert accounting.epsilon_by("pld", pure, 1e-9, ADD) == pytest.approx(.5, abs=2e-4)
  flip = special.expit(.5)                          # randomised response, the worst pure 0.5-DP
  two = dp_accounting.SelfComposedDpEvent(pure, 2)
  assert pld_delta(two, ADD, .5) == pytest.approx(
      flip**2 - math.exp(.5) * (1 - flip)**2, abs=2e-4)


@pytest.mark.parametrize("event, adjacency", [
    (dp_accounting.NonPrivateDpEvent(), REPLACE), (Gaussian(0.), REPLACE), (Gaussian(0.), ADD),
    (poisson(0., .1, 3), ADD), (fixed_size(0., 100, 10, 3), REPLACE)])
def test_no_noise_is_no_guarantee(event, adjacency):
  report = accounting.epsilon(event, 1e-5, adjacency)
  assert report.rdp == report.pld == report.best == math.inf
  assert report.note == "no finite guarantee"


def test_nothing_released_costs_nothing():
  report = accounting.epsilon(dp_accounting.ComposedDpEvent([]), 1e-5, ADD)
  assert report.rdp == report.pld == report.best == 0


@pytest.mark.parametrize("delta", [0., 1., -.1, math.nan])
def test_delta_out_of_range(delta):
  with pytest.raises(ValueError, match="delta must be in"):
    accounting.epsilon(Gaussian(1.), delta, ADD)


def test_unknown_accountant():
  with pytest.raises(ValueError, match="'rdp' or 'pld'"):
    accounting.epsilon_by("moments", Gaussian(1.), 1e-5, ADD)


def test_adjacency_words_and_relations():
  assert REPLACE.words("person") == "one person's data is replaced by any other data"
  assert {a.relation for a in Adjacency} == set(dp_accounting.NeighboringRelation)
  assert ZERO.relation is dp_accounting.NeighboringRelation.REPLACE_SPECIAL


def gaussian_events(noise):
  return ((poisson(noise, .03, 200), ADD), (fixed_size(noise, 100, 10, 3), REPLACE),
          (Gaussian(noise), ADD), (Truncated(6800, .03, 320, noise), ADD))


@pytest.mark.parametrize("noise", [0., 1e-300, 1e-8])
def test_less_noise_than_can_be_told_from_none_promises_nothing(noise):
  for event, adjacency in gaussian_events(noise):
    assert accounting.epsilon(event, 1e-5, adjacency).best == math.inf


@pytest.mark.parametrize("noise, lowest, highest", [(1e-3, 9e7, 2.1e8), (.02, 3e4, 5e5)])
def test_little_noise_is_a_large_epsilon_by_rdp(noise, lowest, highest):
  """200 rounds without sampling cost 100 / z^2 and a bit."""
  report = accounting.epsilon(poisson(noise, .03, 200), 1e-5, ADD)
  assert lowest < report.rdp == report.best < highest
  assert report.pld == math.inf
  assert "PLD not available: the privacy loss is too large for its grid" in report.note


def test_chords_of_the_rdp_curve_bound_it():
  orders = accountants.RDP_ORDERS
  whole = orders == np.round(orders)
  exact = accounting.rdp_curve(dp_accounting.PoissonSampledDpEvent(.03, Gaussian(.5)), ADD)
  chords = accountants._between_whole_orders(np.where(whole, exact, np.nan), whole)
  assert np.all(chords >= exact * (1 - 1e-9))
  np.testing.assert_array_equal(chords[whole], exact[whole])


@pytest.mark.parametrize("noise", [1e7, 1e200, math.inf])
def test_huge_noise_costs_next_to_nothing(noise):
  for event, adjacency in gaussian_events(noise):
    assert 0 <= accounting.epsilon(event, 1e-5, adjacency).best < 1e-4


@pytest.mark.parametrize("noise", [-1., math.nan])
def test_noise_that_is_no_number(noise):
  with pytest.raises(ValueError, match="noise multiplier .*: expected a number, at least 0"):
    accounting.epsilon(poisson(noise, .03, 200), 1e-5, ADD)


def test_of_two_valid_bounds_the_finite_one():
  """At so small a delta the mass that PLD cuts off counts as a loss without bound."""
  event = poisson(1.7, .03, 200)
  report = accounting.epsilon(event, 1e-15, ADD)
  assert report.pld == math.inf
  assert accounting.smallest_finite(event, 1e-15, ADD) == report.rdp == report.best < 4
  assert accounting.smallest_finite(event, 1e-5, ADD) == accounting.epsilon_by(
      "pld", event, 1e-5, ADD)


def test_an_evaluation_that_takes_too_long_is_given_up_and_says_so(monkeypatch):
  monkeypatch.setattr(time_limit, "SECONDS", -1.)
  report = accounting.epsilon(poisson(.9, .031, 20), 1e-5, ADD)
  assert report.rdp == report.pld == report.best == math.inf
  assert report.note == ("no finite guarantee; RDP not available: it took more than -1 s; "
                         "PLD not available: it took more than -1 s")


def test_a_line_of_progress_while_an_evaluation_lasts(monkeypatch):
  said = threading.Event()
  lines = []
  def warning(text, *values):
    lines.append(text % values)
    said.set()
  monkeypatch.setattr(time_limit, "FIRST_LINE", .01)
  monkeypatch.setattr(time_limit.logging, "warning", warning)
  with time_limit.limited("epsilon by PLD", 60):
    assert said.wait(30)
    time_limit.check()
  assert lines[0].startswith("epsilon by PLD: ") and lines[0].endswith("given up after 60 s")


def test_an_inner_limit_does_not_lift_the_outer_one():
  with time_limit.limited("outer", -1.), time_limit.limited("inner", 60.):
    with pytest.raises(time_limit.TookTooLong):
      time_limit.check()
  time_limit.check()


def test_a_composed_loss_is_kept_for_the_same_event_and_for_no_other():
  def composed(*parts):
    return dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), count)
        for z, count in parts])
  found = accountants.composed_pld(composed((2.0, 3), (5.0, 1)), ADD)
  assert accountants.composed_pld(composed((2.0, 3), (5.0, 1)), ADD) is found
  others = [(composed((2.0, 3), (5.0, 2)), ADD), (composed((2.5, 3), (5.0, 1)), ADD),
            (composed((2.0, 3)), ADD), (composed((2.0, 3), (5.0, 1)), Adjacency.REPLACE_ONE)]
  assert all(accountants.composed_pld(*other) is not found for other in others)
  mixture = lambda last: dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
      1.0, np.array([0.0, 1.0]), np.array([0.5, last]))
  keys = [accountants._frozen(mixture(last)) for last in (0.5, 0.5, 0.25)]
  assert keys[0] == keys[1] != keys[2] and hash(keys[0]) == hash(keys[1])
  assert accountants._frozen([{}]) != accountants._frozen([{}])


def test_an_event_of_a_class_that_hides_fields_is_not_taken_for_another():
  class Hiding(dp_accounting.GaussianDpEvent):
    """What it adds is no field."""

  assert accountants._frozen(Hiding(1.0)) != accountants._frozen(Hiding(1.0))


def test_calls_that_overlap_silence_nothing_for_good(caplog):
  first, second = accounting._quiet(), accounting._quiet()
  first.__enter__()
  second.__enter__()
  logging.getLogger("absl").warning("skipped an order")
  first.__exit__(None, None, None)
  second.__exit__(None, None, None)
  logging.getLogger("absl").warning("again")
  assert "again" in caplog.text and "skipped" not in caplog.text
