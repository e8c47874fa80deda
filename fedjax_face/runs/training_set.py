"""Which data a run trains on, for its statement and its privacy budget."""

from __future__ import annotations

import hashlib
import pathlib
import secrets
from typing import Any

import jax
import numpy as np

from fedjax_face.runs.secret_roots import write_owner_only

KEY = "training_set.key"
ENCODED = "encoded images"
"""What the digests of a set that is decoded on demand are of."""

_KEY_BYTES = 32
_WHOLE_BYTES = 2 << 30   # a larger set enters the digest with the pixels of some images only
_SOME_IMAGES = 64


def key(workdir: pathlib.Path, must_exist: bool = False) -> bytes:
  """The key of the digest that a run publishes; drawn and kept, 0600, if it is not there.

  Without a key, who knows everybody else's data could try out a digest on whoever may be in.

  Args:
    workdir: of the run.
    must_exist: digests under it are kept there already.

  Raises:
    ValueError: a key that is damaged, or open to others than its owner.
    OSError: a file that cannot be written.
  """
  path = workdir / KEY
  if not path.exists() and must_exist:
    raise ValueError(f"{path} is gone: whether the data are those of the run cannot be told; put "
                     "it back, or choose another workdir")
  if not path.exists():
    write_owner_only(path, secrets.token_hex(_KEY_BYTES) + "\n")
  if path.stat().st_mode & 0o077:
    raise ValueError(f"{path} is open to others than its owner, who could try out on the published "
                     "digest who is in the data: if nobody has read it, chmod 600 it and go on; "
                     "else choose another workdir")
  try:
    found = bytes.fromhex(path.read_text())
  except ValueError:
    found = b""
  if len(found) != _KEY_BYTES:
    other = ("choose another workdir" if must_exist else
             "delete it and go on with a new key and another digest")
    raise ValueError(f"{path} is damaged: expected {2 * _KEY_BYTES} hexadecimal digits; put it "
                     f"back, or {other}")
  return found


def described(train: Any, key: bytes = b"") -> dict[str, Any]:
  """`name`, `people`, `images`, `digest` and what that is of, of a training set.

  Args:
    train: a `FaceDataset` or a `RegionSet`, whose `images` are its photographs here.
    key: of the digest (keyed BLAKE2b); without one, the digest must stay in a guarded file.
  """
  person, labels, number = _counted(train)
  digest, which = _digest(train.name, person, labels, train.images, key)
  return {"name": train.name, "people": len(np.unique(person[person >= 0])), "images": number,
          "digest": digest, "digest_of": f"people, labels and {which}" + (
              f", under the key in {KEY}: only who has the key can compute it" if key else "")}


def image_digests(of: Any, key: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Keyed digests of single images, by which the first that differs is found.

  Args:
    of: a `FaceDataset`, or a `RegionSet`, whose regions' labels enter with their pixels.
    key: of the digests.

  Returns:
    Rows int64 [n] that were looked at, all but of a large set, and digests uint64 [n], not 0: of
    pixels, or of the encoded images of a set that is decoded on demand.
  """
  rows, images, _ = _pixels(of.images)
  labels = jax.tree.leaves(of.targets)
  digests = np.empty(len(rows), np.uint64)
  for place, row in enumerate(rows):
    digest = hashlib.blake2b(images[place].tobytes(), digest_size=8, key=key)
    for label in labels:
      digest.update(np.ascontiguousarray(label[row]).tobytes())
    digests[place] = max(int.from_bytes(digest.digest(), "little"), 1)
  return rows, digests


def content(train: Any) -> str:
  """Digest of a training set whatever its name, without a key: for a guarded file alone."""
  person, labels, _ = _counted(train)
  return _digest("", person, labels, train.images, b"")[0]


def _counted(train: Any) -> tuple[np.ndarray, Any, int]:
  """Person of each row, what else is known of the rows, and the number of images."""
  regions = getattr(train, "regions", None)
  if regions is None:
    return train.person, (train.label, train.targets), len(train.images)
  return regions.person, train.targets, len(np.unique(regions.original))


def _digest(name: str, person: np.ndarray, labels: Any, images: Any, key: bytes
            ) -> tuple[str, str]:
  digest = hashlib.blake2b(name.encode(), digest_size=16, key=key)
  for leaf in jax.tree.leaves((person, labels)):
    _add(digest, leaf)
  _, pixels, which = _pixels(images)
  _add(digest, pixels)
  return digest.hexdigest(), which


def is_encoded(images: Any) -> bool:
  """Whether images are known by digests of what they are decoded from."""
  return getattr(images, "contents", None) is not None


def _pixels(images: Any) -> tuple[np.ndarray, np.ndarray, str]:
  """Rows that are looked at, their pixels or digests, and in words what these are."""
  if is_encoded(images):
    return np.arange(len(images)), images.contents, ENCODED
  if isinstance(images, np.ndarray) and images.nbytes <= _WHOLE_BYTES:
    return np.arange(len(images)), images, "pixels"
  rows = np.unique(np.linspace(0, len(images) - 1, _SOME_IMAGES).astype(np.int64))
  return rows, np.asarray(images[rows]), f"pixels of {len(rows)} images"


def _add(digest: Any, array: Any) -> None:
  array = np.ascontiguousarray(array)
  digest.update(f"{array.dtype}{array.shape}".encode())
  digest.update(array.reshape(-1).view(np.uint8).data)
