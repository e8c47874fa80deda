from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from fedjax_face.models.heads import CosFace
from fedjax_face.models.registry import BACKBONES, HEADS, backbone, count_parameters, head


def shapes(module, image_shape, batch=2):
  """Output and parameter shapes, without computing anything."""
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
  return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


# One iResNet block at c channels has 18 c^2 + 7 c parameters.
IRESNET18_112 = 24_024_576
IRESNET50_112 = IRESNET18_112 + sum(n * (18 * c * c + 7 * c)
                                    for n, c in ((1, 64), (2, 128), (12, 256), (1, 512)))


@pytest.mark.parametrize(("name", "image_shape", "dim", "parameters"), [
    ("lenet", (28, 28, 1), 128, 453_632),
    ("lenet_small", (28, 28, 1), 128, 214_080),
    ("reddi_cnn", (28, 28, 1), 128, 1_206_590 - (128 * 62 + 62)),
    ("mobilenet_v2", (64, 64, 3), 128, 2_387_840),
    ("mobile_small", (28, 28, 1), 128, 158_720),
    ("resnet50", (64, 64, 3), 128, 23_770_304),
    ("iresnet18", (112, 112, 3), 512, IRESNET18_112),
    ("iresnet50", (112, 112, 3), 512, IRESNET50_112),
])
def test_parameter_counts_and_output_shapes(name, image_shape, dim, parameters):
  output, variables = shapes(backbone(name, dim), image_shape)
  assert output.shape == (2, dim)
  assert output.dtype == jnp.float32
  assert set(variables) == {"params"}
  assert count_parameters(variables) == parameters


@pytest.mark.parametrize("image_shape", [(32, 32, 3), (64, 48, 1)])
@pytest.mark.parametrize("name", BACKBONES)
def test_other_image_sizes_and_channels(name, image_shape):
  output, _ = shapes(backbone(name, 16), image_shape)
  assert output.shape == (2, 16)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobile_small", "resnet50"])
def test_pooled_backbones_do_not_grow_with_the_image(name):
  small, large = (count_parameters(shapes(backbone(name, 8), (size, size, 1))[1])
                  for size in (33, 64))
  assert small == large


@pytest.mark.parametrize("name", BACKBONES)
def test_a_missing_batch_axis_is_an_error(name):
  with pytest.raises(ValueError, match=r"images must be \[B, H, W, C\]"):
    jax.eval_shape(backbone(name, 8).init, jax.random.key(0), jnp.zeros((32, 32, 1)))


def test_options_reach_the_module():
  assert backbone("mobilenet_v2", 8, width=0.5).width == 0.5
  assert head("cosface", 7, 3, margin=0.4, scale=30.0) == CosFace(7, 3, margin=0.4, scale=30.0)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: backbone("vgg", 8), "unknown backbone 'vgg'; choose one of " + ", ".join(BACKBONES)),
    (lambda: head("softmax", 2, 8), "unknown head 'softmax'; choose one of " + ", ".join(HEADS)),
    (lambda: backbone("lenet", 8, depth=2), "backbone 'lenet' has no option 'depth'"),
    (lambda: head("linear", 2, 8, margin=0.1), "head 'linear' has no option 'margin'"),
    (lambda: head("arcface", 2, 8, margin=0.1), "head 'arcface' needs the option 'scale'"),
])
def test_errors_name_what_is_wrong_on_one_line(make, message):
  with pytest.raises(ValueError) as error:
    make()
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)
