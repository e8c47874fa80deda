"""`--config.method.head.margin=0.3`: what a command line changes in what a config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.options.calls import Part, call, record
from fedjax_face.options.errors import OptionError, placed, shown
from fedjax_face.options.factories import Parameter, Signature
from fedjax_face.options.kinds import Kind
from fedjax_face.options.sections import Root, signature
from fedjax_face.options.types import ABSENT, Typed, entry_default, mapping

PREFIX = "--config."


class Overridden(NamedTuple):
  """What a config says after the command line.

  Attributes:
    config: plain dicts; what the overrides do not touch is as it was.
    dropped: what was said for parts that were replaced, as "method.head.margin=0.2"; to be printed.
  """

  config: dict[str, Any]
  dropped: tuple[str, ...]


def override(config: Any, root: Root, flags: Sequence[str]) -> Overridden:
  """Merges `--config.KEY=VALUE` into what a config says, typed by the signatures.

  A key may be said or not. A name in the place of a section replaces the part and drops what was
  said for the old one, unless it is of that name already; where the kind keeps options, as methods
  do, what is said of those that both take stays. `default` unsays a key; `None` is a value; "a,b"
  is a tuple, or a mapping of parts of these names; an entry of a mapping has its own name as key.
  Of several values for one key the last wins. The order of different keys does not matter: a part
  is replaced before its options are set.

  Args:
    config: what is said: dicts or a ConfigDict.
    root: the sections; see `sections.signature`.
    flags: each "--config.KEY=VALUE".

  Raises:
    OptionError: a key or a value that the signatures do not take, with the whole key.
  """
  said, takes = _copy(config) or {}, signature(root)
  dropped: list[str] = []
  for key, text in sorted(_last(flags).items(), key=lambda item: len(item[0])):
    dropped += _Override(key, text).into(said, takes, {}, 0)
  return Overridden(said, tuple(dropped))


def _last(flags: Sequence[str]) -> dict[tuple[str, ...], str]:
  """Key -> the last text that was given for it."""
  last: dict[tuple[str, ...], str] = {}
  for flag in flags:
    name, equals, text = flag.partition("=")
    key = tuple(name.removeprefix(PREFIX).split("."))
    if not flag.startswith(PREFIX) or not equals or not all(key):
      raise placed(f"{flag}: expected {PREFIX}KEY=VALUE")
    key = key[:-1] if len(key) > 1 and key[-1] == "name" else key
    last[key] = text
  return last


class _Override(NamedTuple):
  """One key and its text, on its way down through the sections."""

  key: tuple[str, ...]
  text: str

  def path(self, depth: int) -> str:
    """The flag as far as so many names of the key."""
    return (PREFIX + ".".join(self.key[:depth])).rstrip(".")

  def into(self, said: dict[str, Any], takes: Signature, base: Mapping[str, Any],
           depth: int) -> list[str]:
    """Changes in place what is said of a section; gives what it dropped.

    Args:
      said: of the section.
      takes: its signature.
      base: what is not said, where that is not the signature's default.
      depth: names of the key that lead to the section.
    """
    accepted, default = takes.option(self.key[depth], self.path(depth))
    return self._at(said, Parameter(accepted, base.get(self.key[depth], default)), depth)

  def _at(self, said: dict[str, Any], option: Parameter, depth: int) -> list[str]:
    name, path = self.key[depth], self.path(depth + 1)
    if depth == len(self.key) - 1:
      return self._set(said, name, option)
    each = option.type.each
    if each is not None:
      said[name] = _entries(said, name, option)
      of = entry_default(each, self.key[depth + 1], option.default)
      return self._at(said[name], Parameter(each, of), depth + 1)
    kind = option.type.section
    if kind is None:
      raise placed(f"{self.path(len(self.key))}: {name} is {option.type.words}, which has no "
                   "options")
    said[name] = _section(said.get(name))
    factory, base = kind.choose(said[name], path, option.default)
    return self.into(said[name], factory, base, depth + 1)

  def _set(self, said: dict[str, Any], name: str, option: Parameter) -> list[str]:
    path, old = self.path(len(self.key)), said.get(name, ABSENT)
    if self.text == "default":
      said.pop(name, None)
      return []
    value = None if self.text == "None" else option.type.parse(self.text)
    each = option.type.each
    if each is not None and isinstance(value, list):
      before = _entries(said, name, option)
      said[name] = {entry: before.get(entry, {"name": entry}) for entry in value}
      option.type.read(said[name], path, option.default)
      return [line for entry in before if old is not ABSENT and entry not in value
              for line in _lines((*self.key, entry), before[entry])]
    kind = option.type.section
    if kind is None or not isinstance(value, Typed):
      said[name] = call(option.type.read(value, path, option.default))
      return [] if kind is None else _lines(self.key, old)
    said[name], dropped = _replaced(kind, old, self.text, path, option.default)
    return _lines(self.key, dropped)


def _replaced(kind: Kind, old: Any, name: str, path: str, default: Any) -> tuple[Any, Any]:
  """The section of a part that was named, and what of that before is dropped."""
  new, section = kind.find(name, path), _section(old)
  if not section:
    return {"name": name}, old
  try:
    before = kind.choose(section, path, default)[0]
  except OptionError:  # a name that there is not, which is replaced
    return {"name": name}, old
  if before is new:
    return {**section, "name": name}, ABSENT
  kept = {option: value for option, value in section.items()
          if kind.keeps_options and option != "name" and _stays(value, option, before, new, path)}
  return {"name": name, **kept}, {o: value for o, value in section.items() if o not in kept}


def _stays(value: Any, option: str, before: Signature, new: Signature, path: str) -> bool:
  """Whether what is said of an option of one factory means the same to another.

  What a section without a name changes is the default part, so both need one of the same name.
  """
  if option not in before.parameters or option not in new.parameters:
    return False
  (old, default), (accepted, own) = before.parameters[option], new.parameters[option]
  kind = accepted.section
  if kind is not old.section:
    return False
  try:
    if kind is None or not isinstance(value, dict):
      accepted.read(value, path, own)
      return True
    return kind.choose(value, path, default)[0] is kind.choose(value, path, own)[0]
  except OptionError:
    return False


def _section(said: Any) -> dict[str, Any]:
  """What is said of a section, as options by name; empty where that is a scalar, or nothing."""
  if isinstance(said, str):
    return {"name": said}
  if isinstance(said, Part):
    return {"name": record(said).factory.recorded_name, **_copy(record(said).arguments)}
  return said if isinstance(said, dict) else {}


def _entries(said: Mapping[str, Any], name: str, option: Parameter) -> dict[str, Any]:
  """The entries of a mapping: said, or else those of the default, as a config says them."""
  entries = said[name] if name in said else call(option.default)
  if isinstance(entries, list | tuple):
    return {str(entry): {"name": str(entry)} for entry in entries}
  return entries if isinstance(entries, dict) else {}


def _lines(key: tuple[str, ...], said: Any) -> list[str]:
  """What was said at a key, a line each: "method.head.margin=0.2"."""
  if isinstance(said, Mapping):
    return [line for name, value in said.items()
            for line in _lines(key if name == "name" else (*key, name), value)]
  value = said if isinstance(said, str) else shown(said)
  return [] if said is ABSENT else [f"{'.'.join(key)}={value}"]


def _copy(config: Any) -> Any:
  section = mapping(config)
  return config if section is None else {name: _copy(value) for name, value in section.items()}
