"""Changes on disk that outlive a kill and a power cut, in this one place.

A file is written beside its place, synced, renamed, and its folder synced: who reads sees the old
or the new, and what a call has returned from is on the disk. Everything that a run leaves is
written through here, so `watched` sees every change before it is made; a test stops a process
there, or fails the call. What `watched` raises and is no OSError leaves the disk as a kill there.
"""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
from collections.abc import Callable

Watched = Callable[[str, pathlib.Path], None]

watched: Watched = lambda change, path: None
"""Told what is about to be done, and to which path, before every change.

"write", "append", "sync", "rename" (the new name), "make", "remove", or "orbax": told before that
library writes and once it has.
"""

ANY_FOLDER = 0o777
OWNER_ONLY, OWNER_ONLY_FOLDER = 0o600, 0o700
"""Modes of what nobody else may read."""

_ANY = 0o666


def folder(place: str | os.PathLike) -> pathlib.Path:
  """The path of a folder that somebody has named.

  Raises:
    ValueError: an empty text, which would be the current folder.
  """
  if not os.fspath(place):
    raise ValueError("workdir='': expected the path of a folder")
  return pathlib.Path(place)


def write(path: str | os.PathLike, content: str | bytes, mode: int = _ANY) -> None:
  """Replaces a file at once and for good.

  Args:
    path: its folder exists.
    content: text (UTF-8) or bytes.
    mode: of the file, before the umask.

  Raises:
    OSError: one line naming the file; the old one is untouched.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial")
  data = content.encode() if isinstance(content, str) else content
  try:
    told("write", path)
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
      file.write(data)
      file.flush()
      told("sync", path)
      os.fsync(file.fileno())
    told("rename", path)
    os.replace(partial, path)
    sync_folder(path.parent)
  except OSError as error:
    try:
      partial.unlink(missing_ok=True)
    except OSError:
      pass  # the first error says what is wrong
    raise _named(path, "not written", error) from error


def append(path: str | os.PathLike, content: str | bytes) -> None:
  """Puts text or bytes at the end of a file and syncs it; a kill may leave a part of them.

  Raises:
    OSError: one line naming the file.
  """
  path = pathlib.Path(path)
  data = content.encode() if isinstance(content, str) else content
  try:
    told("append", path)
    new = not path.exists()
    with open(path, "ab") as file:
      file.write(data)
      file.flush()
      told("sync", path)
      os.fsync(file.fileno())
    if new:
      sync_folder(path.parent)
  except OSError as error:
    raise _named(path, "not written", error) from error


def rename(old: str | os.PathLike, new: str | os.PathLike) -> None:
  """Moves a file or folder within one folder, for good; an existing file is replaced.

  Raises:
    OSError: one line naming the new place.
  """
  old, new = pathlib.Path(old), pathlib.Path(new)
  try:
    told("rename", new)
    os.replace(old, new)
    sync_folder(new.parent)
  except OSError as error:
    raise _named(new, "not written", error) from error


def sync_tree(folder: str | os.PathLike) -> None:
  """Syncs every file and folder below a folder, and the folder itself.

  Raises:
    OSError: one line naming what could not be synced.
  """
  try:
    for place, _, files in os.walk(str(folder), topdown=False, onerror=_raised):
      for name in files:
        _sync(pathlib.Path(place, name), os.O_RDONLY)
      sync_folder(place)
  except OSError as error:
    raise _named(pathlib.Path(folder), "not synced", error) from error


def sync_folder(folder: str | os.PathLike) -> None:
  """Makes the names in a folder outlive a power cut.

  Raises:
    OSError: one line naming the folder.
  """
  _sync(pathlib.Path(folder), os.O_RDONLY | os.O_DIRECTORY)


def make_folder(path: str | os.PathLike, mode: int = OWNER_ONLY_FOLDER) -> None:
  """Makes a folder, for its owner alone, and those above it; one that exists keeps its mode.

  Raises:
    OSError: one line naming the folder.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return
  try:
    if not path.parent.exists():
      make_folder(path.parent, ANY_FOLDER)
    told("make", path)
    path.mkdir(mode=mode, exist_ok=True)
    sync_folder(path.parent)
  except OSError as error:
    raise _named(path, "not made", error) from error


def remove(path: str | os.PathLike) -> None:
  """Removes a file or a folder with all in it; what is not there is removed already.

  Raises:
    OSError: one line naming it; of a folder a part may be gone.
  """
  path = pathlib.Path(path)
  if not os.path.lexists(path):
    return
  try:
    told("remove", path)
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink()
    sync_folder(path.parent)
  except OSError as error:
    raise _named(path, "not removed", error) from error


def told(change: str, path: pathlib.Path) -> None:
  """Tells `watched` of a change; called here, and where a library writes by itself."""
  watched(change, path)


def _sync(path: pathlib.Path, flags: int) -> None:
  try:
    told("sync", path)
    descriptor = os.open(path, flags)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  except OSError as error:
    if error.errno == errno.EINVAL and flags & os.O_DIRECTORY:
      return  # a file system that syncs names by itself
    raise _named(path, "not synced", error) from error


def _raised(error: OSError) -> None:
  raise error


class DiskError(OSError):
  """A change on disk that failed, in one line that names the place."""


def _named(path: pathlib.Path, what: str, error: OSError) -> OSError:
  if isinstance(error, DiskError):
    return error
  named = DiskError(f"{path} {what}: {error.strerror or error}")
  named.errno = error.errno
  return named
