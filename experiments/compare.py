r"""Runs a config beside its baselines over several seeds and prints one table.

python -m experiments.compare --config=configs/dp_fedemb.py:femnist --workdir=runs/femnist --seeds=3

What is compared is `get_comparison(variant)` of the config file: names and the overrides that make
each setting. comparison.json holds the table; curves.png draws the headline metrics over training,
where they were evaluated on the way. Below the settings stands what the first of them compared
itself with: its start, an untrained backbone, raw pixels. Where the file has `get_gap(variant)`,
two names, the table also says how much of the gap between these two each setting closes, and
gap.png and overlap.png show it. Where it has `get_non_private(variant)`, the name of the setting
without privacy, the table also says which share of that one's gain over the start each setting
keeps. Where it has `get_equivalence(variant)`, {"reference": setting, "margins": {metric: margin}},
a second table says which settings are as good as the reference within the margins.

Settings whose pre-training has the same config and images share it, in public_stages/. Finished
runs are not repeated, so seeds can be computed by several processes (--only_seed) and joined by a
last call. --privacy_budget=FILE enters the run of every setting and seed before its first release.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import calls, command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string("config", None, "configs/NAME.py[:variant]", flag_values=values)
  flags.DEFINE_integer("seeds", 3, "seeds 0, 1, ... of every setting", lower_bound=2,
                       flag_values=values)
  flags.DEFINE_integer("only_seed", None, "run this seed alone and print no table",
                       flag_values=values)
  command_line.define_shared(values)
  command_line.define_budget(values)
  return values


def settings(path: str) -> dict[str, Any]:
  """The arguments of `compare` but for folder and seeds, of `configs/NAME.py:variant`.

  Raises:
    ValueError: the file has no `get_comparison`, or a setting that is refused.
    FileNotFoundError: no such file.
  """
  from fedjax_face.runs.comparison_table import Margins
  module, variant = calls.module_of(path)
  if "get_comparison" not in module:
    raise ValueError(f"{path.partition(':')[0]} has no get_comparison(variant)")
  given = {name: module[f"get_{name}"](*variant) for name in ("gap", "equivalence", "non_private")
           if f"get_{name}" in module}
  if "equivalence" in given:
    given["equivalence"] = Margins(**given["equivalence"])
  return given | {"settings": {
      name: _setting(module["get_config"](*variant), overrides, name)
      for name, overrides in module["get_comparison"](*variant).items()}}


def _setting(config: Any, overrides: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The arguments of `fit` of a config with overrides: path -> value."""
  from fedjax_face.runs.asked import changed, from_config
  try:
    return from_config(changed(config, overrides))
  except ValueError as error:
    raise ValueError(f"get_comparison, {name}: {error}") from error


def _compare(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  calls.parse(values, arguments, __doc__)
  from fedjax_face.runs import compare, comparison_text
  given, account = settings(values.config), command_line.privacy_budget(values)
  if values.only_seed is not None:
    asked = compare.checked(**given)
    compare.run_all(asked, pathlib.Path(values.workdir).absolute(), [values.only_seed], account)
    return
  found = compare.compare(**given, workdir=values.workdir, seeds=range(values.seeds),
                          account=account)
  comparison_text.print_table(found.table, found.headline, values.seeds,
                              comparison_text.unit_of(found.runs), found.beside)
  if given.get("equivalence"):
    comparison_text.print_equivalence(found.table, given["equivalence"])


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["compare", *arguments]
  return command_line.one_line_errors(
      lambda: _compare(_flags(), given), lambda: "--debug" in given, continues=True)


if __name__ == "__main__":
  sys.exit(main())
