"""VGG-Face: parameters and sizes of the published table by shapes alone, and a tiny pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.registry import backbone, count_parameters
from fedjax_face.models.vgg_face import VGGFace, vgg_face_small

# layer: (kernel, parameters = kernel + bias)
PUBLISHED = {
    "conv1_1": ((3, 3, 3, 64), 1_792),
    "conv1_2": ((3, 3, 64, 64), 36_928),
    "conv2_1": ((3, 3, 64, 128), 73_856),
    "conv2_2": ((3, 3, 128, 128), 147_584),
    "conv3_1": ((3, 3, 128, 256), 295_168),
    "conv3_2": ((3, 3, 256, 256), 590_080),
    "conv3_3": ((3, 3, 256, 256), 590_080),
    "conv4_1": ((3, 3, 256, 512), 1_180_160),
    "conv4_2": ((3, 3, 512, 512), 2_359_808),
    "conv4_3": ((3, 3, 512, 512), 2_359_808),
    "conv5_1": ((3, 3, 512, 512), 2_359_808),
    "conv5_2": ((3, 3, 512, 512), 2_359_808),
    "conv5_3": ((3, 3, 512, 512), 2_359_808),
    "fc6": ((7 * 7 * 512, 4096), 102_764_544),
    "fc7": ((4096, 4096), 16_781_312),
}
CLASSIFIER = 4096 * 2622 + 2622


def shapes(module, image_shape):
  """Output and parameter shapes, without computing anything."""
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
  return output, variables["params"]


def test_every_layer_is_the_published_one():
  output, params = shapes(VGGFace(), (224, 224, 3))
  assert output.shape == (2, 4096)
  assert {name: (layer["kernel"].shape, count_parameters(layer))
          for name, layer in params.items()} == PUBLISHED
  assert count_parameters(params) + CLASSIFIER == 145_002_878


@pytest.mark.parametrize(("side", "parameters"), [(32, 700_224), (64, 1_093_440)])
def test_parameters_of_the_small_form(side, parameters):
  convolutions = sum(9 * i * o + o for i, o in ((3, 32), (32, 64), (64, 128), *[(128, 128)] * 3))
  dense = (side // 16)**2 * 128 * 256 + 256 + 256 * 128 + 128
  output, params = shapes(backbone("vgg_face_small", 128), (side, side, 3))
  assert output.shape == (2, 128)
  assert count_parameters(params) == convolutions + dense == parameters


def test_the_embedding_is_not_negative_and_every_parameter_has_a_gradient():
  module = VGGFace(6, 8, ((4,), (4, 4)))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(2, 8, 12, 3)), jnp.float32)
  drawn = jax.eval_shape(module.init, jax.random.key(1), images)
  params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.1, 0.3, s.shape), s.dtype), drawn)

  def loss(params):
    embeddings = module.apply(params, images)
    return jnp.sum(embeddings**2), embeddings

  gradients, embeddings = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert (embeddings >= 0).all()
  assert (embeddings > 0).any()
  assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_too_small_an_image_is_an_error():
  with pytest.raises(ValueError, match="at least 16, not 8x32"):
    shapes(vgg_face_small(8), (8, 32, 3))
