"""What the games of an audit have in common: their terms, what one game found, its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fedjax_face.attacks.audit import Audit

CONFIDENCE = 0.99


class Terms(NamedTuple):
  """How long and how often a game is played.

  Attributes:
    rounds: of a game.
    trials: games on each of the two neighbouring data sets.
    delta: of claim and measurement.
    seed: of everything that is drawn.
  """

  rounds: int
  trials: int
  delta: float
  seed: int


class Played(NamedTuple):
  """One game: a mechanism in words, whether its claim is known to be wrong, units, the result."""

  mechanism: str
  broken: bool
  users: int
  result: Audit


class Game(Protocol):
  """The parts of a method on small data sets that differ in one unit."""

  def noise_for(self, epsilon: float) -> float:
    """Noise multiplier that claims `epsilon` where all units take part."""

  def play(self, noise: float) -> list[Played]:
    """The mechanism as it is, and some that are broken on purpose."""

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """What audit.json says of them."""


def row(played: Played) -> dict[str, Any]:
  """A game as the records keep it."""
  result = played.result
  return {"mechanism": played.mechanism, "broken": played.broken, "users": played.users,
          "claimed_epsilon": result.claimed, "measured_epsilon": result.measured,
          "violated": result.violated,
          "true_positive_rate_at_1_percent": result.true_positive_rate}
