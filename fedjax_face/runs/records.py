"""Files of a run that are read by people and by programs: JSON, CSV, TensorBoard, W&B."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

BEFORE_ALL = -1


def make_guarded(folder: str | os.PathLike) -> None:
  """Makes a run's folder, for its owner alone (0700); one that exists keeps its mode."""
  path = pathlib.Path(folder)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.mkdir(mode=0o700, exist_ok=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Replaces the file at once: a reader, or a killed run, sees the old text or the new."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial")
  try:
    with open(partial, "w") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    partial.unlink(missing_ok=True)
    raise OSError(f"{path} not written: {error.strerror or error}") from error


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
  above. Opening the file for a run that continues after round `start` drops the rows past it and
  a last line that was cut short; `BEFORE_ALL` drops every row, for a run that begins with the row
  of round 0. No column holds a time, so equal runs have equal files.
  """

  def __init__(self, path: str | os.PathLike, start: int):
    self._path = pathlib.Path(path)
    self._fields: list[str] = ["round"]
    if self._path.exists():
      self._truncate(start)

  def write_rows(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Appends rows (round, values), each value with all the digits it has.

    Raises:
      OSError: one line naming the file.
    """
    new = [name for name in dict.fromkeys(name for _, values in rows for name in values)
           if name not in self._fields]
    if new:
      self._extend_header(new)
    lines = [[str(step), *(_digits(values.get(name)) for name in self._fields[1:])]
             for step, values in rows]
    try:
      with open(self._path, "a") as file:
        file.write(_csv(lines))
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise OSError(f"{self._path} not written: {error.strerror or error}") from error

  def _truncate(self, start: int) -> None:
    lines = self._path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    kept = whole[:1] + [line for line in whole[1:] if int(line.split(",", 1)[0]) <= start]
    if len(kept) > 1:
      self._fields = next(csv.reader(kept[:1]))
      write_atomically(self._path, "".join(kept))
    else:
      self._path.unlink()

  def _extend_header(self, names: Sequence[str]) -> None:
    old = self._path.read_text().splitlines() if self._path.exists() else []
    self._fields += names
    rows = [[*row, *[""] * len(names)] for row in csv.reader(old[1:])]
    write_atomically(self._path, _csv([self._fields, *rows]))


def _csv(rows: Sequence[Sequence[str]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()


def _digits(value: float | None) -> str:
  return "" if value is None else repr(float(value))


class TensorBoard:
  """TensorBoard event files, by tensorboardX (no TensorFlow)."""

  def __init__(self, folder: str | os.PathLike, start: int):
    from tensorboardX import SummaryWriter
    self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else 0)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One scalar for each finite value; TensorBoard has no axis for the others."""
    for name, value in values.items():
      if math.isfinite(value):
        self._writer.add_scalar(name, float(value), step)

  def close(self) -> None:
    """Flushes the file."""
    self._writer.close()


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
      write_atomically(marker, wandb.util.generate_id())
    self._run = wandb.init(project=project, dir=str(folder), config=dict(config),
                           id=marker.read_text().strip(), resume="allow")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the values at `step`."""
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    """Marks the run as finished."""
    self._run.finish()


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """What a JSON file of a run says; raises ValueError for one that is not readable."""
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not a readable JSON file: {error}") from None
