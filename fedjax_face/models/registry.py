"""Backbones, heads and networks of several tasks by the names that configs use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from fedjax_face.models import heads
from fedjax_face.models.heads import Head
from fedjax_face.models.hyperface import HyperFace, hyperface_small
from fedjax_face.models.hyperface_resnet import HyperFaceResNet
from fedjax_face.models.iresnet import iresnet18, iresnet50
from fedjax_face.models.lenet import LeNet, lenet_small
from fedjax_face.models.mobilenet import MobileNetV2, mobile_small
from fedjax_face.models.reddi_cnn import ReddiCNN
from fedjax_face.models.resnet import ResNet
from fedjax_face.models.vgg_face import VGGFace, vgg_face_small
from fedjax_face.options import made

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "lenet_small": lenet_small,
    "reddi_cnn": ReddiCNN,
    "mobilenet_v2": MobileNetV2,
    "mobile_small": mobile_small,
    "resnet50": ResNet,
    "iresnet18": iresnet18,
    "iresnet50": iresnet50,
    "vgg_face": VGGFace,
    "vgg_face_small": vgg_face_small,
}

HEADS: Mapping[str, Callable[..., Head]] = {
    "linear": heads.linear,
    "normalised": heads.normalised,
    "cosface": heads.cosface,
    "arcface": heads.arcface,
}

TASK_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "hyperface": HyperFace,
    "hyperface_small": hyperface_small,
    "hyperface_resnet": HyperFaceResNet,
}


def backbone(name: str, embedding_dim: int, **options: Any) -> nn.Module:
  """Makes a backbone: images float32 [B, H, W, C] -> raw embeddings float32 [B, D].

  Args:
    name: a key of `BACKBONES`.
    embedding_dim: D.
    **options: further attributes of that backbone, e.g. `width` of 'mobilenet_v2'.

  Raises:
    ValueError: the name or an option is unknown.
  """
  return _make("backbone", BACKBONES, name, embedding_dim=embedding_dim, **options)


def head(name: str, num_classes: int, embedding_dim: int, **options: Any) -> nn.Module:
  """Makes a head: embeddings float [B, D] and labels int [B] -> logits float [B, C].

  Args:
    name: a key of `HEADS`.
    num_classes: C.
    embedding_dim: D.
    **options: further attributes of that head: `margin` and `scale` of 'cosface' and 'arcface',
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
    name: a key of `TASK_NETWORKS`.
    landmarks: L.
    **options: further attributes of that network, e.g. `width` of 'hyperface'.

  Raises:
    ValueError: the name or an option is unknown.
  """
  return _make("task network", TASK_NETWORKS, name, landmarks=landmarks, **options)


def head_scalars(name: str) -> tuple[str, ...]:
  """Names of the scalars that a head takes beside its sizes: `margin` and `scale`, or none."""
  return tuple(_options(HEADS[name])) if name in HEADS else ()


def count_parameters(params: Any) -> int:
  """Number of scalars in a pytree of arrays or of `jax.ShapeDtypeStruct`."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _make(kind: str, table: Mapping[str, Callable[..., Any]], name: str, **options: Any) -> Any:
  """Looks the name up and checks the options against the factory's signature."""
  if name not in table:
    raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(table)}")
  fields = _options(table[name])
  unknown = [key for key in options if key not in fields]
  if unknown:
    accepted = ", ".join(fields) or "none"
    raise ValueError(f"{kind} {name!r} has no option {unknown[0]!r}; it accepts {accepted}")
  missing = [key for key, parameter in fields.items()
             if parameter.default is parameter.empty and key not in options]
  if missing:
    raise ValueError(f"{kind} {name!r} needs the option {missing[0]!r}")
  return made(table[name](**options))


def _options(factory: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
  return {key: parameter for key, parameter in inspect.signature(factory).parameters.items()
          if key not in ("parent", "name")}
