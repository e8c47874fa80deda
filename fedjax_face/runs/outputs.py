"""What a run writes while it trains: metrics.csv, TensorBoard, trackers, progress."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedjax_face.runs import config
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.mesh import is_main_process
from fedjax_face.runs.progress import Display
from fedjax_face.runs.records import BEFORE_ALL, CsvFile, TensorBoard, WeightsAndBiases

Rows = Sequence[tuple[int, Mapping[str, float]]]


class Outputs:
  """Where rows of metrics go; process 0 writes, the others do nothing.

  Attributes:
    display: of the progress.
  """

  def __init__(self, display: Display, table: CsvFile | None, writers: Sequence[Any]) -> None:
    self.display, self._table, self._writers = display, table, writers

  def write(self, rows: Rows) -> None:
    """Rows (rounds done, values), each for the first time."""
    if self._table is None:
      return
    self._table.write_rows(rows)
    for done, values in rows:
      for writer in self._writers:
        writer.write(done, values)

  def kept(self) -> str:
    """Everything on the disk; the rows up to now, for the checkpoint."""
    for writer in self._writers:
      writer.flush()
    return "" if self._table is None else self._table.kept()

  def close(self) -> None:
    """Ends what is written to."""
    for writer in self._writers:
      writer.close()


@contextlib.contextmanager
def opened(experiment: Experiment, before: Checkpoint,
           workdir: pathlib.Path) -> Iterator[Outputs]:
  """The outputs of a run that goes on from a checkpoint: its rows are there again, later ones not.
  """
  options, start = experiment.config, before.round
  with Display(options.rounds, start, shown=is_main_process()) as display:
    if not is_main_process():
      yield Outputs(display, None, ())
      return
    table = CsvFile(workdir / "metrics.csv", start or BEFORE_ALL, before.records, display.say)
    writers: list[Any] = [TensorBoard(workdir, start, table.rows())]
    if options.training.get("wandb"):
      said = config.as_dict(experiment.record)
      writers.append(WeightsAndBiases(workdir, options.training.wandb, said))
    outputs = Outputs(display, table, writers)
    try:
      yield outputs
    finally:
      outputs.close()
