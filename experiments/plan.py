r"""How many clients does a target epsilon take in a population of N users?

Keeps the noise on the mean update that a small simulation tolerates, raises the virtual clients of
a round, and prints for several populations the smallest cohort that reaches the target. Writes
plan.json and epsilon_vs_population.png.

python -m experiments.plan --population 1000000 --target_epsilon 8 --delta 1e-7 --rounds 200 \
    --virtual_clients 32 --users_per_client 8 --noise_multiplier 0.62 --sampling fixed \
    --output_dir runs/plan
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import rich.box
import rich.console
import rich.table

from fedjax_face.figures import figures
from fedjax_face.privacy import accounting, calibration, planning, statement
from fedjax_face.privacy.planning import Plan, Simulation
from fedjax_face.training.records import write_json

LENET_PARAMETERS = 453_632
_TABLE = (0.01, 0.1, 1.0, 10.0)             # populations of the table, times N
_FIGURE = tuple(10 ** (i / 2) for i in range(-4, 3))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns the exit status, 2 after one line about bad input."""
  console = rich.console.Console()
  try:
    options = _parser().parse_args(arguments)
    simulation = _simulation(options)
    _check(options, simulation)
    _prepare(options.output_dir)
    plans = _plans(options, simulation, console)
    curves = _curves(options, simulation, plans, console)
  except (ValueError, OSError) as error:
    print(f"plan: {error}", file=sys.stderr)
    return 2
  console.print(_table(plans, options, simulation))
  ratio = _noise_norm_ratio(options, simulation)
  console.print(f"Noise on the mean over {options.parameters:,} parameters has norm {ratio:.3g} "
                "times the clip norm.")
  if warning := planning.noise_norm_warning(ratio):
    console.print(f"Warning: {warning}.")
  if warning := statement.delta_warning(options.delta, "user", options.population):
    console.print(f"Warning: {warning}.")
  _write(options, simulation, plans, curves)
  console.print(f"Wrote plan.json and epsilon_vs_population.png to {options.output_dir}")
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--population", type=int, required=True, help="users N that can take part")
  add("--target_epsilon", type=float, required=True, help="epsilon of the whole run")
  add("--delta", type=float, required=True, help="below 1/N")
  add("--rounds", type=int, required=True, help="rounds T")
  add("--virtual_clients", type=int, required=True, help="K of the simulation, clients in a round")
  add("--users_per_client", type=int, required=True, help="users m in a virtual client")
  add("--noise_multiplier", type=float, help="z of the simulation: noise on the sum / clip norm")
  add("--noise_on_mean", type=float, help="instead of z: standard deviation zC/K on the mean")
  add("--clip_norm", type=float, default=1.0, help="C, L2 norm of a client's update (default 1)")
  add("--parameters", type=int, default=LENET_PARAMETERS,
      help=f"numbers in an update (default {LENET_PARAMETERS:,}: the LeNet for 28x28 grey images "
           "and 128 embedding dimensions, without a head)")
  add("--sampling", choices=sorted(planning.SAMPLING), default="fixed",
      help="fixed: K*m users a round, replace-one; poisson: K*m expected, add-or-remove-one "
           "(default fixed)")
  add("--output_dir", type=pathlib.Path, default=pathlib.Path("runs/plan"),
      help="folder for plan.json and the figure (default runs/plan)")
  return parser


def _simulation(options: argparse.Namespace) -> Simulation:
  given, value = calibration.require_exactly_one({
      "--noise_multiplier": options.noise_multiplier, "--noise_on_mean": options.noise_on_mean})
  if not 0 < options.clip_norm < math.inf:
    raise ValueError(f"--clip_norm={options.clip_norm}: expected a finite number above 0")
  if given == "--noise_on_mean":
    value *= options.virtual_clients / options.clip_norm
  return Simulation(options.virtual_clients, options.users_per_client, value, options.rounds,
                    options.sampling)


def _check(options: argparse.Namespace, simulation: Simulation) -> None:
  if not 0 < options.target_epsilon < math.inf:
    raise ValueError(f"--target_epsilon={options.target_epsilon}: expected a finite number "
                     "above 0")
  if not 0 < options.delta < 1:
    raise ValueError(f"--delta={options.delta}: expected a number in (0, 1)")
  if options.parameters < 1:
    raise ValueError(f"--parameters={options.parameters}: expected at least 1")
  planning.run_event(simulation, options.population, simulation.virtual_clients)


def _prepare(folder: pathlib.Path) -> None:
  """Makes the folder and tries to write in it, before anything is computed for it."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(f"--output_dir={folder}: expected a folder that can be written "
                     f"({error.strerror})") from error
  for name in ("plan.json", "epsilon_vs_population.png"):
    if (folder / name).is_dir():
      raise ValueError(f"--output_dir={folder}: {name} is a folder; expected a file or nothing")


def _populations(options: argparse.Namespace, simulation: Simulation,
                 factors: Sequence[float]) -> list[int]:
  """Populations around N that hold at least one simulated round."""
  smallest = simulation.virtual_clients * simulation.users_per_client
  return [n for n in (round(options.population * f) for f in factors) if n >= smallest]


def _plans(options: argparse.Namespace, simulation: Simulation,
           console: rich.console.Console) -> list[Plan]:
  plans = []
  with console.status("") as status:
    for population in _populations(options, simulation, _TABLE):
      def progress(clients: int, epsilon: float, population: int = population) -> None:
        status.update(f"N={population:,}: {clients:,} virtual clients, epsilon {epsilon:.3g}")

      plans.append(planning.smallest_cohort(
          simulation, population, options.target_epsilon, options.delta, progress))
  return plans


def _curves(options: argparse.Namespace, simulation: Simulation, plans: Sequence[Plan],
            console: rich.console.Console) -> dict[int, list[tuple[int, float]]]:
  """K -> (N, epsilon) over the populations that hold K clients; K simulated and planned."""
  sizes = {simulation.virtual_clients, *(p.virtual_clients for p in plans if p.meets_target)}
  curves: dict[int, list[tuple[int, float]]] = {}
  with console.status("") as status:
    for clients in sorted(sizes):
      status.update(f"figure: {clients:,} virtual clients")
      points = [
          (n, accounting.smallest_finite(planning.run_event(simulation, n, clients),
                                         options.delta, simulation.adjacency))
          for n in _populations(options, simulation, _FIGURE)
          if n >= clients * simulation.users_per_client]
      if points:
        curves[clients] = points
  return curves


def _table(plans: Sequence[Plan], options: argparse.Namespace,
           simulation: Simulation) -> rich.table.Table:
  table = rich.table.Table(
      box=rich.box.SIMPLE, caption="missed: not even with everybody in every round", title=(
          f"Fewest virtual clients K for epsilon {options.target_epsilon:g} per user at delta "
          f"{options.delta:g}, {simulation.adjacency.value.replace('_', '-')}, "
          f"{simulation.rounds} rounds, {simulation.users_per_client} users per client, "
          f"noise on the mean {_noise_on_mean(options, simulation):.4g}"))
  for name in ("N", "K", "z", "z/sens.", "q", "eps RDP", "eps PLD", "target"):
    table.add_column(name, justify="right", no_wrap=True)
  for p in plans:
    table.add_row(
        f"{p.population:,}", f"{p.virtual_clients:,}", f"{p.noise_multiplier:.4g}",
        f"{p.effective_multiplier:.4g}", f"{p.sampling_rate:.3g}", f"{p.rdp:.3f}", f"{p.pld:.3f}",
        "met" if p.meets_target else "missed",
        style="bold" if p.population == options.population else None)
  return table


def _noise_on_mean(options: argparse.Namespace, simulation: Simulation) -> float:
  return simulation.noise_multiplier * options.clip_norm / simulation.virtual_clients


def _noise_norm_ratio(options: argparse.Namespace, simulation: Simulation) -> float:
  """The same for every plan: they keep the noise on the mean."""
  return planning.noise_norm_ratio(
      simulation.noise_multiplier, simulation.virtual_clients, options.parameters)


def _write(options: argparse.Namespace, simulation: Simulation, plans: Sequence[Plan],
           curves: dict[int, list[tuple[int, float]]]) -> None:
  options.output_dir.mkdir(parents=True, exist_ok=True)
  record = {
      "unit": "user",
      "adjacency": simulation.adjacency.value,
      "delta": options.delta,
      "target_epsilon": options.target_epsilon,
      "clip_norm": options.clip_norm,
      "noise_on_mean": _noise_on_mean(options, simulation),
      "parameters": options.parameters,
      "noise_norm_ratio": _noise_norm_ratio(options, simulation),
      "simulation": dataclasses.asdict(simulation),
      "smallest_cohorts": [dataclasses.asdict(p) for p in plans],
      "curves": [{"virtual_clients": k, "population": [n for n, _ in points],
                  "epsilon": [epsilon for _, epsilon in points]} for k, points in curves.items()],
  }
  write_json(options.output_dir / "plan.json", record)
  _draw(curves, options, simulation)


def _draw(curves: dict[int, list[tuple[int, float]]], options: argparse.Namespace,
          simulation: Simulation) -> None:
  populations = _populations(options, simulation, _FIGURE)
  lines = {}
  for clients, points in curves.items():
    noise = simulation.noise_multiplier * clients / simulation.virtual_clients
    known = dict(points)
    if math.isinf(points[-1][1]):
      continue                    # no guarantee even in the largest population
    lines[f"K = {clients:,}, z = {noise:.3g}"] = [_drawn(known.get(n, np.nan)) for n in populations]
  drawing = figures.population_planning(
      populations, lines, target=options.target_epsilon, delta=options.delta, unit="user",
      adjacency=simulation.adjacency.value.replace("_", "-"))
  figures.save(drawing, options.output_dir / "epsilon_vs_population.png")


def _drawn(epsilon: float) -> float:
  """What a logarithmic axis can show: nan for no guarantee, and never next to 0."""
  return max(epsilon, 1e-6) if epsilon < math.inf else math.nan


if __name__ == "__main__":
  sys.exit(main())
