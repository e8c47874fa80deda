from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.losses.class_pairs import Anchors, own_anchors
from fedjax_face.losses.gradient_correction import gradient_correction, regulariser
from fedjax_face.models.margins import cosface_margin, geometry

OWNER = jnp.array([0, 0, 1, 2, 1, 2, 2, 0])
COSINE = jnp.array([0.5, 0.6, 0.8])
HEAD = {"scale": 10.0, "margin": 0.3}
KINDS = [("as_written", False), ("as_written", True), ("calibrated", True)]


def classes(rows=8, dim=5, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, dim)), jnp.float32)


def lent(head):
  """What CosFace at these scalars lends; nothing for a head without any."""
  return geometry(head["scale"], head["margin"], cosface_margin) if head else None


def lending(function):
  """The function of scalars of the head, traced, in place of its geometry."""
  return jax.jit(lambda rows, owner, anchors, head: function(
      rows, owner, anchors, {}, lent(head)))


@functools.cache
def reg(form, normalised):
  return lending(regulariser(form, normalised, block=3))


@functools.cache
def correction(form, normalised, self_term=False):
  return lending(gradient_correction(form, normalised, block=3, self_term=self_term))


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def dense(form, normalised, rows, owner, anchors, head, self_term=False):
  """The regulariser as in the paper (or the calibrated form), over the whole M x R matrix."""
  if normalised:
    rows, frozen = unit(rows), unit(anchors.vectors)
    scale, c = head["scale"], anchors.cosine[:, None]
    logits = scale * frozen @ rows.T
    positive = jnp.full((len(frozen), 1), scale)
    if form == "calibrated":
      logits = c * logits + scale**2 * (1 - c**2) / (2 * rows.shape[1])
      positive = scale * (c - head["margin"])
  else:
    frozen = anchors.vectors
    logits = frozen @ rows.T
    positive = jnp.sum(frozen * (rows if self_term else frozen), axis=1, keepdims=True)
  logits = jnp.where(anchors.owner[:, None] != owner, logits, -1e30)
  both = jnp.concatenate([positive, logits], axis=1)
  return jnp.sum(anchors.weight * (jax.nn.logsumexp(both, axis=1) - positive[:, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_dense_form(kind):
  rows = classes()
  anchors = own_anchors(rows, OWNER, COSINE)._replace(weight=jnp.arange(1.0, 9.0))
  arguments = (rows, OWNER, anchors, HEAD)
  reference = jax.jit(jax.value_and_grad(lambda *arguments: dense(*kind, *arguments)))
  expected, slope = reference(*arguments)
  np.testing.assert_allclose(reg(*kind)(*arguments), expected, rtol=1e-5)
  np.testing.assert_allclose(correction(*kind)(*arguments), slope, rtol=1e-4, atol=1e-6)


def test_self_term_equals_the_dense_form_with_a_moving_positive():
  rows = classes()
  anchors = own_anchors(rows, OWNER, COSINE)._replace(weight=jnp.arange(1.0, 9.0))
  expected = jax.jit(jax.grad(
      lambda w: dense("as_written", False, w, OWNER, anchors, {}, self_term=True)))(rows)
  got = correction("as_written", False, True)(rows, OWNER, anchors, {})
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_two_classes_by_hand():
  rows, owner = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0, 1])
  anchors = own_anchors(rows, owner, jnp.zeros(2))
  value = reg("as_written", False)(rows, owner, anchors, {})
  np.testing.assert_allclose(value, np.log1p(np.exp(-1)) + np.log1p(np.exp(-4)), rtol=1e-6)
  pi = 1 / (1 + np.exp(1)), 1 / (1 + np.exp(4))  # of each anchor on the other's row
  push = np.array([[0, 2 * pi[1]], [pi[0], 0]])
  got = correction("as_written", False)(rows, owner, anchors, {})
  np.testing.assert_allclose(got, push, rtol=1e-6)
  whole = correction("as_written", False, True)(rows, owner, anchors, {})
  np.testing.assert_allclose(whole, push - np.array([[pi[0], 0], [0, 2 * pi[1]]]), rtol=1e-6)


def test_one_class_per_client_is_centralised_cross_entropy_on_the_class_embeddings():
  rows = classes()
  owner = jnp.arange(len(rows))
  centralised = lambda w: optax.softmax_cross_entropy_with_integer_labels(rows @ w.T, owner).sum()
  anchors = own_anchors(rows, owner, jnp.ones(len(rows)))
  got = correction("as_written", False, True)(rows, owner, anchors, {})
  np.testing.assert_allclose(got, jax.jit(jax.grad(centralised))(rows), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(reg("as_written", False)(rows, owner, anchors, {}),
                             centralised(rows), rtol=1e-5)


def test_columns_sum_to_zero_with_the_self_term():
  rows = classes()
  anchors = own_anchors(rows, OWNER, COSINE)
  sums = [gradient_correction("as_written", False, self_term=self_term)(
      rows, OWNER, anchors, {}).sum(axis=0) for self_term in (True, False)]
  np.testing.assert_allclose(sums[0], 0, atol=1e-5)
  assert jnp.abs(sums[1]).max() > 0.1


def test_local_and_cross_losses_enclose_the_joint_loss():
  rows = classes()
  local_mass = jnp.exp(rows @ rows.T - jnp.sum(rows**2, axis=1, keepdims=True))
  same = (OWNER[:, None] == OWNER) & ~jnp.eye(len(OWNER), dtype=bool)
  local = jnp.log1p(jnp.sum(jnp.where(same, local_mass, 0), axis=1))

  @jax.jit
  @jax.vmap
  def cross(anchor_owner, vector, owner):
    anchor = Anchors(vector[None], anchor_owner[None], jnp.ones(1), jnp.ones(1))
    return regulariser("as_written", False)(rows, owner, anchor, {})

  everyone = jnp.arange(8)
  to_all = lambda owner: jnp.broadcast_to(owner, (8, 8))
  across, joint = (cross(owner, rows, to_all(owner)) for owner in (OWNER, everyone))
  slack = 1 + 1e-5
  assert (jnp.maximum(local, across) <= joint * slack).all()
  assert (joint <= (local + across) * slack).all()
  assert (local + across <= 2 * joint * slack).all()


@pytest.fixture(scope="module")
def isotropic():
  """300 classes of 30 clients in 512 dimensions; 200 features around each of 8 classes."""
  rows = unit(classes(300, 512, seed=1))
  owner = jnp.arange(300) % 30
  c = 0.65
  noise = np.random.default_rng(2).normal(size=(200, 8, 512)).astype(np.float32)
  noise = unit(noise - jnp.sum(noise * rows[:8], axis=-1, keepdims=True) * rows[:8])
  features = c * rows[:8] + (1 - c**2) ** 0.5 * noise
  return rows, owner, c, jnp.asarray(features)


SHARP = {"scale": 30.0, "margin": 0.4}


def cross_mass(form, rows, owner, c):
  """Mass of foreign classes relative to the positive, for the first 8 anchors one by one."""
  def of_anchor(i):
    anchor = Anchors(rows[i][None], owner[i][None], jnp.ones(1), jnp.full(1, c))
    return jnp.expm1(regulariser(form, True)(rows, owner, anchor, {}, lent(SHARP)))
  return jax.jit(jax.vmap(of_anchor))(jnp.arange(8))


def test_temperature_trap_as_written_is_inert_and_calibrated_has_the_true_cross_mass(isotropic):
  rows, owner, c, features = isotropic
  exp = jnp.exp(SHARP["scale"] * (features @ rows.T - (c - SHARP["margin"])))
  true = jnp.where(owner[:8, None] != owner, exp, 0).sum(axis=-1).mean(axis=0)
  assert 0.1 < true.mean() < 10
  calibrated = cross_mass("calibrated", rows, owner, c)
  np.testing.assert_allclose(calibrated, true, rtol=0.03)
  assert cross_mass("as_written", rows, owner, c).max() < 1e-6


def test_calibrated_form_pushes_as_features_do(isotropic):
  rows, owner, c, features = isotropic
  first = Anchors(rows[:8], owner[:8], jnp.ones(8), jnp.full(8, c))
  got = gradient_correction("calibrated", True)(rows, owner, first, {}, lent(SHARP))

  def centralised(w):
    """CosFace over the positive and the foreign classes, mean over the features of each class."""
    logits = SHARP["scale"] * features @ unit(w).T
    logits = jnp.where(owner[:8, None] != owner, logits, -1e30)
    positive = jnp.full((*logits.shape[:2], 1), SHARP["scale"] * (c - SHARP["margin"]))
    return jax.nn.logsumexp(jnp.concatenate([positive, logits], -1), -1).mean(axis=0).sum()

  expected = jax.jit(jax.grad(centralised))(rows)
  cosine = jnp.sum(got * expected) / jnp.linalg.norm(got) / jnp.linalg.norm(expected)
  assert cosine > 0.97
  np.testing.assert_allclose(jnp.linalg.norm(got), jnp.linalg.norm(expected), rtol=0.05)


def test_relative_precision_of_a_tiny_push():
  rows, owner = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
  arguments = (rows, owner, own_anchors(rows, owner, jnp.ones(2)), HEAD | {"scale": 64.0})
  np.testing.assert_allclose(reg("as_written", True)(*arguments), 2 * np.exp(-64),
                             rtol=1e-5)
  np.testing.assert_allclose(correction("as_written", True)(*arguments),
                             64 * np.exp(-64) * np.array([[0, 1], [1, 0]]), rtol=1e-5)


def test_logits_far_above_the_positive_do_not_overflow():
  rows, owner = jnp.array([[1.0, 0.0], [300.0, 0.0]]), jnp.array([0, 1])
  anchors = Anchors(jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.ones(1), jnp.ones(1))
  arguments = (rows, owner, anchors, {})
  np.testing.assert_allclose(reg("as_written", False)(*arguments), 299, rtol=1e-6)
  np.testing.assert_allclose(correction("as_written", False)(*arguments),
                             [[0, 0], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize("arguments, message", [
    (("paper", True), "form 'paper': expected one of as_written, calibrated"),
    (("calibrated", False), "form 'calibrated': expected a normalised head"),
])
def test_forms_that_do_not_exist_are_refused(arguments, message):
  for factory in (gradient_correction, regulariser):
    with pytest.raises(ValueError, match=message):
      factory(*arguments)


def test_self_term_is_refused_where_it_means_nothing():
  with pytest.raises(ValueError, match="self_term: expected a linear head"):
    gradient_correction("as_written", True, self_term=True)
  anchors = Anchors(jnp.ones((3, 5)), jnp.zeros(3, jnp.int32), jnp.ones(3), jnp.ones(3))
  with pytest.raises(ValueError, match="an anchor for each of the 8 rows, not 3 anchors"):
    gradient_correction("as_written", False, self_term=True)(classes(), OWNER, anchors, {})


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_normalised_head_without_geometry_is_refused(kind):
  rows = classes()
  anchors = own_anchors(rows, OWNER, COSINE)
  for factory in (gradient_correction, regulariser):
    with pytest.raises(ValueError, match="expected the head's geometry, which cosface and arcface"):
      factory(*kind)(rows, OWNER, anchors, {}, None)
