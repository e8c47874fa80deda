from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.embedding import l2_normalise, require_images, unit_embeddings


def test_l2_normalise_by_hand():
  x = jnp.array([[3.0, 4.0], [0.0, -2.0]])
  np.testing.assert_allclose(l2_normalise(x), [[0.6, 0.8], [0.0, -1.0]], rtol=1e-6)
  np.testing.assert_allclose(l2_normalise(x, axis=0), [[1, 0.894427], [0, -0.447214]], rtol=1e-5)


def test_l2_normalise_of_zero_is_zero_with_a_finite_gradient():
  y, pullback = jax.vjp(l2_normalise, jnp.zeros((2, 3)))
  np.testing.assert_array_equal(y, 0)
  assert jnp.isfinite(pullback(jnp.ones((2, 3)))[0]).all()


def test_l2_normalise_gradient_is_tangent():
  x = jnp.array([[3.0, 4.0]])
  grad = jax.grad(lambda x: l2_normalise(x)[0, 0])(x)
  np.testing.assert_allclose(grad, [[0.128, -0.096]], rtol=1e-5)


class _Pixels(nn.Module):

  @nn.compact
  def __call__(self, x):
    return x.reshape(x.shape[0], -1)


def test_unit_embeddings_take_pixels_and_have_norm_one():
  images = np.array([128, 192, 0, 64], np.uint8).reshape(2, 1, 2, 1)
  expected = [[0.0, 1.0], [-0.894427, -0.447214]]
  np.testing.assert_allclose(unit_embeddings(_Pixels(), {}, images), expected, rtol=1e-5)


@pytest.mark.parametrize(("shape", "message"), [
    ((28, 28, 1), r"Net: images must be \[B, H, W, C\], not of shape \(28, 28, 1\)"),
    ((2, 16, 8, 1), "Net: image height and width must be multiples of 16 and at least 16"),
    ((2, 24, 16, 1), "not 24x16"),
])
def test_require_images_names_the_shape(shape, message):
  with pytest.raises(ValueError, match=message):
    require_images(jnp.zeros(shape), "Net", smallest=16, multiple=16)
