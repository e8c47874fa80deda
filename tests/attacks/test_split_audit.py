"""The audit of split learning passes what a device sends and catches broken devices."""

import dataclasses

import jax.numpy as jnp
import pytest

from fedjax_face.attacks import split_audit
from fedjax_face.attacks.split_audit import SplitNoise
from fedjax_face.split.accounting import MODES, Schedule
from fedjax_face.split.labels import LabelPolicy

DELTA = 1e-2
CLEAR = LabelPolicy("pseudonym", acknowledged=True)
RESPONSE = LabelPolicy("randomized_response", epsilon=0.5)
LOGITS = LabelPolicy("u_shaped", noise_multiplier=2.0)
NOISE = SplitNoise(1.5)
FRESH = Schedule("frozen_fresh", 2, 1, 3, 2, 3)


def play(schedule=FRESH, noise=NOISE, labels=CLEAR, unit="image", non_negative=True,
         less=1.0, played=None, **options):
  claimed = split_audit.claim(schedule, noise, labels, unit, DELTA)
  return split_audit.audit(
      played or schedule, noise.scaled(less), labels, claimed, unit=unit,
      non_negative=non_negative, trials=8000, delta=DELTA, confidence=0.99, seed=3, **options)


def of_mode(mode):
  return dataclasses.replace(FRESH, mode=mode)


@pytest.mark.parametrize("place", split_audit.PLACES)
@pytest.mark.parametrize("mode", MODES)
def test_whichever_image_is_replaced_the_claim_holds(mode, place):
  noise = SplitNoise(1.0, 1.5 if mode == "trained_private" else None)
  result = play(of_mode(mode), noise, place=place)
  assert 0.4 * result.claimed < result.measured <= result.claimed


@pytest.mark.parametrize("labels", [CLEAR, RESPONSE, LOGITS], ids=lambda policy: policy.policy)
@pytest.mark.parametrize("unit, non_negative", [("image", False), ("person", True)])
def test_labels_count_and_so_do_all_images_of_a_person(labels, unit, non_negative):
  result = play(noise=SplitNoise(1.2), labels=labels, unit=unit, non_negative=non_negative)
  assert 0.4 * result.claimed < result.measured <= result.claimed


@pytest.mark.parametrize("noise, mode", [
    (SplitNoise(1.5), "frozen_cached"), (SplitNoise(1.5), "frozen_fresh"),
    (SplitNoise(3.0, 1.5), "trained_private")])
def test_half_the_noise_is_caught(noise, mode):
  assert play(of_mode(mode), noise, less=0.5).violated


def test_noise_drawn_anew_in_every_pass_where_it_is_claimed_once_is_caught():
  schedule = dataclasses.replace(of_mode("frozen_cached"), epochs=6)
  assert not play(schedule).violated
  assert play(schedule, played=dataclasses.replace(schedule, mode="frozen_fresh")).violated


def test_a_person_on_several_images_accounted_as_one_image_is_caught():
  claimed = split_audit.claim(FRESH, SplitNoise(1.5), CLEAR, "image", DELTA)
  assert play(unit="person")._replace(claimed=claimed).violated


def test_device_gradients_alone_are_seen():
  """With activations all but hidden, what is told apart is told by the device part's gradients."""
  result = play(of_mode("trained_private"), SplitNoise(1e3, 1.5))
  assert 0.4 * result.claimed < result.measured <= result.claimed


def test_the_ratio_by_hand():
  """First at 2, second at 0, seen at 3 with variance 4: 2 (3 - 1) / 4."""
  ratio = split_audit.gaussian_ratio(jnp.array([3.0]), jnp.array([2.0]), jnp.array([0.0]), 2.0)
  assert float(ratio) == 1.0


@pytest.mark.parametrize("options, message", [
    ({"place": "middle"}, "place 'middle' is not one of first, last"),
    ({"schedule": dataclasses.replace(FRESH, steps_per_epoch=2)}, "one message a pass, not 2")])
def test_games_that_are_not_played(options, message):
  with pytest.raises(ValueError, match=message):
    play(**options)
