"""Splits of a data set into what is trained on and what is evaluated on, and the proof of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from fedjax_face.data import numbering
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.file_bytes import one_spelling
from fedjax_face.draws import Draws, identity_of

SPLITS = {"train": "train", "validation": "validation", "val": "validation",
          "evaluation": "evaluation", "test": "evaluation"}
"""What a file or a folder may say -> the side that it means."""


class Sides(NamedTuple):
  """A data set cut into who trains, who judges at the end, and who judges on the way, if anybody.
  """

  train: FaceDataset
  evaluation: FaceDataset
  validation: FaceDataset | None = None


def side_of(said: str, where: str) -> str:
  """"train", "validation" or "evaluation".

  Raises:
    ValueError: another word, naming `where` it stands.
  """
  if said not in SPLITS:
    raise ValueError(f"{where}: split is {said!r}; expected one of {', '.join(SPLITS)}")
  return SPLITS[said]


def by_chance(dataset: FaceDataset, evaluation: float, validation: float, draws: Draws,
              what: str = "person") -> Sides:
  """Each person (or label) evaluates with one probability, validates with another, else trains.

  A side is drawn from the identity alone, as `draws.halves` says: who leaves moves nobody else. Who
  evaluates does not depend on `validation`.

  Args:
    dataset: of all.
    evaluation: in (0, 1).
    validation: in [0, 1 - evaluation); 0 for nobody.
    draws: of the split.
    what: 'person' or 'label'.

  Raises:
    ValueError: other probabilities, or a side would be empty.
  """
  if not (0 < evaluation < 1 and 0 <= validation < 1 - evaluation):
    raise ValueError(f"{dataset.name}: evaluation={evaluation}, validation={validation}; expected "
                     "shares that leave somebody to train, the first above 0")
  number = dataset.person if what == "person" else dataset.label
  units, first = np.unique(number, return_index=True)
  identity = (dataset.identities[first] if what == "person" else
              identity_of(dataset.names[unit] if dataset.names else int(unit) for unit in units))
  judges = draws.halves(identity, evaluation, "evaluation")
  side = np.where(judges, "evaluation", "train")
  if validation:
    others = np.flatnonzero(~judges)
    chosen = draws.halves(identity[others], validation / (1 - evaluation), "validation")
    side[others[chosen]] = "validation"
  return by_side(dataset, side[np.searchsorted(units, number)])


def by_names(dataset: FaceDataset, named: Mapping[str, str], source: str,
             ) -> tuple[Sides, tuple[str, ...]]:
  """As a list of people says.

  Args:
    dataset: of all.
    named: side of a person, by name (Unicode NFC, on one line: `printable`) or, where persons have
      none, by number. Without anybody who trains, whom it does not name trains.
    source: of the list, for messages.

  Returns:
    The sides, and notes: of people of the list who are not in the set.

  Raises:
    ValueError: people whom the list does not name although it names who trains, or a side would be
      empty.
  """
  persons = np.unique(dataset.person)
  names = [one_spelling(dataset.person_name(person))
           for person in persons]
  absent = sorted(set(named) - set(names))
  unnamed = [name for name in names if name not in named]
  if unnamed and "train" in named.values():
    raise ValueError(f"{source}: {len(unnamed)} person(s) of {dataset.name} without a split: "
                     f"{few(unnamed)}; expected all of them, or nobody who trains")
  side = np.array([named.get(name, "train") for name in names])
  notes = (f"{source}: {len(absent)} person(s) are not in {dataset.name}: {few(absent)}",)
  return (by_side(dataset, side[np.searchsorted(persons, dataset.person)]),
          notes if absent else ())


def by_side(dataset: FaceDataset, side: np.ndarray) -> Sides:
  """Rows by their side, text [N].

  Raises:
    ValueError: nobody trains, or nobody evaluates.
  """
  for wanted, words in (("train", "training"), ("evaluation", "test")):
    if not (side == wanted).any():
      raise ValueError(f"{dataset.name}: the {words} set would be empty; "
                       "expected images on both sides")
  validates = side == "validation"
  return Sides(dataset.select(side == "train"), dataset.select(side == "evaluation"),
               dataset.select(validates) if validates.any() else None)


def few(names: Collection[str]) -> str:
  """The first few of some names."""
  return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")


def split_by_label(dataset: FaceDataset, test_labels: Collection[int],
                   ) -> tuple[FaceDataset, FaceDataset]:
  """(train, test): the images of `test_labels` are the test set, all others the training set.

  Raises:
    ValueError: a label has no images, or one side would be empty.
  """
  wanted = np.unique(np.asarray(list(test_labels), np.int64))
  absent = np.setdiff1d(wanted, dataset.label)
  if absent.size:
    raise ValueError(f"{dataset.name}: test label {absent[0]} has no images; "
                     f"expected labels of 0..{dataset.num_labels - 1}")
  return _split(dataset, np.isin(dataset.label, wanted))


def split_by_person(dataset: FaceDataset, fraction: float, draws: Draws,
                    ) -> tuple[FaceDataset, FaceDataset]:
  """(train, test): each person is in the test set with probability `fraction`; see `by_chance`.

  Raises:
    ValueError: the fraction is not between 0 and 1, or one side would be empty.
  """
  if not 0 < fraction < 1:
    raise ValueError(f"{dataset.name}: test fraction is {fraction}; expected between 0 and 1")
  return by_chance(dataset, fraction, 0.0, draws)[:2]


def split_by_fold(dataset: FaceDataset, folds: Mapping[str, int], test_folds: Collection[int],
                  ) -> tuple[FaceDataset, FaceDataset]:
  """(train, test): persons of `test_folds` are the test set, everybody else the training set.

  Args:
    dataset: persons must have names.
    folds: fold of each person by name (`lfw.person_folds`); persons without one are trained on.

  Raises:
    ValueError: no such fold, or one side would be empty.
  """
  unknown = sorted(set(test_folds) - set(folds.values()))
  if unknown or not test_folds:
    raise ValueError(f"{dataset.name}: test folds {sorted(test_folds)}; "
                     f"expected some of {sorted(set(folds.values()))}")
  persons = np.unique(dataset.person)
  test = [p for p in persons if folds.get(dataset.person_name(p)) in set(test_folds)]
  return _split(dataset, np.isin(dataset.person, test))


def check_disjoint(train: FaceDataset, test: FaceDataset, what: str) -> bool:
  """Refuses two data sets that share a person or a label.

  Compared by name where both have names, by number where both lack names and come from one source.

  Args:
    train: a training or pre-training set.
    test: the set that must be free of it.
    what: 'person' or 'label'.

  Returns:
    True if the sets could be compared and share nothing; False if they cannot be compared (only
    one has names, or numbers of different sources).

  Raises:
    ValueError: they share one, or `what` is unknown.
  """
  if what not in ("person", "label"):
    raise ValueError(f"what is {what!r}; expected 'person' or 'label'")
  known_train, known_test = _identities(train, what), _identities(test, what)
  by_name = known_train[0] and known_test[0]
  if not by_name and (known_train[0] or known_test[0] or train.name != test.name):
    return False
  shared = sorted(known_train[1] & known_test[1])
  if shared:
    shown = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
    raise ValueError(f"{train.name} (training) and {test.name} (test) share {len(shared)} "
                     f"{what}(s): {shown}; expected none")
  return True


def _split(dataset: FaceDataset, is_test: np.ndarray) -> tuple[FaceDataset, FaceDataset]:
  """Rows outside and inside a mask, both of which must have some."""
  if is_test.all() or not is_test.any():
    side = "training" if is_test.all() else "test"
    raise ValueError(f"{dataset.name}: the {side} set would be empty; "
                     "expected images on both sides")
  return dataset.select(~is_test), dataset.select(is_test)


def _identities(dataset: FaceDataset, what: str) -> tuple[bool, set[str | int]]:
  """Whether persons or labels have names, and the set of those names or numbers."""
  numbers, _ = numbering.present(dataset.person if what == "person" else dataset.label)
  names = dataset.names
  if what == "person" and (dataset.person_names or not dataset.persons_are_labels):
    names = dataset.person_names
  return bool(names), set(numbering.some(names, numbers) or numbers.tolist())
