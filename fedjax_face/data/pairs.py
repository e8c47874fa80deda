"""Pairs of images for face verification."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
  """P pairs of rows of a data set.

  Attributes:
    first: int32 [P], row.
    second: int32 [P], row.
    same: bool [P], whether both are the same person.
    fold: int32 [P], 1-based number of the official fold, 0 = no folds.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray
  fold: np.ndarray

  def kept(self, rows: np.ndarray) -> Pairs:
    """The pairs of which both rows are kept, bool [N], numbered as among these."""
    place, both = np.cumsum(rows) - 1, rows[self.first] & rows[self.second]
    return Pairs(place[self.first[both]].astype(np.int32),
                 place[self.second[both]].astype(np.int32), self.same[both], self.fold[both])
