"""From sections of a config to parts. The other way round is `calls.call`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from fedjax_face.options.calls import make_all
from fedjax_face.options.errors import OptionError, near, placed, unsaid
from fedjax_face.options.factories import (
  Factory,
  Parameter,
  Signature,
  below,
  factory_of,
  incomplete,
)
from fedjax_face.options.kinds import Kind, type_of
from fedjax_face.options.types import ABSENT, BY_HAND, Type, mapping

Root = Mapping[str, Any] | Callable[..., Any]


def build(kind: Any, section: Any, path: str, *, given: Mapping[str, Any] | None = None) -> Any:
  """The part that a section describes.

  Args:
    kind: the type, registered as a kind.
    section: a mapping (of dicts or ConfigDicts) of what is said, with its `name` unless the kind
      has one factory alone; a name; a part.
    path: where it stands, for errors.
    given: path -> value, for the values that no config can hold.

  Raises:
    OptionError: anything that the signatures do not take; nothing is made before all is checked.
  """
  accepted = type_of(kind)
  return make_all(accepted.read(_give(section, path, given or {}), path, ABSENT), path)


def arguments(root: Root, config: Any, *, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The keyword arguments that a config says, its sections as parts: `fit(**arguments(...))`.

  Args:
    root: what takes the config; see `signature`.
    config: section -> what is said.
    given: path -> value, for the values that no config can hold.

  Returns:
    What is said; defaults of the root are left to it.

  Raises:
    OptionError: as `build`; also a section that the root needs and the config does not say.
  """
  takes, said = signature(root), mapping(_give(config, "", given or {}))
  if said is None:
    raise placed(f"config={config!r}: expected a mapping")
  options = {name: takes.option(name, "") for name in said}
  for name, parameter in takes.parameters.items():
    if not isinstance(root, Mapping) and name not in said and parameter.default is ABSENT:
      raise unsaid(name, takes.name, parameter.type.words, parameter.names)
  read = {name: parameter.type.read(said[name], name, parameter.default)
          for name, parameter in options.items()}
  return {name: make_all(value, name) for name, value in read.items()}


def outline(root: Root, config: Any) -> dict[str, Any]:
  """What a config says, to be described: parts, or the calls of those that lack options.

  Raises:
    OptionError: as `arguments`, but for what is not said.
  """
  takes, said = signature(root), mapping(config) or {}
  return {name: _outlined(takes.option(name, ""), section, name)
          for name, section in said.items()}


def _outlined(parameter: Parameter, section: Any, path: str) -> Any:
  try:
    return make_all(parameter.type.read(section, path, parameter.default), path)
  except OptionError as error:
    if not error.unsaid:
      raise
  with incomplete():
    return parameter.type.read(section, path, parameter.default)


@dataclasses.dataclass
class _Root(Signature):
  name: str
  parameters: Mapping[str, Parameter]


def signature(root: Root) -> Signature:
  """The sections of a config and what each accepts.

  Args:
    root: a function, whose parameters are the sections, or a mapping of section -> a kind's type,
      another annotation, a registered factory (which is meant where the section says no name), or
      a plain function with a return annotation (whose parameters are the section's options). A
      mapping's sections may all be left out.
  """
  if isinstance(root, Mapping):
    return _Root("the config", {
        name: Parameter(*_slot(accepted)) for name, accepted in root.items()})
  hints = typing.get_type_hints(root, include_extras=True)
  return _Root(root.__name__, {
      name: Parameter(_slot(hints[name])[0],
                      ABSENT if parameter.default is parameter.empty else parameter.default)
      for name, parameter in inspect.signature(root).parameters.items()})


def _slot(accepted: Any) -> tuple[Type, Any]:
  """The type of a section of a config, and its default."""
  if isinstance(getattr(accepted, "factory", None), Factory):
    return accepted.factory.kind.type, accepted.factory
  if not inspect.isfunction(accepted):
    return type_of(accepted), ABSENT
  returned = typing.get_type_hints(accepted).get("return")
  if returned is None:
    raise TypeError(f"{accepted.__name__}: a section's function says what it returns")
  alone = Kind(returned, accepted.__name__)
  factory = factory_of(alone.add(accepted))
  setattr(accepted, "factory", factory)  # noqa: B010  the same one when it is asked for again
  return alone.type, factory


def by_hand(config: Any, path: str = "") -> dict[str, str]:
  """Path -> repr, of the values that a config holds by their repr alone."""
  section = mapping(config)
  if section is not None and BY_HAND in section:
    return {path: section[BY_HAND]}
  return {at: of for name, value in _inside(config, path).items()
          for at, of in by_hand(value, name).items()}


def _inside(config: Any, path: str) -> dict[str, Any]:
  """Path -> value, of what a mapping or a list holds."""
  if isinstance(config, tuple | list):
    return {f"{path}[{i}]": item for i, item in enumerate(config)}
  return {below(path, name): value for name, value in (mapping(config) or {}).items()}


def _give(config: Any, path: str, given: Mapping[str, Any]) -> Any:
  """The config with values in the places of their reprs."""
  missing = by_hand(config, path)
  for name in given:
    if name not in missing:
      raise placed(f"given {name}: the config holds no value there that was made by hand"
                   f"{near(name, missing)}")
  for name, of in missing.items():
    if name not in given:
      raise placed(f"{name}: was made by hand, as {of}, which no config can hold: give it again, "
                   f"given={{{name!r}: ...}}")
  return _filled(config, path, given) if given else config


def _filled(config: Any, path: str, given: Mapping[str, Any]) -> Any:
  if path in given:
    return given[path]
  filled = [_filled(value, at, given) for at, value in _inside(config, path).items()]
  section = mapping(config)
  if section is not None:
    return dict(zip(section, filled, strict=True))
  return filled if isinstance(config, tuple | list) else config
