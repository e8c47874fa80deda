"""The numbers that enter the compiled step: nested like the call that made the part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjax_face.options.calls import Part, record
from fedjax_face.options.errors import near, placed, refused
from fedjax_face.options.factories import below
from fedjax_face.options.types import ABSENT, Type


def hparams(part: Any) -> dict[str, Any]:
  """The `Traced` options of a part and of its parts: `hparams(method)["head"]["margin"]`.

  Every part has its mapping, empty where it has no traced option; so has a value made by hand. A
  leaf that is None is left out until `fill` fills it.
  """
  return record(part).factory.kind.traced(part)


def still_open(part: Any) -> list[str]:
  """Dotted names of the traced options that are None: "aggregate.noise_multiplier"."""
  return _open(record(part).factory.kind.type, part, "")


def fill(part: Any, values: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
  """`hparams(part)` with what it leaves open.

  The part stays as it is, and so does its config: `values` is what to record beside that.

  Args:
    part: with traced options that are None.
    values: nested like `hparams`: `{"aggregate": {"noise_multiplier": 1.1}}`.
    path: of the part, for errors; by default its factory's name.

  Raises:
    OptionError: a name that the part does not have, an option that was said already or is not
      traced, or a number that it does not accept.
  """
  factory = record(part).factory
  return _filled(factory.kind.type, part, values, factory.name if path is None else path)


def _open(accepted: Type, value: Any, path: str) -> list[str]:
  if value is None:
    return [path] if _is_traced(accepted) else []
  return [name for key, (of, nested) in _below(accepted, value).items()
          for name in _open(of, nested, below(path, key))]


def _filled(accepted: Type, value: Any, given: Any, path: str) -> Any:
  if value is None and _is_traced(accepted) and given is not None:
    return accepted.read(given, path, ABSENT)
  inside = _below(accepted, value)
  if not inside or not isinstance(given, Mapping):
    raise refused(path, given, "there is nothing to fill: it is said already, or is not traced")
  leaves = dict(accepted.traced(value))
  for name, number in given.items():
    if name not in inside:
      raise placed(f"{below(path, name)}: nothing has this name{near(name, inside)}")
    leaves[name] = _filled(*inside[name], number, below(path, name))
  return leaves


def _is_traced(accepted: Type) -> bool:
  return accepted.traced(0.0) is not ABSENT


def _below(accepted: Type, value: Any) -> dict[str, tuple[Type, Any]]:
  """Name -> type and value, of the options of a part and of the entries of a mapping."""
  if isinstance(value, Part):
    return {name: (parameter.type, record(value).arguments[name])
            for name, parameter in record(value).factory.parameters.items()}
  if isinstance(value, dict) and accepted.each is not None:
    return {name: (accepted.each, entry) for name, entry in value.items()}
  return {}
