"""The bytes that crossed the wire, on disk as they crossed: what the server could keep.

A record is a sequence of entries: direction (one byte), length (eight bytes, little-endian), frame
of `wire`. What a killed server left half written is cut off when the next one goes on.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import struct
import threading
from collections.abc import Iterator
from typing import BinaryIO, get_args

from fedjax_face.edge import wire
from fedjax_face.split.message import Direction, Transcript

_ENTRY = struct.Struct("<BQ")
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class Recorder:
  """Appends to a record.

  Raises:
    OSError: in one line, the file cannot be opened.
    ValueError: the file is something else.
  """

  def __init__(self, path: str | os.PathLike):
    path, whole = pathlib.Path(path), 0
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.exists():
        with open(path, "rb") as file:
          whole = max((end for *_, end in _entries(file, path)), default=0)
        if not whole and path.stat().st_size:
          raise ValueError(f"{path} is no transcript: it holds no whole entry")
      self._path, self._file = path, open(path, "ab")  # noqa: SIM115
      self._file.truncate(whole)
    except OSError as error:
      raise OSError(f"transcript {path}: {error.strerror}") from error
    self._lock = threading.Lock()

  def write(self, direction: Direction, data: wire.Bytes) -> None:
    """Appends one frame.

    Raises:
      OSError: one line naming the file.
    """
    try:
      with self._lock:
        self._file.write(_ENTRY.pack(_DIRECTIONS.index(direction), len(data)))
        self._file.write(memoryview(data))
        self._file.flush()
    except OSError as error:
      raise OSError(f"transcript {self._path} not written: {error.strerror}") from error

  def close(self) -> None:
    """Closes the file; what could not be written was told by `write`."""
    with contextlib.suppress(OSError):
      self._file.close()


def read_transcript(path: str | os.PathLike) -> Transcript:
  """Everything on a record but receipts, which hold no data, in the order in which it crossed.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is something else.
  """
  transcript = Transcript()
  with open(path, "rb") as file:
    for direction, frame, _ in _entries(file, pathlib.Path(path)):
      if frame.content is not None:
        transcript.record(frame.step, direction, frame.channel, frame.content)
  return transcript


def _entries(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[Direction, wire.Frame, int]]:
  """(direction, frame, where it ends) of every whole entry."""
  size, end = path.stat().st_size, 0
  while end + _ENTRY.size <= size:
    direction, length = _ENTRY.unpack(file.read(_ENTRY.size))
    if direction >= len(_DIRECTIONS):
      raise ValueError(f"{path} is no transcript: direction {direction} at byte {end}")
    end += _ENTRY.size + length
    if end > size:
      return
    try:
      yield _DIRECTIONS[direction], wire.decode(file.read(length)), end
    except ValueError as error:
      raise ValueError(f"{path} is no transcript: {error}") from None
