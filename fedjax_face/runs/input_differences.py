"""The first difference between the data of a run and those that are given, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]

_DOES = {"train": "trains", "evaluation": "evaluates", "public": "is public",
         "validation": "validates"}


def first(name: str, said: Mapping[str, Any], arrays: Arrays, now: Mapping[str, Any],
          now_arrays: Arrays) -> str | None:
  """What differs first, and None where nothing does that has a name.

  Args:
    name: "train", "evaluation", "public" or "validation".
    said, arrays: of the run, as `inputs` keeps them.
    now, now_arrays: the same of what is given.
  """
  for field, words, usual in (("image_shape", "images are", None),
                              ("frame", "landmarks count from", None),
                              ("digests_of", "digests are of", "pixels")):
    there, here = said.get(field, usual), now.get(field, usual)
    if there != here:
      return f"{name}: {words} {there!r} there and {here!r} here"
  one, other = _Rows.of(arrays), _Rows.of(now_arrays)
  return (_of_people(name, one, other) or _of_images(name, one, other)
          or _of_fields(name, arrays, now_arrays))


class _Rows(NamedTuple):
  """Rows of a set, grouped by who or what they are of.

  Attributes:
    identity: uint64 [N].
    order: int [N], rows in the order of their identity.
    label: [N], what is recognised, by name where it has one.
    digests: uint64 [N], of the pixels or encoded images; 0 where they were not looked at.
    arrays: of the set.
  """

  identity: np.ndarray
  order: np.ndarray
  label: np.ndarray
  digests: np.ndarray
  arrays: Arrays

  @classmethod
  def of(cls, arrays: Arrays) -> _Rows:
    faces = "persons" in arrays
    identity = arrays["identity"]
    if faces:
      identity = identity[np.searchsorted(arrays["persons"], arrays["person"])]
    label = arrays["label"] if faces else arrays["face"]
    if faces and len(arrays["names"]):
      label = arrays["names"][label]
    digests = np.zeros(len(identity), np.uint64)
    digests[arrays["seen"]] = arrays["digests"]
    return cls(identity, np.argsort(identity, kind="stable"), label, digests, arrays)

  def who(self, row: int) -> str:
    """person 'anna', person 12 or photograph 12, as the set calls it."""
    arrays = self.arrays
    if "persons" not in arrays:
      return f"photograph {arrays['original'][row]}"
    person = arrays["person"][row]
    names = arrays["person_names"]
    if not len(names) and np.array_equal(arrays["person"], arrays["label"]):
      names = arrays["names"]
    return f"person {str(names[person])!r}" if len(names) else f"person {person}"

  def image(self, row: int) -> str:
    """image 3 of person 'anna', counted from 1."""
    own = np.flatnonzero(self.identity == self.identity[row])
    return f"image {int(np.searchsorted(own, row)) + 1} of {self.who(row)}"


def _of_people(name: str, one: _Rows, other: _Rows) -> str | None:
  """Who is in one of them alone, or has another number of images."""
  for rows, others, where in ((one, other, "there and not here"), (other, one,
                                                                  "here and not there")):
    alone = np.flatnonzero(~np.isin(rows.identity, others.identity))
    if alone.size:
      return f"{rows.who(alone[0])} {_DOES[name]} {where}"
  who, first_row, there = np.unique(one.identity, return_index=True, return_counts=True)
  here = np.unique(other.identity, return_counts=True)[1]
  wrong = np.flatnonzero(there != here)
  if wrong.size:
    place = wrong[np.argmin(first_row[wrong])]
    return (f"{name}: {one.who(first_row[place])} has {there[place]} images there and "
            f"{here[place]} here")
  return None


def _of_images(name: str, one: _Rows, other: _Rows) -> str | None:
  """The first image with another label or other pixels; the same people have as many in both."""
  there, here = one.order, other.order
  if row := _first_row(there, one.label[there] != other.label[here]):
    say = lambda label: repr(str(label)) if label.dtype.kind == "U" else str(label)
    return (f"{name}: the label of {one.image(row[0])} is {say(one.label[row[0]])} there and "
            f"{say(other.label[here[row[1]]])} here")
  known = (one.digests[there] != 0) & (other.digests[here] != 0)
  if row := _first_row(there, known & (one.digests[there] != other.digests[here])):
    return f"{name}: {one.image(row[0])} differs"
  if not np.array_equal(one.identity, other.identity):
    return f"{name}: the same images are in another order"
  return None


def _first_row(order: np.ndarray, wrong: np.ndarray) -> tuple[int, int] | None:
  """The least row among those in `order` that are wrong, and its place there."""
  places = np.flatnonzero(wrong)
  if not places.size:
    return None
  place = places[np.argmin(order[places])]
  return int(order[place]), int(place)


def _of_fields(name: str, arrays: Arrays, now: Arrays) -> str | None:
  """Whatever else is kept of the rows."""
  for field in sorted({*arrays, *now} - {"seen", "digests"}):
    there, here = arrays.get(field), now.get(field)
    if there is None or here is None:
      return f"{name}: {field} {'is known' if there is not None else 'is not known'} there"
    nan = there.dtype.kind == "f" and here.dtype.kind == "f"
    if not np.array_equal(there, here, equal_nan=nan):
      return f"{name}: {field} differs"
  return None
