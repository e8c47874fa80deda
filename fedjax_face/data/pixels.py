"""What happens to pixels on their way into a model."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


def normalise(images: Array) -> Array:
  """uint8 pixels [..., H, W, C] -> float32 x / 128 - 1, in [-1, 1); numpy in, numpy out.

  Source: Xu et al., CVPR 2023 (released code).
  """
  if images.dtype != np.uint8:
    raise ValueError(f"normalise: images are {images.dtype}; expected uint8")
  return images.astype(np.float32) / np.float32(128) - np.float32(1)


def random_flip(images: jax.Array, key: jax.Array) -> jax.Array:
  """Mirrors each image of [B, H, W, C] left to right with probability one half."""
  flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(flip, images[:, :, ::-1, :], images)
