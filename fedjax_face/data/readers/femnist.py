"""FEMNIST: handwritten characters by writer (label = character, person = writer).

Images are uint8 [N, 28, 28, 1] with a background of 255; labels 0-9 are digits, 10-35 upper-case
and 36-61 lower-case letters. Source: Caldas et al., LEAF, arXiv 1812.01097.
"""

from __future__ import annotations

import pathlib
import string
import zipfile

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, settle
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
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected a FEMNIST npz")
  try:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
      images, label, person, users = (content[key] for key in ("x", "y", "user", "users"))
  except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: not a FEMNIST npz with x, y, user and users ({error})") from None
  if num_writers is not None:
    kept = person < num_writers
    images, label, person, users = images[kept], label[kept], person[kept], users[:num_writers]
  return _femnist(str(path), images, label, person, users), ReadReport(str(path))


def read_leaf(root: str | pathlib.Path, *, on_bad: OnBad = "skip",
              ) -> tuple[FaceDataset, ReadReport]:
  """Reads every LEAF .json below `root` (train and test shards alike).

  A writer in several shards is one person; so no writer is on both sides of a split by person.

  Args:
    root: folder, or one file, of LEAF json: user_data[writer] = {x: [[784 floats]], y: [ints]}.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: files that are no LEAF json, writers whose
      x and y do not fit, writers with no images.

  Raises:
    FileNotFoundError: nothing there, or no .json file.
    ValueError: bad content and `on_bad` is 'refuse', or nothing readable.
  """
  check_on_bad(on_bad)
  root = pathlib.Path(root)
  files = [root] if root.is_file() else sorted(root.rglob("*.json"))
  if not files:
    raise FileNotFoundError(f"{root}: no .json file; expected LEAF FEMNIST shards")
  writers: list[str] = []
  images, labels, skipped = [], [], []
  for file in files:
    for writer, result in _leaf_writers(file):
      if isinstance(result, str):
        skipped.append((writer, result))
        continue
      images.append(result[0])
      labels.append(result[1])
      writers += [writer] * len(result[1])
  if not images:
    raise ValueError(f"{root}: no readable image in {len(files)} file(s) ({skipped[0][1]})")
  users, person = np.unique(writers, return_inverse=True)
  report = settle(ReadReport(str(root), skipped=tuple(skipped)), on_bad)
  return _femnist(str(root), np.concatenate(images), np.concatenate(labels), person, users), report


def _leaf_writers(file: pathlib.Path):
  """Yields (writer, (images, labels)) or (writer or file, reason) for one shard."""
  try:
    data = read_json(file)["user_data"].items()
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    yield str(file), "not a LEAF json file"
    return
  for writer, entry in data:
    try:
      pixels = np.asarray(entry["x"], np.float64)
      label = np.asarray(entry["y"], np.int64)
    except (KeyError, TypeError, ValueError):
      yield writer, "x or y is missing or ragged"
      continue
    if not len(label) and not len(pixels):
      yield writer, "writer with no images"
    elif pixels.shape != (len(label), _SIDE * _SIDE):
      yield writer, f"x is {list(pixels.shape)} for {len(label)} labels; expected [N, {_SIDE**2}]"
    elif not (pixels.min() >= 0 and pixels.max() <= 1):
      yield writer, "pixels outside 0..1"
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
                     person_names=tuple(str(u) for u in users))
