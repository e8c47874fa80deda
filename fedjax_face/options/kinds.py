"""Kinds of parts, and the registry that holds them."""

from __future__ import annotations

import functools
import importlib
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fedjax_face.options.calls import Part, record
from fedjax_face.options.errors import near, placed, refused
from fedjax_face.options.factories import Factory
from fedjax_face.options.types import ABSENT, Type, Typed, mapping, typed

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Kind:
  """The parts that can stand in a section: those of a type, made by factories with names.

  Attributes:
    of: the type that is annotated.
    name: of the decorator `register.NAME`.
    homes: modules that register factories of this kind, imported when a name is looked for.
    keeps_options: see `Registry.kind`.
    words: "a head".
    type: what a section of this kind accepts.
    factories: those registered so far, by name.
  """

  def __init__(self, accepted: Any, name: str, homes: Sequence[str] = (),
               keeps_options: bool = False) -> None:
    self.of, self.name, self.homes = accepted, name, tuple(homes)
    self.keeps_options = keeps_options
    self.words = f"{_article(name)} {name.replace('_', ' ')}"
    self.factories: dict[str, Factory] = {}
    self.type = Type(self.words, self.read, traced=self.traced, section=self)

  def add(self, function: F) -> F:
    """Registers a factory of this kind under its name; the decorator `register.KIND`.

    Returns:
      The function, which checks its arguments and returns a part.

    Raises:
      ValueError: another factory of this kind has the name.
    """
    factory = Factory(function, self)
    other = self.factories.get(factory.name)
    if other is not None and not _again(factory, other):
      raise ValueError(f"{factory.reference}: {other.reference} is {self.words} of the same name")
    self.factories[factory.name] = factory

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
      return factory(*args, **kwargs)

    called.factory = factory  # type: ignore[attr-defined]
    return typing.cast(F, called)

  def names(self) -> list[str]:
    """All names, in order."""
    for module in self.homes:
      importlib.import_module(module)
    return sorted(self.factories)

  def find(self, name: Any, path: str) -> Factory:
    """The factory of a name, or of `module:name`, which is imported.

    Raises:
      OptionError: there is none, with the nearest name.
    """
    if not isinstance(name, str):
      raise refused(path, name, f"expected the name of {self.words}")
    module, _, own = name.rpartition(":")
    if module:
      try:
        importlib.import_module(module)
      except ImportError as error:
        sought = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        where = "; its folder must be in PYTHONPATH" if sought else ""
        raise refused(path, Typed(name), f"{module} cannot be imported ({error}){where}") from error
    elif own not in self.factories:
      self.names()
    found = self.factories.get(own)
    if found is None or (module and found.function.__module__ != module):
      hint = near(own, self.names()) or (
          "" if module or not own.isidentifier() else " (one of your own is called module:name)")
      raise refused(path, Typed(name), f"no {self.words.split(' ', 1)[1]} has this name"
                    f"{hint}; there are {', '.join(self.names()) or 'none'}")
    return found

  def _same_name(self, factory: Factory) -> str:
    """Where the part of this kind is made that has the name of another kind's."""
    self.names()
    own = self.factories.get(factory.name)
    return "" if own is None else f": {own.reference.replace(':', '.')} makes one"

  def read(self, value: Any, path: str, default: Any = ABSENT) -> Any:
    """As `Type.read`: a part, a value of the kind's type, a name, or a section."""
    if isinstance(value, Part):
      if record(value).factory.kind is not self:
        raise refused(path, value, f"expected {self.words}, not "
                      f"{record(value).factory.kind.words}{self._same_name(record(value).factory)}")
      return value
    section = {"name": value} if isinstance(value, str) else mapping(value)
    if section is not None:
      factory, base = self.choose(section, path, default)
      return factory.read({k: v for k, v in section.items() if k != "name"}, path, base)
    if not self.accepts(value):
      raise refused(path, value, f"expected {self.words}: a part, a name or a section")
    return value

  def is_part(self, value: Any) -> bool:
    """Whether a factory made the value, of this kind or another."""
    return isinstance(value, Part)

  def choose(self, section: Mapping[str, Any], path: str,
             default: Any = ABSENT) -> tuple[Factory, Mapping[str, Any]]:
    """The factory of a section, and what its options are where they are not said.

    A section without a name changes the default part; where there is none, the only factory of the
    kind is meant.
    """
    if "name" in section:
      return self.find(section["name"], path), {}
    if isinstance(default, Part):
      return record(default).factory, record(default).arguments
    if isinstance(default, Factory):
      return default, {}
    names = self.names()
    if len(names) == 1:
      return self.factories[names[0]], {}
    raise placed(f"{path}: expected the name of {self.words}: {', '.join(names)}")

  def accepts(self, value: Any) -> bool:
    """Whether a value that no factory made is of the kind's type."""
    accepted = self.of
    while hasattr(accepted, "__supertype__"):  # of a NewType
      accepted = accepted.__supertype__
    accepted = typing.get_origin(accepted) or accepted
    return isinstance(value, accepted) if isinstance(accepted, type) else True

  def check_annotation(self, returned: Any, factory: Factory) -> None:
    """Raises TypeError where a factory does not say that it returns this kind."""
    if returned is None:
      raise TypeError(f"{factory.reference}: expected an annotation of what it returns: "
                      f"-> {getattr(self.of, '__name__', self.of)}")
    if returned != self.of:
      raise TypeError(f"{factory.reference}: registered as {self.words}, "
                      f"but returns {returned!r}")

  def traced(self, value: Any) -> Any:
    """As `Type.traced`: nested by the names of options."""
    if not isinstance(value, Part):  # a value made by hand has no leaves; a scalar is none of ours
      return ABSENT if isinstance(value, int | float | str | None) else {}
    leaves = {name: parameter.type.traced(record(value).arguments[name])
              for name, parameter in record(value).factory.parameters.items()}
    return {name: leaf for name, leaf in leaves.items() if leaf is not ABSENT}

  def named(self, entry: str) -> Any:
    """The factory of the name of a mapping's entry, or ABSENT."""
    if entry not in self.factories:
      self.names()
    return self.factories.get(entry, ABSENT)

  def type_of(self, annotation: Any) -> Type:
    """What an annotation accepts, of this kind or another."""
    return type_of(annotation)

  def __repr__(self) -> str:
    return f"<kind {self.name}>"


_KINDS: dict[Any, Kind] = {}


def kind_of(annotation: Any) -> Kind | None:
  """The kind that a type was registered as, or None."""
  try:
    return _KINDS.get(annotation)
  except TypeError:  # unhashable
    return None


def type_of(annotation: Any) -> Type:
  """What an annotation accepts; see `types.typed`."""
  return typed(annotation, lambda of: None if (kind := kind_of(of)) is None else kind.type)


class Registry:
  """Kinds by name: `register.kind(Aggregate)`, then `@register.aggregate`."""

  def __init__(self) -> None:
    self.kinds: dict[str, Kind] = {}

  def kind(self, accepted: T, *, name: str | None = None, homes: Sequence[str] = (),
           keeps_options: bool = False) -> T:
    """Makes a type a kind.

    Args:
      accepted: a class; for functions a Protocol with `__call__`; for a second kind of one class a
        NewType.
      name: of the decorator; by default the type's own, `UserSampling` as `user_sampling`.
      homes: modules that register factories of it and are imported when a name is looked for.
      keeps_options: whether a command line that names another of these parts keeps what is said of
        options that both take: of a method, whose options are parts themselves, but not of a head,
        whose margin means something else in another.

    Returns:
      The type.

    Raises:
      ValueError: the type is a kind already, or another kind has the name.
    """
    if getattr(accepted, "_is_protocol", False):
      typing.runtime_checkable(accepted)  # type: ignore[type-var]
    name = name or _snake(accepted.__name__)  # type: ignore[attr-defined]
    if name in self.kinds or hasattr(type(self), name) or kind_of(accepted) is not None:
      raise ValueError(f"kind {name!r} or its type {accepted!r} is registered already")
    self.kinds[name] = _KINDS[accepted] = Kind(accepted, name, homes, keeps_options)
    return accepted

  def __dir__(self) -> list[str]:
    return [*super().__dir__(), *self.kinds]

  def __getattr__(self, name: str) -> Callable[[F], F]:
    kinds = self.__dict__.get("kinds", {})
    if name not in kinds:
      raise AttributeError(f"no kind is called {name!r}{near(name, kinds)}; "
                           f"there are {', '.join(sorted(kinds)) or 'none'}")
    return kinds[name].add


register = Registry()


def _snake(name: str) -> str:
  return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _article(name: str) -> str:
  return "an" if name[0] in "aeiou" else "a"


def _again(factory: Factory, other: Factory) -> bool:
  """Whether one function is registered again: a notebook's cell run twice, a module reloaded."""
  where = [(f.reference, f.function.__code__.co_filename, f.function.__code__.co_firstlineno)
           for f in (factory, other)]
  notebook = factory.function.__module__ == "__main__" and "ipykernel" in sys.modules
  return where[0] == where[1] or (notebook and factory.reference == other.reference)
