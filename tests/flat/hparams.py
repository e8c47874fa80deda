"""The flat `hparams` section of a config, and the nested mapping that the parts of a method read.

A method's hparams have the shape of the call that makes it: each part reads its own mapping by the
names of its own parameters, and what holds several parts holds their mappings. Until configs are
written as calls, a config names all of them in one section; this table alone knows both names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from fedjax_face.method.algorithm import HParams, with_values

__all__ = ["CLIPS", "PATHS", "flat", "key_of", "nested", "replaced", "with_values"]

CLIPS = ("aggregate", "gradient", "activations")
"""Parts that may clip and add noise: of client updates, of a step's gradients, of what crosses a
cut. A method has one of them."""

PATHS: Mapping[str, str] = {
    "client_learning_rate": "local.learning_rate",
    "client_momentum": "local.momentum",
    "head_learning_rate_scale": "local.head_learning_rate_scale",
    "proximal_weight": "local.drift.weight",
    "margin": "head.margin",
    "scale": "head.scale",
    "clip_norm": "CLIPS.clip_norm",
    "noise_multiplier": "CLIPS.noise_multiplier",
    "server_learning_rate": "server.learning_rate",
    "server_momentum": "server.momentum",
    "cluster_noise_multiplier": "exchange.noise_multiplier",
    "anchor_cosine": "exchange.anchor_cosine",
    "foreign_weight": "exchange.loss.weight",
    "cap_angle": "exchange.loss.cap_angle",
    "hinge_weight": "exchange.loss.hinge_weight",
    "correction_strength": "correction.strength",
    "correction_learning_rate": "correction.learning_rate",
    "spreadout_margin": "correction.margin",
    "learning_rate": "optimizer.of.learning_rate",
    "momentum": "optimizer.of.momentum",
    "weight_learning_rate_scale": "optimizer.of.weight_learning_rate_scale",
    "average_decay": "optimizer.decay",
    "device_learning_rate": "device.learning_rate",
    "gradient_clip_norm": "device.clip_norm",
    "gradient_noise_multiplier": "device.noise_multiplier",
}
"""Key of a config's `hparams` -> path in the nested mapping; CLIPS stands for the method's part."""

_KEYS = {path.replace("CLIPS", clips): key for key, path in PATHS.items() for clips in CLIPS}


def key_of(path: str) -> str | None:
  """The config's key, "hparams.clip_norm", of a path in the nested mapping; None if it has none."""
  return f"hparams.{_KEYS[path]}" if path in _KEYS else None


def nested(section: Mapping[str, Any], clips: str = "aggregate") -> dict[str, Any]:
  """The mapping that the parts read.

  Args:
    section: a config's `hparams`; what is None, still to be calibrated, is left out.
    clips: the part that clips and adds noise, one of `CLIPS`.

  Raises:
    ValueError: a key that no part reads, with the nearest one that some part does.
  """
  whole: dict[str, Any] = {}
  for key, value in section.items():
    if key not in PATHS:
      near = difflib.get_close_matches(key, PATHS, 1)
      raise ValueError(f"hparams.{key} is not known"
                       + (f" (did you mean {near[0]!r}?)" if near else "")
                       + f"; expected some of {', '.join(PATHS)}")
    if value is not None:
      whole = with_values(whole, _at(PATHS[key].replace("CLIPS", clips), value))
  return whole


def flat(hparams: HParams, path: str = "") -> dict[str, Any]:
  """The same scalars by the keys of a config; one that no config names has its path for a name."""
  named: dict[str, Any] = {}
  for name, value in hparams.items():
    if isinstance(value, Mapping):
      named |= flat(value, f"{path}{name}.")
    else:
      named[_KEYS.get(path + name, path + name)] = value
  return named


def replaced(hparams: HParams, values: Mapping[str, Any]) -> dict[str, Any]:
  """Nested hparams with some values replaced, which are given by the keys of a config.

  Raises:
    ValueError: as `nested`.
  """
  return with_values(hparams, nested(values, next((c for c in CLIPS if c in hparams), CLIPS[0])))


def _at(path: str, value: Any) -> dict[str, Any]:
  first, _, rest = path.partition(".")
  return {first: _at(rest, value) if rest else value}
