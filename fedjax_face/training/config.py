"""A run's config: its sections, its record in the workdir, and whether two configs are one run."""

from __future__ import annotations

import difflib
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from fedjax_face.training.records import write_json

REQUIRED = ("algorithm", "rounds", "seed", "data", "model", "privacy", "hparams", "evaluation",
            "training")
OPTIONAL = ("cohort", "local", "silos", "correction", "exchange", "pretrain", "split",
            "rehearsal")


def validate(config: Mapping[str, Any]) -> None:
  """Checks the top level of a config, and the numbers that the loop itself reads.

  Raises:
    ValueError: a missing or unknown section, or a value that is not accepted, in one line.
  """
  for name in REQUIRED:
    if name not in config:
      raise ValueError(f"config has no {name!r}; required are {', '.join(REQUIRED)}")
  for name in config:
    if name not in REQUIRED + OPTIONAL:
      raise ValueError(f"config.{name} is not known{did_you_mean(name, REQUIRED + OPTIONAL)}; "
                       f"accepted are {', '.join(REQUIRED + OPTIONAL)}")
  _at_least(1, config, "rounds")
  _at_least(0, config, "seed")
  _at_least(1, config, "training", "rounds_per_dispatch")
  _at_least(1, config, "training", "checkpoint_every")
  _at_least(0, config, "evaluation", "every")
  _at_least(0, config, "evaluation", "bootstrap")
  _at_least(1, config, "evaluation", "batch_size")
  resident = config["training"].get("resident", "auto")
  if str(resident).lower() not in ("auto", "true", "false"):
    raise ValueError(f"config.training.resident={resident!r}: expected auto, true or false")
  delta = config["privacy"].get("delta")
  if not isinstance(delta, float) or not 0 < delta < 1:
    raise ValueError(f"config.privacy.delta={delta!r}: expected a number in (0, 1)")
  _check_rehearsal(config)


def _at_least(smallest: int, config: Mapping[str, Any], *path: str) -> None:
  value: Any = config
  for name in path:
    value = value.get(name) if hasattr(value, "get") else None
  if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
    raise ValueError(f"config.{'.'.join(path)}={value!r}: expected a whole number, "
                     f"at least {smallest}")


def _check_rehearsal(config: Mapping[str, Any]) -> None:
  """Refuses a config that says of other values than its own that a rehearsal chose them."""
  said = config.get("rehearsal")
  if not said:
    return
  for name in ("set", "people", "judges", "chose"):
    if not said.get(name):
      raise ValueError(f"config.rehearsal has no {name!r}; it is for --overrides to write")
  flat = flatten(config)
  for name, value in flatten(said["chose"]).items():
    if flat.get(name) != value:
      raise ValueError(f"config.{name}={flat.get(name)!r}, but rehearsal.chose says {value!r}: "
                       "rehearse again, or choose values yourself with --config.rehearsal=None")


def did_you_mean(name: str, known: Any) -> str:
  """" (did you mean 'rounds'?)", or nothing where no known name is near."""
  near = difflib.get_close_matches(name, list(known), 1)
  return f" (did you mean {near[0]!r}?)" if near else ""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """Dotted names -> values, as they look after a trip through JSON."""
  if isinstance(config, Mapping) or hasattr(config, "items"):
    flat: dict[str, Any] = {}
    for name, value in config.items():
      flat |= flatten(value, f"{prefix}{name}.")
    return flat or {prefix.rstrip("."): {}}
  return {prefix.rstrip("."): json.loads(json.dumps(config))}


def override(config: Any, values: Mapping[str, Any]) -> None:
  """Replaces values of a config by those of a rehearsal, and adds the section that says so.

  Args:
    config: a ConfigDict, changed in place.
    values: `overrides` of a rehearsal.json: dotted name -> value.

  Raises:
    ValueError: a name that the config lacks.
  """
  known = flatten(config)
  with config.unlocked(), config.ignore_type():
    if config.get("rehearsal") is not None:
      del config.rehearsal  # of another rehearsal
    for name, value in values.items():
      *path, last = name.split(".")
      if name not in known and path[:1] not in (["rehearsal"], ["pretrain"]):
        raise ValueError(f"config has no {name}{did_you_mean(name, known)}; "
                         "the overrides are of another config")
      section = config
      for part in path:
        if section.get(part) is None:
          section[part] = {}
        section = section[part]
      section[last] = value


def digest(config: Any) -> str:
  """Identifies a run: everything but what may differ when it is continued."""
  flat = {name: value for name, value in flatten(config).items() if not _may_differ(config, name)}
  return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def _may_differ(config: Any, name: str) -> bool:
  """Whether a key may differ between two calls on one workdir: the rounds may grow, and of the
  arguments of `fit` it is free how a run is judged and carried out.
  """
  return name == "rounds" or (
      "method" in config and name.split(".")[0] in ("evaluation", "compute"))


def as_dict(config: Any) -> dict[str, Any]:
  """A plain nested dict of JSON types."""
  plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  return json.loads(json.dumps(plain))


def check_same_run(config: Any, workdir: pathlib.Path) -> None:
  """Refuses a workdir that belongs to another config; only `rounds` may have grown.

  Raises:
    ValueError: naming the keys that differ.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  try:
    recorded = flatten(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f"{path} is not a readable JSON file: {error}") from None
  given = flatten(config)
  differing = []
  for name in sorted(set(recorded) | set(given)):
    before, now = recorded.get(name, "absent"), given.get(name, "absent")
    if before != now and not (_may_differ(config, name) and (name != "rounds" or now >= before)):
      differing.append(f"{name} (there {before!r}, now {now!r})")
  if differing:
    raise ValueError(f"{workdir} belongs to a run with another config: {', '.join(differing)}; "
                     "only rounds may grow. Choose another workdir")


def record(config: Any, workdir: pathlib.Path) -> None:
  """Writes `config.json`, resolved, unless it already says the same."""
  path = workdir / "config.json"
  if not path.exists() or json.loads(path.read_text()) != as_dict(config):
    write_json(path, as_dict(config))
