r"""Trains what a config describes, and continues where an interrupted run stopped.

python -m experiments.train --config=configs/NAME.py[:variant] --workdir=DIR \
    --config.x.y=value

--overrides=REHEARSAL/rehearsal.json takes the values that experiments.rehearse chose.
--privacy_budget=FILE keeps count of what all runs on the same people release together.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments import calls, command_line


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  command_line.define_overrides(values)
  command_line.define_budget(values)
  flags.DEFINE_string("coordinator", "", "host:port of process 0 of a multi-process run",
                      flag_values=values)
  flags.DEFINE_integer("processes", 1, "processes of the run", flag_values=values)
  flags.DEFINE_integer("process", 0, "number of this process", flag_values=values)
  return values


def _train(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  command_line.parse(values, arguments, __doc__)
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.runs import figures as run_figures
  from fedjax_face.training import mesh, run, summary
  if values.coordinator or values.processes > 1:
    mesh.connect(values.coordinator, values.processes, values.process)
  done, privacy = run.run(values.config, values.workdir,
                          budget=command_line.privacy_budget(values))
  if mesh.is_main_process():
    workdir = pathlib.Path(values.workdir)
    run_figures.save(workdir, values.config.evaluation.get("headline", ()))
    summary.print_results(workdir, done, privacy, values.config.evaluation.get("headline", ()))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["train", *arguments]

  def run() -> None:
    config = calls.config_of(given)
    if config is None:
      _train(_flags(given), given)
    else:
      calls.train(config, given, __doc__)

  return command_line.one_line_errors(run, lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
