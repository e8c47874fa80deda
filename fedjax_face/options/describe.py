"""The options in words, for `--help`."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from fedjax_face.options.calls import Call, Part, record
from fedjax_face.options.errors import shown
from fedjax_face.options.factories import Factory, Parameter, Signature, below, factory_of
from fedjax_face.options.kinds import Kind, kind_of
from fedjax_face.options.types import ABSENT


def describe(target: Any, path: str = "") -> str:
  """A short text of what can be said, a group for each section.

  Args:
    target: a kind's type, whose factories are listed; a factory, whose options are, and those of
      its default parts; a part or its call, the same with its own
      parts and values; a `sections.signature`.
    path: of the section: "method" for `method.head.margin`.

  Returns:
    Lines of at most 100 characters: an option's name, what is expected, its [value], and what the
    docstring's Args say of it first.
  """
  kind = target if isinstance(target, Kind) else kind_of(target)
  if kind is not None:
    title = [f"{path}=None, or one of"] if path else []
    return "\n".join([*title, *(_entry(name, _first_line(kind.factories[name]))
                                for name in kind.names())])
  if isinstance(target, Part | Call):
    return "\n".join(_group(record(target).factory, path, target))
  if isinstance(target, Signature) and not isinstance(target, Factory):
    return "\n".join(_options(target, path, None)).strip("\n")
  return "\n".join(_group(factory_of(target), path, None))


def _group(factory: Factory, path: str, part: Part | Call | None) -> list[str]:
  others = [name for name in factory.kind.names() if name != factory.name]
  title = (f"{path}={factory.name}" if path else factory.name) + (
      f" (or {', '.join(others)})" if others else "")
  return [*textwrap.wrap(title, 100, subsequent_indent="    "),
          *textwrap.wrap(_first_line(factory), 98, initial_indent="  ", subsequent_indent="  "),
          *_options(factory, path, part)]


def _options(takes: Signature, path: str, part: Part | Call | None) -> list[str]:
  """Options of its own first, then a group for every part."""
  own, groups, documented = [], [], _documented(takes)
  for name, parameter in takes.parameters.items():
    value = parameter.default if part is None else record(part).arguments[name]
    nested = value if isinstance(value, Part | Call) else None
    factory = record(nested).factory if nested is not None else _meant(parameter, value)
    if factory is not None:
      groups += ["", *_group(factory, below(path, name), nested)]
    else:
      own.append(_entry(name, _words(parameter, value) + documented.get(name, "")))
  return own + groups


def _meant(parameter: Parameter, value: Any) -> Factory | None:
  """The factory of a section that says no name, where no part is its default."""
  kind = parameter.type.section
  if isinstance(value, Factory):
    return value
  if kind is None or not (value is None or value is ABSENT):
    return None
  names = kind.names()
  return kind.factories[names[0]] if len(names) == 1 else None


def _words(parameter: Parameter, value: Any) -> str:
  kind = parameter.type.section
  names = f": {', '.join(parameter.names)}" if kind is not None else ""
  traced = ", traced" if parameter.type.traced(0.0) is not ABSENT else ""
  return parameter.type.words + names + traced + ("" if value is ABSENT else f" [{shown(value)}]")


def _entry(name: str, words: str) -> str:
  return textwrap.fill(f"  {name:22} {words}", 100, subsequent_indent=" " * 25)


def _first_line(factory: Factory) -> str:
  return (inspect.getdoc(factory.function) or "").partition("\n")[0]


def _documented(takes: Signature) -> dict[str, str]:
  """Option -> ": what the section Args of the docstring says", as far as its first sentence."""
  doc = inspect.getdoc(takes.function) or "" if isinstance(takes, Factory) else ""
  section = re.search(r"^Args:\n((?:[ \t].*\n?|\n)*)", doc, re.MULTILINE)
  entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section[1] if section else "", re.MULTILINE)
  return {name: ": " + " ".join(text.split()).partition(". ")[0].rstrip(".")
          for name, text in entries}
