r"""Plays the attacks that a config names, and writes what they recovered as tables and figures.

python -m experiments.attack --config=configs/leak_back.py --workdir=runs/leak_back
python -m experiments.attack --config=configs/activation_attacks.py --workdir=runs/attacks

Writes attack.json, attack.png and, where faces are reconstructed, grids of them.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import command_line

if TYPE_CHECKING:
  from fedjax_face.attacks.leak_back import Outcome


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  return values


def _attack(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  command_line.parse(values, arguments, __doc__)
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  name = values.config.get("attack")
  if name not in ATTACKS:
    raise ValueError(f"config.attack={name!r} is not one of {', '.join(ATTACKS)}")
  workdir = pathlib.Path(values.workdir)
  ATTACKS[name](values.config, workdir)
  print(f"results: {workdir}/attack.json  figure: {workdir}/attack.png")


def _leak_back(config: Any, workdir: pathlib.Path) -> None:
  import jax

  from fedjax_face.attacks import leak_back
  from fedjax_face.figures import figures, leak_back_figure
  from fedjax_face.losses.gradient_correction import gradient_correction
  from fedjax_face.training.records import make_guarded, write_json

  of_population, of_attack = jax.random.split(jax.random.key(config.seed))
  server = config.server
  outcomes = leak_back.study(
      {form: gradient_correction(form, normalised=True) for form in server.forms},
      leak_back.isotropic_population(of_population, **config.population), of_attack,
      scales=server.scales, strengths=server.strengths, margin=server.margin,
      learning_rate=server.learning_rate, steps=server.steps, noise_std=server.noise_std,
      **config.attacker)
  make_guarded(workdir)
  write_json(workdir / "attack.json", {"config": config.to_dict(), "outcomes": [
      {"form": o.form, "scale": o.scale, "strength": o.strength,
       "probe": o.probe.value, "recovered": o.recovered._asdict()} for o in outcomes]})
  said = (f"{config.population.classes} classes of {config.population.clients} clients, "
          f"{config.population.dim} dimensions, {config.population.targets} targets, noise "
          f"{server.noise_std:g} on returned rows")
  figures.save(leak_back_figure.recovered_templates(outcomes, title=said), workdir / "attack.png")
  _print(outcomes, said)


def _print(outcomes: Sequence[Outcome], title: str) -> None:
  from rich.console import Console
  from rich.table import Table

  strengths = list(dict.fromkeys(o.strength for o in outcomes))
  table = Table(title=f"cosine of recovered and true class embedding; {title}")
  for column in ("form", "scale", "probe", *(f"lambda {strength:g}" for strength in strengths)):
    table.add_column(column, justify="left" if column == "form" else "right")
  for form, scale in dict.fromkeys((o.form, o.scale) for o in outcomes):
    row = {o.strength: o for o in outcomes if (o.form, o.scale) == (form, scale)}
    table.add_row(form.replace("_", " "), f"{scale:g}", f"{row[strengths[0]].probe.value:.3f}",
                  *(f"{row[strength].recovered.value:.3f}" for strength in strengths))
  Console(width=None if sys.stdout.isatty() else 120).print(table)


def _activations(config: Any, workdir: pathlib.Path) -> None:
  from experiments.activation_attacks import play
  play(config, workdir)


ATTACKS: Mapping[str, Callable[[Any, pathlib.Path], None]] = {
    "activations": _activations, "leak_back": _leak_back}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["attack", *arguments]
  values = _flags(given)
  return command_line.one_line_errors(
      lambda: _attack(values, given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
