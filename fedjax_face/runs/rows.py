"""The rows of metrics.csv: what a dispatch measured, and the epsilon so far."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.privacy.statement import delta_warning
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.loop import Progress
from fedjax_face.runs.records import parsed_rows
from fedjax_face.runs.run_statement import population_of

Values = dict[str, float]


def opening_lines(experiment: Experiment) -> list[str]:
  """For whom epsilon is meant, and a warning where delta is too large for their number."""
  delta, lines = experiment.config.privacy.delta, []
  for unit, adjacency in dict.fromkeys(
      (release.unit, release.adjacency) for release in experiment.algorithm.releases
      if not is_non_private(release.event)):
    lines.append(f"epsilon is for each {unit}, {adjacency.value.replace('_', '-')}, "
                 f"at delta {delta:g}")
    if warning := delta_warning(delta, unit, population_of(experiment)[unit]):
      lines.append(f"Warning: {warning}")
  return lines


def rows_of(progress: Progress, ledger: Ledger,
            experiment: Experiment) -> list[tuple[int, Values]]:
  """Records the releases of each round, and its metrics.

  The epsilon so far is computed where a full dispatch ends, a matter of the round's number alone,
  so that a resumed run writes the same rows.
  """
  options, rows = experiment.config, []
  for offset, done in enumerate(range(progress.span.start + 1, progress.span.stop + 1)):
    for release in experiment.algorithm.releases:
      ledger.record(release)
    values = {name: float(value[offset]) for name, value in progress.metrics.items()}
    if done % options.training.rounds_per_dispatch == 0 or done == options.rounds:
      values |= _epsilons(ledger, options.privacy.delta)
    rows.append((done, values))
  return rows


def add(row: Values, evaluated: Mapping[str, float]) -> None:
  """Puts an evaluation beside what the round itself measured, never over it."""
  if shared := row.keys() & evaluated.keys():
    raise RuntimeError(f"training and evaluation both call a metric {min(shared)}")
  row.update(evaluated)


def _epsilons(ledger: Ledger, delta: float) -> Values:
  units = ledger.units
  return {"epsilon" if len(units) == 1 else f"epsilon_{unit}": ledger.epsilon_so_far(delta, unit)
          for unit in units}


def rows_in(kept: str, path: pathlib.Path, done: int) -> list[tuple[int, Values]]:
  """(round, values) of the rounds of a checkpoint.

  Args:
    kept: its `records`.
    path: of metrics.csv, which is read where the checkpoint keeps no rows.
    done: rounds done.

  Raises:
    ValueError: a file that is no table.
  """
  if kept or not path.is_file():
    return parsed_rows(kept, done)
  try:
    return parsed_rows(path.read_text(), done)
  except ValueError as error:
    raise ValueError(f"{path} is no table of rounds ({error}): put it back from a copy, or remove "
                     "it to go on without its rows") from None


def columns(rows: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, np.ndarray]:
  """Column -> [rows], `round` the first; NaN where a row has no value."""
  names = list(dict.fromkeys(name for _, row in rows for name in row))
  found = {"round": np.asarray([done for done, _ in rows])}
  return found | {name: np.asarray([float(row.get(name, np.nan)) for _, row in rows])
                  for name in names}
