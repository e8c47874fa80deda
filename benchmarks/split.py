"""Time of split training with cached activations beside ordinary training, and what a cut costs.

python -m benchmarks.split --cuts first middle bottleneck --repeats 7

As many passes of DP-A in mode frozen_cached as training runs in one dispatch, beside a plain jitted
scan of Adam steps of the same server part on the same activations in the same order; both count
loss and accuracy. 62 people with 30 images, LeNet, messages of 32 images, one core; data are random
pixels: the work does not depend on them. Then, for LeNet and mobile_small, what the device part
costs up to each of three cuts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import require_optimised

GOAL = 1.05
PASSES = 5  # in a dispatch
PEOPLE, IMAGES, SIDE, BATCH = 62, 30, 32, 32
BACKBONES = ("lenet", "mobile_small")


def main() -> None:
  """Reads the command line, pins the process to one core before JAX starts, measures, prints."""
  from configs.dp_activations import CUTS
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS))
  parser.add_argument("--repeats", type=int, default=7)
  options = parser.parse_args()
  require_optimised(parser)
  if options.repeats < 1:
    parser.error(f"--repeats {options.repeats}: expected at least 1")
  os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
  os.environ["JAX_PLATFORMS"] = "cpu"
  _training(options)
  for backbone in BACKBONES:
    _device(backbone, options)


def _training(options: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"a dispatch of passes over {PEOPLE * IMAGES:,} images, {options.repeats} "
                      f"repeats in turn, one core; goal {GOAL}")
  for column in ("cut", "numbers sent", "steps", "split, cpu s", "ordinary, cpu s", "ratio"):
    table.add_column(column, justify="left" if column == "cut" else "right")
  for cut in options.cuts:
    size, steps, split, ordinary = _passes(cut)
    seconds = _interleaved((split, ordinary), options.repeats)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    table.add_row(cut, str(size), str(steps), *(f"{statistics.median(s):.3f}" for s in seconds),
                  f"{ratio:.3f}")
  Console().print(table)


def _passes(cut: str) -> tuple[int, int, Callable[[], Any], Callable[[], Any]]:
  """(numbers sent, steps, a dispatch of split training, the same without the split)."""
  import math

  import jax
  import jax.numpy as jnp

  import fedjax_face as ff
  from fedjax_face.draws import Draws
  from fedjax_face.method import Setting, bind
  from fedjax_face.method.algorithm import Data
  from fedjax_face.runs.mesh import clients_mesh
  from fedjax_face.runs.streams import BEFORE_ROUNDS, public_root, step_keys
  from fedjax_face.split.holders import devices

  method = ff.dp_activations(
      split=ff.splits.cut(after=cut, projection=32 if cut == "bottleneck" else 0),
      activations=ff.activations.clipped_noise(noise_multiplier=1.0),
      device=ff.devices.frozen_cached(), clients=devices(batch_size=BATCH))
  train, public = _faces(), _faces(seed=1)
  algorithm = bind(method, train, Setting(clients_mesh(), 1, public=public))
  system = algorithm.parts
  assert algorithm.prepare is not None
  data = jax.jit(algorithm.prepare)(Data(jnp.asarray(train.images)), algorithm.hparams,
                                    step_keys(0, public_root(0), BEFORE_ROUNDS))
  cohort = jax.tree.map(jnp.asarray, algorithm.cohort(Draws.of(0), 0))
  state = jax.jit(algorithm.init)(jax.random.key(0))
  passes = PASSES
  split = jax.jit(lambda state, *data: jax.lax.scan(
      lambda state, _: algorithm.step(state, *data), state, length=passes))
  a_pass = _ordinary(system.split.server, algorithm.hparams["server"]["learning_rate"])
  ordinary = jax.jit(lambda part, *data: jax.lax.scan(
      lambda part, _: a_pass(part, *data), part, length=passes))
  rows = cohort.examples[0], cohort.mask[0]
  hparams = jax.tree.map(jnp.float32, algorithm.hparams)
  now = step_keys(0, public_root(0), 0)
  return (math.prod(system.split.shape), passes * cohort.examples.shape[1],
          lambda: split(state, data, cohort, hparams, now),
          lambda: ordinary(tuple(state.server), data.images, data.targets["label"], *rows))


def _ordinary(apply: Callable[..., Any], learning_rate: float) -> Callable[..., Any]:
  """A scan of Adam steps on the mean cross-entropy of the real rows of each batch."""
  import jax
  import jax.numpy as jnp
  import optax

  optimizer = optax.adam(learning_rate)

  def loss(params: Any, inputs: jax.Array, labels: jax.Array, real: jax.Array) -> Any:
    logits = apply(params, inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    mean = lambda values: jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)
    return mean(losses), mean(logits.argmax(-1) == labels)

  def a_pass(part: Any, inputs: jax.Array, labels: jax.Array, rows: jax.Array, real: jax.Array):
    def step(carry, batch):
      params, moments = carry
      chosen, mask = batch
      values, gradient = jax.value_and_grad(loss, has_aux=True)(
          params, inputs[chosen], labels[chosen], mask)
      updates, moments = optimizer.update(gradient, moments, params)
      return (optax.apply_updates(params, updates), moments), values

    return jax.lax.scan(step, part, (rows, real))

  return a_pass


def _device(backbone: str, options: argparse.Namespace) -> None:
  import jax

  from fedjax_face.models import registry
  from fedjax_face.split import cost
  from fedjax_face.split.network import PLACES, Classifier, block_name, split_network

  network, images = Classifier(registry.backbone(backbone, 128), PEOPLE), _faces().images[:8]
  shape = images.shape[1:]
  costs = []
  for cut in dict.fromkeys(block_name(network, place, shape) for place in PLACES):
    split = split_network(network, cut, shape)
    params = jax.jit(split.init)(jax.random.key(0))["device"]
    costs.append(cost.measured(
        cost.device_cost(cut, split, shape), split, params, images, options.repeats))
  print(f"\n{backbone}, {SIDE}x{SIDE}x3, time on one core in batches of {len(images)}\n")
  print(cost.cost_table(costs))


def _faces(seed: int = 0) -> Any:
  import numpy as np

  from fedjax_face.data.dataset import FaceDataset

  person = np.repeat(np.arange(PEOPLE, dtype=np.int32), IMAGES)
  pixels = np.random.default_rng(seed).integers(0, 256, (len(person), SIDE, SIDE, 3), np.uint8)
  return FaceDataset("random pixels", pixels, person, person)


def _interleaved(runs: tuple[Callable[[], Any], ...], repeats: int) -> list[list[float]]:
  """CPU seconds of the runs, in turn; a first one of each is not counted."""
  import jax

  seconds: list[list[float]] = [[] for _ in runs]
  for index in range(repeats + 1):
    for number, run in enumerate(runs):
      start = time.process_time()
      jax.block_until_ready(run())
      if index:
        seconds[number].append(time.process_time() - start)
  return seconds


if __name__ == "__main__":
  main()
