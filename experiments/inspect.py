r"""Looks at the data of a config before anything trains, and writes a page about them.

python -m experiments.inspect --config=configs/dp_fedemb.py:synthetic --out=inspect.html
python -m experiments.inspect --config=configs/dp_fedemb.py --data=folder --data.path=PEOPLE
python -m experiments.inspect --config=configs/dp_fedemb.py --workdir=RUN

Prints how many images and people there are, pictures that are there twice, in the private set and
in one that is public or judges, or under two people; warnings come first. With --workdir the model
of a run says which people may be one under two names. The page shows some images of each set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments import calls, command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  calls.define(values)
  command_line.define_shared(values)
  flags.DEFINE_string("out", "inspect.html", "file of the page", flag_values=values)
  return values


def _inspect(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  calls.parse(values, arguments, __doc__, needed=("config",))
  from fedjax_face.runs.asked import from_config
  from fedjax_face.runs.inspection import inspect
  from fedjax_face.runs.load import load
  data = from_config(calls.said(arguments))["data"]
  model = load(values.workdir) if values.workdir else None
  found = inspect(data, model=model, out=values.out)
  print("\n".join(found.lines))
  print(f"page: {values.out}")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["inspect", *arguments]
  return command_line.one_line_errors(
      lambda: _inspect(_flags(), given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
