"""Who takes part in a round, and what that choice is worth in the accounting."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import dp_accounting

from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws
from fedjax_face.privacy.adjacency import Adjacency


class Participation(NamedTuple):
  """A sampling scheme, the adjacency it is accounted under, and its effect on an event.

  Attributes:
    cohort: (draws of the participation root, round) -> Cohort.
    amplify: event of one round's noise -> event that counts the random choice of users.
    adjacency: what neighbouring populations differ in.
    rounds_per_event: rounds in which one user can take part at most once.
    clients: K, the number that a mean over clients divides by.
    users_per_client: most users that one client can hold.
    own_classes: most classes that the users of one client can have.
    population: number of users.
    words: for the privacy statement.
    lasting_clients: number of clients that keep their identity from round to round; 0 where
      clients are drawn anew.
    notes: sentences for the record.
    not_covered: sentences for the privacy statement.
    empty_slots: clients of a cohort beyond K that hold nobody.
  """

  cohort: Callable[[Draws, int], Cohort]
  amplify: Callable[[dp_accounting.DpEvent], dp_accounting.DpEvent]
  adjacency: Adjacency
  rounds_per_event: int
  clients: int
  users_per_client: int
  own_classes: int
  population: int
  words: str
  lasting_clients: int = 0
  notes: tuple[str, ...] = ()
  not_covered: tuple[str, ...] = ()
  empty_slots: int = 0

  @property
  def slots(self) -> int:
    """Clients of a cohort, the empty ones included."""
    return self.clients + self.empty_slots


def displacing(capacity: int) -> int:
  """Users whose data a client may hold over both neighbours, of which one has a user more.

  Args:
    capacity: most users of a client at a time: a new one may push another out, or join it.
  """
  return max(capacity, 2)
