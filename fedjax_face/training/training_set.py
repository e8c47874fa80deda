"""Which data a run trains on, for its statement and its privacy budget."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

_WHOLE_BYTES = 2 << 30   # a larger set enters the digest with the pixels of some images only
_SOME_IMAGES = 64


def described(train: Any) -> dict[str, Any]:
  """`name`, `people`, `images`, `digest` and what that is of, of a training set.

  Args:
    train: a `FaceDataset` or a `RegionSet`, whose `images` are its photographs here.
  """
  regions = getattr(train, "regions", None)
  if regions is None:
    person, number, labels = train.person, len(train.images), (train.label, train.targets)
  else:
    person, labels = regions.person, train.targets
    number = len(np.unique(regions.original))
  digest = hashlib.blake2b(train.name.encode(), digest_size=16)
  for leaf in jax.tree.leaves((person, labels)):
    _add(digest, leaf)
  pixels, which = _pixels(train.images)
  _add(digest, pixels)
  return {"name": train.name, "people": len(np.unique(person[person >= 0])), "images": number,
          "digest": digest.hexdigest(), "digest_of": f"people, labels and {which}"}


def _pixels(images: Any) -> tuple[np.ndarray, str]:
  if isinstance(images, np.ndarray) and images.nbytes <= _WHOLE_BYTES:
    return images, "pixels"
  rows = np.unique(np.linspace(0, len(images) - 1, _SOME_IMAGES).astype(np.int64))
  return np.asarray(images[rows]), f"pixels of {len(rows)} images"


def _add(digest: Any, array: Any) -> None:
  array = np.ascontiguousarray(array)
  digest.update(f"{array.dtype}{array.shape}".encode())
  digest.update(array.reshape(-1).view(np.uint8).data)
