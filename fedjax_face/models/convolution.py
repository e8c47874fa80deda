"""Two-dimensional convolutions that are fast on every backend.

On a CPU, XLA's convolution gradient inside a loop is many times slower than the same work written
as slices and matrix products, so there a convolution is one of these:

  * 1x1: a matrix product;
  * depthwise: a sum of shifted products, one for every place of the kernel;
  * 3x3 with stride 1 and enough channels, where it pays: Winograd's reduced arithmetic
    (`fedjax_face.models.winograd`);
  * anything else: patches (im2col) times the kernel, in one matrix product.

Their gradients are slices, sums and matrix products again. Other backends use XLA's convolution.
"""

from __future__ import annotations

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.models import winograd
from fedjax_face.models.pooling import Padding, max_pool, padding_pairs

Form = Literal["auto", "lax", "matmul", "winograd"]

_WINOGRAD_CHANNELS = 32  # with fewer, the transforms cost more than the products that they save
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    feature_group_count: int = 1,
    form: Form = "auto",
) -> jax.Array:
  """Cross-correlation of images with a kernel, as `jax.lax.conv_general_dilated`.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, C / feature_group_count, O].
    strides: vertical and horizontal.
    padding: `SAME`, `VALID` or ((top, bottom), (left, right)).
    feature_group_count: groups of channels that do not mix.
    form: `lax`; `matmul`; `winograd` (3x3, stride 1, one group); `auto`: by the backend at trace
      time. All agree up to rounding; Winograd's is about ten times that of the others.

  Returns:
    [B, H', W', O] of x's dtype.

  Raises:
    ValueError: channels and groups do not fit, or the form cannot do this convolution.
  """
  _check(x, kernel, strides, feature_group_count, form)
  pairs = padding_pairs(padding, x.shape[1:3], kernel.shape[:2], strides)
  if form == "auto":
    form = _best_form(x, kernel, strides, pairs, feature_group_count)
  if form == "lax":
    return jax.lax.conv_general_dilated(
        x, kernel, strides, pairs, dimension_numbers=_DIMENSIONS,
        feature_group_count=feature_group_count)
  x = jnp.pad(x, ((0, 0), *pairs, (0, 0)))
  if form == "winograd":
    return winograd.conv3x3(x, kernel)
  places = _places(x, kernel.shape[:2], strides)
  if feature_group_count == 1:
    return _product(places, kernel)
  if kernel.shape[2] == 1 and kernel.shape[3] == feature_group_count:
    return _depthwise(places, kernel)
  return _grouped(places, kernel, feature_group_count)


class Conv(nn.Module):
  """A convolution layer with the parameters of `flax.linen.Conv`: names, shapes, initial values.

  Attributes:
    features: output channels.
    kernel_size: height and width.
    strides, padding, feature_group_count, form: see `conv2d`.
    use_bias: adds a bias of shape [features].
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: Padding = "SAME"
  feature_group_count: int = 1
  use_bias: bool = True
  form: Form = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H', W', features]."""
    shape = (*self.kernel_size, x.shape[-1] // self.feature_group_count, self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    y = conv2d(x, kernel, self.strides, self.padding, self.feature_group_count, self.form)
    if self.use_bias:
      y = y + self.param("bias", nn.initializers.zeros, (self.features,))
    return y


class ConvReluMaxPool(nn.Module):
  """`Conv` with a 3x3 kernel, stride 1 and a bias, then ReLU, then 2x2 max-pooling, as one layer.

  The parameters are those of `Conv`. On a CPU the three run together, see
  `fedjax_face.models.winograd.conv3x3_relu_max_pool`.

  Attributes:
    features: output channels.
    padding, form: see `conv2d`; any form other than `winograd` runs the three in turn.
  """

  features: int
  padding: Padding = "SAME"
  form: Form = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H'//2, W'//2, features]."""
    kernel = self.param("kernel", nn.initializers.lecun_normal(),
                        (3, 3, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    pairs = padding_pairs(self.padding, x.shape[1:3], (3, 3), (1, 1))
    form = _best_form(x, kernel, (1, 1), pairs, 1) if self.form == "auto" else self.form
    if form == "winograd":
      return winograd.conv3x3_relu_max_pool(jnp.pad(x, ((0, 0), *pairs, (0, 0))), kernel, bias)
    y = nn.relu(conv2d(x, kernel, (1, 1), pairs, form=form) + bias)
    return max_pool(y, (2, 2), (2, 2), "VALID")


def _check(x, kernel, strides, groups, form) -> None:
  if form not in get_args(Form):
    raise ValueError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
  if x.shape[-1] != kernel.shape[2] * groups or kernel.shape[3] % groups:
    raise ValueError(f"kernel {kernel.shape} with {groups} groups does not fit {x.shape[-1]} "
                     "channels")
  if form == "winograd" and not _is_winograd(kernel, strides, groups):
    raise ValueError(f"form 'winograd' takes 3x3 kernels with stride 1 and one group, got kernel "
                     f"{kernel.shape}, strides {tuple(strides)}, {groups} groups")


def _is_winograd(kernel, strides, groups) -> bool:
  return kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and groups == 1


def _best_form(x, kernel, strides, pairs, groups) -> Form:
  if jax.default_backend() != "cpu":
    return "lax"
  height, width = (size + sum(pair) - 2 for size, pair in zip(x.shape[1:3], pairs, strict=True))
  pays = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and min(height, width) >= winograd.TILE
  return "winograd" if pays and _is_winograd(kernel, strides, groups) else "matmul"


def _places(x: jax.Array, window: tuple[int, ...], strides: tuple[int, int]) -> list[jax.Array]:
  """For each place of the kernel, in row-major order, what it sees: [B, H', W', C].

  A stride becomes an axis of its own, so that the gradient needs no dilated padding.
  """
  batch, height, width, channels = x.shape
  (down, right), (tall, wide) = strides, window
  rows, columns = (height - tall) // down + 1, (width - wide) // right + 1
  if (down, right) == (1, 1):
    return [x[:, i:i + rows, j:j + columns] for i in range(tall) for j in range(wide)]
  high, broad = rows + (tall - 1) // down, columns + (wide - 1) // right
  x = jnp.pad(x, ((0, 0), (0, max(0, high * down - height)), (0, max(0, broad * right - width)),
                  (0, 0)))[:, :high * down, :broad * right]
  x = x.reshape(batch, high, down, broad, right, channels)
  return [x[:, i // down:i // down + rows, i % down, j // right:j // right + columns, j % right]
          for i in range(tall) for j in range(wide)]


def _product(places: list[jax.Array], kernel: jax.Array) -> jax.Array:
  patches = places[0] if len(places) == 1 else jnp.concatenate(places, axis=-1)
  weights = kernel.reshape(-1, kernel.shape[-1])
  rows = patches.reshape(-1, weights.shape[0])
  return (rows @ weights).reshape(*patches.shape[:-1], weights.shape[1])


def _depthwise(places: list[jax.Array], kernel: jax.Array) -> jax.Array:
  weights = kernel.reshape(len(places), -1)
  total = places[0] * weights[0]
  for place, weight in zip(places[1:], weights[1:], strict=True):
    total = total + place * weight
  return total


def _grouped(places: list[jax.Array], kernel: jax.Array, groups: int) -> jax.Array:
  shape = places[0].shape[:-1]
  patches = jnp.stack([place.reshape(-1, groups, kernel.shape[2]) for place in places], axis=2)
  patches = patches.reshape(*patches.shape[:2], -1)
  weights = kernel.reshape(patches.shape[-1], groups, -1)
  return jnp.einsum("rgk,kgo->rgo", patches, weights).reshape(*shape, -1)
