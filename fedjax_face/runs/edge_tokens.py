"""A secret for each device, by which nobody else takes its number.

    FOLDER/0, FOLDER/1, ...    a token each (0600), for device 0, 1, ...: handed over, then deleted
    WORKDIR/tokens.json        device -> a digest of its token, from which nobody can join (0600)
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import stat

from fedjax_face.edge import wire
from fedjax_face.runs import disk

_FILE = "tokens.json"
_TOKEN_BYTES, _LEAST = 32, 16


def kept(workdir: pathlib.Path, devices: int,
         folder: str | os.PathLike | None = None) -> dict[int, bytes]:
  """device -> `wire.kept_digest` of its token; empty: none is asked for.

  A token that lies in the folder is that of its device from now on; one that neither lies there nor
  is known is made there.

  Args:
    workdir: of the server.
    devices: K.
    folder: of the tokens; None: as they were, where the run has any.

  Raises:
    ValueError: a token that is no secret, or a damaged tokens.json.
    OSError: one line naming a file that cannot be read or written.
  """
  path = workdir / _FILE
  known = _known(path, devices)
  if folder is None:
    return known
  place, before = pathlib.Path(folder), dict(known)
  disk.make_folder(place)
  for device in range(devices):
    file = place / str(device)
    if not file.exists() and device not in known:
      disk.write(file, secrets.token_hex(_TOKEN_BYTES) + "\n", disk.OWNER_ONLY)
    if file.exists():
      known[device] = wire.kept_digest(wire.token_digest(read(file)))
  if known != before:
    disk.write(path, json.dumps({str(device): digest.hex() for device, digest in known.items()},
                                indent=2) + "\n", disk.OWNER_ONLY)
  return known


def are_asked_for(workdir: str | os.PathLike, folder: str | os.PathLike | None) -> bool:
  """Whether devices must show a token: of `kept`, before anything is made."""
  return folder is not None or (pathlib.Path(workdir) / _FILE).exists()


def read(path: str | os.PathLike) -> str:
  """A token of a file.

  Raises:
    ValueError: a file that others can read, or too short a token.
    OSError: one line naming a file that cannot be read.
  """
  path = pathlib.Path(path)
  try:
    mode, token = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
  except OSError as error:
    raise OSError(f"token {path}: {error.strerror}") from error
  if mode & 0o077:
    raise ValueError(f"token {path} is open to others than its owner (mode {mode:04o}, expected "
                     f"0600): whoever read it can join as the device; delete it to have another "
                     f"made, or, if nobody did, chmod 600 {path}")
  if len(token) < _LEAST:
    raise ValueError(f"token {path} holds {len(token)} characters: expected {_LEAST} or more, that "
                     "nobody can guess")
  return token


def _known(path: pathlib.Path, devices: int) -> dict[int, bytes]:
  if not path.exists():
    return {}
  try:
    known = {int(device): bytes.fromhex(digest)
             for device, digest in json.loads(path.read_text()).items()}
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(f"{path} is damaged ({error}): the tokens of this run's devices are not known "
                     "any more; delete it and give --tokens=FOLDER with new ones") from None
  if set(known) != set(range(devices)):
    raise ValueError(f"{path} is damaged: it holds tokens of devices {sorted(known)}, expected "
                     f"0 to {devices - 1}; delete it and give --tokens=FOLDER with new ones")
  return known
