"""Numbers of people and classes, millions of them: which occur, and what they are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


def present(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(int64 [n], int64 [N]): different numbers, ascending, and the place of each among them.

  What `np.unique(numbers, return_inverse=True)` gives, without sorting.

  Args:
    numbers: integers [N], 0 or more, with few gaps.
  """
  occurs = np.bincount(numbers) > 0
  return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[numbers]


def first_rows(place: np.ndarray) -> np.ndarray:
  """int64 [n]: the first row at which each of 0..n-1 occurs in `place`, integers [N]."""
  first = np.empty(int(place.max(initial=-1)) + 1, np.int64)
  first[place[::-1]] = np.arange(len(place))[::-1]
  return first


@dataclasses.dataclass(frozen=True)
class Numbered(Sequence[str]):
  """Names of what is only numbered: a prefix and a number, made when asked for.

  Attributes:
    prefix: of all names.
    numbers: of the names, in order; a range or an array.
  """

  prefix: str
  numbers: Sequence[int] | np.ndarray

  def __len__(self) -> int:
    return len(self.numbers)

  @overload
  def __getitem__(self, index: int) -> str: ...
  @overload
  def __getitem__(self, index: slice) -> Numbered: ...
  def __getitem__(self, index: int | slice) -> str | Numbered:
    """One name, or the names of a slice."""
    if isinstance(index, slice):
      return Numbered(self.prefix, self.numbers[index])
    return f"{self.prefix}{self.numbers[index]}"

  def __iter__(self) -> Iterator[str]:
    return (f"{self.prefix}{number}" for number in self.numbers)


def some(names: Sequence[str], numbers: np.ndarray) -> Sequence[str]:
  """The names of numbers that ascend; none where there are no names."""
  if not names or len(numbers) == len(names):
    return names
  return tuple(names[number] for number in numbers)
