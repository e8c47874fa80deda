"""Two-dimensional convolutions that are fast on every backend.

On a CPU, XLA's convolution gradient inside a loop is many times slower than the same work written
as slices and matrix products, so there a convolution is one of these:

  * 1x1: a matrix product;
  * depthwise: a sum of shifted products, one for every place of the kernel;
  * 3x3 with stride 1 and enough channels to pay: Winograd's reduced arithmetic
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
from fedjax_face.models.pooling import Padding, max_of_first_axis, max_pool, padding_pairs

Form = Literal["auto", "lax", "matmul", "winograd"]

_WINOGRAD_CHANNELS = 32  # with fewer, the transforms cost more than the products that they save
_PLANAR_CHANNELS = 4  # up to which patches are laid out channel by channel
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
    form: `lax`; `matmul`; `winograd` (3x3 or 5x5, stride 1, one group); `auto`: by the backend, at
      trace time. All agree up to rounding; Winograd's is about ten times that of the others.

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
    return winograd.conv(x, kernel)
  if feature_group_count == 1:
    return _product(x, kernel, strides)
  places = _places(x, kernel.shape[:2], strides)
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
  """`Conv` with stride 1 and a bias, then ReLU, then 2x2 max-pooling, as one layer.

  The parameters are those of `Conv`. On a CPU, Winograd's form, and the matrix
  product of few input channels, compute the convolution's output by the windows of the pooling and
  never arrange it as an image.

  Attributes:
    features: output channels.
    kernel_size: height and width.
    padding, form: see `conv2d`.
  """

  features: int
  kernel_size: tuple[int, int]
  padding: Padding = "SAME"
  form: Form = "auto"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H'//2, W'//2, features]."""
    kernel = self.param("kernel", nn.initializers.lecun_normal(),
                        (*self.kernel_size, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    _check(x, kernel, (1, 1), 1, self.form)
    pairs = padding_pairs(self.padding, x.shape[1:3], self.kernel_size, (1, 1))
    form = _best_form(x, kernel, (1, 1), pairs, 1) if self.form == "auto" else self.form
    planar = form == "matmul" and x.shape[-1] <= _PLANAR_CHANNELS
    if form != "winograd" and not planar:
      y = conv2d(x, kernel, (1, 1), pairs, form=form) + bias
      return max_pool(nn.relu(y), (2, 2), (2, 2), "VALID")
    x = jnp.pad(x, ((0, 0), *pairs, (0, 0)))
    if form == "winograd":
      return winograd.conv_relu_max_pool(x, kernel, bias)
    return nn.relu(_planar_max_pool(x, kernel) + bias)


def _check(x, kernel, strides, groups, form) -> None:
  if form not in get_args(Form):
    raise ValueError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
  if x.shape[-1] != kernel.shape[2] * groups or kernel.shape[3] % groups:
    raise ValueError(f"kernel {kernel.shape} with {groups} groups does not fit {x.shape[-1]} "
                     "channels")
  if form == "winograd" and not _is_winograd(kernel, strides, groups):
    raise ValueError(f"form 'winograd' takes 3x3 or 5x5 kernels with stride 1 and one group, "
                     f"got kernel {kernel.shape}, strides {tuple(strides)}, {groups} groups")


def _is_winograd(kernel, strides, groups) -> bool:
  return kernel.shape[:2] in ((3, 3), (5, 5)) and tuple(strides) == (1, 1) and groups == 1


def _best_form(x, kernel, strides, pairs, groups) -> Form:
  if jax.default_backend() != "cpu":
    return "lax"
  if not _is_winograd(kernel, strides, groups) or min(kernel.shape[2:]) < _WINOGRAD_CHANNELS:
    return "matmul"
  size = kernel.shape[0]
  extents = (extent + sum(pair) - size + 1
             for extent, pair in zip(x.shape[1:3], pairs, strict=True))
  return "winograd" if min(extents) >= winograd.TILE else "matmul"


def _places(x: jax.Array, window: tuple[int, ...], strides: tuple[int, int]) -> list[jax.Array]:
  """For each place of the kernel, in row-major order, what it sees: [N, H', W', ...].

  A stride becomes an axis of its own, so that the gradient needs no dilated padding.
  """
  batch, height, width, *rest = x.shape
  (down, right), (tall, wide) = strides, window
  rows, columns = (height - tall) // down + 1, (width - wide) // right + 1
  if (down, right) == (1, 1):
    return [x[:, i:i + rows, j:j + columns] for i in range(tall) for j in range(wide)]
  high, broad = rows + (tall - 1) // down, columns + (wide - 1) // right
  x = x[:, :high * down, :broad * right]
  x = jnp.pad(x, ((0, 0), (0, high * down - x.shape[1]), (0, broad * right - x.shape[2]),
                  *[(0, 0)] * len(rest)))
  x = x.reshape(batch, high, down, broad, right, *rest)
  return [x[:, i // down:i // down + rows, i % down, j // right:j // right + columns, j % right]
          for i in range(tall) for j in range(wide)]


def _product(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
  rows, columns = ((extent - place) // stride + 1 for extent, place, stride in zip(
      x.shape[1:3], kernel.shape[:2], strides, strict=True))
  shape = (x.shape[0], rows, columns, kernel.shape[3])
  if x.shape[-1] <= _PLANAR_CHANNELS:
    places = _places(_planes(x), kernel.shape[:2], strides)
    return _planar_product([places], kernel).reshape(shape)
  places = _places(x, kernel.shape[:2], strides)
  return _row_product(_patches(places), kernel).reshape(shape)


def _planar_max_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """2x2 max-pooling of the convolution; the four places of a window are computed apart."""
  tall, wide = kernel.shape[:2]
  rows, columns = (x.shape[1] - tall + 1) // 2, (x.shape[2] - wide + 1) // 2
  seen = [place[:, :rows, :columns]
          for place in _places(_planes(x), (tall + 1, wide + 1), (2, 2))]
  windows = [[seen[(a + i) * (wide + 1) + b + j] for i in range(tall) for j in range(wide)]
             for a in range(2) for b in range(2)]
  y = _planar_product(windows, kernel)
  return max_of_first_axis(y.reshape(4, x.shape[0], rows, columns, -1))


def _planes(x: jax.Array) -> jax.Array:
  """[B, H, W, C] -> [C B, H, W]."""
  return x.transpose(3, 0, 1, 2).reshape(-1, *x.shape[1:3])


def _planar_product(windows: list[list[jax.Array]], kernel: jax.Array) -> jax.Array:
  """[R, O] of few channels: long rows of single channels, where patches would be short ones."""
  taps, channels = len(windows[0]), kernel.shape[2]
  patches = jnp.stack([place for tap in zip(*windows, strict=True) for place in tap])
  patches = patches.reshape(taps, len(windows), channels, -1).transpose(0, 2, 1, 3)
  return jnp.einsum("kr,ko->ro", patches.reshape(taps * channels, -1),
                    kernel.reshape(taps * channels, -1))


def _patches(places: list[jax.Array]) -> jax.Array:
  """[R, K]: what the kernel sees, one output place a row."""
  patches = places[0] if len(places) == 1 else jnp.concatenate(places, axis=-1)
  return patches.reshape(-1, patches.shape[-1])


@jax.custom_vjp
def _row_product(patches: jax.Array, kernel: jax.Array) -> jax.Array:
  """patches [R, K] times kernel [h, w, C, O] as a matrix: [R, O].

  The kernel's gradient is computed with its longer side contiguous: XLA's product over the rows
  is several times faster that way round.
  """
  return patches @ kernel.reshape(patches.shape[1], -1)


def _row_product_forward(patches, kernel):
  return _row_product(patches, kernel), (patches, kernel)


def _row_product_backward(residuals, cotangent):
  patches, kernel = residuals
  features = kernel.shape[3]
  if patches.shape[1] > features:
    d_kernel = (cotangent.T @ patches).reshape(features, *kernel.shape[:3]).transpose(1, 2, 3, 0)
  else:
    d_kernel = (patches.T @ cotangent).reshape(kernel.shape)
  return cotangent @ kernel.reshape(-1, features).T, d_kernel


_row_product.defvjp(_row_product_forward, _row_product_backward)


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
