"""Bytes of files that somebody else made: regular ones, below a folder, no more than a cap."""

from __future__ import annotations

import os
import pathlib
import stat
import unicodedata

MOST_IMAGE_BYTES = 256 * 2**20
"""Of one encoded image, in a file or an archive."""

MOST_FILE_BYTES = 4 * 2**30
"""Of a file with many images, or of a list."""

_MORE = 2**16  # bytes that are read at a time beyond the size that a file says


def read_file(path: str | os.PathLike, most: int = MOST_IMAGE_BYTES) -> bytes:
  """The content of a regular file.

  A pipe, a device or a socket is not opened for reading, so that none can keep a reader waiting.

  Args:
    path: of the file; links are followed.
    most: bytes.

  Raises:
    FileNotFoundError: nothing there.
    OSError: it cannot be read.
    ValueError: no regular file, or one of more bytes.
  """
  require_regular(os.stat(path))
  with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)),
            "rb") as file:
    found = os.fstat(file.fileno())
    require_regular(found)  # it may be another one by now
    size, content = found.st_size, b""
    while size <= most and (more := file.read(max(size - len(content), _MORE))):
      content += more  # room is made for the size that the file says, or a little more
      size = max(size, len(content))
  if size > most:
    raise ValueError(f"more than {words(most)}")
  return content


def require_regular(found: os.stat_result) -> None:
  """Refuses what is no file with a content of its own.

  Raises:
    ValueError: a folder, pipe, device or socket.
  """
  if not stat.S_ISREG(found.st_mode):
    raise ValueError("no regular file")


def inside(root: pathlib.Path, name: str) -> pathlib.Path:
  """The path of a name in a list or database, which may lead below a folder only.

  Raises:
    ValueError: an empty or absolute name, or one that climbs out of the folder.
  """
  parts = name.replace("\\", "/").split("/")
  if not name or "\0" in name or ".." in parts or parts[0] == "" or parts[0].endswith(":"):
    raise ValueError(f"a name that leads out of {root}")
  return root / name


def require_given(path: str | os.PathLike, what: str = "path") -> pathlib.Path:
  """The path, unless it is empty, which would mean the current folder.

  Raises:
    ValueError: it is empty.
  """
  if not os.fspath(path):
    raise ValueError(f"{what} is empty; expected the name of a file or folder")
  return pathlib.Path(path)


def printable(name: str) -> str:
  r"""A name on one line that every encoding of Unicode takes.

  Control characters, line ends and bytes that are no UTF-8 are written as in a Python string, as
  \n and \xe9 are.
  """
  if name.isprintable():
    return name
  return "".join(
      letter if letter.isprintable() else f"\\x{ord(letter) - 0xdc00:02x}"
      if "\udc80" <= letter <= "\udcff" else letter.encode("unicode_escape").decode()
      for letter in name)


def one_spelling(name: str) -> str:
  """A name as it is compared with others: on one line, in Unicode's composed form (NFC)."""
  return unicodedata.normalize("NFC", printable(name))


def words(count: int) -> str:
  """A number of bytes, as '256 MiB'."""
  return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count:,} bytes"
