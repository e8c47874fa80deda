"""Backbones, heads and networks of several tasks by the names that configs use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from fedjax_face.models import heads
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head
from fedjax_face.models.iresnet import iresnet18, iresnet50
from fedjax_face.models.lenet import lenet, lenet_small
from fedjax_face.models.mobilenet import mobile_small, mobilenet_v2
from fedjax_face.models.reddi_cnn import reddi_cnn
from fedjax_face.models.resnet import resnet50
from fedjax_face.models.task_networks import (
    Network,
    hyperface,
    hyperface_resnet,
    hyperface_small,
)
from fedjax_face.models.vgg_face import vgg_face, vgg_face_small
from fedjax_face.options import build, made, register

BACKBONES: Mapping[str, Callable[..., Backbone]] = {
    "lenet": lenet,
    "lenet_small": lenet_small,
    "reddi_cnn": reddi_cnn,
    "mobilenet_v2": mobilenet_v2,
    "mobile_small": mobile_small,
    "resnet50": resnet50,
    "iresnet18": iresnet18,
    "iresnet50": iresnet50,
    "vgg_face": vgg_face,
    "vgg_face_small": vgg_face_small,
}

HEADS: Mapping[str, Callable[..., Head]] = {
    "linear": heads.linear,
    "normalised": heads.normalised,
    "cosface": heads.cosface,
    "arcface": heads.arcface,
}

TASK_NETWORKS: Mapping[str, Callable[..., Network | nn.Module]] = {
    "hyperface": hyperface,
    "hyperface_small": hyperface_small,
    "hyperface_resnet": hyperface_resnet,
}


def backbone(name: str, embedding_dim: int, **options: Any) -> nn.Module:
  """Makes a backbone: images float32 [B, H, W, C] -> raw embeddings float32 [B, D].

  Args:
    name: a key of `BACKBONES`, or of one that `register.backbone` knows: `module:name`.
    embedding_dim: D.
    **options: further options of that backbone, e.g. `width` of 'mobilenet_v2'.

  Raises:
    ValueError: the name or an option is unknown, or a value is refused.
  """
  return _make("backbone", BACKBONES, name, embedding_dim=embedding_dim, **options)


def head(name: str, num_classes: int, embedding_dim: int, **options: Any) -> nn.Module:
  """Makes a head: embeddings float [B, D] and labels int [B] -> logits float [B, C].

  Args:
    name: a key of `HEADS`, or of one that `register.head` knows: `module:name`.
    num_classes: C.
    embedding_dim: D.
    **options: options of that head: `margin` and `scale` of 'cosface' and 'arcface',
      where both are required.

  Raises:
    ValueError: the name or an option is unknown, or a required option is missing.
  """
  missing = [scalar for scalar in head_scalars(name) if scalar not in options]
  if missing and not options.keys() - set(head_scalars(name)):
    raise ValueError(f"head {name!r} needs the option {missing[0]!r}")
  return _make("head", HEADS, name, **options).bind(num_classes, embedding_dim)


def task_network(name: str, landmarks: int, **options: Any) -> nn.Module:
  """Makes a network of the five face tasks: images float32 [B, H, W, C] -> `TaskOutputs`.

  Args:
    name: a key of `TASK_NETWORKS`, or of one that `register.network` knows: `module:name`.
    landmarks: L.
    **options: of that network, e.g. `width` of 'hyperface'.

  Raises:
    ValueError: the name or an option is unknown, or a value is refused.
  """
  return network(name, **options).bind(landmarks)


def network(name: str, frozen: tuple[str, ...] = (), **options: Any) -> Network:
  """Makes a `Network`, for any number of landmarks; arguments and errors as of `task_network`.

  An entry of `TASK_NETWORKS` that is a module's class has its attributes for options, and gets the
  number of landmarks as one of them.
  """
  own = TASK_NETWORKS.get(name)
  if isinstance(own, type):
    return Network(lambda landmarks: _make(
        "task network", TASK_NETWORKS, name, landmarks=landmarks, **options), frozen)
  return _make("task network", TASK_NETWORKS, name, "network", frozen=frozen, **options)


def head_scalars(name: str) -> tuple[str, ...]:
  """Names of the scalars that a head takes beside its sizes: `margin` and `scale`, or none."""
  return tuple(_options(HEADS[name])) if name in HEADS else ()


def count_parameters(params: Any) -> int:
  """Number of scalars in a pytree of arrays or of `jax.ShapeDtypeStruct`."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _make(what: str, table: Mapping[str, Callable[..., Any]], name: str, kind: str = "",
          **options: Any) -> Any:
  """Looks the name up and checks the options against the signature of what it names."""
  known = register.kinds.get(kind or what)
  if name in table:
    function = table[name]
  elif known is not None and (":" in name or name in known.factories):
    function = known.find(name, what).function
  else:
    raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(table)}")
  fields = _options(function)
  unknown = [key for key in options if key not in fields]
  if unknown:
    accepted = ", ".join(fields) or "none"
    raise ValueError(f"{what} {name!r} has no option {unknown[0]!r}; it accepts {accepted}")
  missing = [key for key, parameter in fields.items()
             if parameter.default is parameter.empty and key not in options]
  if missing:
    raise ValueError(f"{what} {name!r} needs the option {missing[0]!r}")
  if known is None or isinstance(function, type):  # a network that no factory makes
    return function(**options)
  return made(build(known.of, {"name": name, **options}, known.name))


def _options(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
  return {key: parameter for key, parameter in inspect.signature(factory).parameters.items()
          if key not in ("parent", "name")}
