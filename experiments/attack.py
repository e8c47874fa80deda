r"""Plays the attacks that a config names, and writes what they recovered as tables and figures.

python -m experiments.attack --config=configs/leak_back.py --workdir=runs/leak_back
python -m experiments.attack --config=configs/activation_attacks.py --workdir=runs/attacks

Writes attack.json, attack.png and, where faces are reconstructed, grids of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import calls, command_line

if TYPE_CHECKING:
  from fedjax_face.attacks.attacked import Attacked


def _attack(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  calls.define(values)
  command_line.define_shared(values)
  calls.parse(values, arguments, __doc__)
  from fedjax_face.attacks.attack import attack
  _print(attack(_said(arguments), values.workdir))
  print(f"results: {values.workdir}/attack.json  figure: {values.workdir}/attack.png")


def _said(arguments: Sequence[str]) -> dict[str, Any]:
  """What is asked; the config and the cuts that it names are as their file has them."""
  from fedjax_face import options
  from fedjax_face.attacks.attack import ATTACKS, options_of
  config = calls.config_of(arguments)
  takes = options_of(config["attack"]) if config.get("attack") in ATTACKS else {}
  if "variant" in config:
    takes |= {"config": str, "variant": str, "cuts": tuple[str, ...]}
  asked = options.override(config, {"attack": str, **takes}, calls.overrides(arguments)).config
  if "variant" in config:
    module, variant = calls.module_of(f"{asked['config']}:{asked.pop('variant')}")
    asked["config"], known = module["get_config"](*variant), module["CUTS"]
    for cut in asked["cuts"]:
      if cut not in known:
        raise ValueError(f"config.cuts: {cut!r} is not one of {', '.join(known)}")
    asked["cuts"] = {cut: known[cut] for cut in asked["cuts"]}
  return asked


def _print(found: Attacked) -> None:
  from rich.console import Console
  from rich.table import Table
  table = Table(title=found.title)
  for i, column in enumerate(found.columns):
    table.add_column(column, justify="right" if i else "left")
  for row in found.rows:
    table.add_row(*row)
  Console(width=None if sys.stdout.isatty() else 140).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["attack", *arguments]
  return command_line.one_line_errors(
      lambda: _attack(flags.FlagValues(), given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
