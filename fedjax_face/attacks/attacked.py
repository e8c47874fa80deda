"""What an attack that was played leaves: numbers for a file, and a table for people."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints


class Attacked(NamedTuple):
  """What an attack found.

  Attributes:
    record: what attack.json says.
    title: of the table.
    columns: heads of the table; the first is of words, the others of numbers.
    rows: of the table, as text.
  """

  record: dict[str, Any]
  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]


def keywords(function: Callable[..., Any]) -> set[str]:
  """Names of the keyword-only arguments of a function."""
  return {name for name, parameter in inspect.signature(function).parameters.items()
          if parameter.kind is parameter.KEYWORD_ONLY}


def require_arguments(option: str, given: Mapping[str, Any], function: Callable[..., Any],
                      names: set[str]) -> None:
  """Refuses arguments that are missing, unknown, or no numbers where a function takes numbers.

  Args:
    option: where they stand, for the error.
    given: by name.
    function: that takes them.
    names: all that are to be given.

  Raises:
    ValueError: naming one.
  """
  if wrong := set(given) ^ names:
    raise ValueError(f"{option}: {min(wrong)!r} is missing or unknown; expected "
                     f"{', '.join(sorted(names))}")
  for name, value in given.items():
    accepted = _NUMBERS.get(get_type_hints(function).get(name, Any))
    if accepted is not None and type(value) not in accepted.types:
      raise ValueError(f"{option}.{name}={value!r}: expected {accepted.words}")


class _Number(NamedTuple):
  words: str
  types: tuple[type, ...]


_NUMBERS = {int: _Number("a whole number", (int,)), float: _Number("a number", (int, float))}
