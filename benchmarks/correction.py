"""Time and memory of one gradient correction of all class embeddings, blocked and dense.

python -m benchmarks.correction --classes 10575 --dim 512 --clients 36

The dense form differentiates the regulariser with all anchors in one block. Memory is what the host
process gained over its compiled program and its inputs: meant for the CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from benchmarks import require_optimised


class Cost(NamedTuple):
  """Of one gradient: CPU seconds of the process, wall seconds, growth of peak memory in MB."""

  cpu: float
  wall: float
  memory: float


class Problem(NamedTuple):
  """Blocked or dense; numbers of classes, embedding dimensions, clients, and anchors a block."""

  form: str
  classes: int
  dim: int
  clients: int
  block: int


def main() -> None:
  """Reads the command line, measures each line of the table in a process of its own, prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--classes", type=int, default=10575)
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--clients", type=int, default=36)
  parser.add_argument("--block", type=int, nargs="+", default=[256, 512, 1024],
                      help="anchors a block")
  parser.add_argument("--dense-classes", type=int, default=5000,
                      help="size at which the blocked form stands beside the dense one")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--cores", type=int, default=1, help="cores that the process may use")
  options = parser.parse_args()
  require_optimised(parser)
  for name, value in vars(options).items():
    if min(value if isinstance(value, list) else [value]) < 1:
      parser.error(f"--{name.replace('_', '-')} {value}: expected at least 1")
  available = sorted(os.sched_getaffinity(0))
  if options.cores > len(available):
    parser.error(f"--cores {options.cores}: expected at most {len(available)}")
  os.sched_setaffinity(0, available[:options.cores])
  sizes = [("dense", options.dense_classes, options.dense_classes)]
  sizes += [("blocked", classes, block) for classes in (options.dense_classes, options.classes)
            for block in options.block]
  problems = [Problem(form, classes, options.dim, options.clients, block)
              for form, classes, block in sizes]
  costs = [_in_own_process(problem, options.repeats) for problem in problems]
  _print(options, problems, costs)


def _in_own_process(problem: Problem, repeats: int) -> list[Cost]:
  """Peak memory of a process never falls, so each measurement starts a new one."""
  with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(measure, problem, repeats).result()


def measure(problem: Problem, repeats: int) -> list[Cost]:
  """Costs of `repeats` gradients of the calibrated correction; compilation is not counted."""
  import jax

  from fedjax_face.losses.class_pairs import own_anchors
  from fedjax_face.losses.gradient_correction import gradient_correction, regulariser
  from fedjax_face.models.margins import cosface_margin, geometry

  rows = jax.random.normal(jax.random.key(0), (problem.classes, problem.dim))
  owner = jax.numpy.arange(problem.classes) % problem.clients
  cosine = jax.numpy.full(problem.clients, 0.7)
  lent = geometry(64.0, 0.4, cosface_margin)
  make = {"blocked": gradient_correction, "dense": lambda *a: jax.grad(regulariser(*a))}
  correction = make[problem.form]("calibrated", True, problem.block)
  run = jax.jit(lambda rows: correction(rows, owner, own_anchors(rows, owner, cosine), {}, lent))
  compiled = run.lower(rows).compile()
  return [_cost(compiled, rows) for _ in range(repeats)]


def _cost(gradient: Callable[[Any], Any], rows: Any) -> Cost:
  peak, cpu, wall = _peak_memory(), time.process_time(), time.perf_counter()
  gradient(rows).block_until_ready()
  return Cost(time.process_time() - cpu, time.perf_counter() - wall, _peak_memory() - peak)


def _peak_memory() -> float:
  """Largest resident memory of this process so far, in MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _print(options: argparse.Namespace, problems: list[Problem], costs: list[list[Cost]]) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"one gradient, {options.dim} dimensions, {options.clients} clients, "
                      f"{options.cores} core(s), minimum of {options.repeats}")
  for column in ("form", "classes", "block", "cpu s", "wall s", "memory MB"):
    table.add_column(column, justify="left" if column == "form" else "right")
  for problem, samples in zip(problems, costs, strict=True):
    cpu, wall, memory = zip(*samples, strict=True)
    table.add_row(problem.form, f"{problem.classes:,}", f"{problem.block:,}", f"{min(cpu):.2f}",
                  f"{min(wall):.2f}", f"{sum(memory):,.0f}")
  Console().print(table)


if __name__ == "__main__":
  main()
