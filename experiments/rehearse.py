r"""Chooses clip norm, learning rates, local epochs and margin on public people, for no privacy.

python -m experiments.rehearse --config=configs/dp_fedemb.py:synthetic --workdir=runs/rehearsal
python -m experiments.train --config=configs/dp_fedemb.py:synthetic --workdir=runs/rehearsed \
    --overrides=runs/rehearsal/rehearsal.json

Of the people of the public set half pre-train, if the config has a start, a fifth judges, the
others are clients, on whose mean update lies the noise that the run will have. Writes
rehearsal.json; with --overrides the privacy statement says what was chosen on whom.
"""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from experiments import calls, command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  calls.define(values)
  command_line.define_shared(values)
  flags.DEFINE_integer("candidates", 16, "how many settings are tried, the config's own among "
                       "them", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("repetitions", 3, "of the finalists", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("rounds", None, "of the final; default the run's", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_float("minutes", None, "stop near them; default no limit", flag_values=values)
  return values


def _rehearse(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  calls.parse(values, arguments, __doc__)
  from fedjax_face.runs import asked, rehearsal
  record = rehearsal.rehearse(
      **asked.from_config(calls.said(arguments)), workdir=values.workdir,
      candidates=values.candidates, repetitions=values.repetitions, final_rounds=values.rounds,
      minutes=values.minutes, say=lambda line: print(line, file=sys.stderr, flush=True))
  _print(record, pathlib.Path(values.workdir) / "rehearsal.json")


def _print(record: Mapping, path: pathlib.Path) -> None:
  from rich.console import Console
  from rich.table import Table
  table = Table(title=f"{record['metric']} on {record['people']['judges']} people of "
                      f"{record['set']}; start {record['start']['score']:.4f}")
  names = list(record["trials"][0]["values"])
  for column in ("candidate", *(n.removeprefix("method.") for n in names), "rounds", "score"):
    table.add_column(column, justify="right")
  for trial in record["trials"]:
    marked = "*" * (trial["candidate"] == record["winner"]["candidate"])
    values = [f"{float(trial['values'].get(name, math.nan)):g}" for name in names]
    table.add_row(f"{trial['candidate']}{marked}", *values, str(trial["rounds"]),
                  f"{float(trial['score']):.4f}")
  Console(width=None if sys.stdout.isatty() else 140).print(table)
  for warning in record["warnings"]:
    print(f"Warning: {warning}.")
  print(" ".join(f"--config.{name}={value}" for name, value in record["overrides"].items()))
  print(f"With what the privacy statement says of it: --overrides={path}")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["rehearse", *arguments]
  return command_line.one_line_errors(
      lambda: _rehearse(_flags(), given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
