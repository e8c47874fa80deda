"""Which two data sets a privacy guarantee compares."""

from __future__ import annotations

import enum

import dp_accounting


class Adjacency(enum.Enum):
  """The neighbouring relation of a guarantee; a unit is a person, an image, ...

  A release's noise multiplier is the noise divided by the sensitivity UNDER THIS RELATION (for an
  L2 clip C: C under add-or-remove and zero-out, 2C under replace-one, unless shown otherwise).
  """

  ADD_OR_REMOVE_ONE = "add_or_remove_one"
  REPLACE_ONE = "replace_one"
  ZERO_OUT = "zero_out"

  @property
  def relation(self) -> dp_accounting.NeighboringRelation:
    """The same relation in dp_accounting's terms."""
    return _RELATION[self]

  def words(self, unit: str) -> str:
    """A phrase for a sentence, e.g. "one person's data is replaced by any other data"."""
    return _WORDS[self].format(unit=unit)


_RELATION = {
    Adjacency.ADD_OR_REMOVE_ONE: dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    Adjacency.REPLACE_ONE: dp_accounting.NeighboringRelation.REPLACE_ONE,
    Adjacency.ZERO_OUT: dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
}
_WORDS = {
    Adjacency.ADD_OR_REMOVE_ONE: "one {unit}'s data is added or removed",
    Adjacency.REPLACE_ONE: "one {unit}'s data is replaced by any other data",
    Adjacency.ZERO_OUT: "one {unit}'s contribution is replaced by zero",
}
