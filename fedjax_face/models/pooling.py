"""Max and average pooling whose gradients are also fast on a CPU."""

from __future__ import annotations

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = Literal["SAME", "VALID"] | tuple[tuple[int, int], tuple[int, int]]
Pairs = tuple[tuple[int, int], tuple[int, int]]


def max_pool(
    x: jax.Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = "VALID",
) -> jax.Array:
  """Maximum over windows, the same value and gradient as `flax.linen.max_pool`.

  The gradient of a window goes to its first maximum in row-major order, as in XLA's
  select-and-scatter. Windows that do not overlap and need no padding are compared as a whole,
  which XLA vectorises on a CPU where it does not vectorise select-and-scatter; on other backends,
  and for other windows, XLA's own reduction is used.

  Args:
    x: [B, H, W, C].
    window: height and width.
    strides: vertical and horizontal.
    padding: `SAME`, `VALID` or ((top, bottom), (left, right)); padded places never win.

  Returns:
    [B, H', W', C].
  """
  pairs = padding_pairs(padding, x.shape[1:3], window, strides)
  unpadded = pairs == ((0, 0), (0, 0))
  if jax.default_backend() == "cpu" and unpadded and tuple(window) == tuple(strides):
    rows, columns = x.shape[1] // window[0], x.shape[2] // window[1]
    return _max_of_blocks(x[:, :rows * window[0], :columns * window[1]], tuple(window))
  return nn.max_pool(x, window, strides, pairs)


def avg_pool(
    x: jax.Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = "VALID",
) -> jax.Array:
  """Mean over windows [B, H, W, C] -> [B, H', W', C]; padded zeros count in the mean."""
  pairs = padding_pairs(padding, x.shape[1:3], window, strides)
  unpadded = pairs == ((0, 0), (0, 0))
  if unpadded and tuple(window) == tuple(strides):
    rows, columns = x.shape[1] // window[0], x.shape[2] // window[1]
    blocks = _blocks(x[:, :rows * window[0], :columns * window[1]], window)
    return sum(blocks[1:], blocks[0]) / (window[0] * window[1])
  return nn.avg_pool(x, window, strides, pairs)


def global_avg_pool(x: jax.Array) -> jax.Array:
  """Mean over all places [B, H, W, C] -> [B, C]."""
  return x.mean(axis=(1, 2))


def padding_pairs(
    padding: Padding, size: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, int]
) -> Pairs:
  """Padding as ((top, bottom), (left, right)).

  Raises:
    ValueError: unknown padding, or the window is larger than the padded image.
  """
  if isinstance(padding, str):
    if padding not in ("SAME", "VALID"):
      raise ValueError(f"padding {padding!r} is not SAME, VALID or ((top, bottom), (left, right))")
    top_bottom, left_right = jax.lax.padtype_to_pads(size, window, strides, padding)
  else:
    top_bottom, left_right = padding
  pairs = ((int(top_bottom[0]), int(top_bottom[1])), (int(left_right[0]), int(left_right[1])))
  for extent, place, pair in zip(size, window, pairs, strict=True):
    if extent + sum(pair) < place:
      raise ValueError(f"a window of {tuple(window)} does not fit images of {tuple(size)} "
                       f"padded by {pairs}")
  return pairs


@jax.custom_vjp
def max_of_first_axis(x: jax.Array) -> jax.Array:
  """Maximum over the first axis; the gradient goes to the first maximum alone."""
  return _maximum(list(x))


def _max_of_first_axis_forward(x):
  maximum = max_of_first_axis(x)
  return maximum, (x, maximum)


def _max_of_first_axis_backward(residuals, cotangent):
  x, maximum = residuals
  return (jnp.stack(_shares(list(x), maximum, cotangent)),)


max_of_first_axis.defvjp(_max_of_first_axis_forward, _max_of_first_axis_backward)


def _maximum(candidates: list[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.maximum, candidates)


def _shares(
    candidates: list[jax.Array], maximum: jax.Array, cotangent: jax.Array
) -> list[jax.Array]:
  """The cotangent for the first of the candidates that equals the maximum, 0 for the others."""
  free = jnp.ones(maximum.shape, bool)
  shares = []
  for candidate in candidates:
    wins = free & (candidate == maximum)
    free = free & ~wins
    shares.append(jnp.where(wins, cotangent, jnp.zeros_like(cotangent)))
  return shares


def _blocks(x: jax.Array, window: tuple[int, int]) -> list[jax.Array]:
  """The places of every window in row-major order, each [B, H', W', C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], channels)
  return [x[:, :, i, :, j] for i in range(window[0]) for j in range(window[1])]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_blocks(x: jax.Array, window: tuple[int, int]) -> jax.Array:
  return _maximum(_blocks(x, window))


def _max_of_blocks_forward(x, window):
  maximum = _max_of_blocks(x, window)
  return maximum, (x, maximum)


def _max_of_blocks_backward(window, residuals, cotangent):
  x, maximum = residuals
  shares = _shares(_blocks(x, window), maximum, cotangent)
  batch, rows, columns, channels = maximum.shape
  lines = [jnp.concatenate(shares[i * window[1]:(i + 1) * window[1]], axis=-1)
           for i in range(window[0])]
  lines = [line.reshape(batch, rows, columns * window[1], channels) for line in lines]
  return (jnp.stack(lines, axis=2).reshape(x.shape),)


_max_of_blocks.defvjp(_max_of_blocks_forward, _max_of_blocks_backward)
