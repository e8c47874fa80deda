"""From the flat sections of a config to parts, with errors that name the config's own keys.

What is one part's section in the call of a method is spread over several sections of a config. This
file and the table of `hparams` alone know both names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedjax_face import options
from tests.flat import hparams

_KEYS: Mapping[str, str] = {
    "clients": "cohort",
    "clients.per_round": "cohort.virtual_clients",
    "clients.sampling.probability": "cohort.sampling_probability",
    "clients.partition": "silos.by",
    "classes": "cohort.classes",
    "start_head": "model.head_init",
    "only_silo": "cohort.only_silo",
    "steps": "cohort.steps",
    "local.flip": "model.flip",
    "exchange.loss": "exchange.loss",
    "exchange.loss.form": "exchange.loss",
    "exchange.mechanism": "exchange.mechanism",
    "aggregate": "privacy.aggregator",
    "aggregate.strategy": "privacy.correlated",
    "backbone": "model.backbone",
    "backbone.embedding_dim": "model.embedding_dim",
    "head": "model.head",
    "local.epochs": "cohort.epochs",
    "local.batch_size": "cohort.batch_size",
    "clients.users_per_client": "cohort.users_per_client",
    "split.after": "split.cut",
    "clients.number": "split.devices",
    "clients.batch_size": "split.batch_size",
    "labels": "split.labels",
    "labels.epsilon": "split.label_epsilon",
    "labels.noise_multiplier": "split.label_noise_multiplier",
    "labels.acknowledged": "split.labels_in_clear",
    "device": "split.mode",
    "device.noise_ratio": "privacy.gradient_noise_ratio",
    "gradient": "privacy.clip",
    "gradient.form": "privacy.form",
    "gradient.weights_share": "privacy.weights_share",
    "gradient.views": "cohort.views",
    "gradient.units_at_once": "cohort.units_at_once",
    "network": "model.network",
    "network.frozen": "model.frozen",
    "optimizer.of": "model.optimizer",
    "tasks": "model.task_weights",
    "tasks.flip": "model.flip",
    "tasks.scale": "model.weight_scale",
    "tasks.weights": "model.fixed_weights",
}
_SECTIONS: Mapping[str, str] = {
    "aggregate": "privacy",
    "backbone": "model.backbone_options",
    "clients": "cohort",
    "clients.sampling": "cohort",
    "clients.partition": "silos",
    "exchange.mechanism": "exchange",
    "network": "model.network_options",
    "units": "cohort",
}


def section(kind: Any, path: str, name: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """The section of a part: its name, and those of the values that its factory takes.

  Args:
    kind: the type that is registered as a kind.
    path: where the part stands in the call of a method: "local.drift".
    name: of the factory, or `module:name` of a user's own.
    values: option -> value; what is not among them, or None, is the factory's default.

  Raises:
    ValueError: another name, by the config's key.
  """
  known = options.kind_of(kind)
  if known is None:
    raise TypeError(f"{kind!r} is not registered as a kind")
  if name not in known.names() and ":" not in str(name):
    raise ValueError(f"{key_of(path)} {name!r} is not one of {', '.join(known.names())}")
  with keys_of_config():
    takes = known.find(name, path).parameters
  return {"name": name, **{option: values[option] for option in takes
                           if values.get(option) is not None}}


def built(kind: Any, path: str, name: str, values: Mapping[str, Any]) -> Any:
  """The part of a `section`.

  Raises:
    ValueError: as `section`, or a value that the factory refuses, by the config's key.
  """
  said = section(kind, path, name, values)
  with keys_of_config():
    return options.build(kind, said, path)


@contextlib.contextmanager
def keys_of_config(silos: bool = False) -> Iterator[None]:
  """Within it, what an option is refused for names the config's keys, as a plain ValueError.

  A message names an option by its path in the call of a method: `method.local.epochs`, or, where a
  part is made by itself, `local.epochs` at its beginning.

  Args:
    silos: whether the clients of the config are silos, whose number a round has a key of its own.
  """
  try:
    yield
  except ValueError as error:
    said = str(error)
    if isinstance(error, options.OptionError) and not said.startswith("method."):
      said = _PATH.sub(lambda found: key_of(found[0]), said, count=1)
    said = _IN_METHOD.sub(lambda found: key_of(found[1]), said)
    if silos:
      said = said.replace("cohort.virtual_clients", "cohort.silos_per_round")
    if said == str(error) and type(error) is ValueError:
      raise
    raise ValueError(said) from error


_PATH = re.compile(r"^[\w.]+")
_IN_METHOD = re.compile(r"\bmethod\.([a-z_]\w*(?:\.[a-z_]\w*)*)")


def in_calls(line: str) -> str:
  """A line whose keys of a config are replaced by their paths in the call of a method."""
  return _KEY.sub(lambda found: _PATH_OF.get(found[0], found[0]), line)


_PATH_OF: Mapping[str, str] = {
    **{f"hparams.{key}": f"method.{path.replace('CLIPS', 'aggregate')}"
       for key, path in hparams.PATHS.items()},
    **{key: f"method.{path}" for path, key in _KEYS.items()}}
_KEY = re.compile(r"\b(?:hparams|cohort|model|local|privacy)\.\w+")


def key_of(path: str) -> str:
  """The config's key of what stands at a path in the call of a method."""
  part, _, option = path.rpartition(".")
  elsewhere = f"{_SECTIONS[part]}.{option}" if part in _SECTIONS else path
  return hparams.key_of(path) or _KEYS.get(path, elsewhere)
