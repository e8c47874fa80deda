"""Factories: registered functions, whose signatures are the options."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fedjax_face.options.calls import Call, Part, make, make_all, record
from fedjax_face.options.errors import near, placed, unsaid
from fedjax_face.options.types import ABSENT, BY_HAND, Type

_PACKAGE = __name__.partition(".")[0]
_INCOMPLETE = contextvars.ContextVar("incomplete", default=False)


class Parameter(NamedTuple):
  """One option: what it accepts and what it is where it is not said (ABSENT: it has to be)."""

  type: Type
  default: Any

  @property
  def names(self) -> list[str]:
    """Of the parts that may stand there; none of an option that is no section."""
    return [] if self.type.section is None else self.type.section.names()


@contextlib.contextmanager
def incomplete() -> Iterator[None]:
  """Calls that are read within may lack options without a default, which are ABSENT in them."""
  before = _INCOMPLETE.set(True)
  try:
    yield
  finally:
    _INCOMPLETE.reset(before)


class Signature:
  """Options by name, as a factory takes them, or a whole config.

  Attributes:
    name: of what takes them, for errors.
    parameters: name -> option.
  """

  name: str
  parameters: Mapping[str, Parameter]

  def arguments(self, said: Mapping[str, Any], path: str,
                base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The complete arguments, checked; nothing is made yet.

    Args:
      said: name -> value or section.
      path: of the section, for errors; "" at the root.
      base: what is not said, where that is not the signature's default.

    Raises:
      OptionError: an unknown name, a value that is refused, or one that is missing.
    """
    for name in said:
      self.option(name, path)
    arguments = {}
    for name, (accepted, default) in self.parameters.items():
      default = (base or {}).get(name, default)
      if name in said:
        arguments[name] = accepted.read(said[name], below(path, name), default)
      elif default is ABSENT:
        if not _INCOMPLETE.get():
          raise unsaid(below(path, name), self.name, accepted.words, self.parameters[name].names)
        arguments[name] = ABSENT
      else:
        arguments[name] = default
    return arguments

  def option(self, name: str, path: str) -> Parameter:
    """The option of a name.

    Raises:
      OptionError: there is none, with the nearest name.
    """
    if name in self.parameters:
      return self.parameters[name]
    nested = [f"{at}.{name}" for at, parameter in self.parameters.items()
              if isinstance(parameter.default, Part)
              and name in record(parameter.default).factory.parameters]
    hint = f" (did you mean {nested[0]}?)" if nested else near(str(name), self.parameters)
    takes = ", ".join(self.parameters) or "no options"
    raise placed(f"{below(path, name)}: {self.name} takes no {name}{hint}; it takes {takes}")


def below(path: str, name: str) -> str:
  """The path of an option of the section at `path`."""
  return f"{path}.{name}" if path else name


class Factory(Signature):
  """A registered function: its signature is the section, its docstring the documentation.

  Attributes:
    function: what was registered.
    kind: that it was registered for, a `kinds.Kind`.
    name: in configs, the function's own.
    reference: `module:qualified name`.
  """

  def __init__(self, function: Callable[..., Any], kind: Any) -> None:
    self.function, self.kind, self.name = function, kind, function.__name__
    self.reference = f"{function.__module__}:{function.__qualname__}"
    for name, parameter in inspect.signature(function).parameters.items():
      if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"{self.reference}: options have names; {parameter} has none")
      if parameter.annotation is parameter.empty:
        raise TypeError(f"{self.reference}: option {name!r} has no annotation")
      if name in ("name", BY_HAND):
        raise TypeError(f"{self.reference}: no option can be called {name!r}")

  @functools.cached_property
  def parameters(self) -> Mapping[str, Parameter]:  # type: ignore[override]
    """The options, with defaults checked; resolved when first asked for."""
    hints = typing.get_type_hints(self.function, include_extras=True)
    self.kind.check_annotation(hints.get("return"), self)
    parameters = {}
    for name, parameter in inspect.signature(self.function).parameters.items():
      accepted = self.kind.type_of(hints[name])
      default, path = parameter.default, f"{self.name}.{name}"
      parameters[name] = Parameter(accepted, ABSENT if default is parameter.empty else make_all(
          accepted.read(default, path, ABSENT), path))
    return parameters

  @property
  def recorded_name(self) -> str:
    """What configs call it: `name`, or `module:name` of a user's own."""
    module = self.function.__module__
    own = module.partition(".")[0] == _PACKAGE or module in self.kind.homes
    return self.name if own else f"{module}:{self.name}"

  def __call__(self, *args: Any, **kwargs: Any) -> Part:
    """Makes a part from Python."""
    positional = [name for name, parameter in inspect.signature(self.function).parameters.items()
                  if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if len(args) > len(positional):
      raise placed(f"{self.name}: takes {len(positional)} options without a name, and "
                   f"{len(args)} were given; it takes {', '.join(self.parameters)}")
    said = dict(zip(positional, args, strict=False))
    for name in said.keys() & kwargs.keys():
      raise placed(f"{self.name}.{name}: said twice")
    return make(self.read({**said, **kwargs}, self.name))

  def read(self, said: Mapping[str, Any], path: str,
           base: Mapping[str, Any] | None = None) -> Call:
    """The call that these arguments make; see `Signature.arguments`."""
    return Call(self, self.arguments(said, path, base), frozenset(said))

  def check_returned(self, value: Any) -> None:
    """Raises TypeError where the function returned something else than it says."""
    if not self.kind.accepts(value):
      raise TypeError(f"{self.reference} returned {type(value).__name__}, "
                      f"not {self.kind.words}")

  def __reduce__(self) -> Any:
    return _factory_at, (self.reference,)

  def __repr__(self) -> str:
    return f"<{self.kind.name} {self.reference}>"


def _factory_at(reference: str) -> Factory:
  module, _, qualified = reference.partition(":")
  found: Any = importlib.import_module(module)
  return factory_of(functools.reduce(getattr, qualified.split("."), found))


def factory_of(function: Callable[..., Any]) -> Factory:
  """The factory behind a registered function.

  Raises:
    TypeError: it was not registered.
  """
  found = getattr(function, "factory", None)
  if not isinstance(found, Factory):
    raise TypeError(f"{function!r} is not a registered factory")
  return found
