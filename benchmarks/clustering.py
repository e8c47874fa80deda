"""Time of publishing the clusters of one silo's class embeddings, by each mechanism.

python -m benchmarks.clustering --people 7000 --dim 512 --clusters 16

Compilation is not counted. The candidates of exponential_caps are as many random directions as
--candidates says; the caps of both cap mechanisms are --angle wide.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from typing import Any, NamedTuple

from benchmarks import require_optimised


class Cost(NamedTuple):
  """Of one publication: CPU seconds of the process and wall seconds."""

  cpu: float
  wall: float


def main() -> None:
  """Reads the command line, measures each mechanism, prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--people", type=int, default=7000)
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--clusters", type=int, default=16)
  parser.add_argument("--candidates", type=int, default=256)
  parser.add_argument("--iterations", type=int, default=5, help="of dp_lloyd and kmeans")
  parser.add_argument("--angle", type=int, default=80, help="of a cap, in degrees")
  parser.add_argument("--projected", type=int, default=64, help="dimensions after a projection")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--cores", type=int, default=2, help="cores that the process may use")
  options = parser.parse_args()
  require_optimised(parser)
  for name, value in vars(options).items():
    if value < 1:
      parser.error(f"--{name} {value}: expected at least 1")
  available = sorted(os.sched_getaffinity(0))
  if options.cores > len(available):
    parser.error(f"--cores {options.cores}: expected at most {len(available)}")
  os.sched_setaffinity(0, available[:options.cores])
  _print(options, measure(options))


def measure(options: argparse.Namespace) -> dict[str, list[Cost]]:
  """Costs of `repeats` publications by each mechanism, by name."""
  import jax
  import numpy as np

  from fedjax_face.privacy import clustering

  rng = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  directions = lambda *shape: unit(rng.normal(size=shape)).astype(np.float32)
  anchors = directions(options.clusters, options.dim)
  basis = np.linalg.qr(rng.normal(size=(options.dim, options.projected)))[0]
  cap = {"clusters": options.clusters, "angle": math.radians(options.angle)}
  mechanisms = [
      clustering.client_mean(),
      clustering.anchor_table(anchors, count_weight=0.1),
      clustering.dp_lloyd(anchors, iterations=options.iterations, count_weight=0.1),
      clustering.exponential_caps(directions(options.candidates, options.dim), **cap,
                                  selection_share=0.3, count_weight=0.1),
      clustering.projected(clustering.anchor_table(
          directions(options.clusters, options.projected)), basis),
      clustering.dplc_published(**cap, smallest=2, epsilon=1.0, delta=1e-5),
      clustering.kmeans(anchors, iterations=options.iterations),
      clustering.all_rows(),
  ]
  rows = jax.numpy.asarray(directions(1, options.people, options.dim))
  real = jax.numpy.ones(rows.shape[:2], bool)
  costs = {}
  for mechanism in mechanisms:
    arguments = rows, real, 3.731, jax.random.key(0)
    publish = jax.jit(mechanism.publish).lower(*arguments).compile()
    costs[mechanism.name] = [_cost(publish, arguments) for _ in range(options.repeats)]
  return costs


def _cost(publish: Any, arguments: tuple[Any, ...]) -> Cost:
  import jax

  cpu, wall = time.process_time(), time.perf_counter()
  jax.block_until_ready(publish(*arguments))
  return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def _print(options: argparse.Namespace, costs: dict[str, list[Cost]]) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"one publication, {options.people:,} x {options.dim} rows, "
                      f"{options.clusters} clusters, {options.cores} core(s), "
                      f"minimum of {options.repeats}")
  for column in ("mechanism", "cpu s", "wall s"):
    table.add_column(column, justify="left" if column == "mechanism" else "right")
  for name, samples in costs.items():
    cpu, wall = zip(*samples, strict=True)
    table.add_row(name, f"{min(cpu):.3f}", f"{min(wall):.3f}")
  Console().print(table)


if __name__ == "__main__":
  main()
