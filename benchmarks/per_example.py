"""Time and memory of a DP-SGD step beside the same step without privacy, by form and batch size.

python -m benchmarks.per_example --units 16 32 64 --regions 1 --repeats 5

`hyperface_small` with all five losses and learned task weights, on one core. Plain step: gradient
of the whole batch and momentum; private step: sum of clipped gradients, noise, momentum. Data are
random pixels: the work does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks import require_optimised

FORMS = {"ghost": ("ghost", None), "ghost-by-4": ("ghost", 4), "vmapped": ("vmapped", None),
         "scanned": ("scanned", None)}


def main() -> None:
  """Reads the command line, pins the process to one core before JAX starts, measures, prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--units", type=int, nargs="+", default=[16, 32, 64])
  parser.add_argument("--regions", type=int, default=1, help="regions of a unit")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
  options = parser.parse_args()
  require_optimised(parser)
  for name in ("regions", "repeats"):
    if getattr(options, name) < 1:
      parser.error(f"--{name} {getattr(options, name)}: expected at least 1")
  os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
  os.environ["JAX_PLATFORMS"] = "cpu"
  _report(options)


def _report(options: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"DP-SGD step, {options.regions} region(s) of 64x64 a unit, "
                      f"{options.repeats} repeats, one core")
  for column in ("units", "step", "cpu s, min", "median", "ratio", "memory MB", "ratio"):
    table.add_column(column, justify="left" if column == "step" else "right")
  for units in options.units:
    steps = {name: _compiled(*_step(name, units, options)) for name in ("plain", *options.forms)}
    seconds = _interleaved({name: run for name, (run, _) in steps.items()}, options.repeats)
    base_memory = steps["plain"][1]
    for name, (_, memory) in steps.items():
      times = sorted(seconds[name])
      ratios = sorted(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
      table.add_row(str(units), name, f"{times[0]:.3f}", f"{times[len(times) // 2]:.3f}",
                    f"{ratios[len(ratios) // 2]:.2f}", f"{memory / 1e6:.0f}",
                    f"{memory / base_memory:.2f}")
  Console().print(table)


def _step(name: str, units: int, options: argparse.Namespace) -> tuple[Callable, tuple]:
  """A training step (params, velocity, batch, key) -> (params, velocity), and its arguments."""
  import jax
  import jax.numpy as jnp
  import optax

  from fedjax_face.privacy.adjacency import Adjacency
  from fedjax_face.privacy.gradient_clip import joint
  from fedjax_face.privacy.noise import gaussian
  from fedjax_face.privacy.per_example import clipped_gradient_sum

  loss, params = _loss_and_parameters()
  batch = jax.tree.map(lambda x: x.reshape(units, options.regions, *x.shape[1:]),
                       _made_up(units * options.regions))
  optimizer = optax.sgd(0.01, momentum=0.9)

  def gradient(params, batch, key):
    if name == "plain":
      flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
      return jax.grad(lambda params: loss(params, flat).sum() / units)(params)
    form, at_once = FORMS[name]
    summed = clipped_gradient_sum(loss, joint(Adjacency.ADD_OR_REMOVE_ONE), form,
                                  units_at_once=at_once)
    mask = jnp.ones((units, options.regions), bool)
    noisy, _ = gaussian().add(summed(params, batch, mask, 1.0).gradient, (), 1.0, key)
    return optax.tree.scale(1 / units, noisy)

  def step(params, velocity, batch, key):
    updates, velocity = optimizer.update(gradient(params, batch, key), velocity)
    return optax.apply_updates(params, updates), velocity

  return step, (params, optimizer.init(params), batch, jax.random.key(2))


def _loss_and_parameters() -> tuple[Callable, Any]:
  import jax
  import jax.numpy as jnp

  from fedjax_face.losses.multi_task import task_losses, uncertainty_weights
  from fedjax_face.models.hyperface import SMALL_LAYOUT, HyperFace

  model, weighting = HyperFace(layout=SMALL_LAYOUT), uncertainty_weights()

  def loss(params, regions):
    images, targets = regions
    outputs = model.apply({"params": params["network"]}, images)
    losses, applies = task_losses(outputs, targets, jnp.ones(images.shape[0], bool))
    return weighting.terms(params["log_variances"], losses, applies)

  network = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))["params"]
  return loss, {"network": network, "log_variances": weighting.init()}


def _made_up(regions: int) -> tuple:
  import jax
  import jax.numpy as jnp

  from fedjax_face.losses.multi_task import Targets

  image = jax.random.normal(jax.random.key(0), (regions, 64, 64, 3))
  ones = jnp.ones(regions, jnp.int32)
  return image, Targets(
      face=ones, landmarks=jnp.zeros((regions, 21, 2)), visible=jnp.ones((regions, 21)),
      pose=jnp.zeros((regions, 3)), gender=ones, known=jnp.ones((regions, 5), bool))


def _compiled(step: Callable, arguments: tuple) -> tuple[Callable[[], None], int]:
  """(one step, bytes of its temporary arrays)."""
  import jax

  compiled = jax.jit(step).lower(*arguments).compile()
  memory = compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]
  return lambda: jax.block_until_ready(compiled(*arguments)), memory


def _interleaved(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
  """CPU seconds of the runs, in turn; a first one of each is not counted."""
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for index in range(repeats + 1):
    for name, run in runs.items():
      start = time.process_time()
      run()
      if index:
        seconds[name].append(time.process_time() - start)
  return seconds


if __name__ == "__main__":
  main()
