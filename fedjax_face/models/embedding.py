"""The embedding convention: raw embeddings in training, unit embeddings at inference."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.data import pixels


def l2_normalise(x: jax.Array, axis: int = -1, epsilon: float = 1e-12) -> jax.Array:
  """Divides by the L2 norm along `axis`.

  Args:
    x: float array of any shape.
    axis: the embedding axis.
    epsilon: floor of the SQUARED norm; vectors shorter than its root are only scaled by
      1 / sqrt(epsilon), so the zero vector maps to zero with a finite gradient.

  Returns:
    An array like `x`, of norm 1 along `axis` wherever the squared norm reaches `epsilon`.
  """
  squared_norm = jnp.sum(x * x, axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared_norm, epsilon))


def unit_embeddings(backbone: nn.Module, params: Any, images: jax.Array) -> jax.Array:
  """Embeds images for comparison.

  Args:
    backbone: an images -> raw embeddings module.
    params: what `backbone.init` returned (or its trained value).
    images: uint8 [B, H, W, C].

  Returns:
    Unit-norm embeddings float32 [B, D].
  """
  return l2_normalise(cast(jax.Array, backbone.apply(params, pixels.normalise(images))))


def embedding_dim(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """D of a module from images float32 [B, H, W, C] to embeddings [B, D]; computes nothing.

  Raises:
    ValueError: it returns something else.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  made = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], image)
  if not hasattr(made, "shape") or made.ndim != 2:
    raise ValueError(f"a backbone returns embeddings [B, D], not "
                     f"{getattr(made, 'shape', type(made).__name__)}")
  return made.shape[1]


def require_images(x: jax.Array, network: str, smallest: int = 1, multiple: int = 1) -> None:
  """Raises ValueError unless `x` is [B, H, W, C] with H and W large enough and divisible.

  Args:
    x: the array about to enter a network.
    network: name used in the message.
    smallest: least accepted height and width, in pixels.
    multiple: height and width must be multiples of this many pixels.
  """
  if x.ndim != 4:
    raise ValueError(f"{network}: images must be [B, H, W, C], not of shape {x.shape}")
  height, width = x.shape[1:3]
  if min(height, width) < smallest or height % multiple or width % multiple:
    accepted = f"multiples of {multiple} and " if multiple > 1 else ""
    raise ValueError(f"{network}: image height and width must be {accepted}at least {smallest}, "
                     f"not {height}x{width}")
