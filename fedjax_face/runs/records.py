"""Files of a run that are read by people and by programs: JSON, CSV, TensorBoard, W&B."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from fedjax_face.runs import disk, event_files

Say = Callable[[str], None]

BEFORE_ALL = -1
_SECONDS_BETWEEN_WRITES = 10.0


def make_guarded(folder: str | os.PathLike) -> None:
  """Makes a run's folder, for its owner alone (0700); one that exists keeps its mode."""
  disk.make_folder(folder)


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Replaces the file at once: a reader, or a killed run, sees the old text or the new."""
  disk.write(path, text)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `as_text`."""
  write_atomically(path, as_text(value))


def as_text(value: Any) -> str:
  """Strict JSON, indented; NaN and infinities become the strings "nan", "inf", "-inf"."""
  return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(name): _strict(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_strict(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


class CsvFile:
  """metrics.csv: one row per round, exact across interruptions.

  Columns that appear later (the first evaluation) are appended to the header, empty in the rows
  above. No column holds a time, so equal runs have equal files. The rows are held in memory and,
  as `kept`, in every checkpoint; the file follows from them.

  Args:
    path: of the file; rows past `start` and a last line that was cut short are dropped.
    start: rounds that were done; `BEFORE_ALL` drops every row, for a run that begins with the row
      of round 0.
    kept: what `kept` gave at round `start`, of which the file is written again where it says
      anything else; "" (a checkpoint that holds none): what the file says is taken.
    say: told in one line that a file was changed or removed.

  Raises:
    ValueError: a file that is no table, where nothing is kept.
    OSError: one line naming the file.
  """

  def __init__(self, path: str | os.PathLike, start: int, kept: str = "",
               say: Say = logging.warning):
    self._path, self._say = pathlib.Path(path), say
    found = None if start == BEFORE_ALL else self._table(start)
    if kept:
      self._fields, self._rows = _parsed(kept)
      if found is None or _csv(*found) != kept:
        say(f"{self._path} was changed or removed: its rows up to round {start} are written again "
            "from the checkpoint")
    elif found is None and start != BEFORE_ALL and self._path.exists():
      raise ValueError(f"{self._path} is no table of rounds: put it back from a copy, or remove it "
                       "to go on without its rows")
    else:
      self._fields, self._rows = found or (["round"], [])
    if not self._rows:
      disk.remove(self._path)
    elif self._on_disk() != self._text():
      disk.write(self._path, self._text())

  def write_rows(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Appends rows (round, values), each value with all the digits it has.

    Raises:
      OSError: one line naming the file.
    """
    new = [name for name in dict.fromkeys(name for _, values in rows for name in values)
           if name not in self._fields]
    self._fields += new
    lines = [[str(step), *(_digits(values.get(name)) for name in self._fields[1:])]
             for step, values in rows]
    self._rows += lines
    if new or not self._path.exists():
      disk.write(self._path, self._text())
    else:
      disk.append(self._path, _lines(lines))

  def kept(self) -> str:
    """All rows up to now, for the checkpoint; a file that says anything else is written again.

    Raises:
      OSError: one line naming the file.
    """
    if not self._rows:
      return ""
    text = self._text()
    if self._on_disk() != text:
      self._say(f"{self._path} was changed or removed while the run wrote it: written again")
      disk.write(self._path, text)
    return text

  def rows(self) -> list[tuple[int, dict[str, float]]]:
    """(round, values) of all rows up to now."""
    return _values(self._fields, self._rows)

  def _text(self) -> str:
    return _csv(self._fields, self._rows)

  def _on_disk(self) -> str | None:
    try:
      return self._path.read_bytes().decode()
    except (FileNotFoundError, ValueError):
      return None

  def _table(self, start: int) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows up to a round of the file that is there; None if it is not, or no table."""
    said = self._on_disk()
    if said is None:
      return None
    try:
      return _parsed(said[:said.rfind("\n") + 1], start)
    except ValueError:
      return None


def parsed_rows(text: str, start: float = math.inf) -> list[tuple[int, dict[str, float]]]:
  """(round, values) of a table up to a round; a last line that was cut short is none of it.

  Raises:
    ValueError: text that is no table.
  """
  return _values(*_parsed(text[:text.rfind("\n") + 1], start))


def _values(fields: Sequence[str],
            rows: Sequence[Sequence[str]]) -> list[tuple[int, dict[str, float]]]:
  return [(int(row[0]), {name: float(text) for name, text in zip(fields, row, strict=False)
                         if text and name != "round"}) for row in rows]


def _parsed(text: str, start: float = math.inf) -> tuple[list[str], list[list[str]]]:
  """Columns and rows up to a round; without columns that only later rows fill.

  Raises:
    ValueError: text that is no table.
  """
  try:
    fields, *rows = list(csv.reader(io.StringIO(text), strict=True)) or [["round"]]
    rows = [row for row in rows if int(row[0]) <= start]
  except (csv.Error, IndexError) as error:
    raise ValueError(f"no rows of rounds: {error}") from None
  if fields[0] != "round" or any(len(row) != len(fields) for row in rows):
    raise ValueError("rows of other lengths than the header")
  used = [column == 0 or any(row[column] for row in rows) for column in range(len(fields))]
  return (list(itertools.compress(fields, used)),
          [list(itertools.compress(row, used)) for row in rows])


def _csv(fields: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return _lines([fields, *([*row, *[""] * (len(fields) - len(row))] for row in rows)])


def _lines(rows: Sequence[Sequence[str]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()


def _digits(value: float | None) -> str:
  return "" if value is None else repr(float(value))


class TensorBoard:
  """TensorBoard event files (tensorboardX, no TensorFlow), written by the caller's own thread.

  Values wait in memory until `flush`, or some seconds; nothing is queued that could fill up.

  Args:
    folder: of the run.
    start: rounds that were done; what the files say of later ones is hidden.
    rows: (round, values) up to there, `CsvFile.rows`. Those that the files lack are written.

  Raises:
    OSError: one line naming the file.
  """

  def __init__(self, folder: str | os.PathLike, start: int,
               rows: Sequence[tuple[int, Mapping[str, float]]] = ()):
    folder = pathlib.Path(folder)
    finite = [(step, _finite(values)) for step, values in rows]
    missing = event_files.first_missing(folder, finite)
    hidden_from = (start + 1 if start else 0) if missing is None else missing
    self._path = event_files.new_path(folder)
    self._waiting, self._written = bytearray(event_files.opening(hidden_from)), -math.inf
    for step, values in finite:
      if missing is not None and step >= missing:
        self.write(step, values)
    self.flush()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One scalar for each finite value; TensorBoard has no axis for the others.

    Raises:
      OSError: one line naming the file.
    """
    if shown := _finite(values):
      self._waiting += event_files.scalars(step, shown)
    if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
      self.flush()

  def flush(self) -> None:
    """Puts everything on the disk.

    Raises:
      OSError: one line naming the file; what it says after this place cannot be read.
    """
    waiting, self._waiting, self._written = bytes(self._waiting), bytearray(), time.monotonic()
    if waiting:
      disk.append(self._path, waiting)

  def close(self) -> None:
    """Flushes the file; a warning says where it cannot, as the run has ended by now."""
    try:
      self.flush()
    except OSError as error:
      logging.warning("%s", error)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
  return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def require_trackers(wandb: str) -> None:
  """Raises ValueError where metrics are to be sent by a package that is not there."""
  if wandb and importlib.util.find_spec("wandb") is None:
    raise ValueError(f"compute.wandb={wandb!r} needs the package wandb: pip install wandb, or "
                     "leave it empty")


class WeightsAndBiases:
  """A Weights & Biases run, continued under the same id after an interruption."""

  def __init__(self, folder: str | os.PathLike, project: str, config: Mapping[str, Any]):
    try:
      import wandb
    except ImportError:
      raise ValueError(f"compute.wandb={project!r} needs the package wandb: pip install wandb, "
                       "or leave it empty") from None
    marker = pathlib.Path(folder) / "wandb_id"
    if not marker.exists():
      disk.write(marker, wandb.util.generate_id())
    self._run = wandb.init(project=project, dir=str(folder), config=dict(config),
                           id=marker.read_text().strip(), resume="allow")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the values at `step`."""
    self._run.log(dict(values), step=step)

  def flush(self) -> None:
    """Nothing: its own process sends what it has."""

  def close(self) -> None:
    """Marks the run as finished."""
    self._run.finish()


def read_json(path: pathlib.Path, *needs: str) -> dict[str, Any]:
  """What a JSON file of a run says.

  Args:
    path: of the file.
    *needs: names that it must have.

  Raises:
    ValueError: it is not readable, no mapping, or lacks a name.
  """
  try:
    said = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not a readable JSON file: {error}") from None
  if not isinstance(said, dict):
    raise ValueError(f"{path} is of another form: expected a mapping, not "
                     f"{type(said).__name__}")
  if missing := [name for name in needs if name not in said]:
    raise ValueError(f"{path} is not of a run of this version: it says no {missing[0]}")
  return said
