"""Refusals in one line: where, what was said, what was expected, what is near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class OptionError(ValueError):
  """An option that is refused: `method.aggregate.clip_norm=-1.0: expected a number above 0`.

  A factory that refuses what an annotation cannot say raises it with a message that begins with the
  option's own name; whatever called the factory puts the path in front.

      if head_steps > steps:
        raise OptionError(f"head_steps={head_steps}: expected at most steps={steps}")
  """

  placed = False  # whether the message begins with a whole path
  unheld = False  # whether the value is of the right kind, but no array holds it
  unsaid = False  # whether an option that has no default is not said

  def under(self, path: str) -> OptionError:
    """The same refusal, seen from what called the factory at `path`."""
    return placed(f"{path}: {self}" if self.placed else f"{path}.{self}")


def placed(message: str) -> OptionError:
  """An error whose message begins with a whole path."""
  error = OptionError(message)
  error.placed = True
  return error


def refused(path: str, value: Any, why: str) -> OptionError:
  """`path=value: why`."""
  return placed(f"{path}={shown(value)}: {why}")


def unsaid(path: str, taker: str, words: str, names: Iterable[str]) -> OptionError:
  """The refusal of a call that lacks an option; `names` of the parts that may stand there."""
  named = ", ".join(names)
  error = placed(f"{path}: {taker} needs it; expected {words}{named and f': {named}'}")
  error.unsaid = True
  return error


def unheld(path: str, value: Any, why: str) -> OptionError:
  """The same of a number that is of the right kind, and that no array holds."""
  error = refused(path, value, why)
  error.unheld = True
  return error


def shown(value: Any) -> str:
  """A value's repr on one line, without addresses in memory, of at most 200 characters."""
  try:
    text = repr(value)
  except ValueError:  # of a whole number of thousands of digits
    text = f"a {type(value).__name__} too long to show"
  line = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))
  return line if len(line) <= 200 else line[:197] + "..."


def near(name: str, names: Iterable[str]) -> str:
  """" (did you mean rounds?)", or nothing where no name is near."""
  found = difflib.get_close_matches(name, list(names), 1)
  return f" (did you mean {found[0]}?)" if found else ""
