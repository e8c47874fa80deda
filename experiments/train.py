r"""Trains what a config describes, and continues where an interrupted run stopped.

python -m experiments.train --config=configs/NAME.py[:variant] --workdir=DIR
python -m experiments.train --config=... --workdir=DIR --config.method.local.epochs=2

--overrides=REHEARSAL/rehearsal.json takes the values that experiments.rehearse chose.
--privacy_budget=FILE keeps count of what all runs on the same people release together.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments import calls, command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  calls.define(values)
  command_line.define_shared(values)
  flags.DEFINE_string("overrides", None, "rehearsal.json, whose values replace those of the config",
                      flag_values=values)
  flags.DEFINE_boolean("restart_same_noise", False, "a run whose checkpoints are lost begins again "
                       "with the same noise on the same data", flag_values=values)
  flags.DEFINE_boolean("allow_other_platform", False, "an interrupted run may go on with other "
                       "devices, versions or instructions; its statement says so",
                       flag_values=values)
  command_line.define_budget(values)
  flags.DEFINE_string("coordinator", "", "host:port of process 0 of a multi-process run",
                      flag_values=values)
  flags.DEFINE_integer("processes", 1, "processes of the run", flag_values=values)
  flags.DEFINE_integer("process", 0, "number of this process", flag_values=values)
  return values


def _train(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  calls.parse(values, arguments, __doc__)
  from fedjax_face.runs import asked, figures, fit, mesh, summary
  from fedjax_face.runs.records import read_json
  if values.coordinator or values.processes > 1:
    mesh.connect(values.coordinator, values.processes, values.process)
  arguments = [*arguments, *(f"--config.compute.{name}=True" for name in (
      "restart_same_noise", "allow_other_platform") if values[name].value)]
  config = calls.said(arguments)
  if values.overrides:
    from fedjax_face.runs import rehearsal
    config = rehearsal.applied(config, values.overrides, calls.overrides(arguments))
  made = asked.Asked.of_config(config)
  workdir = pathlib.Path(values.workdir).absolute()
  say = lambda line: print(line, file=sys.stderr, flush=True) if mesh.is_main_process() else None
  fit.carried_out(made, workdir, say, account=command_line.privacy_budget(values))
  if mesh.is_main_process():
    figures.save(workdir, made.evaluation.headline)
    summary.print_results(workdir, read_json(workdir / "summary.json"),
                          read_json(workdir / "privacy.json"), made.evaluation.headline)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["train", *arguments]
  return command_line.one_line_errors(
      lambda: _train(_flags(), given), lambda: "--debug" in given, continues=True)


if __name__ == "__main__":
  sys.exit(main())
