"""The folder of a run's checkpoints: which are whole, how one takes its place, which may go.

    00000040             in its place
    partial-00000040     being written, or whole and not yet in its place
    replaced-00000040    the one before of the same round, while the new one takes its place
    removed-00000002     being removed, as newer ones are whole

A kill between any two steps leaves the newest checkpoint whole under one of the first three names.
What is not a checkpoint of the round in its name is never counted and never removed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from fedjax_face.runs import disk

Warn = Callable[[str], None]

IN_PLACE, PARTIAL, REPLACED, REMOVED = "", "partial-", "replaced-", "removed-"
_NAME = re.compile(f"({PARTIAL}|{REPLACED}|{REMOVED}|)([0-9]{{8,}})")


def place(folder: pathlib.Path, kind: str, number: int) -> pathlib.Path:
  """Where the checkpoint of a round is, or is before or after it is in its place."""
  return folder / f"{kind}{number:08d}"


def rounds(folder: pathlib.Path, *kinds: str) -> list[int]:
  """Rounds in the names of some kinds, newest first; says nothing of what lies there."""
  if not folder.is_dir():
    return []
  matches = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
  return sorted({int(match[2]) for match in matches if match and match[1] in kinds
                 and f"{int(match[2]):08d}" == match[2]}, reverse=True)


def candidates(folder: pathlib.Path) -> Iterator[tuple[int, str, pathlib.Path]]:
  """(round, kind, path) of all that may be a whole checkpoint, the one to use first."""
  for number in rounds(folder, IN_PLACE, PARTIAL, REPLACED):
    for kind in (IN_PLACE, PARTIAL, REPLACED):
      path = place(folder, kind, number)
      if os.path.lexists(path):
        yield number, kind, path


def digest(path: pathlib.Path, meta: Mapping[str, Any]) -> str:
  """SHA-256 of the files of the state and of everything else that is recorded."""
  total = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
  for file in sorted((path / "state").rglob("*")):
    if file.is_file():
      total.update(str(file.relative_to(path)).encode() + b"\0")
      total.update(hashlib.sha256(file.read_bytes()).digest())
  return total.hexdigest()


def whole(path: pathlib.Path, number: int) -> dict[str, Any]:
  """What meta.json of a checkpoint says, without its digest.

  Raises:
    Exception: of any kind where files are missing or damaged; ValueError where the round is another
      than `number`.
  """
  meta = json.loads((path / "meta.json").read_text())
  if meta.pop("digest") != digest(path, meta):
    raise ValueError("the files differ from those that were saved")
  if meta["round"] != number:
    raise ValueError(f"it is of round {meta['round']}; give it that name back")
  return meta


def is_whole(path: pathlib.Path, number: int) -> bool:
  """Whether a checkpoint of a round can be read."""
  try:
    whole(path, number)
  except Exception:  # any damage to a file
    return False
  return True


def adopt(folder: pathlib.Path, warn: Warn = logging.warning) -> None:
  """Puts whole checkpoints in their places whose run was killed before it did.

  Args:
    folder: nobody else writes in it.
    warn: told in one line about each.

  Raises:
    OSError: one line; every checkpoint is still whole.
  """
  for number in rounds(folder, PARTIAL, REPLACED):
    final = place(folder, IN_PLACE, number)
    if is_whole(final, number):
      continue
    for kind in (PARTIAL, REPLACED):
      path = place(folder, kind, number)
      if is_whole(path, number):
        disk.sync_tree(path)
        disk.remove(final)  # not whole
        disk.rename(path, final)
        warn(f"{final} was whole and not in its place: it was {path.name}")
        break


def put_in_place(folder: pathlib.Path, number: int) -> None:
  """Moves a whole and synced partial checkpoint to its place; one that is there goes after it.

  Raises:
    OSError: one line; `adopt` finishes the move.
  """
  final, aside = place(folder, IN_PLACE, number), place(folder, REPLACED, number)
  if os.path.lexists(final):
    disk.remove(aside)
    disk.rename(final, aside)
  disk.rename(place(folder, PARTIAL, number), final)
  disk.remove(aside)


def remove_older(folder: pathlib.Path, keep: int, newest: int) -> None:
  """Removes what is older than the newest `keep` whole checkpoints, and what is left of others.

  Args:
    folder: after `adopt`.
    keep: at least 1.
    newest: round of a whole checkpoint; what says that it is of a later round is left.

  Raises:
    OSError: one line naming what could not be removed.
  """
  kept = 1
  for number in rounds(folder, IN_PLACE):
    path = place(folder, IN_PLACE, number)
    if number > newest or (number < newest and _said_round(path) != number):
      _name_once(path)
    elif number < newest and kept < keep and is_whole(path, number):
      kept += 1
    elif number < newest:
      going = place(folder, REMOVED, number)
      disk.remove(going)
      disk.rename(path, going)
  for kind in (PARTIAL, REPLACED, REMOVED):
    for number in rounds(folder, kind):
      disk.remove(place(folder, kind, number))


def _said_round(path: pathlib.Path) -> int | None:
  try:
    return json.loads((path / "meta.json").read_text())["round"]
  except (OSError, ValueError, KeyError, TypeError):
    return None


@functools.cache
def _name_once(path: pathlib.Path) -> None:
  logging.warning("%s is not a checkpoint that this run made; it is left and not used", path)
