from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.normalisation import GroupNorm, PReLU


def images_and_params(channels: int):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(2.0, 3.0, (4, 5, 3, channels)), jnp.float32)
  scale, bias = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)
  return x, {"params": {"scale": scale, "bias": bias}}


@pytest.mark.parametrize(("groups", "epsilon"), [(1, 1e-5), (2, 1e-3), (8, 1e-5)])
def test_group_norm_and_its_gradient_equal_flax(groups, epsilon):
  x, params = images_and_params(8)
  reference = nn.GroupNorm(num_groups=groups, epsilon=epsilon)

  def value_and_grads(module):
    value = lambda p, x: jnp.sum(jnp.sin(module.apply(p, x)))
    return jax.jit(jax.value_and_grad(value, (0, 1)))(params, x)

  ours = value_and_grads(GroupNorm(groups, epsilon))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours,
               value_and_grads(reference))


def test_group_norm_by_hand():
  x = jnp.array([1.0, 3.0, 10.0, 30.0]).reshape(1, 1, 1, 4)
  y, params = GroupNorm(groups=2, epsilon=0.0).init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(y.ravel(), [-1, 1, -1, 1], rtol=1e-6)
  assert jax.tree.map(jnp.shape, params) == {"params": {"scale": (4,), "bias": (4,)}}


def test_group_norm_of_a_flat_image_is_the_bias():
  _, params = images_and_params(8)
  y, pullback = jax.vjp(lambda x: GroupNorm(2, 1e-3).apply(params, x), jnp.full((2, 4, 4, 8), 0.7))
  np.testing.assert_allclose(y, jnp.broadcast_to(params["params"]["bias"], y.shape), atol=1e-4)
  assert jnp.isfinite(pullback(y)[0]).all()


def test_group_norm_treats_every_example_alone():
  x, params = images_and_params(8)
  norm = GroupNorm(4)
  alone = jnp.concatenate([norm.apply(params, row[None]) for row in x])
  np.testing.assert_allclose(norm.apply(params, x), alone, rtol=1e-5, atol=1e-5)


def test_group_norm_scanned_and_vmapped_over_clients_equal_a_loop():
  x, params = images_and_params(8)
  clients = jnp.stack([x, -x, x * x])
  stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), params)
  norm = GroupNorm(2)
  loop = jnp.stack([norm.apply(jax.tree.map(lambda p, k=k: p[k], stacked), clients[k])
                    for k in range(3)])
  scanned = jax.lax.scan(lambda c, px: (c, norm.apply(*px)), None, (stacked, clients))[1]
  np.testing.assert_allclose(jax.vmap(norm.apply)(stacked, clients), loop, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(scanned, loop, rtol=1e-5, atol=1e-5)


def test_group_norm_rejects_groups_that_do_not_divide():
  with pytest.raises(ValueError, match="groups=3 does not divide 8 channels"):
    GroupNorm(3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))


def test_prelu_by_hand():
  x = jnp.array([[-2.0, 3.0, -4.0]])
  y, params = PReLU().init_with_output(jax.random.key(0), x)
  np.testing.assert_array_equal(y, [[-0.5, 3.0, -1.0]])
  grad = jax.grad(lambda p: jnp.sum(PReLU().apply(p, x)))(params)
  np.testing.assert_array_equal(grad["params"]["slope"], [-2.0, 0.0, -4.0])
