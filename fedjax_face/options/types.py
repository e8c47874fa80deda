"""What an annotation accepts: values that are checked, read from text, and named in words.

`typed(annotation)` makes the `Type` of an annotation; that of a kind is made in `kinds`.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fedjax_face.options.errors import OptionError, near, refused, unheld
from fedjax_face.options.ranges import TRACED, Range

BY_HAND = "by_hand"
"""The one key of what a config holds in place of a value that it cannot hold: the value's repr."""


_FINITE = Range()
_WHOLE = 2**31                       # counts, sizes and seeds enter compiled programs as int32
_SMALLEST, _LARGEST = 2.0**-126, 2.0**128 - 2.0**104  # traced numbers enter as float32
_INFINITE = {"inf": math.inf, "-inf": -math.inf}  # as strict JSON holds them


class _Absent:
  """Stands where there is no value; None is a value."""

  def __repr__(self) -> str:
    return "absent"

  def __reduce__(self) -> str:
    return "ABSENT"


ABSENT: Any = _Absent()


class Typed(str):
  """Text of a command line that means nothing yet; shown without quotes."""

  def __repr__(self) -> str:
    return str(self)


@dataclasses.dataclass(frozen=True)
class Type:
  """What an annotation accepts.

  Attributes:
    words: what is expected: "a number above 0".
    read: (value, path, default) -> the value as a factory gets it, or an `OptionError`. `path` is
      for errors; `default` is what the option is where it is not said, or ABSENT.
    parse: text of a command line -> value; `Typed` where the text means nothing here.
    traced: a value that was read -> the traced numbers in it, or ABSENT.
    section: the `kinds.Kind` whose parts are accepted, if any.
    each: the type of a mapping's entries, where a mapping is accepted.
  """

  words: str
  read: Callable[[Any, str, Any], Any]
  parse: Callable[[str], Any] = Typed
  traced: Callable[[Any], Any] = lambda value: ABSENT
  section: Any = None
  each: Type | None = None


def _number(whole: bool, range_: Range = _FINITE, traced: bool = False) -> Type:
  """A Python int or float in a range; a numpy scalar is one too, a bool is not."""
  words = range_.words("a whole number" if whole else "a number")
  abstract, concrete = (numbers.Integral, int) if whole else (numbers.Real, float)

  def read(value: Any, path: str, default: Any) -> Any:
    value = _INFINITE.get(value, value) if isinstance(value, str) and not whole else value
    if isinstance(value, bool) or not isinstance(value, abstract):
      raise refused(path, value, f"expected {words}")
    try:
      number = concrete(value)  # type: ignore[call-overload]
    except OverflowError:  # of a whole number that no float holds
      number = concrete("-inf" if value < 0 else "inf")
    if whole and abs(number) >= _WHOLE:
      raise unheld(path, value, f"expected {words}, below 2**31 in size")
    if not range_.holds(number):
      finite = "a finite number" if range_ == _FINITE else f"{words} and below infinity"
      beyond = math.isinf(number) and (range_ == _FINITE or number == range_.high)
      raise refused(path, value, f"expected {finite if beyond else words}")
    if traced and number and math.isfinite(number) and not _SMALLEST <= abs(number) <= _LARGEST:
      raise unheld(path, value, f"expected {words}, and one that float32 holds: 0, or "
                   "1.2e-38 to 3.4e38 in size")
    return number

  def parse(text: str) -> Any:
    try:
      return concrete(text)
    except ValueError:
      return Typed(text)

  def leaf(value: Any) -> Any:
    return value if traced and isinstance(value, int | float) else ABSENT

  return Type(words, read, parse, leaf)


def _instance(of: Any, words: str, parse: Callable[[str], Any] = Typed) -> Type:
  """Instances of a class, as they are."""

  def read(value: Any, path: str, default: Any) -> Any:
    if not isinstance(value, of):
      raise refused(path, value, f"expected {words}")
    return value

  return Type(words, read, parse)


def _text() -> Type:
  """str; a path is text too. On a command line quotes keep 'None' and 'default' text."""
  accepted = _instance(str | os.PathLike, "a text")

  def parse(text: str) -> Any:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else Typed(text)

  return dataclasses.replace(
      accepted, read=lambda *given: str(os.fspath(accepted.read(*given))), parse=parse)


def _anything() -> Type:
  """Any: as it is after a trip through a config, where lists are tuples and numbers finite."""

  def read(value: Any, path: str, default: Any) -> Any:
    if type(value) in (tuple, list):
      return tuple(read(item, f"{path}[{i}]", ABSENT) for i, item in enumerate(value))
    entries = mapping(value)
    if entries is not None:
      return {name: read(entry, f"{path}.{name}", ABSENT) for name, entry in entries.items()}
    if isinstance(value, float) and not math.isfinite(value):
      raise refused(path, value, "expected a finite number")
    return str(value) if isinstance(value, Typed) else value

  def parse(text: str) -> Any:
    try:
      return ast.literal_eval(text)
    except (ValueError, SyntaxError):
      return Typed(text)

  return Type("a value", read, parse)


def _choice(values: tuple[Any, ...]) -> Type:
  """Literal[...]."""
  names = {str(value): value for value in values}
  words = f"one of {', '.join(names)}"

  def read(value: Any, path: str, default: Any) -> Any:
    for known in values:
      if known == value and isinstance(known, bool) == isinstance(value, bool):
        return known
    raise refused(path, value, f"expected {words}{near(str(value), names)}")

  return Type(words, read, lambda text: names.get(text, Typed(text)))


def _either(members: tuple[Type, ...]) -> Type:
  """A union; the first member that accepts a value reads it."""
  words = " or ".join(member.words for member in members)
  words = words if "," not in words else ", or ".join(member.words for member in members)
  section = next((m.section for m in members if m.section is not None), None)

  def read(value: Any, path: str, default: Any) -> Any:
    for member in members:
      try:
        return member.read(value, path, default)
      except OptionError as error:
        if error.unheld:
          raise
    if section is not None and (isinstance(value, str) or mapping(value) is not None
                                or section.is_part(value)):
      return section.read(value, path, default)  # whose error says more
    raise refused(path, value, f"expected {words}")

  def parse(text: str) -> Any:
    return next((value for member in members
                 if not isinstance(value := member.parse(text), Typed)), Typed(text))

  def traced(value: Any) -> Any:
    return next((leaves for member in members
                 if (leaves := member.traced(value)) is not ABSENT), ABSENT)

  return Type(words, read, parse, traced, section,
              next((member.each for member in members if member.each is not None), None))


def _items(each: Type | None, places: tuple[Type, ...] = ()) -> Type:
  """tuple[X, ...], or tuple[X, Y] with a type for each place; a list is one too."""
  words = (f"a tuple ({', '.join(place.words for place in places)})" if each is None
           else f"a tuple, each {each.words}")

  def of(items: Any) -> tuple[Type, ...]:
    return places if each is None else (each,) * len(items)

  def read(value: Any, path: str, default: Any) -> Any:
    if not isinstance(value, tuple | list) or len(value) != len(of(value)):
      raise refused(path, value, f"expected {words}")
    return tuple(at.read(item, f"{path}[{i}]", ABSENT)
                 for i, (at, item) in enumerate(zip(of(value), value, strict=True)))

  def parse(text: str) -> Any:
    inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    items = [item.strip() for item in inner.split(",")]
    items = items[:-1] if not items[-1] else items
    if len(items) != len(of(items)):
      return Typed(text)
    return tuple(at.parse(item) for at, item in zip(of(items), items, strict=True))

  def traced(value: Any) -> Any:
    if not isinstance(value, tuple):
      return ABSENT
    leaves = tuple(at.traced(item) for at, item in zip(of(value), value, strict=True))
    return ABSENT if all(leaf is ABSENT for leaf in leaves) else leaves

  return Type(words, read, parse, traced)


def _mapping(each: Type) -> Type:
  """Mapping[str, X], with names of the caller's choice; names alone are a mapping of parts."""
  words = f"a mapping, each entry {each.words}"

  def read(value: Any, path: str, default: Any) -> Any:
    if (each.section is not None and isinstance(value, tuple | list)
        and all(isinstance(name, str) for name in value)):
      value = {name: {"name": name} for name in value}
    entries = mapping(value)
    if entries is None or not all(isinstance(name, str) for name in entries):
      raise refused(path, value, f"expected {words}")
    return {name: each.read(entry, f"{path}.{name}", entry_default(each, name, default))
            for name, entry in entries.items()}

  def parse(text: str) -> Any:
    if text == "{}":
      return {}
    return text.split(",") if each.section is not None else Typed(text)

  def traced(value: Any) -> Any:
    leaves = {name: each.traced(entry) for name, entry in (mapping(value) or {}).items()}
    return {name: leaf for name, leaf in leaves.items() if leaf is not ABSENT} or ABSENT

  return Type(words, read, parse, traced, each=each)


def entry_default(each: Type, name: str, default: Any) -> Any:
  """What an entry is where it says no name: the default's entry, or the part of its own name."""
  if isinstance(default, Mapping) and name in default:
    return default[name]
  return ABSENT if each.section is None else each.section.named(name)


def mapping(value: Any) -> dict[str, Any] | None:
  """A mapping or an ml_collections.ConfigDict as a dict of its own, or None."""
  if type(value).__module__.startswith("ml_collections"):
    return value.to_dict()
  return dict(value) if isinstance(value, Mapping) else None


_FLAG = _instance(bool, "true or false",
                  lambda text: {"true": True, "false": False}.get(text.lower(), Typed(text)))
_PLAIN: Mapping[Any, Type] = {
    bool: _FLAG, str: _text(), type(None): _instance(type(None), "None"), Any: _anything()}


def typed(annotation: Any, kind: Callable[[Any], Type | None], marks: tuple[Any, ...] = ()) -> Type:
  """The type of an annotation.

  Args:
    annotation: resolved, not a string.
    kind: gives the type of a registered kind, or None.
    marks: of an `Annotated` around the annotation.

  Raises:
    TypeError: an annotation that options cannot have.
  """
  found = kind(annotation)
  if found is not None:
    return found
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is Annotated:
    return typed(arguments[0], kind, (*arguments[1:], *marks))
  range_ = next((mark for mark in marks if isinstance(mark, Range)), _FINITE)
  if annotation in (int, float):
    return _number(annotation is int, range_, TRACED in marks)
  if range_ != _FINITE:
    raise TypeError(f"{annotation}: a range belongs to a number, Annotated[float, above(0)]")
  if origin in (typing.Union, types.UnionType):
    return _either(tuple(typed(argument, kind) for argument in arguments))
  if origin is Literal:
    return _choice(arguments)
  if origin is tuple and arguments[-1] is not Ellipsis:
    return _items(None, tuple(typed(argument, kind) for argument in arguments))
  if origin in (tuple, list, collections.abc.Sequence):
    return _items(typed(arguments[0], kind))
  if origin in (dict, collections.abc.Mapping):
    return _mapping(typed(arguments[1], kind))
  if annotation in _PLAIN:
    return _PLAIN[annotation]
  if isinstance(annotation, type):
    return _instance(annotation, f"a {annotation.__name__}, made in Python")
  raise TypeError(f"{annotation!r}: options are numbers, bool, str, Literal, None, tuples, "
                  "mappings, parts of a kind, or instances of a class")
