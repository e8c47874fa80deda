"""A run's config: its sections, its record in the workdir, and whether two configs are one run."""

from __future__ import annotations

import difflib
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from fedjax_face.runs.records import read_json, write_json


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


def digest(config: Any) -> str:
  """Identifies a run: everything but what may differ when it is continued."""
  flat = {name: value for name, value in flatten(config).items() if not _may_differ(name)}
  return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def _may_differ(name: str) -> bool:
  """Whether a key may differ between two calls on one workdir: the rounds may grow, and it is free
  how a run is judged and carried out.
  """
  return name == "rounds" or name.split(".")[0] in ("evaluation", "compute")


def as_dict(config: Any) -> dict[str, Any]:
  """A plain nested dict of JSON types."""
  plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  return json.loads(json.dumps(plain))


def check_same_run(config: Any, workdir: pathlib.Path) -> None:
  """Refuses a workdir that belongs to another config.

  `rounds` may have grown, and how the run is judged and carried out may be another.

  Raises:
    ValueError: naming the keys that differ.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  try:
    recorded = flatten(read_json(path))
  except ValueError as error:
    raise ValueError(f"{error}; put it back, or remove it where the checkpoints are whole: the "
                     "same command writes it anew") from None
  if not isinstance(recorded.get("rounds"), int):
    raise ValueError(f"{path} is not of a run of this version: it says no number of rounds")
  given = flatten(config)
  differing = []
  for name in sorted(set(recorded) | set(given)):
    before, now = recorded.get(name, "absent"), given.get(name, "absent")
    if before != now and not (_may_differ(name) and (name != "rounds" or now >= before)):
      differing.append(f"{name} (there {before!r}, now {now!r})")
  if differing:
    raise ValueError(f"{workdir} belongs to a run with another config: {', '.join(differing)}; "
                     "only rounds may grow, and evaluation and compute differ. Choose another "
                     "workdir")


def judged_otherwise(config: Any, workdir: pathlib.Path) -> list[str]:
  """Keys of the evaluation that differ from those that a workdir records."""
  path = workdir / "config.json"
  if not path.exists():
    return []
  recorded, given = (flatten(of.get("evaluation") or {}) for of in (read_json(path), config))
  return [name for name in sorted(recorded.keys() | given.keys())
          if recorded.get(name) != given.get(name)]


def restore(config: Any, workdir: pathlib.Path, say: Callable[[str], None]) -> None:
  """Writes `config.json` of a finished run from a call whose digest is that of the run, if gone."""
  path = workdir / "config.json"
  if not path.exists():
    say(f"{path} is missing: written anew from this call")
    write_json(path, as_dict(config))


def record(config: Any, workdir: pathlib.Path) -> None:
  """Writes `config.json`, resolved, unless it already says the same."""
  path = workdir / "config.json"
  if not path.exists() or read_json(path) != as_dict(config):
    write_json(path, as_dict(config))
