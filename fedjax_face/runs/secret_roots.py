"""The roots of a run's noise and participation on disk, where only their owner can read them.

    secrets/noise, secrets/participation    64 hexadecimal digits; files 0600 in a folder 0700

Who knows them can undo the noise and knows who took part. They are needed until the run has
finished, and then removed. Checkpoints hold neither. They are on the disk, with the names of their
folders, before the first round, and are never written again.
"""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import stat

from absl import logging

from fedjax_face.runs import disk, streams
from fedjax_face.runs.mesh import broadcast, is_main_process
from fedjax_face.runs.streams import Roots

FOLDER = "secrets"
_GOING = ".secrets.removed"


def obtain(workdir: pathlib.Path, must_exist: bool) -> Roots:
  """The roots of a run, the same in every process; drawn and kept if they are not there.

  Args:
    workdir: of the run.
    must_exist: rounds were, or may have been, noised from roots that are kept here.

  Raises:
    ValueError: roots that must exist are lost, damaged, or open to others than their owner.
    OSError: files that cannot be written.
  """
  payload = b""
  if is_main_process():
    try:
      payload = pickle.dumps(_obtain(workdir / FOLDER, must_exist))
    except (ValueError, OSError) as error:
      payload = pickle.dumps(error)
  outcome = pickle.loads(broadcast(payload))
  if isinstance(outcome, Exception):
    raise outcome
  return outcome


def remove(workdir: pathlib.Path) -> None:
  """Deletes the roots of a finished run; only process 0 does. A warning says where it cannot.

  They lose their name at once: rounds that are added after a kill have roots of their own.
  """
  if not is_main_process():
    return
  folder, going = workdir / FOLDER, workdir / _GOING
  with contextlib.suppress(OSError):
    disk.remove(going)
    if folder.exists():
      disk.rename(folder, going)
  for path in (*going.glob("*"), going):
    with contextlib.suppress(OSError):  # each that can be
      disk.remove(path)
  for place in (folder, going):
    if place.exists():
      logging.warning("%s could not be deleted: who reads it can undo the noise; delete it", place)


def require_owner_only(path: pathlib.Path) -> None:
  """Raises ValueError if others than the owner may read or change a secret file or its folder."""
  for place in (path.parent, path):
    mode = stat.S_IMODE(place.stat().st_mode)
    if mode & 0o077:
      wanted = disk.OWNER_ONLY_FOLDER if place.is_dir() else disk.OWNER_ONLY
      raise ValueError(f"{place} is open to others than its owner (mode {mode:04o}, expected "
                       f"{wanted:04o}): who read the secrets in it can undo the noise; if nobody "
                       f"did, chmod {wanted:o} it and go on")


def write_owner_only(path: pathlib.Path, text: str) -> None:
  """Replaces a secret file at once; 0600 in a folder 0700, which is made if absent.

  Raises:
    OSError: one line naming the file.
  """
  disk.make_folder(path.parent, disk.OWNER_ONLY_FOLDER)
  disk.write(path, text, disk.OWNER_ONLY)


def _obtain(folder: pathlib.Path, must_exist: bool) -> Roots:
  if folder.exists() or must_exist:
    return Roots(*(_read(folder / name) for name in Roots._fields))
  roots = Roots(streams.secret_root(), streams.secret_root())
  partial = folder.with_name(f".{folder.name}.partial")
  disk.make_folder(folder.parent)
  for left in (partial, folder.with_name(_GOING)):
    disk.remove(left)
  disk.make_folder(partial, disk.OWNER_ONLY_FOLDER)
  for name, root in roots._asdict().items():
    disk.write(partial / name, root.hex() + "\n", disk.OWNER_ONLY)
  disk.rename(partial, folder)
  return roots


def _read(path: pathlib.Path) -> bytes:
  if not path.is_file():
    raise ValueError(f"{path} is missing: rounds of this run followed from it, and the same "
                     "rounds from another would be a second release; put it back, or start anew in "
                     "another workdir")
  require_owner_only(path)
  try:
    root = bytes.fromhex(path.read_text())
  except ValueError:
    root = b""
  if len(root) != streams.ROOT_BYTES:
    raise ValueError(f"{path} is damaged: expected {2 * streams.ROOT_BYTES} hexadecimal digits; "
                     "put it back, or start anew in another workdir")
  return root
