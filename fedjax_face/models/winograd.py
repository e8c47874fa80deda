"""Convolutions with 3x3 and 5x5 kernels and stride 1 in Winograd's reduced arithmetic.

The image is cut into overlapping tiles, of 6x6 for a 3x3 and 8x8 for a 5x5 kernel, that yield 4x4
outputs each. Tiles and kernel are transformed, multiplied place by place over the channels, and
transformed back: 36 products instead of 144 (3x3), 64 instead of 400 (5x5). The gradient is the
transpose of the same three steps. All steps, the transforms included, are matrix products over
large contiguous arrays.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4. The
interpolation points are 0, 1, -1, 2, -2 and infinity, and 1/2 and -1/2 besides for a 5x5 kernel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TILE = 4
"""Outputs of a tile, each way."""
_POINTS = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5])


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Unpadded cross-correlation, stride 1.

  Args:
    x: [B, H, W, C].
    kernel: [k, k, C, O], k 3 or 5.

  Returns:
    [B, H-k+1, W-k+1, O] of x's dtype; computed in float32.
  """
  return _conv_forward(x, kernel)[0]


def _conv_forward(x, kernel):
  height, width = _output_size(x, kernel)
  outputs, residuals = _multiply(
      _cut(x, -(-height // TILE), -(-width // TILE), _span(kernel.shape[0])), kernel)
  return _join(outputs, height, width).astype(x.dtype), (*residuals, x[:0], kernel[:0])


def _conv_backward(residuals, cotangent):
  tiles, weights, like_x, like_kernel = residuals
  kernel_size = like_kernel.shape[1]
  d_tiles, d_kernel = _multiply_backward(tiles, weights, _split(cotangent, TILE), kernel_size)
  d_x = _overlap_add(d_tiles, *like_x.shape[1:3])
  return d_x.astype(like_x.dtype), d_kernel.astype(like_kernel.dtype)


conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def conv_relu_max_pool(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Unpadded convolution, bias, ReLU and 2x2 max-pooling in one.

  A tile of outputs holds whole pooling windows, so that the convolution's output and the sparse
  gradient of the pooling are never rearranged into images. A window's gradient goes to its first
  maximum in row-major order (places that are equal but for rounding count as different); an odd
  last row or column is dropped.

  Args:
    x: [B, H, W, C].
    kernel: [k, k, C, O], k 3 or 5.
    bias: [O].

  Returns:
    [B, (H-k+1)//2, (W-k+1)//2, O] of x's dtype; computed in float32.
  """
  return _pooled_forward(x, kernel, bias)[0]


def _pooled_forward(x, kernel, bias):
  height, width = (extent // 2 for extent in _output_size(x, kernel))
  rows, columns = -(-height // (TILE // 2)), -(-width // (TILE // 2))
  outputs, residuals = _multiply(_cut(x, rows, columns, _span(kernel.shape[0])), kernel)
  y = jnp.maximum(_window_maximum(outputs) + bias, 0)
  return (_join(y, height, width).astype(x.dtype),
          (*residuals, outputs, bias, x[:0], kernel[:0]))


def _pooled_backward(residuals, cotangent):
  tiles, weights, outputs, bias, like_x, like_kernel = residuals
  kernel_size = like_kernel.shape[1]
  top = _window_maximum(outputs)
  g = jnp.where(top + bias > 0, _split(cotangent, TILE // 2), 0)
  free = jnp.ones(g.shape, bool)
  shares = {}
  for i, j in np.ndindex(2, 2):
    wins = free & (outputs[i::2, j::2] == top)
    free = free & ~wins
    shares[i, j] = jnp.where(wins, g, 0)
  shares = jnp.stack([jnp.stack([shares[i % 2, j % 2][i // 2, j // 2] for j in range(TILE)])
                      for i in range(TILE)])
  d_tiles, d_kernel = _multiply_backward(tiles, weights, shares, kernel_size)
  d_x = _overlap_add(d_tiles, *like_x.shape[1:3])
  return (d_x.astype(like_x.dtype), d_kernel.astype(like_kernel.dtype),
          g.sum(axis=(0, 1, 2, 3, 4)).astype(bias.dtype))


conv_relu_max_pool.defvjp(_pooled_forward, _pooled_backward)


def _output_size(x: jax.Array, kernel: jax.Array) -> tuple[int, int]:
  return x.shape[1] - kernel.shape[0] + 1, x.shape[2] - kernel.shape[1] + 1


def _span(kernel_size: int) -> int:
  """Places of a tile, each way: 6 for a 3x3 kernel, 8 for a 5x5 kernel."""
  return TILE + kernel_size - 1


def _points(kernel_size: int) -> np.ndarray:
  """[span - 1]: those that are finite."""
  return _POINTS[:_span(kernel_size) - 1]


def _input_transform(kernel_size: int) -> np.ndarray:
  """[span, span]: coefficients of the product of (x - point) over the other points, over all."""
  points = _points(kernel_size)
  rows = [np.append(np.poly(np.delete(points, i))[::-1], 0.0) for i in range(len(points))]
  return np.stack([*rows, np.poly(points)[::-1]])


def _kernel_transform(kernel_size: int) -> np.ndarray:
  """[span, k]: scaled powers of the points; infinity takes the last place."""
  points = _points(kernel_size)
  scales = [1 / np.prod(point - np.delete(points, i)) for i, point in enumerate(points)]
  finite = np.array(scales)[:, None] * points[:, None] ** np.arange(kernel_size)
  return np.concatenate([finite, np.eye(kernel_size)[-1:]])


def _output_transform(kernel_size: int) -> np.ndarray:
  """[t, span]: powers of the points; infinity adds to the last place."""
  finite = _points(kernel_size)[None, :] ** np.arange(TILE)[:, None]
  return np.concatenate([finite, np.eye(TILE)[:, -1:]], axis=1)


def _window_maximum(outputs: jax.Array) -> jax.Array:
  """[t, t, B, rows, columns, O] -> [t/2, t/2, B, rows, columns, O]."""
  return jnp.maximum(jnp.maximum(outputs[::2, ::2], outputs[::2, 1::2]),
                     jnp.maximum(outputs[1::2, ::2], outputs[1::2, 1::2]))


def _multiply(tiles: jax.Array, kernel: jax.Array):
  """Outputs [t, t, B, rows, columns, O] of tiles [span, span, B, rows, columns, C], and residuals.
  """
  kernel_size, _, channels, features = kernel.shape
  span = len(tiles)
  transformed = _both_axes(_input_transform(kernel_size), tiles).reshape(span**2, -1, channels)
  weights = _both_axes(_kernel_transform(kernel_size), kernel.astype(jnp.float32))
  weights = weights.reshape(span**2, channels, features)
  products = jnp.einsum("prc,pco->pro", transformed, weights)
  products = products.reshape(span, span, *tiles.shape[2:5], features)
  return _both_axes(_output_transform(kernel_size), products), (transformed, weights)


def _multiply_backward(tiles, weights, cotangent, kernel_size):
  """Gradients of the untransformed tiles and of the kernel."""
  (places, channels, features), span = weights.shape, _span(kernel_size)
  g = _both_axes(_output_transform(kernel_size).T, cotangent).reshape(places, -1, features)
  d_weights = jnp.einsum("prc,pro->pco", tiles, g).reshape(span, span, channels, features)
  d_tiles = jnp.einsum("pro,pco->prc", g, weights)
  d_tiles = d_tiles.reshape(span, span, *cotangent.shape[2:5], channels)
  return (_both_axes(_input_transform(kernel_size).T, d_tiles),
          _both_axes(_kernel_transform(kernel_size).T, d_weights))


def _both_axes(matrix: np.ndarray, grid: jax.Array) -> jax.Array:
  """matrix @ grid @ matrix.T over the first two axes, as one product with the Kronecker square."""
  square = jnp.asarray(np.kron(matrix, matrix), jnp.float32)
  flat = square @ grid.reshape(square.shape[1], -1)
  return flat.reshape(matrix.shape[0], matrix.shape[0], *grid.shape[2:])


def _cut(x: jax.Array, rows: int, columns: int, span: int) -> jax.Array:
  """Overlapping tiles [span, span, B, rows, columns, C]; pads or drops at the end."""
  last_row, last_column = (rows - 1) * TILE, (columns - 1) * TILE
  x = _fit(x.astype(jnp.float32), last_row + span, last_column + span)
  return jnp.stack([
      jnp.stack([x[:, i:i + last_row + 1:TILE, j:j + last_column + 1:TILE] for j in range(span)])
      for i in range(span)])


def _overlap_add(tiles: jax.Array, height: int, width: int) -> jax.Array:
  """Transpose of `_cut`: places beyond a tile's first `TILE` lie on the tile that follows."""
  for place, along in ((1, 4), (0, 3)):
    parts = []
    for step in range(2):
      part = jax.lax.slice_in_dim(
          tiles, step * TILE, min(tiles.shape[place], (step + 1) * TILE), axis=place)
      edges = [(0, 0)] * tiles.ndim
      edges[place] = (0, TILE - part.shape[place])
      edges[along] = (step, 1 - step)
      parts.append(jnp.pad(part, edges))
    tiles = parts[0] + parts[1]
  return _join(tiles, height, width)


def _join(grid: jax.Array, height: int, width: int) -> jax.Array:
  """Interleaves places [t, t, B, rows, columns, C] -> [B, height, width, C]."""
  x = grid.transpose(2, 3, 0, 4, 1, 5)
  batch, rows, size, columns, _, channels = x.shape
  return _fit(x.reshape(batch, rows * size, columns * size, channels), height, width)


def _split(y: jax.Array, size: int) -> jax.Array:
  """Inverse of `_join`, after padding y with zeros to whole tiles."""
  batch, height, width, channels = y.shape
  rows, columns = -(-height // size), -(-width // size)
  y = _fit(y.astype(jnp.float32), rows * size, columns * size)
  return y.reshape(batch, rows, size, columns, size, channels).transpose(2, 4, 0, 1, 3, 5)


def _fit(x: jax.Array, height: int, width: int) -> jax.Array:
  """Drops or appends rows and columns of zeros."""
  x = x[:, :height, :width]
  return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
