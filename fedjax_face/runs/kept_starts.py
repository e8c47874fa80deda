"""Starts that several runs share: in the memory of a process, and in a folder, by their digest."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections import OrderedDict
from typing import Any

import jax

from fedjax_face.runs import checkpoint, disk
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.mesh import is_main_process

_MOST, _MOST_BYTES = 4, 1 << 30

_remembered: OrderedDict[str, tuple[Any, Checkpoint]] = OrderedDict()


def remember(method: Any, done: Checkpoint) -> None:
  """Keeps a start in memory, and of the others the newest few.

  Args:
    method: the part that trained it.
    done: after its last round, with the digest of the start as its `config`.
  """
  _remembered[done.config] = method, done
  _remembered.move_to_end(done.config)
  while len(_remembered) > _MOST or sum(map(_size, _remembered.values())) > _MOST_BYTES:
    _remembered.popitem(last=False)


def remembered(identity: str, method: Any) -> Checkpoint | None:
  """The start of this digest that this process made or read.

  The digest knows a module that was made by hand by its repr, which does not change with its code;
  so the method must be equal too.
  """
  of, done = _remembered.get(identity, (None, None))
  if done is None or of != method:
    return None
  _remembered.move_to_end(identity)
  return done


def forget() -> None:
  """Drops what is in memory."""
  _remembered.clear()


def find(folder: pathlib.Path, identity: str, template: Any, say: Say) -> Checkpoint | None:
  """The start of this digest in a folder that runs share; a damaged one is passed over."""
  try:
    done = checkpoint.restore(folder / identity, template, say)
  except ValueError as error:
    say(f"passed over, to be made anew: {error}")
    return None
  return done if done is not None and done.config == identity else None


def put(folder: pathlib.Path, done: Checkpoint, say: Say, instead: bool = False) -> None:
  """Puts a start where other runs find it whole or not at all; only process 0 does.

  Args:
    folder: that runs share; made if absent.
    done: after its last round, with the digest of the start as its `config`.
    say: told where it cannot be kept, which ends nothing.
    instead: of a damaged one; otherwise what another run put there first stays.
  """
  if not is_main_process():
    return
  place, own = folder / done.config, f"{os.getpid()}-{secrets.token_hex(4)}"
  partial, damaged = (place.with_name(f"{what}-{place.name}-{own}") for what in (
      "partial", "damaged"))
  try:
    disk.make_folder(folder)
    checkpoint.save(partial, done, keep=1)
    if instead and place.exists():
      disk.rename(place, damaged)
    if not place.exists():
      disk.rename(partial, place)
  except OSError as error:
    if not place.exists():
      say(f"start not kept for other runs: {error}")
  for left in (partial, damaged):
    with contextlib.suppress(OSError):
      disk.remove(left)


def _size(entry: tuple[Any, Checkpoint]) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(entry[1].state))
