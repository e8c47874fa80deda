"""Layers that stay as they are while the rest of a network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

Params = Any


def freeze(
  params: Mapping[str, Any], layers: Sequence[str]
) -> tuple[Params, Callable[[Params], Params]]:
  """Parts parameters into those that train and those that stay.

  Args:
    params: nested dicts of arrays.
    layers: paths of what stays, such as 'conv1' or 'tasks/fc_pose', with all that is beneath.

  Returns:
    The parameters that train, and a function that puts the others back: it maps parameters that
    train to those of the whole network. The others are numpy arrays in it, so they are constants of
    whatever is compiled, and `ghost_norms` takes their layers as having no parameters.

  Raises:
    ValueError: a path that is not a layer's, or nothing is left to train.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  for layer in layers:
    if not any(path.startswith(f"{layer}/") for path in flat):
      raise ValueError(f"frozen layer {layer!r} is not one of {', '.join(_layers(flat))}")
  stays = {path: np.asarray(leaf) for path, leaf in flat.items()
           if any(path.startswith(f"{layer}/") for layer in layers)}
  trains = {path: leaf for path, leaf in flat.items() if path not in stays}
  if not trains:
    raise ValueError("all layers are frozen; nothing is left to train")

  def whole(trained: Params) -> Params:
    return traverse_util.unflatten_dict(
      stays | traverse_util.flatten_dict(trained, sep="/"), sep="/")

  return traverse_util.unflatten_dict(trains, sep="/"), whole


def _layers(flat: Mapping[str, Any]) -> list[str]:
  return list(dict.fromkeys(path.rpartition("/")[0] for path in flat))
