"""One process writes into a folder of a run at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import pickle
from collections.abc import Iterator

from fedjax_face.runs import disk
from fedjax_face.runs.mesh import broadcast, is_main_process

LOCK = "lock"

_HELD: set[int] = set()


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[None]:
  """Holds `workdir/lock` (flock) while a program writes there; process 0 of a job holds it for all.

  The folder is made for its owner alone if it is not there, and removed again if nothing was put
  into it. The system lets go of the lock when the process dies, however it dies. Who reads takes
  none.

  Raises:
    ValueError: another process holds it.
    OSError: a folder that cannot be made or written.
  """
  workdir, failure, descriptor = pathlib.Path(workdir), None, -1
  made = not workdir.exists()
  if is_main_process():
    try:
      descriptor = _taken(workdir)
    except (ValueError, OSError) as error:
      failure = error
  failure = pickle.loads(broadcast(pickle.dumps(failure)))
  if failure is not None:
    raise failure
  try:
    yield
  finally:
    if descriptor >= 0:
      _let_go(workdir, descriptor, made)


def _taken(workdir: pathlib.Path) -> int:
  """A descriptor that holds the lock of a folder."""
  path = workdir / LOCK
  while True:
    disk.make_folder(workdir)
    try:
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
      continue  # whoever held it has just removed an empty folder
    except OSError as error:
      raise OSError(f"{path} not made: {error.strerror}") from error
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_at(path, descriptor):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _HELD.add(descriptor)
        return descriptor
      os.close(descriptor)
    except OSError as error:
      holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
      os.close(descriptor)
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        raise OSError(f"{path} not locked: {error.strerror}") from error
      who = f"process {holder}" if holder else "another process"
      raise ValueError(f"{workdir} is in use by {who}: wait for it, or choose another workdir"
                       ) from None


def _forget_in_a_child() -> None:
  """A forked child would hold the lock of a parent that has died."""
  for descriptor in _HELD:
    with contextlib.suppress(OSError):
      os.close(descriptor)
  _HELD.clear()


os.register_at_fork(after_in_child=_forget_in_a_child)


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
  """Whether the file that is open is still the one in the folder."""
  try:
    return os.path.samestat(os.stat(path), os.fstat(descriptor))
  except FileNotFoundError:
    return False


def _let_go(workdir: pathlib.Path, descriptor: int, made: bool) -> None:
  try:
    _HELD.discard(descriptor)
    if made and [path.name for path in workdir.iterdir()] == [LOCK]:
      (workdir / LOCK).unlink()
      workdir.rmdir()
  except OSError:
    pass  # the folder is gone, or somebody has put something into it
  finally:
    os.close(descriptor)
