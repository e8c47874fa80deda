"""InsightFace verification sets (`lfw.bin`, `agedb_30.bin`, ...).

A .bin is a pickle of (encoded images, issame): images 2i and 2i+1 are pair i. It is read with an
unpickler that can build nothing but bytes, lists and booleans, so that a hostile file can run no
code, after a look at its instructions, so that a short one cannot ask for memory.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import pickletools
from collections.abc import Sequence

import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.data.readers.decode import OnBad, ReadReport, decode_images, settle
from fedjax_face.data.readers.file_bytes import MOST_FILE_BYTES, read_file, require_given

_FOLDS = 10


def read_insightface_bin(path: str | pathlib.Path, *, size: int | None = None, channels: int = 3,
                         on_bad: OnBad = "refuse") -> tuple[np.ndarray, Pairs, ReadReport]:
  """Reads a verification set; who is on the images is not in it, so it is no FaceDataset.

  Args:
    size: height and width to scale to; None = as stored.
    channels: 1 or 3.
    on_bad: 'skip' leaves out both images of a pair with a bad one, 'refuse' raises.

  Returns:
    (images uint8 [N, H, W, channels], pairs in ten folds in file order, report).

  Raises:
    FileNotFoundError: no such file.
    ValueError: not such a pickle, or bad images and `on_bad` is 'refuse'.
  """
  path = require_given(path)
  encoded, same = _load(path)
  names = [str(i) for i in range(len(encoded))]
  images, rows, bad = decode_images(str(path), names, lambda i: encoded[int(i)], size, channels)
  bad = [(f"image {name} (pair {int(name) // 2})", reason) for name, reason in bad]
  report = settle(ReadReport(str(path), skipped=tuple(bad)), on_bad)
  place = np.full(len(encoded), -1, np.int32)
  place[rows] = np.arange(len(rows))
  first, second = place[0::2], place[1::2]
  whole = (first >= 0) & (second >= 0)
  fold = np.arange(len(same)) * _FOLDS // max(len(same), 1) + 1
  return images, Pairs(first[whole], second[whole], same[whole],
                       fold[whole].astype(np.int32)), report


def write_insightface_bin(path: str | pathlib.Path, encoded: Sequence[bytes],
                          same: Sequence[bool]) -> None:
  """Writes a verification set.

  Args:
    encoded: 2P image files (for instance JPEG); 2i and 2i + 1 are pair i.
    same: P booleans.

  Raises:
    ValueError: another number of images.
  """
  if len(encoded) != 2 * len(same):
    raise ValueError(f"{path}: {len(encoded)} images for {len(same)} pairs; expected twice as many")
  content = ([bytes(e) for e in encoded], [bool(s) for s in same])
  pathlib.Path(path).write_bytes(pickle.dumps(content, protocol=4))


def _load(path: pathlib.Path) -> tuple[list[bytes], np.ndarray]:
  """The validated content of a .bin."""
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected an InsightFace .bin")
  try:
    stored = read_file(path, MOST_FILE_BYTES)
    _require_modest(stored)
    content = _Unpickler(io.BytesIO(stored), encoding="bytes").load()
    encoded, same = content
    encoded, same = list(encoded), list(same)
  except Exception as error:  # a malformed pickle can raise anything
    raise ValueError(f"{path}: not an InsightFace .bin ({' '.join(str(error).split())})") from None
  if not all(isinstance(e, bytes) for e in encoded) or not all(_is_truth(s) for s in same):
    raise ValueError(f"{path}: expected a pickle of (list of bytes, list of booleans)")
  if len(encoded) != 2 * len(same) or not same:
    raise ValueError(f"{path}: {len(encoded)} images for {len(same)} pairs; expected twice as many")
  return encoded, np.array(same, np.bool_)


def _require_modest(stored: bytes) -> None:
  """Refuses a pickle that would have room made for more than it holds.

  Raises:
    ValueError: an instruction that is unknown or cut off, or a memo with a larger number than there
      are instructions.
  """
  for count, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(stored))):
    if "PUT" in instruction.name and int(argument or 0) > count:
      raise ValueError(f"a memo of {argument:,} after {count} instructions")


def _is_truth(value: object) -> bool:
  return isinstance(value, (bool, int)) and value in (0, 1)


class _BoolType:
  """Stands in for numpy.dtype in a pickle; only the boolean type exists."""

  def __init__(self, spec, *flags):
    del flags
    if spec not in ("b1", b"b1", "?", b"?"):
      raise pickle.UnpicklingError(f"numpy type {spec!r} is not allowed")

  def __setstate__(self, state):
    del state


def _bool_scalar(dtype: _BoolType, content: bytes | str) -> bool:
  """Stands in for numpy's scalar constructor."""
  if not isinstance(dtype, _BoolType) or content not in (b"\x00", b"\x01", "\x00", "\x01"):
    raise pickle.UnpicklingError("numpy scalar other than a boolean is not allowed")
  return content in (b"\x01", "\x01")


def _latin1_bytes(text: str | bytes, encoding: str | bytes = "latin1") -> bytes:
  """Stands in for codecs.encode, with which protocol 2 stores bytes."""
  if encoding not in ("latin1", b"latin1"):
    raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
  return text if isinstance(text, bytes) else text.encode("latin1")


def _empty_bytes(*arguments) -> bytes:
  """Stands in for the constructor of bytes, with which protocol 2 stores b''."""
  if arguments:
    raise pickle.UnpicklingError("bytes(...) with arguments is not allowed")
  return b""


class _Unpickler(pickle.Unpickler):
  """Resolves a handful of names to harmless stand-ins and refuses all others."""

  _ALLOWED = {
      ("numpy", "dtype"): _BoolType,
      ("numpy.core.multiarray", "scalar"): _bool_scalar,
      ("numpy._core.multiarray", "scalar"): _bool_scalar,
      ("_codecs", "encode"): _latin1_bytes,
      ("__builtin__", "bytes"): _empty_bytes,
      ("builtins", "bytes"): _empty_bytes,
  }

  def find_class(self, module: str, name: str):
    try:
      return self._ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a .bin") from None

  def persistent_load(self, pid):
    raise pickle.UnpicklingError(f"persistent id {pid!r} is not allowed in a .bin")
