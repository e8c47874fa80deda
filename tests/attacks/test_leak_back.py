from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import leak_back
from fedjax_face.losses.gradient_correction import gradient_correction
from fedjax_face.models.margins import cosface_margin, geometry

CORRECTION = {form: gradient_correction(form, normalised=True)
              for form in ("as_written", "calibrated")}


@functools.cache
def population():
  return leak_back.isotropic_population(
      jax.random.key(0), clients=8, classes=200, dim=64, targets=4, probe_cosine=0.6,
      training_cosine=0.7)


@functools.cache
def attack(form):
  rows, owner, cosine, targets, probes = population()

  def play(scale, strength, noise_std, length):
    recovered = leak_back.leak_back(
        CORRECTION[form], rows, owner, cosine, 8, probes, {},
        jax.random.key(1), learning_rate=strength, rounds=40, noise_std=noise_std, decoys=24,
        length=length, geometry=geometry(scale, 0.4, cosface_margin))
    return leak_back.recovery(recovered.template, rows[targets])

  return jax.jit(play)


def attracting_server(template):
  """Pushes every row away from one template, on the tangent, as a sharp correction does."""

  def server(sent, key):
    at = sent / jnp.linalg.norm(sent, axis=1, keepdims=True)
    return sent - 0.01 * (template - (at @ template)[:, None] * at)

  return server


def test_population_has_probes_at_the_given_cosine_and_no_class_of_the_attacker():
  rows, owner, cosine, targets, probes = population()
  np.testing.assert_allclose(leak_back.recovery(probes, rows[targets]), 0.6, atol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  assert set(np.asarray(owner)) == set(range(8)) and len(cosine) == 9
  with pytest.raises(ValueError, match="targets 9: expected 1 to the 5 classes"):
    leak_back.isotropic_population(jax.random.key(0), clients=2, classes=5, dim=3, targets=9,
                                   probe_cosine=0.6, training_cosine=0.7)


def test_recovery_is_the_cosine():
  np.testing.assert_allclose(
      leak_back.recovery(jnp.array([[3.0, 4.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, -1.0]])),
      [0.6, -1.0], rtol=1e-6)


def test_templates_are_recovered_from_probes_as_written_and_calibrated():
  assert jnp.min(attack("as_written")(30.0, 0.1, 0.0, 1.0)) > 0.99
  assert jnp.min(attack("calibrated")(16.0, 0.1, 0.0, 1.0)) > 0.99


def test_decoys_stand_around_their_probe():
  at = jnp.eye(3)[:2]
  around = leak_back._cone(at, 5, jax.random.key(0))
  np.testing.assert_allclose(jnp.linalg.norm(around, axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(leak_back.recovery(around, jnp.tile(at, (5, 1))),
                             np.cos(leak_back.DECOY_ANGLE), rtol=1e-5)
  assert leak_back._cone(at, 0, jax.random.key(0)).shape == (0, 3)


@pytest.mark.parametrize("length", [1.0, 1e-3])
def test_without_correction_nothing_is_recovered(length):
  np.testing.assert_allclose(attack("as_written")(30.0, 0.0, 0.0, length), 0.6, atol=1e-6)


def test_noise_on_the_returned_rows_lowers_recovery():
  hidden = attack("as_written")(30.0, 0.1, 1e-2, 1.0)
  assert jnp.max(hidden) < 0.6
  faint = attack("calibrated")(16.0, 0.1, 1e-5, 1.0)
  assert jnp.min(faint) > 0.99


def test_rounding_hides_the_push_on_long_rows_and_not_on_short_ones():
  long, short = (attack("as_written")(64.0, 0.01, 0.0, length) for length in (1.0, 1e-4))
  np.testing.assert_allclose(long, 0.6, atol=1e-6)
  assert jnp.min(short) > 0.99


def test_the_attack_needs_nothing_but_rows_sent_and_received():
  template = jnp.array([0.0, 1.0, 0.0])
  probes = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.2, 2.0]])
  found = leak_back.climb(attracting_server(template), probes, 60, jax.random.key(0), decoys=2)
  np.testing.assert_allclose(found.template @ template, 1, atol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(found.template, axis=1), 1, rtol=1e-6)
  assert jnp.max(found.step) < 0.01 and jnp.max(found.change) < 1e-4


def test_first_step_turns_the_probe_by_the_first_angle_towards_the_push():
  probes = jnp.array([[1.0, 0.0, 0.0]])
  found = leak_back.climb(attracting_server(jnp.array([0.6, 0.8, 0.0])), probes, 2,
                          jax.random.key(0))
  angle = leak_back.FIRST_STEP
  np.testing.assert_allclose(found.template, [[np.cos(angle), np.sin(angle), 0]], atol=1e-4)
  np.testing.assert_allclose(found.change, [0.008], rtol=1e-3)


def test_a_saturated_push_is_told_from_a_weak_one_by_a_copy():
  near, weak = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.8, 0.6])

  def server(sent, key):
    return sent - 0.01 * (near / len(sent) + weak)

  probe = jnp.array([[0.6, 0.0, 0.8]])
  found = leak_back.climb(server, probe, 2, jax.random.key(0))
  np.testing.assert_allclose(found.template[0, 1], 0, atol=1e-5)
  assert found.template[0, 0] > 0.9


def test_linear_heads_leak_through_rows_as_long_as_the_others():
  rows, owner, cosine, targets, probes = population()
  correction = gradient_correction("as_written", normalised=False)
  play = lambda length: leak_back.leak_back(
      correction, 4 * rows, owner, cosine, 8, probes, {}, jax.random.key(1), learning_rate=0.1,
      rounds=40, length=length).template
  assert jnp.min(leak_back.recovery(jax.jit(play)(4.0), rows[targets])) > 0.99


def test_server_returns_the_attackers_rows_after_its_steps():
  def to_zero(table, owner, anchors, hparams, geometry):
    assert table.shape == (5, 2) and owner.tolist() == [0, 0, 1, 2, 2]
    return hparams["rate"] * table

  with jax.disable_jit():
    server = leak_back.correcting_server(
        to_zero, jnp.ones((3, 2)), jnp.array([0, 0, 1]), jnp.ones(3), 2, {"rate": 0.5},
        learning_rate=1.0, steps=2)
    received = server(jnp.array([[4.0, 8.0], [0.0, 12.0]]), jax.random.key(0))
  np.testing.assert_array_equal(received, [[1.0, 2.0], [0.0, 3.0]])


@pytest.mark.parametrize("wrong, message", [({"attacker": 3}, "attacker 3: expected a client"),
                                            ({"steps": 0}, "steps 0: expected at least 1")])
def test_a_server_that_makes_no_sense_is_refused(wrong, message):
  given = {"attacker": 2, "steps": 1, **wrong}
  with pytest.raises(ValueError, match=message):
    leak_back.correcting_server(None, jnp.ones((3, 2)), jnp.array([0, 0, 1]), jnp.ones(3),
                                given["attacker"], {}, learning_rate=1.0, steps=given["steps"])


def test_study_reports_every_form_scale_and_strength_with_an_interval():
  outcomes = leak_back.study(
      {"as_written": CORRECTION["as_written"]}, population(), jax.random.key(1),
      scales=(16.0, 30.0), strengths=(0.0, 1.0), margin=0.4, learning_rate=0.1, rounds=40)
  assert [(o.form, o.scale, o.strength) for o in outcomes] == [
      ("as_written", scale, strength) for scale in (16.0, 30.0) for strength in (0.0, 1.0)]
  assert all(o.probe.value == pytest.approx(0.6) for o in outcomes)
  for unmoved, moved in zip(outcomes[::2], outcomes[1::2], strict=True):
    assert unmoved.recovered.value == pytest.approx(0.6, abs=1e-6)
    assert moved.recovered.low > 0.99 and moved.recovered.low <= moved.recovered.value
