"""Splits of a data set into what is trained on and what is evaluated on, and the proof of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from fedjax_face.data import numbering
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws


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
  """(train, test): each person is in the test set with probability `fraction`.

  A person's side is drawn from its identity, whatever the others are, as `draws.halves` says: who
  leaves moves nobody else from one side to the other.

  Raises:
    ValueError: the fraction is not between 0 and 1, or one side would be empty.
  """
  if not 0 < fraction < 1:
    raise ValueError(f"{dataset.name}: test fraction is {fraction}; expected between 0 and 1")
  persons = np.unique(dataset.person)
  identity = dataset.identities[np.unique(dataset.person, return_index=True)[1]]
  test = persons[draws.halves(identity, fraction, "evaluation")]
  return _split(dataset, np.isin(dataset.person, test))


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
