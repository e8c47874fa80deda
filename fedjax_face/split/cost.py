"""What a cut costs the device: parameters, arithmetic, bytes and time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.pooling import padding_pairs
from fedjax_face.models.registry import count_parameters
from fedjax_face.split.message import message_bytes
from fedjax_face.split.network import Params, SplitNetwork, cut_names, split_network


class DeviceCost(NamedTuple):
  """Cost of the device part up to a cut.

  Attributes:
    cut: name of the block.
    shape: of one activation.
    parameters: of the device part.
    flops: of one image's forward pass, two for every multiply-add of convolutions and dense layers
      in their textbook form, whatever form computes them; normalisation, activation functions and
      pooling are not counted. A backward pass costs about twice as much.
    activation_bytes: of one activation, float32.
    message_bytes: on the wire, for one image in a batch of its own.
    seconds: of one image's forward pass as measured, nan where it was not.
  """

  cut: str
  shape: tuple[int, ...]
  parameters: int
  flops: int
  activation_bytes: int
  message_bytes: int
  seconds: float = math.nan


def device_cost(cut: str, split: SplitNetwork, image_shape: tuple[int, int, int]) -> DeviceCost:
  """Cost of a cut by shapes alone; nothing is computed."""
  params = jax.eval_shape(split.init, jax.random.key(0))["device"]
  size = 4 * math.prod(split.shape)
  return DeviceCost(cut, split.shape, count_parameters(params),
                    _flops(split, params, image_shape), size, message_bytes(split.shape, 1))


def device_costs(network: nn.Module, image_shape: tuple[int, int, int],
                 cuts: Sequence[str] | None = None) -> list[DeviceCost]:
  """`device_cost` of the cuts named, or of all that the network offers.

  Raises:
    ValueError: there is no such cut; the message lists the names.
  """
  names = cut_names(network, image_shape) if cuts is None else cuts
  return [device_cost(cut, split_network(network, cut, image_shape), image_shape) for cut in names]


def measured(cost: DeviceCost, split: SplitNetwork, params: Params, images: np.ndarray,
             repeats: int) -> DeviceCost:
  """The cost with the median time of `repeats` forward passes, compiled before.

  Args:
    cost: of the same cut.
    split: the cut network.
    params: of the device part.
    images: uint8 [B, H, W, C]; the time is divided by B.
    repeats: at least 1.
  """
  run = jax.jit(split.device)
  jax.block_until_ready(run(params, images))
  seconds = []
  for _ in range(repeats):
    begin = time.perf_counter()
    jax.block_until_ready(run(params, images))
    seconds.append(time.perf_counter() - begin)
  return cost._replace(seconds=statistics.median(seconds) / len(images))


def recorded(cost: DeviceCost) -> dict[str, Any]:
  """The cost as JSON holds it, without a time that was not measured."""
  said = cost._asdict() | {"shape": list(cost.shape)}
  return {name: value for name, value in said.items()
          if name != "seconds" or not math.isnan(value)}


def device_line(said: Mapping[str, Any]) -> str:
  """What `recorded` holds, in a line for people."""
  return (f"the device part, up to {said['cut']}: {said['parameters']:,} parameters, "
          f"{said['flops'] / 1e6:,.2f} MFLOP and {said['message_bytes'] / 1e3:,.2f} kB sent an "
          "image")


def cost_table(costs: Sequence[DeviceCost]) -> str:
  """The costs as a Markdown table."""
  lines = ["| cut | activation | parameters | MFLOP per image | activation kB | message kB "
           "| ms per image |", "|---|---|---|---|---|---|---|"]
  for cost in costs:
    shape = "x".join(map(str, cost.shape))
    spent = "not measured" if math.isnan(cost.seconds) else f"{1e3 * cost.seconds:.2f}"
    lines.append(f"| {cost.cut} | {shape} | {cost.parameters:,} | {cost.flops / 1e6:,.2f} "
                 f"| {cost.activation_bytes / 1e3:,.2f} | {cost.message_bytes / 1e3:,.2f} "
                 f"| {spent} |")
  return "\n".join(lines)


def _flops(split: SplitNetwork, params: Params, image_shape: tuple[int, int, int]) -> int:
  total = 0

  def count(run, args, kwargs, context):
    nonlocal total
    output = run(*args, **kwargs)
    path = context.module.path
    if context.method_name == "__call__" and path and path[0] in params:
      total += 2 * _multiply_adds(context.module, args[0] if args else None, output)
    return output

  with nn.intercept_methods(count):
    jax.eval_shape(split.device, params, jax.ShapeDtypeStruct((1, *image_shape), np.uint8))
  return total


def _multiply_adds(layer: nn.Module, x: Any, y: Any) -> int:
  """Of one example; 0 for what is not a convolution or a dense layer."""
  match layer:
    case Conv():
      places = math.prod(y.shape[1:3])
      return (places * math.prod(layer.kernel_size) * layer.features
              * x.shape[-1] // layer.feature_group_count)
    case ConvReluMaxPool():
      pairs = padding_pairs(layer.padding, x.shape[1:3], layer.kernel_size, (1, 1))
      places = math.prod(side + sum(pair) - kernel + 1 for side, pair, kernel in zip(
          x.shape[1:3], pairs, layer.kernel_size, strict=True))
      return places * math.prod(layer.kernel_size) * x.shape[-1] * layer.features
    case Dense() | nn.Dense():
      return x.shape[-1] * layer.features
  return 0
