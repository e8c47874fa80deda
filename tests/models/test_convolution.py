"""Every form of a convolution gives XLA's value and gradients."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.convolution import Conv, ConvReluMaxPool, conv2d

_KEY = jax.random.key(0)
_TOLERANCE = {"matmul": 1e-5, "winograd": 5e-5}


def _normal(index, shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.fold_in(_KEY, index), shape).astype(dtype)


def _value_and_gradients(function, *arguments):
  def run(*arguments):
    value, pull = jax.vjp(function, *arguments)
    return value, *pull(jnp.cos(jnp.arange(value.size)).reshape(value.shape).astype(value.dtype))

  return jax.jit(run)(*arguments)


def _assert_close(actual, expected, tolerance):
  for a, e in zip(actual, expected, strict=True):
    assert a.shape == e.shape and a.dtype == e.dtype
    a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
    np.testing.assert_allclose(a, e, atol=tolerance * max(1.0, np.abs(e).max()), rtol=0)


# Up to 4 channels are laid out apart, 6 are not.
@pytest.mark.parametrize(("kernel", "strides", "padding", "channels", "groups", "features"), [
    ((1, 1), (2, 2), "SAME", 6, 1, 5),
    ((3, 3), (1, 1), "SAME", 6, 1, 5),
    ((5, 3), (2, 1), ((2, 1), (0, 3)), 6, 1, 5),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), 3, 1, 5),
    ((5, 3), (1, 1), "VALID", 1, 1, 5),
    ((3, 3), (2, 2), "SAME", 4, 4, 4),
    ((3, 3), (1, 1), "VALID", 4, 4, 4),
    ((3, 3), (2, 1), "VALID", 4, 2, 6),
])
def test_matmul_form_agrees_with_xla(kernel, strides, padding, channels, groups, features):
  x = _normal(0, (2, 8, 7, channels))
  w = _normal(1, (*kernel, channels // groups, features))
  run = lambda form: _value_and_gradients(
      lambda x, w: conv2d(x, w, strides, padding, groups, form), x, w)
  _assert_close(run("matmul"), run("lax"), _TOLERANCE["matmul"])


@pytest.mark.parametrize(("size", "padding", "kernel"), [
    ((3, 3), "VALID", 3), ((7, 12), ((0, 2), (1, 0)), 3), ((8, 7), "SAME", 5),
])
def test_winograd_form_agrees_with_xla(size, padding, kernel):
  x, w = _normal(0, (2, *size, 3)), _normal(1, (kernel, kernel, 3, 5))
  run = lambda form: _value_and_gradients(
      lambda x, w: conv2d(x, w, (1, 1), padding, 1, form), x, w)
  _assert_close(run("winograd"), run("lax"), _TOLERANCE["winograd"])


def test_hand_computed_value():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  w = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
  np.testing.assert_array_equal(conv2d(x, w, (1, 1), "VALID", 1, "matmul").ravel(), [-4.0] * 4)


@pytest.mark.parametrize("form", ["matmul", "winograd"])
def test_bfloat16_stays_bfloat16(form):
  x, w = _normal(0, (2, 6, 6, 3), jnp.bfloat16), _normal(1, (3, 3, 3, 4), jnp.bfloat16)
  run = lambda form: _value_and_gradients(lambda x, w: conv2d(x, w, form=form), x, w)
  _assert_close(run(form), run("lax"), 0.02)


@pytest.mark.parametrize("form", ["matmul", "winograd"])
def test_every_client_may_have_its_own_kernel(form):
  x, w = _normal(0, (3, 2, 6, 6, 3)), _normal(1, (3, 3, 3, 3, 4))
  one = jax.jit(
      lambda x, w: _value_and_gradients(lambda x, w: conv2d(x, w, form=form), x, w))
  expected = [one(*pair) for pair in zip(x, w, strict=True)]
  _assert_close(jax.vmap(one)(x, w), [jnp.stack(parts) for parts in zip(*expected, strict=True)],
                _TOLERANCE[form])


def test_eager_equals_jit():
  x, w = _normal(0, (1, 6, 6, 32)), _normal(1, (3, 3, 32, 32))
  run = jax.grad(lambda x, w: jnp.sin(conv2d(x, w)).sum(), argnums=(0, 1))
  _assert_close(run(x, w), jax.jit(run)(x, w), _TOLERANCE["winograd"])


@pytest.mark.parametrize("options", [
    {"features": 6, "kernel_size": (3, 3)},
    {"features": 4, "kernel_size": (3, 3), "strides": (2, 2), "feature_group_count": 4},
    {"features": 6, "kernel_size": (1, 1), "padding": "VALID", "use_bias": False},
])
def test_layer_has_the_parameters_of_flax(options):
  x = _normal(0, (2, 6, 6, 4))
  ours, theirs = Conv(**options), nn.Conv(**options)
  params = ours.init(_KEY, x)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, theirs.init(_KEY, x))
  jax.tree.map(np.testing.assert_array_equal, params, theirs.init(_KEY, x))
  np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-5)


@pytest.mark.parametrize(("form", "channels", "size", "kernel", "padding"), [
    ("winograd", 3, (9, 12), (3, 3), "SAME"),
    ("winograd", 3, (13, 11), (3, 3), "VALID"),
    ("winograd", 3, (9, 8), (5, 5), "SAME"),
    ("matmul", 1, (9, 8), (5, 3), "SAME"),
    ("matmul", 6, (8, 7), (3, 3), "VALID"),
])
def test_fused_layer_equals_the_three_in_turn(form, channels, size, kernel, padding):
  x = _normal(0, (2, *size, channels))
  layer = lambda form: ConvReluMaxPool(5, kernel, padding, form)
  params = layer("lax").init(_KEY, x)["params"]
  params["bias"] = _normal(1, (5,))
  run = lambda form: _value_and_gradients(
      lambda params, x: layer(form).apply({"params": params}, x), params, x)
  _assert_close(jax.tree.leaves(run(form)), jax.tree.leaves(run("lax")), _TOLERANCE["winograd"])


def test_winograd_form_is_differentiable_twice():
  x, w = _normal(0, (1, 5, 5, 2)), _normal(1, (3, 3, 2, 2))

  def penalty(form):
    loss = lambda w: jnp.sin(conv2d(x, w, form=form)).sum()
    return jax.jit(jax.grad(lambda w: (jax.grad(loss)(w) ** 2).sum()))(w)

  _assert_close([penalty("winograd")], [penalty("lax")], _TOLERANCE["winograd"])


def test_fused_layer_gives_a_tie_to_the_first_place():
  x = jnp.zeros((1, 4, 4, 1))
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
  fused = lambda x: ConvReluMaxPool(1, (3, 3), "VALID", "winograd").apply(
      {"params": {"kernel": kernel, "bias": jnp.ones(1)}}, x).sum()
  expected = np.zeros((4, 4))
  expected[1, 1] = 1.0
  np.testing.assert_allclose(jax.grad(fused)(x)[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"form": "fft"}, "form 'fft' is not one of"),
    ({"feature_group_count": 2}, "does not fit 3 channels"),
    ({"form": "winograd", "strides": (2, 2)}, "stride 1"),
    ({"padding": "FULL"}, "padding 'FULL'"),
])
def test_bad_input(arguments, message):
  with pytest.raises(ValueError, match=message):
    conv2d(jnp.zeros((1, 5, 5, 3)), jnp.zeros((3, 3, 3, 4)), **arguments)


def test_image_smaller_than_the_kernel():
  with pytest.raises(ValueError, match="does not fit images"):
    conv2d(jnp.zeros((1, 2, 2, 3)), jnp.zeros((3, 3, 3, 4)), padding="VALID")
