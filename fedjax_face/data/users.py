"""Which images belong to which user: a compressed index."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedjax_face import draws


class Users(NamedTuple):
  """Examples of user u are `index[offset[u]:offset[u + 1]]`, in the order of the data set.

  Attributes:
    index: int32 [N], rows of the data set grouped by user.
    offset: int64 [U + 1].
    ids: int32 [U], ascending; the person number that user u stands for.
    identity: uint64 [U], all different; what draws about user u come from (`fedjax_face.draws`).
  """

  index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody calls
  offset: np.ndarray
  ids: np.ndarray
  identity: np.ndarray

  @staticmethod
  def from_person(person: np.ndarray, num_persons: int | None = None,
                  identity: np.ndarray | None = None) -> Users:
    """Groups rows by person.

    Args:
      person: integers [N], the privacy unit of each row.
      num_persons: if given, every person 0..num_persons-1 must have an image.
      identity: uint64 [N], of the person of each row; None: that of the person's number.

    Raises:
      ValueError: no rows, a negative or too large person, a person with no images, or two persons
        of one identity.
    """
    person = np.asarray(person)
    if person.ndim != 1 or not np.issubdtype(person.dtype, np.integer) or not person.size:
      raise ValueError(f"person is {person.dtype} {list(person.shape)}; "
                       "expected integers [N], N > 0")
    if person.min() < 0:
      raise ValueError(f"person {person.min()} is out of range; expected 0 or more")
    if num_persons is not None:
      _check_all_present(person, num_persons)
    index = np.argsort(person, kind="stable").astype(np.int32)
    ordered = person[index]
    start = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ids = ordered[start].astype(np.int32)
    own = draws.identity_of(ids) if identity is None else identity[index[start]]
    draws.require_distinct(own, "users", "of them")
    return Users(index=index, offset=np.append(start, len(person)).astype(np.int64), ids=ids,
                 identity=own)

  @staticmethod
  def of_silos(silo: np.ndarray, num_silos: int) -> Users:
    """Silos as users 0..num_silos-1, of which some may hold nothing.

    Args:
      silo: integers [N], below `num_silos`.
    """
    offset = np.concatenate([[0], np.cumsum(np.bincount(silo, minlength=num_silos))])
    ids = np.arange(num_silos, dtype=np.int32)
    return Users(np.argsort(silo, kind="stable").astype(np.int32), offset.astype(np.int64), ids,
                 draws.identity_of(ids))

  @property
  def num_users(self) -> int:
    """U."""
    return len(self.ids)

  @property
  def counts(self) -> np.ndarray:
    """int64 [U], images of each user."""
    return np.diff(self.offset)

  def examples(self, user: int) -> np.ndarray:
    """int32, the rows of user number `user`."""
    return self.index[self.offset[user]:self.offset[user + 1]]


def _check_all_present(person: np.ndarray, num_persons: int) -> None:
  """Refuses persons beyond `num_persons` and persons that no row belongs to."""
  if person.max() >= num_persons:
    raise ValueError(f"person {person.max()} is out of range; expected 0..{num_persons - 1}")
  missing = np.flatnonzero(np.bincount(person, minlength=num_persons) == 0)
  if missing.size:
    shown = ", ".join(map(str, missing[:5])) + (", ..." if missing.size > 5 else "")
    raise ValueError(f"{missing.size} person(s) with no images: {shown}; "
                     "expected at least one image each")
