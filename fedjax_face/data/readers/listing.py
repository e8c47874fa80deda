"""The files of a folder or a zip archive as people keep them, before any image is decoded.

Left out without a word is what programs leave behind: hidden files and folders, thumbnails of
desktops and of network disks. Links are followed; a folder that several paths lead to is listed
once. Names are on one line whatever they hold (`file_bytes.printable`).
"""

from __future__ import annotations

import collections
import io
import os
import pathlib
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fedjax_face.data.readers.file_bytes import (
  MOST_IMAGE_BYTES,
  printable,
  read_file,
  require_given,
  require_regular,
  words,
)

_ENTRY = b"PK\1\2"  # starts each in the list of entries of an archive
_LEFT_BEHIND = frozenset({
    "__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
    "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "icon\r", "__pycache__"})


class Listing(NamedTuple):
  """The files of a source, before any is opened.

  Attributes:
    folders: every folder below the root, '/' as separator.
    files: every file.
    read: the bytes of a file; may be called from several threads.
    remarks: sentences about what was listed once or could not be listed.
    name: of the source; a folder of this name around everything is usual.
  """

  folders: list[str]
  files: list[str]
  read: Callable[[str], bytes]
  remarks: tuple[str, ...] = ()
  name: str = ""


class Tree(NamedTuple):
  """What is below a folder.

  Attributes:
    root: the folder.
    folders, files: names relative to the root, on one line, '/' as separator.
    renamed: name -> path relative to the root, of those that are shown otherwise.
    remarks: as of `Listing`.
  """

  root: pathlib.Path
  folders: list[str]
  files: list[str]
  renamed: dict[str, str]
  remarks: tuple[str, ...]

  def path(self, name: str) -> pathlib.Path:
    """Where a folder or file is."""
    return self.root / self.renamed.get(name, name)


@contextmanager
def listing(path: str | os.PathLike) -> Iterator[Listing]:
  """Opens a folder or zip archive.

  Raises:
    FileNotFoundError: nothing there.
    ValueError: neither a folder nor a readable zip archive, an empty path, or two entries of an
      archive that have one name and differ.
  """
  path = require_given(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected a folder or zip archive")
  if path.is_dir():
    tree = walk(path)
    yield Listing(tree.folders, tree.files, lambda name: read_file(tree.path(name)), tree.remarks,
                  path.resolve().name)
    return
  try:
    require_regular(path.stat())
    archive = _opened(path)
  except Exception as error:  # a damaged list of members can raise anything
    raise ValueError(f"{path} is neither a folder nor a readable zip archive ({error})") from None
  with archive:
    yield _members(path, archive)


def walk(root: pathlib.Path) -> Tree:
  """Every folder and file below a folder.

  Raises:
    ValueError: two names that are one when they are shown on one line.
  """
  folders: list[str] = []
  files: list[str] = []
  remarks: list[str] = []
  seen = {_identity(above) for above in (root.resolve(), *root.resolve().parents)}
  waiting, links = [""], collections.deque[str]()
  while waiting or links:  # links last: who is in the folder itself is not listed by a link to it
    if not waiting:
      link = links.popleft()
      if _identity(root / link) in seen:
        remarks.append(f"{printable(link)} leads to a folder that is read already; counted once")
        continue
      seen.add(_identity(root / link))
      folders.append(link)
      waiting.append(link)
    above = waiting.pop()
    try:
      entries = [entry for entry in os.scandir(root / above) if not left_behind(entry.name)]
    except OSError as error:
      remarks.append(f"{printable(above) or '.'} cannot be listed ({error.strerror})")
      continue
    for entry in sorted(entries, key=lambda entry: entry.name):
      name = f"{above}/{entry.name}" if above else entry.name
      if not _is_folder(entry):
        files.append(name)
      elif entry.is_symlink() or _identity(root / name) in seen:
        links.append(name)
      else:
        seen.add(_identity(root / name))
        folders.append(name)
        waiting.append(name)
  return Tree(root, *_shown(root, folders, files), tuple(sorted(remarks)))


def _shown(root: pathlib.Path, *of: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
  """Folders and files by names on one line, sorted, and the paths of those that are renamed."""
  shown = [[printable(name) for name in names] for names in of]
  renamed = {name: path for names, paths in zip(shown, of, strict=True)
             for name, path in zip(names, paths, strict=True) if name != path}
  if renamed:
    every = collections.Counter(name for names in shown for name in names)
    twice = [name for name in renamed if every[name] > 1]
    if twice:
      raise ValueError(f"{root}: two names are shown as {twice[0]}; expected others")
  return sorted(shown[0]), sorted(shown[1]), renamed


def left_behind(name: str) -> bool:
  """Whether a file or folder is one that programs leave behind: hidden, or of their own."""
  return name.startswith(".") or name.lower() in _LEFT_BEHIND


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # a link that leads to itself
    return False


def _identity(path: pathlib.Path) -> tuple[int, int]:
  found = os.stat(path)
  return found.st_dev, found.st_ino


def _opened(path: pathlib.Path) -> zipfile.ZipFile:
  """An archive, in which a name that is no UTF-8 though it says so costs its own entry."""
  try:
    return zipfile.ZipFile(path)
  except UnicodeDecodeError:
    return zipfile.ZipFile(_OtherNames(io.FileIO(path)))


class _OtherNames(io.BufferedReader):
  """A file whose list of entries does not say UTF-8 of a name that is not."""

  def read(self, size: int | None = -1, /) -> bytes:
    content = super().read(size)
    if not content.startswith(_ENTRY):
      return content
    patched, place = bytearray(content), 0
    while patched.startswith(_ENTRY, place) and place + 46 <= len(patched):
      lengths = struct.unpack_from("<3H", patched, place + 28)
      name = patched[place + 46:place + 46 + lengths[0]]
      if name.decode(errors="replace").encode() != name:
        patched[place + 9] &= 0xff ^ 0x08
      place += 46 + sum(lengths)
    return bytes(patched)


def _members(path: pathlib.Path, archive: zipfile.ZipFile) -> Listing:
  """The entries of an archive, of which a broken one does not stop the others."""
  folders: set[str] = set()
  files: dict[str, zipfile.ZipInfo] = {}
  twice, outside, lock = 0, 0, threading.Lock()
  for entry in archive.infolist():
    parts = entry.filename.replace("\\", "/").split("/")
    if any(left_behind(part) for part in parts if part not in (".", "..")):
      continue
    name = printable("/".join(part for part in parts if part not in ("", ".")))
    if ".." in parts:
      outside += 1
    elif not parts[-1]:
      folders.add(name)
    elif name not in files:
      files[name] = entry
    elif (entry.CRC, entry.file_size) == (files[name].CRC, files[name].file_size):
      twice += 1
    else:
      raise ValueError(f"{path}: {name} is in the archive twice, with different content; expected "
                       "one file of a name")

  def read(name: str) -> bytes:
    entry = files[name]
    if entry.file_size > MOST_IMAGE_BYTES:
      raise ValueError(f"more than {words(MOST_IMAGE_BYTES)} when unpacked")
    try:
      with lock, archive.open(entry) as member:
        return member.read(entry.file_size + 1)  # to the end, where the check sum is compared
    except Exception as error:  # damage inside can raise anything
      reason = " ".join(str(error).split()) or type(error).__name__
      raise OSError(f"broken in the archive ({reason})") from None

  remarks = [f"{twice} entries are in the archive twice; counted once"] * bool(twice)
  remarks += [f"{outside} entries lead out of the archive; left out"] * bool(outside)
  return Listing(sorted(_with_above({*folders, *(_above(name) for name in files)})),
                 sorted(files), read, tuple(remarks), path.stem)


def _with_above(folders: set[str]) -> set[str]:
  """Folders with those that they are in, without the root."""
  found, level = set(), folders - {""}
  while level:
    found |= level
    level = {_above(folder) for folder in level} - found - {""}
  return found


def _above(name: str) -> str:
  return name.rpartition("/")[0]
