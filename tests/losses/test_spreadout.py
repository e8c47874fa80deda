from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.losses.class_pairs import Anchors, own_anchors
from fedjax_face.losses.spreadout import regulariser, spreadout

OWNER = jnp.array([0, 0, 1, 2, 1, 2, 2, 0])
COSINE = jnp.ones(3)


FORMS = pytest.mark.parametrize("form, margin", [("hinge", 1.2), ("cosine", 0.3)])


def classes():
  return jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)


@functools.cache
def compiled(form):
  """Value and gradient."""
  value, gradient = regulariser(form, block=3), spreadout(form, block=3)
  return jax.jit(lambda *arguments: (value(*arguments), gradient(*arguments)))


def dense(form, rows, owner, anchors, margin):
  """By differences of unit vectors, over the whole M x R matrix."""
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  rows, frozen = unit(rows), unit(anchors.vectors)
  foreign = anchors.owner[:, None] != owner
  weight = jnp.where(foreign, anchors.weight[:, None], 0)
  if form == "cosine":
    return jnp.sum(weight * jnp.maximum(frozen @ rows.T - margin, 0) ** 2) / jnp.sum(weight)
  apart = jnp.where(foreign[..., None], rows - frozen[:, None], 1)
  return jnp.sum(weight * jnp.maximum(margin - jnp.linalg.norm(apart, axis=-1), 0) ** 2)


@FORMS
def test_value_and_gradient_equal_the_dense_form(form, margin):
  rows = classes()
  anchors = own_anchors(rows, OWNER, COSINE)._replace(weight=jnp.arange(1.0, 9.0))
  reference = jax.jit(jax.value_and_grad(lambda w: dense(form, w, OWNER, anchors, margin)))
  expected_value, expected = reference(rows)
  assert expected_value > 0.01
  value, gradient = compiled(form)(rows, OWNER, anchors, {"margin": margin})
  np.testing.assert_allclose(value, expected_value, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form, expected, size",
                         [("hinge", 2 * 0.5**2, 1.0), ("cosine", 0.2**2, 0.2)])
def test_two_classes_by_hand(form, expected, size):
  rows, owner = jnp.array([[2.0, 0.0], [0.5, 0.75**0.5]]), jnp.array([0, 1])  # 60 degrees apart
  margin = {"hinge": 1.5, "cosine": 0.3}[form]
  value, gradient = compiled(form)(
      rows, owner, own_anchors(rows, owner, COSINE), {"margin": margin})
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  # cosine rises along the other's direction less its projection, over the row's length
  tangent = np.array([[0, 0.75**0.5], [0.75, -0.5 * 0.75**0.5]]) / [[2], [1]]
  np.testing.assert_allclose(gradient, size * tangent, rtol=1e-5, atol=1e-6)


@FORMS
def test_a_pair_is_counted_once_for_each_end_that_moves(form, margin):
  rows = classes()
  both_ends = lambda w: dense(form, w, OWNER, Anchors(w, OWNER, jnp.ones(8), jnp.ones(8)), margin)
  _, gradient = compiled(form)(
      rows, OWNER, own_anchors(rows, OWNER, COSINE), {"margin": margin})
  np.testing.assert_allclose(2 * gradient, jax.jit(jax.grad(both_ends))(rows), rtol=1e-4,
                             atol=1e-6)


@pytest.mark.parametrize("form, margin, rate", [("hinge", 0.7, 0.1), ("cosine", 0.5, 3.0)])
def test_steps_spread_classes_of_different_clients(form, margin, rate):
  rows, values = classes(), []
  for _ in range(60):
    anchors = own_anchors(rows, OWNER, COSINE)
    value, gradient = compiled(form)(rows, OWNER, anchors, {"margin": margin})
    rows, values = rows - rate * gradient, [*values, value]
  assert values[0] > 0.001 and values[-1] < 0.2 * values[0]


@pytest.mark.parametrize("form", ["hinge", "cosine"])
def test_pairs_beyond_the_margin_are_left_alone(form):
  rows = jnp.concatenate([jnp.eye(3), -jnp.eye(3), jnp.eye(3)[:2]])
  owner = jnp.array([0, 1, 2, 3, 4, 5, 0, 1])
  value, gradient = compiled(form)(
      rows, owner, own_anchors(rows, owner, jnp.ones(6)), {"margin": 0.5})
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_unknown_forms_are_refused():
  for factory in (spreadout, regulariser):
    with pytest.raises(ValueError, match="form 'square': expected one of hinge, cosine"):
      factory("square")
