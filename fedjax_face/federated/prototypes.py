"""Prototypes: what stands for a person before, or instead of, a trained class embedding.

A prototype is the mean unit embedding of a person's images, less the mean over a public set under
the same backbone, normalised. Without that centring all prototypes share the large component that
all faces share, which trained class embeddings do not have. Given the backbone, a prototype follows
from the images of its own person alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.image_source import Images
from fedjax_face.method import Setting
from fedjax_face.models.embedding import l2_normalise

_BLOCK = 256          # images embedded at a time
_HOST_BLOCK = 8192    # images sent to the device at a time
_PUBLIC_IMAGES = 512  # most, of the public set that give its mean

Embed = Callable[[Any, jax.Array], jax.Array]
Prototypes = Callable[[Any, jax.Array, jax.Array], jax.Array]


def prototypes(embed: Embed, public_images: Images, size: int) -> Prototypes:
  """(backbone, uint8 [N, H, W, C], int [N] row of each image) -> unit f32 [size, D].

  Rows without images are zero.

  Args:
    embed: (backbone, uint8 [B, H, W, C]) -> unit f32 [B, D].
    public_images: uint8 [P, H, W, C]; some of them, evenly spaced, give the public mean.
    size: number of rows.
  """
  chosen = _some(public_images)

  def of_people(backbone, images, row):
    centre = _mean(embed, backbone, chosen)
    total = jnp.zeros((size, len(centre)))
    return l2_normalise(_add(total, functools.partial(embed, backbone), images, row, centre))

  return of_people


def of_public_backbone(setting: Setting, embed: Embed, images: Images, row: np.ndarray,
                       size: int) -> jax.Array:
  """Prototypes under the backbone that the run starts from, which must be public.

  Args:
    setting: of the run, with that backbone and the public set.
    embed: (backbone, uint8 [B, H, W, C]) -> unit f32 [B, D].
    images: uint8 [N, H, W, C].
    row: int [N], row of each image.
    size: number of rows.

  Raises:
    ValueError: as `public_people`.
  """
  public = public_people(setting)
  centre = _mean(embed, setting.start, _some(public.images))

  @jax.jit
  def add(total, images, row):
    return _add(total, functools.partial(embed, setting.start), images, row, centre)

  total = jnp.zeros((size, len(centre)))
  for start in range(0, len(images), _HOST_BLOCK):  # of a set that may not fit on the device
    part = np.s_[start:start + _HOST_BLOCK]
    total = add(total, images[part], jnp.asarray(row[part]))
  return l2_normalise(total)


def public_people(setting: Setting) -> FaceDataset:
  """The public set that the run's first backbone was trained on.

  Raises:
    ValueError: no public set, or no backbone trained on it alone.
  """
  if setting.public is None or setting.start is None or not setting.start_is_public:
    raise ValueError(f"{setting.method} starts from public people: it needs a public set of the "
                     "data, and a start that was trained on it alone (fedjax_face.pretrain)")
  return setting.public


def _some(images: Images) -> np.ndarray:
  return images[::-(-len(images) // _PUBLIC_IMAGES)]


@functools.partial(jax.jit, static_argnums=0)
def _mean(embed: Embed, backbone: Any, images: jax.Array) -> jax.Array:
  return _embed_in_blocks(functools.partial(embed, backbone), jnp.asarray(images)).mean(axis=0)


def _add(total: jax.Array, embed: Callable[[jax.Array], jax.Array], images: jax.Array,
         row: jax.Array, centre: jax.Array) -> jax.Array:
  """Adds every image's embedding less the centre to the row of its person."""
  return total.at[row].add(_embed_in_blocks(embed, images) - centre)


def _embed_in_blocks(embed: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
  return jax.lax.map(lambda image: embed(image[None])[0], images, batch_size=_BLOCK)
