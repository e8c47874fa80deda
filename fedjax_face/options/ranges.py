"""Numbers in annotations: `Traced`, and the range that a number lies in."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

TRACED = "traced"

Traced = Annotated[float, TRACED]
"""A number that enters the compiled step as a scalar: another value does not recompile."""


@dataclasses.dataclass(frozen=True)
class Range:
  """An interval that a number lies in. An infinite end belongs to it only where it is closed."""

  low: float = -math.inf
  high: float = math.inf
  closed: str = "()"

  def holds(self, value: float) -> bool:
    """Whether the value lies in the interval; NaN lies in none."""
    above_low = value >= self.low if self.closed[0] == "[" else value > self.low
    return above_low and (value <= self.high if self.closed[1] == "]" else value < self.high)

  def words(self, number: str) -> str:
    """"a number above 0", "a whole number, at least 1", "a number in (0, 1]"."""
    if self == Range():
      return number
    if self == above(self.low):
      return f"{number} above {self.low:g}"
    if self == at_least(self.low):
      return f"{number}, at least {self.low:g}"
    return f"{number} in {self.closed[0]}{self.low:g}, {self.high:g}{self.closed[1]}"


def above(low: float) -> Range:
  """Finite numbers > low."""
  return Range(low=low)


def at_least(low: float) -> Range:
  """Finite numbers >= low."""
  return Range(low=low, closed="[)")


def within(interval: str) -> Range:
  """An interval as it is written, `within("(0, 1]")`; an end may be `pi` or `pi/2`.

  Only an interval closed at infinity, "(0, inf]", lets infinity in.
  """
  ends = {"pi": math.pi, "pi/2": math.pi / 2}
  low, high = (ends[end] if end in ends else float(end)
               for end in map(str.strip, interval[1:-1].split(",")))
  if interval[0] not in "([" or interval[-1] not in ")]" or not low <= high:
    raise ValueError(f"{interval!r}: expected an interval, such as '(0, 1]'")
  return Range(low, high, interval[0] + interval[-1])
