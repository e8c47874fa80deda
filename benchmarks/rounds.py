"""Time of one federated round, of what its workload asks about, and memory of the users' index.

python -m benchmarks.rounds --workload w2 --repeats 7 --cores 2 --devices 2

The round is the library's own: cohorts drawn on the host, one compiled dispatch per round.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import require_optimised


class Sample(NamedTuple):
  """One round: CPU seconds of the whole process, wall seconds."""

  cpu: float
  wall: float


def main() -> None:
  """Reads the command line, sets up the machine before JAX starts, measures, prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workload", choices=("w1", "w2", "fedgc"), required=True)
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--cores", type=int, default=1, help="cores that the process may use")
  parser.add_argument("--devices", type=int, default=1, help="JAX devices made of these cores")
  options = parser.parse_args()
  require_optimised(parser)
  if options.repeats < 1:
    parser.error(f"--repeats {options.repeats}: expected at least 1")
  available = sorted(os.sched_getaffinity(0))
  if not 1 <= options.devices <= options.cores <= len(available):
    parser.error(f"--devices {options.devices} --cores {options.cores}: expected "
                 f"1 <= devices <= cores <= {len(available)}")
  os.sched_setaffinity(0, available[:options.cores])
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = (f"{os.environ.get('XLA_FLAGS', '')} "
                             f"--xla_force_host_platform_device_count={options.devices}")
  _report(options)


def _report(options: argparse.Namespace) -> None:
  from benchmarks.workloads import WORKLOADS

  workload = WORKLOADS[options.workload]()
  variants = {"whole": workload.method, "without": workload.without}
  samples = _interleaved(
      {name: _rounds(workload, method, options.repeats + 1)
       for name, method in variants.items()}, options.repeats)
  _print_rounds(workload, options, samples)
  _print_memory(workload)


def _rounds(workload: Any, method: Any, rounds: int) -> Iterator[Any]:
  """The training loop of a workload, one dispatch per round."""
  from fedjax_face.method import Setting, bind
  from fedjax_face.runs import loop
  from fedjax_face.runs.mesh import clients_mesh
  from fedjax_face.runs.streams import public_root

  mesh = clients_mesh()
  algorithm = bind(method, workload.data, Setting(mesh, rounds))
  return loop.train(algorithm, workload.data.images, rounds=rounds, seed=0,
                    noise_root=public_root(0), cohort_root=public_root(0), mesh=mesh)


def _interleaved(runs: dict[str, Iterator[Any]], repeats: int) -> dict[str, list[Sample]]:
  """Times the runs round by round in turn; a first round of each compiles and is not counted."""
  samples: dict[str, list[Sample]] = {name: [] for name in runs}
  for index in range(repeats + 1):
    for name, run in runs.items():
      cpu, wall = time.process_time(), time.perf_counter()
      next(run)
      if index:
        samples[name].append(Sample(time.process_time() - cpu, time.perf_counter() - wall))
  return samples


def _print_rounds(workload: Any, options: argparse.Namespace,
                  samples: dict[str, list[Sample]]) -> None:
  import numpy as np
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"{workload.name}; {options.cores} core(s), {options.devices} device(s), "
                      f"{options.repeats} rounds")
  for column in ("", "min", "median", "max", "goal"):
    table.add_column(column, justify="left" if not column else "right")
  goals = {"cpu": workload.goal_cpu,
           "wall": workload.goal_wall if options.cores == 2 else None}
  for kind in Sample._fields:
    values = [getattr(sample, kind) for sample in samples["whole"]]
    goal = goals[kind]
    table.add_row(f"{kind} s a round", *(f"{f(values):.3f}" for f in (min, np.median, max)),
                  "" if goal is None else f"{goal:.2f}")
  cpu = {name: [sample.cpu for sample in rounds] for name, rounds in samples.items()}
  shares = [f"{100 * (1 - f(cpu['without']) / f(cpu['whole'])):.1f} %" for f in (min, np.median)]
  table.add_row(f"{workload.asks}, share of cpu", *shares, "", "")
  Console().print(table)


def _print_memory(workload: Any) -> None:
  from rich.console import Console
  from rich.table import Table

  from fedjax_face.data.users import Users

  users = Users.from_person(workload.data.person)
  table = Table(title="memory")
  for column in ("array", "kB", "bytes per user"):
    table.add_column(column, justify="left" if column == "array" else "right")
  sizes = {"users' index": sum(part.nbytes for part in users),
           "images": workload.data.images.nbytes}
  for name, size in sizes.items():
    table.add_row(name, f"{size / 1e3:,.1f}", f"{size / users.num_users:,.0f}")
  Console().print(table)


if __name__ == "__main__":
  main()
