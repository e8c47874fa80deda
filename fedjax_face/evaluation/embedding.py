"""Embeds a whole data set in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.image_source import Images

Flip = Literal[False, "sum", "concat"]
EmbedFn = Callable[[jax.Array], jax.Array]


def embed_dataset(
  embed_fn: EmbedFn, images: Images, batch_size: int, flip: Flip = False
) -> np.ndarray:
  """Unit embeddings of all images.

  The last batch is padded, so a jitted `embed_fn` compiles once. Pass one that outlives the call,
  such as `functools.partial(jax.jit(algorithm.embed), state)`, and repeated evaluations share the
  compilation.

  Args:
    embed_fn: uint8 [B, H, W, C] -> float [B, D], normalised or not.
    images: uint8 [N, H, W, C], in memory or not.
    batch_size: B.
    flip: False; "sum" normalises f(x) + f(mirror x), of what `embed_fn` returns; "concat"
      normalises both joined, [N, 2D].

  Returns:
    float32 [N, D or 2D], rows of unit length (an all-zero embedding stays zero).
  """
  if flip not in (False, "sum", "concat"):
    raise ValueError(f"flip must be False, 'sum' or 'concat', got {flip!r}")
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, got {batch_size}")
  if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
    raise ValueError(
      f"images must be uint8 [N, H, W, C] with N > 0, got {images.dtype} {images.shape}"
    )
  parts = []
  for start in range(0, len(images), batch_size):
    rows = images[start : start + batch_size]
    batch = np.zeros((batch_size, *images.shape[1:]), np.uint8)
    batch[: len(rows)] = rows
    out = embed_fn(jnp.asarray(batch))
    mirrored = embed_fn(jnp.asarray(batch[:, :, ::-1])) if flip else None
    parts.append(_unit(out, mirrored, flip)[: len(rows)])
  return np.concatenate([np.asarray(part) for part in parts])


def _unit(embedding: jax.Array, mirrored: jax.Array | None, flip: Flip) -> jax.Array:
  """Joins an embedding and its mirror image's, and normalises."""
  if mirrored is not None:
    embedding = (
      embedding + mirrored if flip == "sum" else jnp.concatenate([embedding, mirrored], axis=-1)
    )
  embedding = embedding.astype(jnp.float32)
  return embedding / jnp.maximum(jnp.linalg.norm(embedding, axis=-1, keepdims=True), 1e-12)
