"""What a finished run says, kept beside its last state, from which its files are made anew.

summary.json, privacy.json and PRIVACY.md follow from the ledger and the state of the last
checkpoint. What they say lies in that checkpoint too, with a digest, so that a finished run prints
what it released and not what somebody has written into a file since.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjax_face.privacy import statement
from fedjax_face.runs import checkpoint_folder, disk
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.records import CsvFile, as_text

DERIVED = "derived.json"


class Said(NamedTuple):
  """What summary.json and privacy.json of a run say, and of how many rounds that were asked for."""

  summary: dict[str, Any]
  privacy: dict[str, Any]
  asked: int


def keep(workdir: pathlib.Path, said: Said, config: str) -> None:
  """Keeps it with the checkpoint of the last round.

  Args:
    workdir: of the run.
    said: what its files will say.
    config: digest of its config.
  """
  kept = json.loads(as_text({"config": config, **said._asdict()}))
  disk.write(_place(workdir, said.summary["rounds"]), as_text(kept | {"digest": _digest(kept)}))


def of(workdir: pathlib.Path, asked: int, config: str) -> Said | None:
  """What a run that has finished says; None of one that has not, or whose record is damaged.

  Args:
    workdir: of the run.
    asked: rounds of the whole run.
    config: digest of its config.
  """
  for path in sorted((workdir / "checkpoints").glob(f"[0-9]*/{DERIVED}"), reverse=True):
    try:
      kept = json.loads(path.read_text())
      digest = kept.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError):
      continue
    if (digest == _digest(kept) and (kept["asked"], kept["config"]) == (asked, config)
        and _is_last(path.parent, kept["summary"]["rounds"])):
      return Said(kept["summary"], kept["privacy"], asked)
  return None


def _is_last(path: pathlib.Path, done: int) -> bool:
  """Whether a checkpoint is whole and in the place of its round, and no round follows on it."""
  try:
    return _is_at(path, done) and checkpoint_folder.whole(path, done)["finished"]
  except Exception:  # any damage to a file
    return False


def newest(workdir: pathlib.Path) -> Said | None:
  """What the newest finished state in a folder says, however many rounds were asked for; or None.

  Newer checkpoints may lie beside it, of a run that has grown since: compare the rounds.
  """
  for path in sorted((workdir / "checkpoints").glob(f"*/{DERIVED}"), reverse=True):
    try:
      kept = json.loads(path.read_text())
      digest = kept.pop("digest")
      done = kept["summary"]["rounds"]
      if (digest == _digest(kept) and _is_at(path.parent, done)
          and checkpoint_folder.is_whole(path.parent, done)):
        return Said(kept["summary"], kept["privacy"], kept["asked"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      continue
  return None


def write(workdir: pathlib.Path, said: Said) -> None:
  """Writes summary.json, privacy.json and PRIVACY.md."""
  for name, text in _files(said).items():
    disk.write(workdir / name, text)


def restore(workdir: pathlib.Path, said: Said, say: Say) -> None:
  """Writes again what differs from what the run said, metrics.csv too, and says so."""
  done = said.summary["rounds"]
  meta = checkpoint_folder.whole(_place(workdir, done).parent, done)
  CsvFile(workdir / "metrics.csv", done, meta.get("records", ""), say)
  for name, text in _files(said).items():
    path = workdir / name
    try:
      same = path.read_text() == text
    except (OSError, ValueError):
      same = False
    if not same:
      say(f"{path} {'is not as the run wrote it' if path.exists() else 'is missing'}: "
          "written anew from its last checkpoint")
      disk.write(path, text)


def _files(said: Said) -> dict[str, str]:
  return {"privacy.json": as_text(said.privacy),
          "PRIVACY.md": statement.privacy_markdown(said.privacy),
          "summary.json": as_text(said.summary)}


def _place(workdir: pathlib.Path, done: int) -> pathlib.Path:
  return workdir / "checkpoints" / f"{done:08d}" / DERIVED


def _is_at(path: pathlib.Path, done: int) -> bool:
  """Whether a folder has the name of a checkpoint of so many rounds."""
  return path == checkpoint_folder.place(path.parent, checkpoint_folder.IN_PLACE, done)


def _digest(kept: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
