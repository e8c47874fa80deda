"""The options in words, for `--help`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from fedjax_face.options.calls import Part
from fedjax_face.options.errors import shown
from fedjax_face.options.factories import Factory, Signature, factory_of
from fedjax_face.options.kinds import kind_of
from fedjax_face.options.types import ABSENT


def describe(target: Any, path: str = "") -> str:
  """A short text of what can be said, grouped by section.

  Args:
    target: a kind's type, whose names are listed; a factory or a part, whose options are, and
      those of its parts; or a `sections.signature`.
    path: of the section: "method" for `method.head.margin`.

  Returns:
    Lines of at most about 100 characters: name, type, default, what the docstring says first.
  """
  kind = kind_of(target)
  if kind is not None:
    return "\n".join(f"{name:24}{_first_line(kind.factories[name])}" for name in kind.names())
  if isinstance(target, Signature) and not isinstance(target, Factory):
    return "\n".join(_options(target, path, None))
  if isinstance(target, Part):
    return "\n".join(_lines(target._call.factory, path, target))
  factory = target if isinstance(target, Factory) else factory_of(target)
  return "\n".join(_lines(factory, path, None))


def _lines(factory: Factory, path: str, part: Part | None) -> list[str]:
  title = f"{path}={factory.name}" if path else factory.name
  others = [name for name in factory.kind.names() if name != factory.name]
  more = f" (or {', '.join(others)})" if others else ""
  return [f"{title}{more}", f"  {_first_line(factory)}", *_options(factory, path, part)]


def _options(takes: Signature, path: str, part: Part | None) -> list[str]:
  """Scalars first, then a group for every part."""
  own, groups = [], []
  documented = _documented(takes)
  for name, parameter in takes.parameters.items():
    where = f"{path}.{name}" if path else name
    value = parameter.default if part is None else part._call.arguments[name]
    if isinstance(value, Part):
      groups += ["", *_lines(value._call.factory, where, value)]
      continue
    default = "" if value is ABSENT or isinstance(value, Factory) else f" [{shown(value)}]"
    words = parameter.type.words + (", traced" if parameter.type.traced(0.0) is not ABSENT else "")
    own.append(f"  {where:32} {words}{default}{documented.get(name, '')}")
  return own + groups


def _first_line(factory: Factory) -> str:
  return (inspect.getdoc(factory.function) or "").partition("\n")[0]


def _documented(takes: Signature) -> dict[str, str]:
  """Option -> ": what the section Args of the docstring says", as far as its first sentence."""
  doc = inspect.getdoc(takes.function) or "" if isinstance(takes, Factory) else ""
  section = re.search(r"^Args:\n((?:[ \t].*\n?|\n)*)", doc, re.MULTILINE)
  entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section[1] if section else "", re.MULTILINE)
  return {name: ": " + " ".join(text.split()).partition(". ")[0].rstrip(".")
          for name, text in entries}
