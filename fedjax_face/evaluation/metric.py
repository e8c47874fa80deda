"""A metric of an evaluation: a value, its interval over people, and on what it rests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fedjax_face.evaluation import confidence, verification

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Metric:
  """A value with its confidence interval (nan where none was asked for) and what a reader must
  know.

  Attributes:
    value, low, high: the value and its interval.
    note: on what it rests.
    chance: what an answer reaches that does not look at the images, where that is known.
    draws: the value in every resample of people, float64 [R], where there is an interval.
  """

  value: float
  low: float = float("nan")
  high: float = float("nan")
  note: str = ""
  chance: float | None = None
  draws: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  @classmethod
  def resampled(cls, value: float, draws: np.ndarray | None, note: str = "",
                chance: float | None = None) -> Metric:
    """A value with the percentile interval of its `draws` [R]; None of these, no interval."""
    if draws is None:
      return cls(value, note=note, chance=chance)
    return cls(value, *confidence.percentiles(draws, LEVEL), note, chance, draws)

  def as_json(self) -> dict[str, Any]:
    """What is kept of it: all but the draws, and no `chance` where none is known."""
    kept = {"value": self.value, "low": self.low, "high": self.high, "note": self.note}
    return kept if self.chance is None else kept | {"chance": self.chance}

  def gain_over(self, other: Metric) -> confidence.Estimate | None:
    """This value minus another model's on the same images, with the paired interval over people.

    None where one of the two has no interval.
    """
    if self.draws is None or other.draws is None:
      return None
    return confidence.Estimate(
      self.value - other.value, *confidence.paired_interval(self.draws, other.draws, LEVEL))


def column(draws: np.ndarray | None, number: int) -> np.ndarray | None:
  """The draws [R] of one of several statistics [R, S]; None of none."""
  return None if draws is None else draws[:, number]


def far_note(far: float, negatives: int, what: str = "negative pairs") -> str:
  """Says that a FAR rests on fewer than ten false accepts; empty where it does not."""
  limit = verification.smallest_reliable_far(negatives)
  return (
    ""
    if far >= limit * (1 - 1e-12)
    else f"FAR {far:g} is below 10 / {negatives} {what} = {limit:.2g}"
  )
