"""Arrays of an npz file that somebody else made."""

from __future__ import annotations

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from fedjax_face.data.readers.file_bytes import require_regular, words

MOST_ARRAY_BYTES = 4 * 2**30
"""Of one array, unpacked."""


def read_npz(path: str | os.PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Some arrays of an npz file, none of which takes more memory than the file says, or the cap.

  Args:
    path: of the file.
    names: of the arrays.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no npz, or an array that is missing, damaged, of Python objects or too large.
  """
  require_regular(pathlib.Path(path).stat())
  try:
    with zipfile.ZipFile(path) as archive:
      return {name: _array(archive, f"{name}.npy") for name in names}
  except Exception as error:  # damage inside can raise anything
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(reason) from None


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
  """One array, whose header is compared with the bytes that are there before room is made."""
  entry = archive.getinfo(member)
  if entry.file_size > MOST_ARRAY_BYTES:
    raise ValueError(f"{member} has more than {words(MOST_ARRAY_BYTES)} when unpacked")
  with archive.open(entry) as file:
    stream = io.BytesIO(file.read(entry.file_size + 1))  # to the end, for the check sum
  version = np.lib.format.read_magic(stream)
  header = (np.lib.format.read_array_header_1_0 if version == (1, 0)
            else np.lib.format.read_array_header_2_0)
  shape, _, dtype = header(stream)
  if not dtype.itemsize or math.prod(shape) * dtype.itemsize != entry.file_size - stream.tell():
    raise ValueError(f"{member} says {list(shape)} of {dtype} but has another number of bytes")
  stream.seek(0)
  return np.lib.format.read_array(stream, allow_pickle=False)
