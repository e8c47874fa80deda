"""3x3 convolutions with stride 1 in Winograd's reduced arithmetic.

The image is cut into overlapping tiles of 6 x 6 that yield 4 x 4 outputs each. Tiles and kernel are
transformed, multiplied place by place over the channels, and transformed back: 36 products for 16
outputs instead of 144. The gradient is the transpose of the same three steps. All steps, the
transforms included, are matrix products over large contiguous arrays.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TILE = 4  # outputs of a tile, each way
_HALF = TILE // 2
_SPAN = TILE + 2
_INPUT = np.array([
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
_KERNEL = np.array([
    [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])
_OUTPUT = np.array([
    [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Unpadded cross-correlation, stride 1.

  Args:
    x: [B, H, W, C].
    kernel: [3, 3, C, O].

  Returns:
    [B, H-2, W-2, O] of x's dtype; computed in float32.
  """
  return _conv3x3_forward(x, kernel)[0]


def _conv3x3_forward(x, kernel):
  height, width = x.shape[1] - 2, x.shape[2] - 2
  outputs, residuals = _multiply(_cut(x, -(-height // TILE), -(-width // TILE)), kernel)
  y = outputs.transpose(2, 3, 0, 4, 1, 5)
  y = y.reshape(x.shape[0], y.shape[1] * TILE, y.shape[3] * TILE, -1)[:, :height, :width]
  return y.astype(x.dtype), (*residuals, x[:0], kernel[:0])


def _conv3x3_backward(residuals, cotangent):
  tiles, weights, like_x, like_kernel = residuals
  rows, columns = -(-cotangent.shape[1] // TILE), -(-cotangent.shape[2] // TILE)
  g = _fit(cotangent.astype(jnp.float32), rows * TILE, columns * TILE)
  g = g.reshape(g.shape[0], rows, TILE, columns, TILE, -1).transpose(2, 4, 0, 1, 3, 5)
  d_tiles, d_kernel = _multiply_backward(tiles, weights, g)
  d_x = _overlap_add(d_tiles, *like_x.shape[1:3])
  return d_x.astype(like_x.dtype), d_kernel.astype(like_kernel.dtype)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


@jax.custom_vjp
def conv3x3_relu_max_pool(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Unpadded 3x3 convolution, bias, ReLU and 2x2 max-pooling in one.

  A tile of outputs holds whole pooling windows, so that the convolution's output and the sparse
  gradient of the pooling are never rearranged into images. A window's gradient goes to its first
  maximum in row-major order; an odd last row or column is dropped.

  Args:
    x: [B, H, W, C].
    kernel: [3, 3, C, O].
    bias: [O].

  Returns:
    [B, (H-2)//2, (W-2)//2, O] of x's dtype; computed in float32.
  """
  return _pooled_forward(x, kernel, bias)[0]


def _pooled_forward(x, kernel, bias):
  height, width = (x.shape[1] - 2) // 2, (x.shape[2] - 2) // 2
  outputs, residuals = _multiply(_cut(x, -(-height // _HALF), -(-width // _HALF)), kernel)
  top = _window_maximum(outputs)
  y = jnp.maximum(top + bias, 0).transpose(2, 3, 0, 4, 1, 5)
  y = y.reshape(x.shape[0], y.shape[1] * _HALF, y.shape[3] * _HALF, -1)[:, :height, :width]
  return y.astype(x.dtype), (*residuals, outputs, bias, x[:0], kernel[:0])


def _pooled_backward(residuals, cotangent):
  tiles, weights, outputs, bias, like_x, like_kernel = residuals
  rows, columns = outputs.shape[3:5]
  g = _fit(cotangent.astype(jnp.float32), rows * _HALF, columns * _HALF)
  g = g.reshape(g.shape[0], rows, _HALF, columns, _HALF, -1).transpose(2, 4, 0, 1, 3, 5)
  top = _window_maximum(outputs)
  g = jnp.where(top + bias > 0, g, 0)
  free = jnp.ones(g.shape, bool)
  shares = {}
  for i, j in np.ndindex(2, 2):
    wins = free & (outputs[i::2, j::2] == top)
    free = free & ~wins
    shares[i, j] = jnp.where(wins, g, 0)
  shares = jnp.stack([jnp.stack([shares[i % 2, j % 2][i // 2, j // 2] for j in range(TILE)])
                      for i in range(TILE)])
  d_tiles, d_kernel = _multiply_backward(tiles, weights, shares)
  d_x = _overlap_add(d_tiles, *like_x.shape[1:3])
  return (d_x.astype(like_x.dtype), d_kernel.astype(like_kernel.dtype),
          g.sum(axis=(0, 1, 2, 3, 4)).astype(bias.dtype))


conv3x3_relu_max_pool.defvjp(_pooled_forward, _pooled_backward)


def _window_maximum(outputs: jax.Array) -> jax.Array:
  """[4, 4, B, rows, columns, O] -> [2, 2, B, rows, columns, O]."""
  return jnp.maximum(jnp.maximum(outputs[::2, ::2], outputs[::2, 1::2]),
                     jnp.maximum(outputs[1::2, ::2], outputs[1::2, 1::2]))


def _multiply(tiles: jax.Array, kernel: jax.Array):
  """Outputs [4, 4, B, rows, columns, O] of tiles [6, 6, B, rows, columns, C], and residuals."""
  channels, features = kernel.shape[2:]
  tiles_t = _both_axes(_INPUT, tiles).reshape(_SPAN**2, -1, channels)
  weights = _both_axes(_KERNEL, kernel.astype(jnp.float32)).reshape(_SPAN**2, channels, features)
  products = jnp.einsum("prc,pco->pro", tiles_t, weights)
  outputs = _both_axes(_OUTPUT, products.reshape(_SPAN, _SPAN, *tiles.shape[2:5], features))
  return outputs, (tiles_t, weights)


def _multiply_backward(tiles, weights, cotangent):
  """Gradients of the untransformed tiles and of the kernel."""
  channels, features = weights.shape[1:]
  g = _both_axes(_OUTPUT.T, cotangent).reshape(_SPAN**2, -1, features)
  d_weights = jnp.einsum("prc,pro->pco", tiles, g)
  d_kernel = _both_axes(_KERNEL.T, d_weights.reshape(_SPAN, _SPAN, channels, features))
  d_tiles = jnp.einsum("pro,pco->prc", g, weights)
  d_tiles = _both_axes(_INPUT.T, d_tiles.reshape(_SPAN, _SPAN, *cotangent.shape[2:5], channels))
  return d_tiles, d_kernel


def _both_axes(matrix: np.ndarray, grid: jax.Array) -> jax.Array:
  """matrix @ grid @ matrix.T over the first two axes, as one product with the Kronecker square."""
  size = matrix.shape[0]
  square = jnp.asarray(np.kron(matrix, matrix), jnp.float32)
  return (square @ grid.reshape(square.shape[1], -1)).reshape(size, size, *grid.shape[2:])


def _cut(x: jax.Array, rows: int, columns: int) -> jax.Array:
  """Overlapping tiles [6, 6, B, rows, columns, C]; pads or drops at the end."""
  height, width = rows * TILE + 2, columns * TILE + 2
  x = _fit(x.astype(jnp.float32), height, width)
  return jnp.stack([jnp.stack([x[:, i:i + height - 5:TILE, j:j + width - 5:TILE]
                               for j in range(_SPAN)]) for i in range(_SPAN)])


def _overlap_add(tiles: jax.Array, height: int, width: int) -> jax.Array:
  """Transpose of `_cut`: the last two places of a tile lie on the first two of the next."""
  for place, tile in ((1, 4), (0, 3)):
    own, over = jnp.split(tiles, [TILE], axis=place)
    edges = [(0, 0)] * 6
    edges[tile] = (0, 1)
    own = jnp.pad(own, edges)
    edges[tile] = (1, 0)
    edges[place] = (0, TILE - 2)
    tiles = own + jnp.pad(over, edges)
  x = tiles.transpose(2, 3, 0, 4, 1, 5)
  x = x.reshape(x.shape[0], x.shape[1] * TILE, x.shape[3] * TILE, -1)
  return _fit(x, height, width)


def _fit(x: jax.Array, height: int, width: int) -> jax.Array:
  """Drops or appends rows and columns of zeros."""
  x = x[:, :height, :width]
  return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
