"""Parts: values that remember the call which made them.

A part is a wrapper around what the factory returned. The record cannot lie in the value itself (a
plain function is shared by all calls that return it, a NamedTuple takes no attributes), nor in a
weak table beside it (a NamedTuple has no weak references, and a copy would be forgotten). Wrapped,
any value will do, and two parts are equal when their calls are, also where the values are closures
that Python can neither compare nor pickle: a part is pickled as its call and made again.

The wrapper is for the outside alone: a factory's body gets the values of its parts. Outside,
attributes, calls, iteration, length, `[]` and `in` go to the value. Where its class matters, such
as for a flax module that becomes a submodule of one's own, `made(part)` is the value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedjax_face.options.errors import OptionError, placed, shown
from fedjax_face.options.types import BY_HAND


@dataclasses.dataclass(frozen=True)
class Call:
  """A factory with its complete arguments, checked.

  Attributes:
    factory: what is called, a `factories.Factory`.
    arguments: name -> value; a part, or a call that is not made yet, where a part belongs.
    said: the names that the caller gave; the others are the signature's defaults.
  """

  factory: Any
  arguments: Mapping[str, Any]
  said: frozenset[str] = frozenset()


class Part:
  """What a factory made, with the call that made it; see the module."""

  __slots__ = ("__weakref__", "_call", "_value")
  _call: Call
  _value: Any

  def __init__(self, call: Call, value: Any) -> None:
    object.__setattr__(self, "_call", call)
    object.__setattr__(self, "_value", value)

  def __getattr__(self, name: str) -> Any:
    try:
      return getattr(object.__getattribute__(self, "_value"), name)
    except AttributeError:
      arguments = object.__getattribute__(self, "_call").arguments
      if name in arguments:
        return arguments[name]
      raise

  def __setattr__(self, name: str, value: Any) -> None:
    raise AttributeError(f"{self!r} is frozen: fedjax_face.replace(part, name=value) makes another")

  def __delattr__(self, name: str) -> None:
    raise AttributeError(f"{self!r} is frozen")

  def __dir__(self) -> list[str]:
    return dir(self._value)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the value."""
    return self._value(*args, **kwargs)

  def __iter__(self) -> Iterator[Any]:
    return iter(self._value)

  def __len__(self) -> int:
    return len(self._value)

  def __getitem__(self, key: Any) -> Any:
    return self._value[key]

  def __contains__(self, item: Any) -> bool:
    return item in self._value

  def __bool__(self) -> bool:
    return bool(self._value)

  def __eq__(self, other: Any) -> bool:
    return _same(self, other) if isinstance(other, Part) else NotImplemented

  def __hash__(self) -> int:
    plain = (v for v in self._call.arguments.values() if isinstance(v, _SCALARS))
    return hash((self._call.factory.reference, *plain))

  def __copy__(self) -> Part:
    return self

  def __deepcopy__(self, memo: Any) -> Part:
    return self

  def __reduce__(self) -> Any:
    return make, (self._call,)

  def __repr__(self) -> str:
    factory, arguments = self._call.factory, self._call.arguments
    other = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items()
                      if not _same(value, factory.parameters[name].default))
    return f"{factory.name}({other})"


_SCALARS = (int, float, str, type(None))


def _same(one: Any, other: Any) -> bool:
  """Whether two arguments are equal; what cannot be compared is equal to itself alone."""
  if one is other:
    return True
  if isinstance(one, Part) and isinstance(other, Part):
    return (one._call.factory is other._call.factory
            and _same(one._call.arguments, other._call.arguments))
  if isinstance(one, Mapping) and isinstance(other, Mapping):
    return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
  if isinstance(one, tuple) and type(one) is type(other):
    return len(one) == len(other) and all(map(_same, one, other))
  try:
    return type(one) is type(other) and bool(one == other)
  except Exception:  # of an array with several elements, say
    return False


def made(value: Any) -> Any:
  """What the factory returned; in mappings and tuples too. Anything else is itself."""
  if isinstance(value, Part):
    return value._value
  if type(value) is dict:
    return {name: made(entry) for name, entry in value.items()}
  return tuple(map(made, value)) if type(value) is tuple else value


def make(call: Call, path: str | None = None) -> Part:
  """Calls the factory, after those of its arguments.

  Args:
    call: complete and checked.
    path: where it stands, for errors; by default the factory's name.

  Raises:
    OptionError: the factory, or one of its arguments', refuses its options.
  """
  path = call.factory.name if path is None else path
  arguments = {name: make_all(value, f"{path}.{name}") for name, value in call.arguments.items()}
  try:
    value = call.factory.function(**{name: made(value) for name, value in arguments.items()})
  except OptionError as error:
    raise error.under(path) from error
  except ValueError as error:
    raise placed(f"{path}: {error}") from error
  if isinstance(value, Part):  # of a factory that chose another's arguments
    _require_own_scalars(Part(Call(call.factory, arguments, call.said), None), value, path)
    value = made(value)
  call.factory.check_returned(value)
  return Part(Call(call.factory, arguments, call.said), value)


def _require_own_scalars(outer: Part, inner: Part, path: str) -> None:
  """Refuses a factory that returns another's part with scalars that are not its own options.

  The step reads scalars under the names of the options of the part that stands in the method, so
  those of a part within would be lost.
  """
  kind = outer._call.factory.kind
  own, chosen = kind.traced(outer), kind.traced(inner)
  for name, value in chosen.items():
    if name not in own or not _same(own[name], value):
      raise placed(f"{path}: it returns {inner!r}, whose {name} the step reads from {path}'s own "
                   f"options, where it is {shown(own.get(name, 'not there'))}: give it an option "
                   f"{name} and hand that on as it is")


def make_all(value: Any, path: str) -> Any:
  """An argument with the calls in it made."""
  if isinstance(value, Call):
    return make(value, path)
  if type(value) is dict:
    return {name: make_all(entry, f"{path}.{name}") for name, entry in value.items()}
  if type(value) is tuple:
    return tuple(make_all(item, f"{path}[{i}]") for i, item in enumerate(value))
  return value


def call(value: Any) -> Any:
  """What a config says of a value: of a part the complete call, names and arguments, nested.

  Returns:
    Dicts, lists and scalars, which strict JSON holds (infinity as "inf"); `{"by_hand": repr}` for
    a value that no config can hold. `build(kind, call(part), path) == part` where there is none.
  """
  if isinstance(value, Part | Call):
    of = record(value) if isinstance(value, Part) else value
    return {"name": of.factory.recorded_name,
            **{name: call(argument) for name, argument in of.arguments.items()}}
  if type(value) is dict:
    return {name: call(entry) for name, entry in value.items()}
  if type(value) in (tuple, list):
    return [call(item) for item in value]
  if type(value) in (int, float, str, bool, type(None)):
    return str(value) if isinstance(value, float) and math.isinf(value) else value
  return {BY_HAND: shown(value)}


def record(part: Any) -> Call:
  """The call that made a part, or will.

  Raises:
    TypeError: no factory made the value.
  """
  if isinstance(part, Call):
    return part
  if not isinstance(part, Part):
    raise TypeError(f"{shown(part)}: expected what a registered factory makes")
  return part._call


def said(part: Any) -> frozenset[str]:
  """Names of the arguments that were said; the others are the signature's own defaults."""
  return record(part).said


def argument(part: Any, name: str) -> Any:
  """The argument that a part was made with; a nested part as a part."""
  of = record(part)
  of.factory.option(name, of.factory.name)
  found = of.arguments[name]
  return dict(found) if type(found) is dict else found


def replace(part: Any, **changes: Any) -> Any:
  """The part that the same call with other arguments makes; what was said stays said.

  Raises:
    OptionError: as the factory's.
  """
  of = record(part)
  return of.factory(**{**{name: of.arguments[name] for name in of.said}, **changes})
