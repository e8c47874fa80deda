"""The dense layer equals flax's in parameters, value and gradients."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.dense import Dense

_KEY = jax.random.key(0)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_equals_flax(batch):
  x = jax.random.normal(_KEY, (batch, 7))
  params = nn.Dense(5).init(_KEY, x)
  jax.tree.map(np.testing.assert_array_equal, params, Dense(5).init(_KEY, x))

  def value_and_gradients(layer):
    loss = lambda params, x: jnp.sin(layer.apply(params, x)).sum()
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

  actual, expected = value_and_gradients(Dense(5)), value_and_gradients(nn.Dense(5))
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
               actual, expected)


def test_every_client_may_have_its_own_weights():
  x, kernel = jax.random.normal(_KEY, (3, 2, 4)), jax.random.normal(_KEY, (3, 4, 5))
  one = lambda x, w: jax.grad(
      lambda w: jnp.sin(Dense(5).apply({"params": {"kernel": w, "bias": jnp.ones(5)}}, x)).sum())(w)
  expected = jnp.stack([one(*pair) for pair in zip(x, kernel, strict=True)])
  np.testing.assert_allclose(jax.vmap(one)(x, kernel), expected, rtol=1e-5, atol=1e-6)
