"""Extrapolation at fixed noise on the mean, and the smallest cohort for a target."""

from __future__ import annotations

import dp_accounting
import pytest

from fedjax_face.privacy import accounting, planning
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.planning import Simulation


def simulation(**changes):
  return Simulation(**{**{"virtual_clients": 32, "users_per_client": 8, "noise_multiplier": .62,
                          "rounds": 200, "sampling": "poisson"}, **changes})


@pytest.mark.parametrize("sampling, users, sensitivity",
                         [("poisson", 1, 1), ("poisson", 8, 2), ("fixed", 1, 2), ("fixed", 8, 2)])
def test_sensitivity(sampling, users, sensitivity):
  assert simulation(sampling=sampling, users_per_client=users).sensitivity == sensitivity


def test_spec_numbers():
  """8 users per client halve the multiplier: z = .62 is worth .31; one user per client keeps it."""
  eight = planning.plan(simulation(), 6800, 32, 1e-5, target_epsilon=8.)
  assert (eight.noise_multiplier, eight.effective_multiplier) == (.62, .31)
  assert eight.pld == pytest.approx(71.27, abs=.02)
  assert eight.rdp == pytest.approx(80.06, abs=.02)
  assert eight.meets_target is False
  one = planning.plan(simulation(users_per_client=1, virtual_clients=256), 6800, 256, 1e-5)
  assert one.effective_multiplier == .62
  assert one.pld == pytest.approx(11.10, abs=.01)
  assert one.meets_target is None


def test_noise_on_the_mean_is_kept():
  plan = planning.plan(simulation(rounds=10), 100_000, 320, 1e-6)
  assert plan.noise_multiplier / plan.virtual_clients == pytest.approx(.62 / 32)
  assert plan.sampling_rate == pytest.approx(320 * 8 / 100_000)


def test_noise_norm_ratio_is_the_norm_of_the_noise_on_the_mean_over_the_clip_norm():
  """z = 2 over K = 4 clients: 0.5 C on each of 900 numbers is 15 C."""
  assert planning.noise_norm_ratio(2.0, 4, 900) == 15.0
  assert "norm 15 times the clip norm" in planning.noise_norm_warning(15.0)
  assert planning.noise_norm_warning(1.0) is None


def test_events():
  poisson = planning.run_event(simulation(), 6800, 64)
  assert poisson == dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(
      512 / 6800, dp_accounting.GaussianDpEvent(.62)), 200)
  fixed = planning.run_event(simulation(sampling="fixed"), 6800, 64)
  assert fixed == dp_accounting.SelfComposedDpEvent(
      dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
          6800, 512, dp_accounting.GaussianDpEvent(.62)), 200)
  assert simulation(sampling="fixed").adjacency is Adjacency.REPLACE_ONE


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_smallest_cohort_is_smallest(sampling):
  small = simulation(sampling=sampling, rounds=20)
  seen = {}
  plan = planning.smallest_cohort(small, 20_000, 6., 1e-5, progress=seen.__setitem__)
  assert plan.meets_target and plan.pld <= 6. < seen[plan.virtual_clients - 1]
  assert plan.virtual_clients > 32
  assert accounting.epsilon_by(
      "pld", planning.run_event(small, 20_000, plan.virtual_clients), 1e-5,
      small.adjacency) == plan.pld


def test_never_fewer_clients_than_simulated():
  plan = planning.smallest_cohort(simulation(noise_multiplier=40., rounds=5), 10_000, 8., 1e-5)
  assert plan.virtual_clients == 32 and plan.meets_target


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_out_of_reach_returns_everybody(sampling):
  plan = planning.smallest_cohort(simulation(sampling=sampling, rounds=20), 2_000, .5, 1e-5)
  assert plan.meets_target is False
  assert (plan.virtual_clients, plan.sampling_rate) == (250, 1.)
  everybody = dp_accounting.get_epsilon_gaussian(plan.effective_multiplier / 20**.5, 1e-5)
  assert plan.pld == pytest.approx(everybody, abs=1e-3)


@pytest.mark.parametrize("changes, message", [
    ({"virtual_clients": 0}, "virtual_clients must be positive, got 0"),
    ({"noise_multiplier": 0.}, "noise_multiplier must be between 0.0001 and 1e.06, got 0"),
    ({"noise_multiplier": float("inf")}, "noise_multiplier must be between .* got inf"),
    ({"noise_multiplier": float("nan")}, "noise_multiplier must be between .* got nan"),
    ({"rounds": 10**400}, "rounds must be between 1 and 1e.12"),
    ({"rounds": -1}, "rounds must be positive"),
    ({"sampling": "shuffle"}, "sampling must be one of fixed, poisson, got 'shuffle'")])
def test_bad_simulation(changes, message):
  with pytest.raises(ValueError, match=message):
    simulation(**changes)


def test_population_smaller_than_a_round():
  with pytest.raises(ValueError, match="need 256 users, population=255"):
    planning.smallest_cohort(simulation(), 255, 8., 1e-5)


def test_so_little_noise_that_nothing_is_promised_ends():
  plan = planning.smallest_cohort(simulation(noise_multiplier=1e-4, rounds=20), 2_000, 8., 1e-5)
  assert plan.meets_target is False and plan.virtual_clients == 250
  assert plan.pld == float("inf") and 1e6 < plan.rdp < float("inf")
