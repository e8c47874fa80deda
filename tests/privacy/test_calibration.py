"""The calibrated noise is the smallest on its grid, and impossible requests say so."""

from __future__ import annotations

import math

import dp_accounting
import pytest

from fedjax_face.privacy import accounting, calibration
from fedjax_face.privacy.adjacency import Adjacency

ADD, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE


def releases(count):
  return lambda noise: dp_accounting.SelfComposedDpEvent(
      dp_accounting.GaussianDpEvent(noise), count)


@pytest.mark.parametrize("count, expected", [(1, 3.731), (5, 8.342)])
def test_privacyface_noise_for_epsilon_one(count, expected):
  noise = calibration.calibrate_noise(releases(count), 1.0, 1e-5, ADD)
  assert noise == pytest.approx(expected, abs=.0015)


@pytest.mark.parametrize("target", [.5, 20.])
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_smallest_on_the_grid(accountant, target):
  def epsilon(noise):
    return accounting.epsilon_by(accountant, releases(3)(noise), 1e-6, REPLACE)
  noise = calibration.calibrate_noise(releases(3), target, 1e-6, REPLACE, accountant)
  assert noise == round(noise, 3)
  assert epsilon(noise) <= target < epsilon(noise - .001)


def test_sampled_run_reports_every_evaluation():
  seen = []
  def event(noise):
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(256 / 6800, dp_accounting.GaussianDpEvent(noise)), 200)
  noise = calibration.calibrate_noise(
      event, 11.1, 1e-5, ADD, progress=lambda z, epsilon: seen.append((z, epsilon)))
  assert noise == pytest.approx(.62, abs=.002)
  assert dict(seen)[noise] <= 11.1
  assert dict(seen)[round(noise - .001, 3)] > 11.1
  assert len(seen) < 20


def test_unreachable_target_says_what_is_reachable():
  def event(noise):
    return dp_accounting.ComposedDpEvent(
        [dp_accounting.GaussianDpEvent(noise), dp_accounting.GaussianDpEvent(1.)])
  floor = dp_accounting.get_epsilon_gaussian(1., 1e-5)
  with pytest.raises(ValueError, match=f"target_epsilon=1 cannot be reached: epsilon is still "
                                       f"{floor:.3g} at the largest .* 50$"):
    calibration.calibrate_noise(event, 1.0, 1e-5, ADD, largest_noise=50.)


def test_event_that_the_accountant_cannot_handle():
  with pytest.raises(ValueError, match="'pld' cannot account"):
    calibration.calibrate_noise(lambda z: dp_accounting.UnsupportedDpEvent(), 1.0, 1e-5, ADD)


@pytest.mark.parametrize("target", [0., -1., math.inf, math.nan])
def test_target_must_be_positive(target):
  with pytest.raises(ValueError, match="target_epsilon=.*: expected a finite number above 0"):
    calibration.calibrate_noise(releases(1), target, 1e-5, ADD)


def test_a_delta_that_only_rdp_reaches():
  """PLD is infinite there; RDP gives 2 with a little more noise than it takes for 2.84."""
  def event(noise):
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(.03, dp_accounting.GaussianDpEvent(noise)), 200)
  noise = calibration.calibrate_noise(event, 2.84, 1e-15, ADD)
  rdp = lambda z: accounting.epsilon_by("rdp", event(z), 1e-15, ADD)
  assert rdp(noise) <= 2.84 < rdp(noise - .001)


def test_a_huge_target_takes_few_evaluations_and_little_noise():
  seen = []
  noise = calibration.calibrate_noise(releases(3), 1e6, 1e-5, ADD,
                                      progress=lambda z, epsilon: seen.append(epsilon))
  assert noise < .01 and len(seen) < 20


def test_require_exactly_one():
  require = calibration.require_exactly_one
  assert require({"epsilon": 8., "z": None}) == ("epsilon", 8.)
  assert require({"epsilon": None, "z": 0.}) == ("z", 0.)
  with pytest.raises(ValueError, match="exactly one of epsilon and z, got none"):
    require({"epsilon": None, "z": None})
  with pytest.raises(ValueError, match="got epsilon=8.0, z=0.6"):
    require({"epsilon": 8., "z": .6})
