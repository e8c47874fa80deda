from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.margins import arcface_margin, cosface_margin, cosine, true_class

ANGLES = np.linspace(0, np.pi, 400)


def test_cosine_ignores_lengths():
  embeddings = jnp.array([[2.0, 0.0], [3.0, 4.0]])
  class_embeddings = jnp.array([[0.0, 5.0], [0.1, 0.0], [-1.0, 0.0]])
  np.testing.assert_allclose(cosine(embeddings, class_embeddings), [[0, 1, -1], [0.8, 0.6, -0.6]],
                             rtol=1e-6, atol=1e-7)


def test_true_class_marks_the_label_only():
  np.testing.assert_array_equal(true_class(jnp.array([1, 0, 7]), 3),
                                [[False, True, False], [True, False, False], [False] * 3])


@pytest.mark.parametrize("margin_of", [cosface_margin, arcface_margin])
def test_no_margin_is_the_plain_cosine(margin_of):
  cos = jnp.cos(ANGLES)
  np.testing.assert_array_equal(margin_of(cos, 0.0), cos)


def test_cosface_margin_by_hand():
  np.testing.assert_allclose(cosface_margin(jnp.array([0.7, -1.0]), 0.4), [0.3, -1.4], rtol=1e-6)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.2])
def test_arcface_margin_is_the_cosine_of_the_sum(margin):
  angles = ANGLES[(ANGLES > 0.002) & (ANGLES + margin < np.pi - 0.01)]
  np.testing.assert_allclose(arcface_margin(jnp.cos(angles), margin), np.cos(angles + margin),
                             atol=5e-5)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.2])
def test_arcface_margin_at_and_near_the_poles(margin):
  near = jnp.array([1.0, 1.0 - 1e-7, 1.0 - 4e-7, 1.0 + 1e-7])
  np.testing.assert_allclose(arcface_margin(near, margin), jnp.cos(margin), atol=1.2e-3)
  np.testing.assert_allclose(arcface_margin(jnp.ones(()), margin), jnp.cos(margin), rtol=1e-6)
  np.testing.assert_allclose(arcface_margin(-jnp.ones(()), margin), -1 - margin * jnp.sin(margin),
                             rtol=1e-6)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.2])
def test_arcface_margin_decreases_in_the_angle_everywhere(margin):
  values = arcface_margin(jnp.cos(ANGLES), margin)
  assert (jnp.diff(values) < 0).all()


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.2])
def test_arcface_margin_gradient_is_finite_and_bounded(margin):
  cos = jnp.concatenate([jnp.array([-1.0, 1.0, 1.0 - 6e-8, 1.0 + 1e-7]),
                         1.0 - jnp.logspace(-7, -2, 60), jnp.cos(ANGLES)])
  grads = jax.jit(jax.vmap(jax.grad(arcface_margin), (0, None)))(cos, margin)
  assert jnp.isfinite(grads).all()
  assert (jnp.abs(grads) < 2001).all()
  assert (grads > 0).all()


def test_arcface_margin_gradient_by_hand():
  grad = jax.grad(arcface_margin)(jnp.float32(0.6), 0.5)
  np.testing.assert_allclose(grad, np.cos(0.5) + 0.6 / 0.8 * np.sin(0.5), rtol=1e-5)


def test_a_traced_margin_does_not_recompile():
  traces = []

  @jax.jit
  def logits(cos, margin):
    traces.append(margin)
    return arcface_margin(cos, margin)

  for margin in (0.2, 0.3):
    np.testing.assert_allclose(logits(jnp.cos(1.0), margin), np.cos(1.0 + margin), rtol=1e-5)
  assert len(traces) == 1
