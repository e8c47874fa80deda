"""The audit of DP-SGD on units passes the real steps and catches broken ones."""

import functools

import dp_accounting
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import unit_audit
from fedjax_face.dp_sgd.sampling import poisson_sampling
from fedjax_face.draws import identity_of
from fedjax_face.privacy import noise
from fedjax_face.privacy.gradient_clip import GradientClip, grouped, joint, per_task

ADD = unit_audit.ADJACENCY
CLIPS = {"joint": joint(ADD), "grouped": grouped({"network": 1.0, "weights": 0.3}, ADD),
         "per_task": per_task(3, ADD), "stacked": per_task(3, ADD, stacked=True)}
DELTA = 1e-2


def sampling(unit, rate):
  return sampling_of(tuple(unit.tolist()), rate)


@functools.cache
def sampling_of(unit, rate):
  """The same one for the same units, so that games share what they draw."""
  return poisson_sampling(
      np.array(unit), identity_of(unit), "image", expected=round(4 * rate), capacity=4,
      rows=unit_audit.ROWS, views=1, devices=1, probability=rate)


def play(clip=CLIPS["joint"], form="vmapped", rate=1.0, steps=1, claimed=1.0, real=1.0,
         make_noise=noise.gaussian, **options):
  make = functools.partial(sampling, rate=rate)
  one = make(np.repeat(np.arange(4), 2)).event(claimed)
  event = dp_accounting.SelfComposedDpEvent(one, steps)
  return unit_audit.audit(
      make, clip, form, make_noise(), event, real, units=4, rate=rate, steps=steps, trials=4000,
      delta=DELTA, confidence=0.99, seed=1, **options)


@pytest.mark.parametrize("name", CLIPS)
def test_real_steps_stay_under_their_claim(name):
  result = play(CLIPS[name])
  assert 0.4 * result.claimed < result.measured <= result.claimed


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_whichever_unit_is_removed_or_added(place):
  result = play(rate=0.5, steps=2, place=place)
  assert 0 < result.measured <= result.claimed


def test_half_the_noise_is_caught():
  assert play(real=0.5).violated


def test_a_unit_in_every_step_where_every_fourth_is_claimed_is_caught():
  make = functools.partial(sampling, rate=0.25)
  claimed = make(np.repeat(np.arange(4), 2)).event(1.0)
  always = functools.partial(sampling, rate=1.0)
  result = unit_audit.audit(
      always, CLIPS["joint"], "vmapped", noise.gaussian(), claimed, 1.0, units=4, rate=1.0,
      steps=1, trials=4000, delta=DELTA, confidence=0.99, seed=1)
  assert result.violated


def test_no_noise_is_caught():
  silent = noise.gaussian()._replace(add=lambda total, state, stddev, key: (total, state))
  assert play(make_noise=lambda: silent, real=1.0).violated


class LayersToTheWhole(GradientClip):
  """Each group is clipped to its whole share, and S is declared for all of them together."""

  sensitivity = 1.0


def test_groups_that_are_clipped_apart_and_claimed_as_one_are_caught():
  clip = grouped({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, ADD)
  broken = LayersToTheWhole(ADD, clip.shares)
  assert not play(clip).violated
  assert play(clip, claimed_clip=broken).violated


def test_scores_by_hand():
  """A movement by 2 under noise 1: half the distance is even; hidden coins flatten it."""
  seen = np.array([[1.0], [3.0]])
  np.testing.assert_allclose(unit_audit.scores(seen, 2.0, 1.0, 1.0), [0, 4], atol=1e-9)
  np.testing.assert_allclose(
      unit_audit.scores(seen, 2.0, 1.0, 0.5), [0, np.log(0.5 + 0.5 * np.exp(4))])


def test_ghost_norms_are_audited_like_the_rest():
  result = play(CLIPS["joint"], form="ghost")
  assert 0.4 * result.claimed < result.measured <= result.claimed


def test_a_direction_fills_every_group():
  filled = unit_audit.in_groups(CLIPS["grouped"], {"a": jnp.ones(2)})
  assert sorted(filled) == ["network", "weights"]
  assert CLIPS["grouped"].groups(filled) == (0, 1)
