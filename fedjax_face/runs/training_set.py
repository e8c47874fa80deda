"""Which data a run trains on, for its statement and its privacy budget."""

from __future__ import annotations

import hashlib
import json
import pathlib
import secrets
from typing import Any

import jax
import numpy as np

from fedjax_face.runs.secret_roots import write_owner_only

KEY = "training_set.key"
INPUTS = "inputs.json"
FACTS = "facts"
_KEY_BYTES = 32
_WHOLE_BYTES = 2 << 30   # a larger set enters the digest with the pixels of some images only
_SOME_IMAGES = 64


def key(workdir: pathlib.Path) -> bytes:
  """The key of the digest that a run publishes; drawn and kept, 0600, if it is not there.

  Without a key, who knows everybody else's data could try out a digest on whoever may be in.

  Raises:
    ValueError: a key that is damaged, or open to others than its owner.
    OSError: a file that cannot be written.
  """
  path = workdir / KEY
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
    raise ValueError(f"{path} is damaged: expected {2 * _KEY_BYTES} hexadecimal digits; put it "
                     "back, or delete it and go on with a new key and another digest")
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


def inputs(sources: Any, key: bytes) -> dict[str, Any]:
  """Keyed digests of the sets of a run, who trains, who evaluates, who is public; and `facts` that
  are public: the shape of an image, and of regions the frame of their landmarks.
  """
  sets = {name: getattr(sources, name, None) for name in ("train", "evaluation", "public")}
  has_rows = lambda of: hasattr(of, "label") or hasattr(of, "regions")
  train = sources.train
  return {name: described(of, key)["digest"] if has_rows(of) else None
          for name, of in sets.items()} | {FACTS: {
              "image_shape": list(train.images.shape[1:]), "frame": getattr(train, "frame", None)}}


def require_same(sources: Any, workdir: pathlib.Path) -> None:
  """Refuses a folder whose run is on other data; one that has not begun is anybody's.

  The same noise on other data would be a second release, and who evaluates must not train.

  Raises:
    ValueError: people, labels or pixels of a set are not those of the run.
  """
  path = workdir / INPUTS
  if not path.exists():
    return
  recorded, now = json.loads(path.read_text()), inputs(sources, key(workdir))
  for name, digest in recorded.items():
    if name != FACTS and now.get(name) != digest:
      raise ValueError(f"{workdir} is of a run on other data: people, labels or pixels of the "
                       f"{name} set differ; choose another folder")


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
  pixels, which = _pixels(images)
  _add(digest, pixels)
  return digest.hexdigest(), which


def _pixels(images: Any) -> tuple[np.ndarray, str]:
  if isinstance(images, np.ndarray) and images.nbytes <= _WHOLE_BYTES:
    return images, "pixels"
  rows = np.unique(np.linspace(0, len(images) - 1, _SOME_IMAGES).astype(np.int64))
  return np.asarray(images[rows]), f"pixels of {len(rows)} images"


def _add(digest: Any, array: Any) -> None:
  array = np.ascontiguousarray(array)
  digest.update(f"{array.dtype}{array.shape}".encode())
  digest.update(array.reshape(-1).view(np.uint8).data)
