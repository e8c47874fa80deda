"""One tiny forward and backward pass of every kind of backbone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.iresnet import IResNet
from fedjax_face.models.lenet import LeNet
from fedjax_face.models.mobilenet import MobileNetV2
from fedjax_face.models.reddi_cnn import ReddiCNN
from fedjax_face.models.resnet import ResNet

# Narrow versions; between them every kind of block: both strides, with and without shortcut.
NETWORKS = {
    "lenet": (LeNet(6), (2, 8, 8, 1)),
    "reddi_cnn": (ReddiCNN(6), (2, 8, 8, 3)),
    "mobilenet": (MobileNetV2(6, 0.25, blocks=((1, 8, 1), (2, 8, 1), (2, 16, 2)), last_channels=16),
                  (2, 9, 8, 3)),
    "resnet": (ResNet(6, blocks=(1, 1), channels=4, groups=2), (2, 16, 12, 3)),
    "iresnet": (IResNet(6, blocks=(2,), channels=8, groups=4), (2, 8, 6, 3)),
}


def made(name):
  """The module, images and parameters drawn on the host (no initialiser to compile)."""
  module, shape = NETWORKS[name]
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=shape), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(1), images)
  draw = lambda s: jnp.asarray(rng.normal(0.1, 0.3, s.shape), s.dtype)
  return module, images, jax.tree.map(draw, shapes)


# Compiling is nearly all of the time here, and half of that is optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(jit, static_argnums=0)
def apply(module, params, images):
  return module.apply(params, images)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_a_finite_gradient(name):
  module, images, params = made(name)
  loss = lambda params: jnp.sum(module.apply(params, images)**2)
  grads = jit(jax.grad(loss))(params)
  assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_of_examples_do_not_mix(name):
  module, images, params = made(name)
  embeddings = apply(module, params, images)
  assert embeddings.shape == (2, 6)
  assert embeddings.dtype == jnp.float32
  alone = apply(module, params, images.at[1].set(0.0))[0]
  np.testing.assert_allclose(embeddings[0], alone, rtol=1e-5, atol=1e-6)


def test_eager_equals_jit():
  module, images, params = made("lenet")
  np.testing.assert_allclose(module.apply(params, images), apply(module, params, images), rtol=1e-4,
                             atol=1e-5)


@pytest.mark.parametrize("name", ["lenet", "mobilenet"])
def test_vmap_over_clients_equals_a_loop(name):
  module, images, params = made(name)
  clients = [(params, images), (jax.tree.map(lambda p: 0.5 * p, params), -images)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *clients)
  loop = jnp.stack([apply(module, *client) for client in clients])
  vmapped = jit(jax.vmap(module.apply))(*stacked)
  np.testing.assert_allclose(vmapped, loop, rtol=1e-4, atol=1e-5)


def test_iresnet_wants_multiples_of_sixteen():
  with pytest.raises(ValueError, match="multiples of 16 and at least 16, not 24x32"):
    jax.eval_shape(IResNet(8).init, jax.random.key(0), jnp.zeros((1, 24, 32, 3)))
