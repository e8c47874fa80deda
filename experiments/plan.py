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
import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table

from fedjax_face.privacy import planning, statement
from fedjax_face.runs.plan import LENET_PARAMETERS, Answer, plan


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program; returns the exit status, 2 after one line about bad input."""
  console = rich.console.Console()
  try:
    asked = vars(_parser().parse_args(arguments))
    folder = asked.pop("output_dir")
    with console.status("") as status:
      found = plan(workdir=folder, say=status.update, **asked)
  except (ValueError, OSError) as error:
    print(f"plan: {error}", file=sys.stderr)
    return 2
  console.print(_table(found))
  console.print(f"Noise on the mean over {asked['parameters']:,} parameters has norm "
                f"{found.noise_norm_ratio:.3g} times the clip norm.")
  if warning := planning.noise_norm_warning(found.noise_norm_ratio):
    console.print(f"Warning: {warning}.")
  if warning := statement.delta_warning(asked["delta"], "user", asked["population"]):
    console.print(f"Warning: {warning}.")
  console.print(f"Wrote plan.json and epsilon_vs_population.png to {folder}")
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
  add("--output_dir", default="runs/plan",
      help="folder for plan.json and the figure (default runs/plan)")
  return parser


def _table(found: Answer) -> rich.table.Table:
  said, simulation = found.record, found.simulation
  table = rich.table.Table(
      box=rich.box.SIMPLE, caption="missed: not even with everybody in every round", title=(
          f"Fewest virtual clients K for epsilon {said['target_epsilon']:g} per user at delta "
          f"{said['delta']:g}, {simulation.adjacency.value.replace('_', '-')}, "
          f"{simulation.rounds} rounds, {simulation.users_per_client} users per client, "
          f"noise on the mean {said['noise_on_mean']:.4g}"))
  for name in ("N", "K", "z", "z/sens.", "q", "eps RDP", "eps PLD", "target"):
    table.add_column(name, justify="right", no_wrap=True)
  for p in found.plans:
    table.add_row(
        f"{p.population:,}", f"{p.virtual_clients:,}", f"{p.noise_multiplier:.4g}",
        f"{p.effective_multiplier:.4g}", f"{p.sampling_rate:.3g}", f"{p.rdp:.3f}", f"{p.pld:.3f}",
        "met" if p.meets_target else "missed",
        style="bold" if p.population == said["population"] else None)
  return table


if __name__ == "__main__":
  sys.exit(main())
