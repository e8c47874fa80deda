import dataclasses

import numpy as np
import pytest

from fedjax_face.data import splits
from fedjax_face.draws import Draws
from tests.data.conftest import make_dataset

NAMED = make_dataset([0, 0, 1, 2, 3, 3], names=("ann", "bob", "cem", "dan"))


def test_split_by_label():
  train, test = splits.split_by_label(NAMED, [1, 3])
  assert set(train.label) == {0, 2} and set(test.label) == {1, 3}
  assert len(train) + len(test) == 6
  np.testing.assert_array_equal(test.images[:, 0, 0, 0], [2, 4, 5])


@pytest.mark.parametrize("labels, message", [([9], "test label 9 has no images"),
                                             ([], "test set would be empty"),
                                             ([0, 1, 2, 3], "training set would be empty")])
def test_split_by_label_refuses(labels, message):
  with pytest.raises(ValueError, match=message):
    splits.split_by_label(NAMED, labels)


def test_split_by_person_keeps_persons_whole():
  data = make_dataset(np.arange(2000) % 4, person=np.arange(2000) // 5)
  train, test = splits.split_by_person(data, .25, Draws.of(0))
  assert test.num_persons + train.num_persons == 400
  assert abs(test.num_persons - 100) < 5 * np.sqrt(400 * .25 * .75)
  assert not set(train.person) & set(test.person) and len(test) == 5 * test.num_persons
  with pytest.raises(ValueError, match="test fraction is 1.0"):
    splits.split_by_person(data, 1.0, Draws.of(0))


def test_split_by_fold_trains_on_everybody_else():
  folds = {"ann": 1, "bob": 2, "dan": 1}
  train, test = splits.split_by_fold(NAMED, folds, (1,))
  assert {NAMED.names[i] for i in test.label} == {"ann", "dan"}
  assert {NAMED.names[i] for i in train.label} == {"bob", "cem"}
  with pytest.raises(ValueError, match=r"test folds \[3\]; expected some of \[1, 2\]"):
    splits.split_by_fold(NAMED, folds, (3,))


def test_overlapping_people_are_refused_by_name():
  train, test = NAMED.select([0, 2, 3]), NAMED.select([1, 3, 4])
  with pytest.raises(ValueError) as error:
    splits.check_disjoint(train, test, "person")
  assert "share 2 person(s): ann, cem;" in str(error.value) and "\n" not in str(error.value)


def test_names_are_compared_across_sources_with_other_numbers():
  other = make_dataset([0], name="elsewhere", names=("cem",))
  with pytest.raises(ValueError, match="elsewhere.* share 1 person.*: cem"):
    splits.check_disjoint(other, NAMED, "person")
  assert splits.check_disjoint(other, NAMED.select([0, 2]), "person")


def test_persons_without_names_are_compared_by_number_within_a_source():
  letters = make_dataset([0, 1, 0, 1], person=[4, 4, 6, 8])
  with pytest.raises(ValueError, match=r"share 1 label\(s\): 0"):
    splits.check_disjoint(letters.select([0, 1]), letters.select([2]), "label")
  assert splits.check_disjoint(letters.select([0, 1]), letters.select([2, 3]), "person")
  with pytest.raises(ValueError, match=r"share 1 person\(s\): 4"):
    splits.check_disjoint(letters.select([0]), letters.select([1]), "person")


def test_sets_that_cannot_be_compared_are_reported():
  unnamed = make_dataset([0, 1])
  assert not splits.check_disjoint(unnamed, NAMED, "person")
  assert not splits.check_disjoint(unnamed, dataclasses.replace(unnamed, name="other"), "person")
  with pytest.raises(ValueError, match="'face'; expected 'person' or 'label'"):
    splits.check_disjoint(NAMED, NAMED, "face")
