"""Accounting by hand, the ledger against the closed form, and the utility ceiling."""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import numpy as np
import pytest

from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.split.accounting import (
    MODES,
    Schedule,
    accuracy_ceiling,
    activation_mu,
    information_ceiling,
    not_covered,
    releases,
    require_below_ceiling,
)
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.mechanism import gaussian_epsilon

SCHEDULE = Schedule("frozen_cached", epochs=9, steps_per_epoch=5, images=40, images_per_person=4,
                    batch=8)
CLEAR = LabelPolicy("pseudonym", acknowledged=True)
Z, Z_W = 3.0, 6.0


def in_mode(mode, **changes):
  return dataclasses.replace(SCHEDULE, mode=mode, **changes)


def gradient_noise(mode):
  return Z_W if mode == "trained_private" else None


def recorded(schedule, labels=CLEAR, steps=None, z=Z):
  ledger = Ledger()
  for release in releases(schedule, z, labels, gradient_noise(schedule.mode)):
    ledger.record(release, schedule.steps if steps is None else steps)
  return ledger


@pytest.mark.parametrize(("mode", "image", "person"), [
    ("frozen_cached", 1 / 3, 2 / 3),
    ("frozen_fresh", 1, 2),
    # 9 (1/9 + 1/36); of a person's 4 images in one batch of 8, 4^2 / 36 a pass.
    ("trained_private", math.sqrt(1.25), math.sqrt(9 * (4 / 9 + 16 / 36))),
    # 40 * 9 releases move, whoever's image is replaced.
    ("trained_published", math.sqrt(360) / 3, math.sqrt(360) / 3),
])
def test_mu_by_hand(mode, image, person):
  assert activation_mu(in_mode(mode), Z, gradient_noise(mode)) == pytest.approx(image)
  assert activation_mu(in_mode(mode), Z, gradient_noise(mode), "person") == pytest.approx(person)


def test_gradients_of_a_person_share_the_noise_of_a_batch_only():
  # One image a batch: 4 batches move by one gradient each.
  apart = activation_mu(in_mode("trained_private", batch=1), Z, Z_W, "person")
  assert apart == pytest.approx(math.sqrt(9 * (4 / 9 + 4 / 36)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", ["image", "person"])
def test_the_ledger_agrees_with_the_closed_form(mode, unit):
  schedule = in_mode(mode)
  exact = gaussian_epsilon(activation_mu(schedule, Z, gradient_noise(mode), unit), 1e-5)
  best = recorded(schedule).epsilon(1e-5, unit).best
  assert exact <= best * (1 + 1e-9)
  assert best == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(("mode", "passes"), [("frozen_cached", 1), ("frozen_fresh", 3)])
def test_events_after_part_of_the_run(mode, passes):
  # 11 steps of 5 a pass touch 3 passes.
  schedule = in_mode(mode)
  exact = gaussian_epsilon(math.sqrt(passes) / Z, 1e-5)
  assert recorded(schedule, steps=11).epsilon(1e-5, "image").best == pytest.approx(exact, rel=2e-3)


def test_every_release_is_replace_one_without_sampling():
  for mode in MODES:
    for release in releases(in_mode(mode), Z, CLEAR, gradient_noise(mode)):
      assert release.adjacency is Adjacency.REPLACE_ONE
      assert release.seen_by == "server"
      assert isinstance(release.event, dp_accounting.GaussianDpEvent)


def test_without_noise_nothing_is_promised():
  assert all(is_non_private(r.event) for r in releases(SCHEDULE, 0.0, CLEAR))
  assert activation_mu(SCHEDULE, 0.0) == math.inf
  assert recorded(SCHEDULE, z=0.0).epsilon(1e-5, "person").best == math.inf


def test_randomised_response_is_on_the_ledger():
  ledger = recorded(SCHEDULE, LabelPolicy("randomized_response", epsilon=1.5))
  alone = ledger.per_channel(1e-9, "image")["labels"].best
  assert alone == pytest.approx(1.5, rel=1e-3)
  assert ledger.per_channel(1e-9, "person")["labels"].best == pytest.approx(6.0, rel=1e-3)
  assert ledger.epsilon(1e-5, "image").best > recorded(SCHEDULE).epsilon(1e-5, "image").best


def test_noised_logit_gradients_are_on_the_ledger():
  schedule = in_mode("frozen_fresh")
  ledger = recorded(schedule, LabelPolicy("u_shaped", noise_multiplier=2.0))
  exact = gaussian_epsilon(math.sqrt(9 / 9 + 9 / 4), 1e-5)
  assert ledger.epsilon(1e-5, "image").best == pytest.approx(exact, rel=2e-3)


def test_sentences_say_what_is_seen():
  said = lambda mode, labels: " ".join(not_covered(in_mode(mode), labels, devices=1))
  assert "labels are sent in clear" in said("frozen_cached", CLEAR)
  assert "negative entry is the label's" in said(
      "frozen_cached", LabelPolicy("u_shaped", acknowledged=True))
  assert "label" not in said("frozen_cached", LabelPolicy("u_shaped", noise_multiplier=1.0))
  assert "label" not in said("frozen_cached", LabelPolicy("randomized_response", epsilon=1.0))
  assert "exact gradients" in said("trained_published", CLEAR)
  notes = [r.note for r in releases(in_mode("trained_published"), Z, CLEAR)]
  assert all("not rigorous" in note for note in notes)


@pytest.mark.parametrize(("labels", "is_said"), [
    (CLEAR, False), (LabelPolicy("u_shaped", acknowledged=True), False),
    (LabelPolicy("u_shaped", noise_multiplier=1.0), True),
    (LabelPolicy("randomized_response", epsilon=1.0), True)])
def test_a_device_tells_which_labels_there_can_be(labels, is_said):
  said = [" ".join(not_covered(SCHEDULE, labels, devices)) for devices in (1, 2)]
  assert ["names its device" in sentences for sentences in said] == [False, is_said]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: in_mode("frozen"), "unknown mode 'frozen'; choose one of frozen_cached"),
    (lambda: in_mode("frozen_fresh", epochs=0), "epochs must be at least 1, got 0"),
    (lambda: activation_mu(SCHEDULE, Z, Z_W), "'frozen_cached' takes no gradient_noise_multiplier"),
    (lambda: activation_mu(in_mode("trained_private"), Z), "needs a gradient_noise_multiplier"),
    (lambda: activation_mu(SCHEDULE, Z, unit="house"), "unknown unit 'house'"),
    (lambda: accuracy_ceiling(1.0, [1.0]), "class_shares must be two or more"),
])
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_information_by_hand():
  assert information_ceiling(0.4, non_negative=False) == pytest.approx(0.16 / 8)
  assert information_ceiling(0.4, non_negative=True) == pytest.approx(0.16 / 4)
  # mu 4, 2C: C / sigma = 2, so one channel holds ln(1 + 4) / 2.
  assert information_ceiling(4.0, False, dimension=1) == pytest.approx(math.log(5) / 2)
  assert information_ceiling(4.0, False, dimension=10**9) == pytest.approx(2)
  assert information_ceiling(math.inf, False, 3) == math.inf


def test_accuracy_ceiling_by_hand():
  assert accuracy_ceiling(0.0, [1, 1, 1, 1]) == pytest.approx(0.25)
  assert accuracy_ceiling(math.log(4), [1, 1, 1, 1]) == 1
  # Two classes: h(e) = ln 2 - information; at e = 0.11, h = 0.34652.
  known = math.log(2) + 0.11 * math.log(0.11) + 0.89 * math.log(0.89)
  assert accuracy_ceiling(known, [3, 3]) == pytest.approx(0.89, abs=1e-6)
  # Sharper than (information + ln 2) / ln K.
  assert accuracy_ceiling(1.0, np.ones(62)) < (1 + math.log(2)) / math.log(62)


def test_no_classifier_of_a_noised_sign_beats_the_ceiling():
  # One bit at +-C under noise sigma: the best accuracy is Phi(C / sigma).
  for mu in (0.2, 1.0, 3.0):
    best = 0.5 * math.erfc(-mu / 2 / math.sqrt(2))
    assert best < accuracy_ceiling(information_ceiling(mu, False, 1), [1, 1])


def test_a_run_above_its_ceiling_fails():
  require_below_ceiling(520, 1000, 0.5)
  require_below_ceiling(1000, 1000, 1.0)
  with pytest.raises(RuntimeError, match="accuracy 0.6000 of 1000 noised activations is above 0.5"):
    require_below_ceiling(600, 1000, 0.5)
