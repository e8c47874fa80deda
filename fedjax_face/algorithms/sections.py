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
from fedjax_face.algorithms import hparams

_KEYS: Mapping[str, str] = {
    "aggregate": "privacy.aggregator",
    "aggregate.strategy": "privacy.correlated",
    "backbone": "model.backbone",
    "backbone.embedding_dim": "model.embedding_dim",
    "head": "model.head",
    "local.epochs": "cohort.epochs",
    "local.batch_size": "cohort.batch_size",
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
    "network": "model.network_options",
    "units": "cohort",
}


def built(kind: Any, path: str, name: str, values: Mapping[str, Any]) -> Any:
  """The part of a name, made from those of the values that its factory takes.

  Args:
    kind: the type that is registered as a kind.
    path: where the part stands in the call of a method: "local.drift".
    name: of the factory, or `module:name` of a user's own.
    values: option -> value; what is not among them is the factory's default.

  Raises:
    ValueError: another name, or a value that the factory refuses, by the config's key.
  """
  known = options.kind_of(kind)
  if known is None:
    raise TypeError(f"{kind!r} is not registered as a kind")
  if name not in known.names() and ":" not in str(name):
    raise ValueError(f"{key_of(path)} {name!r} is not one of {', '.join(known.names())}")
  with keys_of_config():
    takes = known.find(name, path).parameters
    said = {option: values[option] for option in takes if option in values}
    return options.build(kind, {"name": name, **said}, path)


@contextlib.contextmanager
def keys_of_config() -> Iterator[None]:
  """Within it, what an option is refused for names the config's keys, as a plain ValueError.

  A message names an option by its path in the call of a method: `method.local.epochs`, or, where a
  part is made by itself, `local.epochs` at its beginning.
  """
  try:
    yield
  except ValueError as error:
    said = str(error)
    if isinstance(error, options.OptionError) and not said.startswith("method."):
      said = _PATH.sub(lambda found: key_of(found[0]), said, count=1)
    said = _IN_METHOD.sub(lambda found: key_of(found[1]), said)
    if said == str(error) and type(error) is ValueError:
      raise
    raise ValueError(said) from error


_PATH = re.compile(r"^[\w.]+")
_IN_METHOD = re.compile(r"\bmethod\.([a-z_]\w*(?:\.[a-z_]\w*)*)")


def key_of(path: str) -> str:
  """The config's key of what stands at a path in the call of a method."""
  section, _, option = path.partition(".")
  elsewhere = f"{_SECTIONS[section]}.{option}" if section in _SECTIONS else path
  return hparams.key_of(path) or _KEYS.get(path, elsewhere)
