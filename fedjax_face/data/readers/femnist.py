"""FEMNIST: handwritten characters by writer (label = character, person = writer).

Images are uint8 [N, 28, 28, 1] with a background of 255; labels 0-9 are digits, 10-35 upper-case
and 36-61 lower-case letters. Source: Caldas et al., LEAF, arXiv 1812.01097.
"""

from __future__ import annotations

import hashlib
import pathlib
import string
from collections.abc import Iterator

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, settle
from fedjax_face.data.readers.file_bytes import printable, require_given
from fedjax_face.data.readers.listing import walk
from fedjax_face.data.readers.npz import read_npz
from fedjax_face.data.readers.text_file import read_json

CHARACTERS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
_SIDE = 28


def read_femnist_npz(path: str | pathlib.Path, *, num_writers: int | None = None,
                     ) -> tuple[FaceDataset, ReadReport]:
  """Reads an npz with x uint8 [N, 28, 28], y [N] (0..61), user [N] and users (names of writers).

  Training and test rows of one writer are one person.

  Args:
    num_writers: only the first so many writers.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not such an npz, or a label or writer out of range.
  """
  path = require_given(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected a FEMNIST npz")
  try:
    images, label, person, users = read_npz(path, ("x", "y", "user", "users")).values()
  except (ValueError, OSError) as error:
    raise ValueError(f"{path}: not a FEMNIST npz with x, y, user and users ({error})") from None
  if num_writers is not None:
    kept = person < num_writers
    images, label, person, users = images[kept], label[kept], person[kept], users[:num_writers]
  return _femnist(str(path), images, label, person, users), ReadReport(str(path))


def read_leaf(root: str | pathlib.Path, *, on_bad: OnBad = "skip",
              ) -> tuple[FaceDataset, ReadReport]:
  """Reads every LEAF .json below `root` (train and test shards alike).

  A writer in several shards is one person; so no writer is on both sides of a split by person.
  LEAF keeps the same images in several folders (all_data, sampled_data, train and test): an image
  that an earlier file has of the writer is the same one, and is counted once.

  Args:
    root: folder, or one file, of LEAF json: user_data[writer] = {x: [[784 floats]], y: [ints]}.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: files that are no LEAF json, writers whose
      x and y do not fit, writers with no images.

  Raises:
    FileNotFoundError: nothing there, or no .json file.
    ValueError: bad content and `on_bad` is 'refuse', or nothing readable.
  """
  check_on_bad(on_bad)
  root = require_given(root)
  files = [root]
  if root.is_dir():
    tree = walk(root)
    files = [tree.path(name) for name in tree.files if name.endswith(".json")]
  if not files or not root.exists():
    raise FileNotFoundError(f"{root}: no .json file; expected LEAF FEMNIST shards")
  writers: list[str] = []
  images, labels, skipped = [], [], []
  known: dict[str, set[bytes]] = {}
  repeated = 0
  for file in files:
    for writer, result in _leaf_writers(file):
      if isinstance(result, str):
        skipped.append((writer, result))
        continue
      new = _new(known.setdefault(writer, set()), *result)
      repeated += int((~new).sum())
      images.append(result[0][new])
      labels.append(result[1][new])
      writers += [writer] * int(new.sum())
  if not images:
    raise ValueError(f"{root}: no readable image in {len(files)} file(s) ({skipped[0][1]})")
  users, person = np.unique(writers, return_inverse=True)
  remarks = (f"{repeated} images are in several files; counted once",) if repeated else ()
  report = settle(ReadReport(str(root), skipped=tuple(skipped), remarks=remarks), on_bad)
  return _femnist(str(root), np.concatenate(images), np.concatenate(labels), person, users), report


def _new(known: set[bytes], pixels: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Which images bool [N] of a writer in a file no earlier file has; notes them all."""
  digests = [hashlib.blake2b(image.tobytes() + bytes([character]), digest_size=16).digest()
             for image, character in zip(pixels, label.tolist(), strict=True)]
  new = np.array([digest not in known for digest in digests], bool)
  known.update(digests)
  return new


def _leaf_writers(file: pathlib.Path,
                  ) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | str]]:
  """Yields (writer, (images, labels)) or (writer or file, reason) for one shard."""
  try:
    data = read_json(file)["user_data"].items()
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    detail = f" ({str(error).removeprefix(f'{file}: ')})" if isinstance(error, ValueError) else ""
    yield str(file), f"not a LEAF json file{detail}"
    return
  for name, entry in data:
    writer = printable(name)
    try:
      pixels = np.asarray(entry["x"], np.float64)
      label = np.asarray(entry["y"], np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
      yield writer, "x or y is missing or ragged"
      continue
    if not len(label) and not len(pixels):
      yield writer, "writer with no images"
    elif pixels.shape != (len(label), _SIDE * _SIDE):
      yield writer, f"x is {list(pixels.shape)} for {len(label)} labels; expected [N, {_SIDE**2}]"
    elif not (pixels.min() >= 0 and pixels.max() <= 1):
      yield writer, "pixels outside 0..1"
    elif not 0 <= label.min() <= label.max() < len(CHARACTERS):
      yield writer, f"labels outside 0..{len(CHARACTERS) - 1}"
    else:
      yield writer, (np.rint(pixels * 255).astype(np.uint8), label)


def _femnist(source, images, label, person, users) -> FaceDataset:
  """A validated data set from arrays of any integer type."""
  if images.dtype != np.uint8 or images.size != len(label) * _SIDE**2:
    raise ValueError(f"{source}: x is {images.dtype} {list(images.shape)} for {len(label)} labels; "
                     f"expected uint8 [N, {_SIDE}, {_SIDE}]")
  for field, array, count in (("y", label, len(CHARACTERS)), ("user", person, len(users))):
    if len(array) and not 0 <= array.min() <= array.max() < count:
      raise ValueError(f"{source}: {field} spans {array.min()}..{array.max()}; "
                       f"expected 0..{count - 1}")
  return FaceDataset("femnist", images.reshape(-1, _SIDE, _SIDE, 1), label.astype(np.int32),
                     person.astype(np.int32), names=CHARACTERS,
                     person_names=tuple(printable(str(u)) for u in users))
