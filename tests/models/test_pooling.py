"""Pooling gives flax's values and gradients, ties included."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.pooling import avg_pool, global_avg_pool, max_pool

_CASES = [
    ((2, 2), (2, 2), "VALID"), ((3, 2), (3, 2), "VALID"), ((2, 2), (2, 2), "SAME"),
    ((3, 3), (2, 2), "VALID"), ((3, 3), (2, 2), ((1, 1), (1, 1))), ((3, 3), (2, 2), "SAME"),
]


def _with_gradient(function, x):
  def run(x):
    value, pull = jax.vjp(function, x)
    return value, *pull(jnp.arange(1.0, 1 + value.size).reshape(value.shape))

  return jax.jit(run)(x)


@pytest.mark.parametrize(("window", "strides", "padding"), _CASES)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_agrees_with_flax(window, strides, padding, ties):
  x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
  x = jnp.round(x) if ties else x
  actual = _with_gradient(lambda x: max_pool(x, window, strides, padding), x)
  expected = _with_gradient(lambda x: nn.max_pool(x, window, strides, padding), x)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_first_maximum_of_a_window_takes_its_gradient():
  x = jnp.array([[1.0, 2.0], [2.0, 2.0]]).reshape(1, 2, 2, 1)
  gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())(x)
  np.testing.assert_array_equal(gradient[0, :, :, 0], [[0.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(("window", "strides", "padding"), _CASES)
def test_avg_pool_agrees_with_flax(window, strides, padding):
  x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
  actual = _with_gradient(lambda x: avg_pool(x, window, strides, padding), x)
  expected = _with_gradient(lambda x: nn.avg_pool(x, window, strides, padding), x)
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_global_avg_pool_by_hand():
  x = jnp.array([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(global_avg_pool(x), [[4.0]])


def test_vmap_and_jit_agree_with_a_loop():
  x = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 2))
  one = lambda x: _with_gradient(lambda x: max_pool(x, (2, 2), (2, 2)), x)
  expected = [jnp.stack(parts) for parts in zip(*map(one, x), strict=True)]
  for a, e in zip(jax.jit(jax.vmap(one))(x), expected, strict=True):
    np.testing.assert_array_equal(a, e)
