"""Raw pixels as an embedding: what is reached without learning anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MOST_PIXELS = 32
_NOTHING = 1e-3  # grey levels; a norm below it is rounding


def pixel_embedding(images: jax.Array) -> jax.Array:
  """Unit vectors of the pixels themselves, of an image and its mirror image together.

  Each image loses its own mean, is added to its mirror image and scaled to length one. An image of
  more than 32 pixels a side is first averaged over blocks, so that a vector stays short.

  Args:
    images: uint8 [B, H, W, C].

  Returns:
    float32 [B, D], D the number of pixels left times C. An image of which nothing is left, such as
    one of a single grey, becomes the constant vector, which is orthogonal to all others.
  """
  pixels = _block_means(images.astype(jnp.float32))
  centred = pixels - pixels.mean((1, 2, 3), keepdims=True)
  flat = (centred + centred[:, :, ::-1]).reshape(len(images), -1)
  length = jnp.linalg.norm(flat, axis=1, keepdims=True)
  constant = jnp.full_like(flat, flat.shape[1] ** -0.5)
  return jnp.where(length < _NOTHING, constant, flat / jnp.maximum(length, _NOTHING))


def _block_means(pixels: jax.Array) -> jax.Array:
  """Means over square blocks, so many that no side is longer than `_MOST_PIXELS`; an incomplete
  block at the right or lower edge is left out.
  """
  _, height, width, _ = pixels.shape
  side = -(-max(height, width) // _MOST_PIXELS)
  whole = pixels[:, : height // side * side, : width // side * side]
  count, height, width, channels = whole.shape
  blocks = whole.reshape(count, height // side, side, width // side, side, channels)
  return blocks.mean((2, 4))
