"""A power cut, simulated: what of a folder outlives it, by what was synced before.

A file keeps the content that it had when it was last synced, or none; a name is there if its folder
was synced since. What `disk` is about to do is told before it is done, so a sync counts once the
next change is told.
"""

import os
import pathlib
import shutil
import stat
from typing import NamedTuple


class Node(NamedTuple):
  """What is on the disk of one inode: bytes of a file, or names of a folder with their inodes."""

  mode: int
  content: bytes | dict[str, int]


class Disk:
  """Watches the syncs below a folder."""

  def __init__(self, root: pathlib.Path):
    self._root, self._synced, self._open = root, {}, {}
    self._top, self._pending = {}, None
    if root.exists():  # what was there long before is on the disk
      for path in sorted(root.rglob("*"), reverse=True):
        self._pending = path
        self._settle()
      for path in (root, root.parent):
        self._pending = path
        self._settle()

  def told(self, change, path):
    """A change that is about to be made; the one told before it has been made by now."""
    self._settle()
    if change == "sync" and (path == self._root or self._root in path.parents
                             or path == self._root.parent):
      self._pending = path

  def cut(self):
    """Puts the folder into the state in which it is found when the power is back."""
    self._pending = None
    if self._root.exists():
      shutil.rmtree(self._root)
    if self._root.name in self._top:
      self._build(self._root, self._top[self._root.name])
    self.close()

  def close(self):
    """Lets go of what is held open."""
    for descriptor in self._open.values():
      os.close(descriptor)
    self._open = {}

  def _settle(self):
    path, self._pending = self._pending, None
    if path is None:
      return
    beside = path.with_name(f".{path.name}.partial")
    path = beside if beside.is_file() else path
    if path == self._root.parent:
      self._top = {self._root.name: self._keep(self._root)} if self._root.exists() else {}
    elif path.exists():
      number = self._keep(path)
      mode = stat.S_IMODE(path.stat().st_mode)
      self._synced[number] = Node(mode, (
          {each.name: self._keep(each) for each in path.iterdir()} if path.is_dir()
          else path.read_bytes()))

  def _keep(self, path):
    """The number of a file or folder, which is held open so that no other gets it."""
    number = path.lstat().st_ino
    if number not in self._open:
      self._open[number] = os.open(path, os.O_RDONLY)
      folder = stat.S_ISDIR(path.lstat().st_mode)
      self._synced[number] = Node(stat.S_IMODE(path.lstat().st_mode), {} if folder else b"")
    return number

  def _build(self, path, number):
    mode, content = self._synced[number]
    if isinstance(content, dict):
      path.mkdir()
      for name, child in content.items():
        self._build(path / name, child)
    else:
      path.write_bytes(content)
    path.chmod(mode)
