"""The curves against integrals, and the fixed-size curve against distributions built by hand."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from scipy import integrate

from fedjax_face.privacy import curves


@pytest.mark.parametrize("noise", [.4, 1., 7.])
def test_gaussian_delta_is_the_hockey_stick_integral(noise):
  def excess(x, epsilon):
    return max(0., math.exp(-(x - 1)**2 / (2 * noise**2))
               - math.exp(epsilon - x**2 / (2 * noise**2))) / (noise * math.sqrt(2 * math.pi))
  for epsilon in (-.7, 0., .3, 1.5):
    start = .5 + noise**2 * epsilon
    expected, _ = integrate.quad(excess, start, start + 15 * noise + 1, args=(epsilon,))
    assert curves.gaussian_delta(epsilon, noise) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("order", [1.1, 1.38, 1.9, 2.3, 7.5])
@pytest.mark.parametrize("rate, noise", [(256 / 6800, .31), (.3, 3.), (.001, .9)])
def test_poisson_rdp_quadrature(rate, noise, order):
  def integrand(x):
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    return math.exp(order * ratio - x**2 / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
  turn = noise**2 * math.log(1 / rate - 1) + .5
  moment, _ = integrate.quad(integrand, -12 * noise, order + 12 * noise, limit=400,
                             points=[0., turn, order], epsabs=1e-14, epsrel=1e-12)
  expected = math.log(moment) / (order - 1)
  assert curves.poisson_gaussian_rdp(rate, noise, order) == pytest.approx(expected, abs=1e-9)


def test_poisson_rdp_quadrature_agrees_with_the_exact_sum_at_whole_orders():
  event = dp_accounting.PoissonSampledDpEvent(.01, dp_accounting.GaussianDpEvent(1.1))
  orders = [2, 3, 8, 32, 128]
  exact = rdp_privacy_accountant.RdpAccountant(orders).compose(event).rdp
  ours = [curves.poisson_gaussian_rdp(.01, 1.1, float(order)) for order in orders]
  np.testing.assert_allclose(ours, exact, rtol=1e-8)


@pytest.mark.parametrize("rate, noise", [(.04, .62), (.5, 2.), (1., .7)])
def test_poisson_curves_are_hockey_stick_integrals(rate, noise):
  grid = np.arange(-10 * noise, 1 + 10 * noise, noise / 400)
  p, q = (np.exp(-(grid - center)**2 / (2 * noise**2)) for center in (1., 0.))
  mixed = rate * p + (1 - rate) * q
  epsilons = np.array([-3., -.3, -.01, 0., .01, .3, 3.])
  for direction, upper, lower in (("remove", mixed, q), ("add", q, mixed)):
    expected = [np.maximum(upper - math.exp(e) * lower, 0).sum() for e in epsilons]
    found = curves.sampled_gaussian_delta(epsilons, rate, noise, direction)
    density = 1 / (400 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(found, np.array(expected) * density, atol=1e-6)


def mixture_delta(epsilon, upper, lower, rate, noise):
  """Hockey-stick divergence of two mixtures of 2-D Gaussians with a shared component."""
  grid = np.arange(-9 * noise - 1.2, 9 * noise + 1.2, noise / 12)
  x, y = np.meshgrid(grid, grid, indexing="ij")
  def density(center):
    return np.exp(-((x - center[0])**2 + (y - center[1])**2) / (2 * noise**2))
  def mixed(moving, shared):
    return rate * density(moving) + (1 - rate) * density(shared)
  scale = (noise / 12)**2 / (2 * math.pi * noise**2)
  gap = mixed(*upper) - math.exp(epsilon) * mixed(*lower)
  return float(np.maximum(gap, 0).sum() * scale)


@pytest.mark.parametrize("rate, noise", [(.1, .6), (.5, 1.5)])
def test_no_pair_of_data_sets_exceeds_the_fixed_size_curve(rate, noise):
  """Old, new and displaced record anywhere with pairwise distances of at most one."""
  rng = np.random.default_rng(0)
  largest = {epsilon: 0. for epsilon in (-.4, -.05, 0., .05, .4)}
  trials = [np.array([[0., 0.], [1., 0.], [1., 0.]]), np.array([[1., 0.], [0., 0.], [1., 0.]]),
            np.array([[0., 0.], [1., 0.], [.5, math.sqrt(.75)]])]
  for _ in range(12):
    points = rng.normal(size=(3, 2))
    spread = max(np.linalg.norm(points[i] - points[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    trials.append(points / spread - points[0] / spread)
  for old, new, displaced in trials:
    for epsilon in largest:
      delta = mixture_delta(epsilon, (old, displaced), (new, displaced), rate, noise)
      largest[epsilon] = max(largest[epsilon], delta)
  for epsilon, found in largest.items():
    bound = float(curves.sampled_gaussian_delta(
        np.array([epsilon]), rate, noise, "replace")[0])
    assert found <= bound + 5e-5                      # of the integration grid
    assert found == pytest.approx(bound, abs=5e-5)    # and the extreme pairs reach it
