from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES
from fedjax_face.losses.multi_task import (
    AFLW_MIRROR,
    FIVE_POINT_MIRROR,
    HYPERFACE_WEIGHTS,
    LOG_VARIANCE_BOUND,
    TASKS,
    Targets,
    fixed_weights,
    mirror,
    random_mirror,
    task_losses,
    uncertainty_weights,
)
from fedjax_face.models.hyperface import TaskOutputs

DETECTION, LANDMARKS, VISIBILITY, POSE, GENDER = range(5)
B, L = 6, 5


def outputs(seed=0):
  rng = np.random.default_rng(seed)
  sizes = ((B, 2), (B, L, 2), (B, L), (B, 3), (B, 2))
  return TaskOutputs(*(jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes))


def targets(**fields):
  rng = np.random.default_rng(1)
  made = Targets(
      face=jnp.ones(B, jnp.int32),
      landmarks=jnp.asarray(rng.uniform(size=(B, L, 2)), jnp.float32),
      visible=jnp.ones((B, L), jnp.float32),
      pose=jnp.asarray(rng.normal(size=(B, 3)), jnp.float32),
      gender=jnp.arange(B, dtype=jnp.int32) % 2,
      known=jnp.ones((B, 5), bool))
  return made._replace(**fields)


ALL = jnp.ones(B, bool)


compiled_losses = jax.jit(task_losses)


@jax.jit
def gradients(batch):
  """Of the sum of all losses, by the network's outputs."""
  return jax.grad(lambda made: task_losses(made, batch, ALL)[0].sum())(outputs())


def test_tasks_are_the_networks_outputs():
  assert TASKS == TaskOutputs._fields


def test_losses_by_hand():
  made = TaskOutputs(
      detection=jnp.log(jnp.array([[1.0, 3.0]])),
      landmarks=jnp.array([[[0.5, 0.5], [0.0, 1.0]]]),
      visibility=jnp.array([[0.5, 0.25]]),
      pose=jnp.array([[0.1, 0.2, 0.3]]),
      gender=jnp.log(jnp.array([[1.0, 4.0]])))
  batch = Targets(
      face=jnp.array([1]), landmarks=jnp.array([[[0.1, 0.2], [9.0, 9.0]]]),
      visible=jnp.array([[1.0, 0.0]]), pose=jnp.array([[0.1, 0.0, -0.3]]), gender=jnp.array([0]),
      known=jnp.ones((1, 5), bool))
  losses, applies = task_losses(made, batch, jnp.array([True]))
  expected = [np.log(4 / 3), (0.16 + 0.09) / 4, (0.25 + 0.0625) / 2, (0.04 + 0.36) / 3, np.log(5)]
  np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
  assert applies.all()
  jitted, _ = compiled_losses(made, batch._replace(visible=batch.visible > 0), jnp.array([True]))
  np.testing.assert_allclose(jitted, losses, rtol=1e-6)


def test_regions_without_a_face_train_detection_alone():
  face = jnp.array([1, 0, 1, 0, 1, 1])
  losses, applies = compiled_losses(outputs(), targets(face=face), ALL)
  np.testing.assert_array_equal(applies, (face == 1)[:, None] | (jnp.arange(5) == DETECTION))
  np.testing.assert_array_equal(losses == 0, ~applies)
  grads = gradients(targets(face=face))
  for task, gradient in grads._asdict().items():
    size = jnp.abs(gradient).reshape(B, -1).max(-1)
    np.testing.assert_array_equal(size == 0, (face == 0) if task != "detection" else False)


def test_invisible_landmarks_have_no_gradient_but_their_visibility_has():
  visible = jnp.array([[1, 0, 1, 1, 0]] * B, jnp.float32)
  grads = gradients(targets(visible=visible))
  np.testing.assert_array_equal(jnp.abs(grads.landmarks).max(-1) == 0, visible == 0)
  assert (grads.visibility != 0).all()


def test_landmarks_all_invisible_do_not_count_as_a_landmark_task():
  visible = jnp.ones((B, L)).at[2].set(0)
  losses, applies = compiled_losses(outputs(), targets(visible=visible), ALL)
  np.testing.assert_array_equal(applies[:, LANDMARKS], jnp.arange(B) != 2)
  assert losses[2, LANDMARKS] == 0
  assert applies[2, VISIBILITY] and losses[2, VISIBILITY] > 0


@pytest.mark.parametrize("task", range(5))
def test_an_unknown_label_counts_for_nothing_whatever_it_holds(task):
  known = jnp.ones((B, 5), bool).at[:, task].set(False)
  clean = targets(known=known)
  field = ("face", "landmarks", "visible", "pose", "gender")[task]
  value = {DETECTION: clean.face, VISIBILITY: clean.visible, GENDER: clean.gender + 7}.get(
      task, jnp.full_like(getattr(clean, field), jnp.nan))
  spoiled = clean._replace(**{field: value})
  losses, applies = compiled_losses(outputs(), spoiled, ALL)
  np.testing.assert_array_equal(applies, known)
  np.testing.assert_array_equal(losses == 0, ~known)
  grads = gradients(spoiled)
  assert jnp.abs(grads[task]).max() == 0
  reference = gradients(targets())
  for other in set(range(5)) - {task}:
    np.testing.assert_array_equal(grads[other], reference[other])


def test_padding_weighs_exactly_zero():
  mask = jnp.array([True, True, False, True, False, False])
  spoil = lambda x: jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)
  made, batch = jax.tree.map(spoil, outputs()), targets()
  batch = batch._replace(landmarks=spoil(batch.landmarks), visible=spoil(batch.visible),
                         pose=spoil(batch.pose), face=jnp.where(mask, 1, -5))
  weighting = uncertainty_weights()
  params = jnp.arange(5.0) / 5

  @jax.jit
  def value_and_gradients(made, batch, mask):
    total = lambda params, made: weighting.terms(params, *task_losses(made, batch, mask)).sum()
    return jax.value_and_grad(total, (0, 1))(params, made)

  value, (by_params, by_outputs) = value_and_gradients(made, batch, mask)
  real = np.flatnonzero(mask)
  rows = jax.tree.map(lambda x: x[real], (outputs(), targets()))
  expected, (expected_by_params, _) = value_and_gradients(*rows, jnp.ones(3, bool))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(by_params, expected_by_params, rtol=1e-5)
  for gradient in by_outputs:
    assert (gradient[~mask] == 0).all() and jnp.isfinite(gradient).all()
  value, (by_params, by_outputs) = value_and_gradients(made, batch, jnp.zeros(B, bool))
  assert value == 0 and (by_params == 0).all()
  assert all((gradient == 0).all() for gradient in by_outputs)


def test_fixed_weights():
  weighting = fixed_weights()
  losses, applies = compiled_losses(outputs(), targets(face=jnp.array([1, 0, 1, 1, 1, 0])), ALL)
  params = weighting.init()
  assert jax.tree.leaves(params) == []
  np.testing.assert_array_equal(weighting.weights(params), HYPERFACE_WEIGHTS)
  np.testing.assert_allclose(weighting.terms(params, losses, applies),
                             losses * np.array([1, 5, 0.5, 5, 2]), rtol=1e-6)
  assert weighting.project(params) == ()


def test_uncertainty_by_hand():
  weighting = uncertainty_weights()
  losses = jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
  s = jnp.log(jnp.array([2.0, 2.0, 4.0, 4.0, 5.0]))
  terms = weighting.terms(s, losses, jnp.ones((1, 5), bool))
  expected = [0.5, 0.5, 3 / 8, 0.5, 1.0] + 0.5 * np.asarray(s)
  np.testing.assert_allclose(terms[0], expected, rtol=1e-6)
  np.testing.assert_allclose(weighting.weights(s), [1 / 2, 1 / 4, 1 / 8, 1 / 8, 1 / 5], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_minimising_finds_the_fixed_points(scale):
  rng = np.random.default_rng(2)
  losses = jnp.asarray(rng.gamma(2.0, [0.4, 0.1, 0.8, 0.05, 1.5], (B, 5)), jnp.float32)
  applies = jnp.asarray(rng.random((B, 5)) < 0.6).at[0].set(True)
  weighting = uncertainty_weights(scale)
  gradient = jax.grad(lambda u: weighting.terms(u, losses, applies).sum() / B)

  def descend(u, _):
    return u - 0.5 / scale**2 * gradient(u), None

  u, _ = jax.jit(lambda u: jax.lax.scan(descend, u, length=400))(weighting.init())
  mean = jnp.sum(losses * applies, 0) / applies.sum(0)
  expected = mean * jnp.array([2, 1, 1, 1, 2])
  np.testing.assert_allclose(jnp.exp(scale * u), expected, rtol=1e-3)


def test_scale_shrinks_the_gradient_of_the_scalars_and_changes_no_value():
  losses, applies = compiled_losses(outputs(), targets(), ALL)
  s = jnp.array([0.5, -1.0, 2.0, 0.0, -0.3])
  plain, scaled = uncertainty_weights(), uncertainty_weights(0.05)
  np.testing.assert_allclose(scaled.terms(s / 0.05, losses, applies),
                             plain.terms(s, losses, applies), rtol=1e-5)
  by_s = jax.grad(lambda p: plain.terms(p, losses, applies).sum())(s)
  by_u = jax.grad(lambda p: scaled.terms(p, losses, applies).sum())(s / 0.05)
  np.testing.assert_allclose(by_u, 0.05 * by_s, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_log_variances_stay_within_bounds(scale, sign):
  weighting = uncertainty_weights(scale)
  losses, applies = jnp.ones((1, 5)), jnp.ones((1, 5), bool)
  far, edge = (jnp.full(5, sign * s / scale) for s in (100, LOG_VARIANCE_BOUND))
  np.testing.assert_allclose(weighting.project(far), edge, rtol=1e-6)
  np.testing.assert_array_equal(weighting.project(0.5 * edge), 0.5 * edge)
  np.testing.assert_allclose(weighting.terms(far, losses, applies),
                             weighting.terms(edge, losses, applies), rtol=1e-4)
  inwards = -jax.grad(lambda u: weighting.terms(u, losses, applies).sum())(far)
  assert (jnp.sign(inwards) == -sign).all()


def test_gradients_of_examples_sum_to_the_gradient_of_the_batch():
  weighting = uncertainty_weights(0.1)
  batch = targets(face=jnp.array([1, 0, 1, 1, 0, 1]))
  features = jnp.asarray(np.random.default_rng(3).normal(size=(B, 4)), jnp.float32)
  made = outputs()
  weights = jax.tree.map(lambda o: jnp.ones((4, *o.shape[1:])) / 7, made)
  params = (weights, jnp.array([1.0, -70.0, 3.0, 0.0, 80.0]))

  def loss(params, features, batch, mask):
    weights, u = params
    made = jax.tree.map(lambda w: jnp.tensordot(features, w, 1), weights)
    return weighting.terms(u, *task_losses(made, batch, mask)).sum()

  def of_one(params, *example):
    return loss(params, *jax.tree.map(lambda x: x[None], example))

  mask = ALL.at[2].set(False)
  examples = jax.jit(jax.vmap(jax.grad(of_one), (None, 0, 0, 0)))(params, features, batch, mask)
  together = jax.jit(jax.grad(loss))(params, features, batch, mask)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a.sum(0), b, rtol=1e-4, atol=1e-5),
               examples, together)
  assert all((g[2] == 0).all() for g in jax.tree.leaves(examples))


def mirrored_name(name):
  swap = {"left": "right", "right": "left"}
  return "_".join(swap.get(word, word) for word in name.split("_"))


def test_aflw_permutation_exchanges_left_and_right():
  assert tuple(LANDMARK_NAMES.index(mirrored_name(name)) for name in LANDMARK_NAMES) == AFLW_MIRROR


def test_mirror_by_hand():
  points = jnp.array([[0.1, 0.2], [0.7, 0.3], [0.4, 0.5], [0.2, 0.8], [0.6, 0.9]])
  batch = jax.tree.map(lambda x: x[:1], targets())._replace(
      landmarks=points[None], visible=jnp.array([[1, 0, 1, 0, 1.0]]),
      pose=jnp.array([[0.1, 0.2, 0.3]]))
  images = jnp.arange(12, dtype=jnp.uint8).reshape(1, 2, 3, 2)
  flipped, ours = mirror(images, batch, FIVE_POINT_MIRROR)
  np.testing.assert_array_equal(flipped[0, 0], [[4, 5], [2, 3], [0, 1]])
  np.testing.assert_allclose(
      ours.landmarks[0], [[0.3, 0.3], [0.9, 0.2], [0.6, 0.5], [0.4, 0.9], [0.8, 0.8]], rtol=1e-6)
  np.testing.assert_array_equal(ours.visible[0], [0, 1, 1, 1, 0])
  np.testing.assert_allclose(ours.pose[0], [-0.1, 0.2, -0.3], rtol=1e-6)
  _, centred = mirror(images, batch._replace(landmarks=points[None] - 0.5), FIVE_POINT_MIRROR,
                      "centre")
  np.testing.assert_allclose(centred.landmarks + 0.5, ours.landmarks, rtol=1e-6)


@pytest.mark.parametrize("frame", ["corner", "centre"])
@pytest.mark.parametrize("permutation", [AFLW_MIRROR, FIVE_POINT_MIRROR])
def test_mirror_twice_is_the_identity(permutation, frame):
  rng = np.random.default_rng(4)
  count = len(permutation)
  batch = targets(landmarks=jnp.asarray(rng.random((B, count, 2)), jnp.float32),
                  visible=jnp.asarray(rng.random((B, count)) < 0.5))
  images = jnp.asarray(rng.integers(0, 256, (B, 4, 6, 3)), jnp.uint8)
  once = mirror(images, batch, permutation, frame)
  twice = mirror(*once, permutation, frame)
  assert not jnp.array_equal(once[1].landmarks, batch.landmarks)
  for ours, original in zip(jax.tree.leaves(twice), jax.tree.leaves((images, batch)), strict=True):
    np.testing.assert_allclose(ours, original, atol=1e-7)
    assert ours.dtype == original.dtype


def test_random_mirror_mirrors_some_regions_whole_and_leaves_the_others():
  images = jnp.asarray(np.random.default_rng(5).integers(0, 256, (B, 4, 6, 3)), jnp.uint8)
  batch = targets()
  mirrored = jax.tree.leaves(mirror(images, batch, FIVE_POINT_MIRROR))
  ours = jax.tree.leaves(random_mirror(images, batch, FIVE_POINT_MIRROR,
                                      jax.random.split(jax.random.key(0), B)))
  flips = (ours[0] != images).any((1, 2, 3))
  assert 0 < flips.sum() < B
  for leaf, other, original in zip(ours, mirrored, jax.tree.leaves((images, batch)), strict=True):
    for i in range(B):
      np.testing.assert_array_equal(leaf[i], (other if flips[i] else original)[i])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: task_losses(outputs(), targets(visible=jnp.ones((B, 4))), ALL),
     "targets: visible has shape [6, 4]; expected [6, 5]"),
    (lambda: task_losses(outputs(), targets(known=jnp.ones((B, 4), bool)), ALL),
     "targets: known has shape [6, 4]; expected [6, 5]"),
    (lambda: fixed_weights((1.0, 2.0)), "task weights (1.0, 2.0): expected 5 finite numbers"),
    (lambda: fixed_weights((1.0, 2.0, -1.0, 1.0, 1.0)), "task weights (1.0, 2.0, -1.0, 1.0, 1.0)"),
    (lambda: uncertainty_weights(0.0), "scale of the log-variances is 0.0; expected"),
    (lambda: mirror(jnp.zeros((B, 2, 2, 1)), targets(), AFLW_MIRROR), "mirror permutation (5, 4"),
    (lambda: mirror(jnp.zeros((B, 2, 2, 1)), targets(), (1, 2, 0, 4, 3)),
     "mirror permutation (1, 2, 0, 4, 3): expected each of 0..4 once, and itself"),
    (lambda: mirror(jnp.zeros((B, 2, 2, 1)), targets(), FIVE_POINT_MIRROR, "middle"),
     "frame 'middle': expected one of corner, centre"),
])
def test_errors_name_what_is_wrong_on_one_line(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)
