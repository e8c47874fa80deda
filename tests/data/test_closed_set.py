"""Sets for classification: the same people on both sides, other images."""

import numpy as np
import pytest

from fedjax_face.data import closed_set, sources
from fedjax_face.data.dataset import FaceDataset

OPTIONS = {"name": "made", "images": (4, 2, 7), "test_fraction": 0.25}
PUBLIC = {"name": "made", "images": (3, 3), "people": "other"}


def made(*, images, people="own", size=2, channels=1):
  """People with so many images each; the grey value is the number of the image."""
  person = np.repeat(np.arange(len(images), dtype=np.int32), images)
  pixels = np.zeros((len(person), size, size, channels), np.uint8)
  pixels += np.arange(len(person), dtype=np.uint8)[:, None, None, None]
  names = tuple(f"{people}{p}" for p in range(len(images)))
  return FaceDataset(people, pixels, person, person, names=names), (f"{people} was read",)


@pytest.fixture(autouse=True)
def source(monkeypatch):
  monkeypatch.setitem(sources.PUBLIC, "made", made)


def grey(dataset):
  return dataset.images[:, 0, 0, 0]


def test_everybody_is_on_both_sides_with_other_images():
  loaded = closed_set.load(OPTIONS, 0)
  assert np.bincount(loaded.train.label).tolist() == [3, 1, 5]
  assert np.bincount(loaded.evaluation.label).tolist() == [1, 1, 2]
  assert sorted([*grey(loaded.train), *grey(loaded.evaluation)]) == list(range(13))
  for part in (loaded.train, loaded.evaluation):
    assert part.names == ("own0", "own1", "own2") and part.num_labels == 3
    np.testing.assert_array_equal(part.label, np.searchsorted([4, 6], grey(part), side="right"))
  assert loaded.public is None and loaded.notes == ("own was read",)
  assert loaded.evaluates_training_people and "people who train" in loaded.not_covered[0]


@pytest.mark.parametrize("fraction, held_out", [(0.01, [1, 1, 1]), (0.99, [3, 1, 6])])
def test_nobody_is_missing_on_a_side(fraction, held_out):
  loaded = closed_set.load({**OPTIONS, "test_fraction": fraction}, 0)
  assert np.bincount(loaded.evaluation.label).tolist() == held_out


def test_the_seed_decides_the_split():
  split = lambda seed: grey(closed_set.load(OPTIONS, seed).evaluation).tolist()
  assert split(0) == split(0)
  assert len({tuple(split(seed)) for seed in range(5)}) > 1


def test_people_without_images_are_left_out(monkeypatch):
  def sparse(**options):
    whole, notes = made(**options)
    return whole.select(whole.person != 1), notes

  monkeypatch.setitem(sources.PUBLIC, "sparse", lambda *, images: sparse(images=images))
  loaded = closed_set.load({**OPTIONS, "name": "sparse"}, 0)
  assert loaded.train.names == loaded.evaluation.names == ("own0", "own2")
  assert set(loaded.train.person) == set(loaded.evaluation.person) == {0, 1}


def test_a_public_set_is_whole_and_named():
  loaded = closed_set.load({**OPTIONS, "public": PUBLIC}, 0)
  assert loaded.public.names == ("other0", "other1") and len(loaded.public) == 6
  assert loaded.notes[:2] == ("own was read", "other was read")
  assert "other: 6 images are taken as public" in loaded.notes[2]


@pytest.mark.parametrize("change, message", [
    ({"test_fraction": None}, "data.test_fraction=None: expected a number between 0 and 1"),
    ({"test_fraction": 1.0}, "data.test_fraction=1.0"),
    ({"images": (3, 1)}, "own: person 1 has 1 image; expected at least 2"),
    ({"name": "no_such"}, "data.name is 'no_such'; expected one of"),
    ({"evaluation_people": 3}, "data.evaluation_people is not a key of made"),
    ({"public": {**PUBLIC, "size": 3}}, r"images are \[3, 3, 1\] but training images are \[2, 2"),
    ({"public": {**PUBLIC, "people": "own"}}, r"share 2 person\(s\): own0, own1"),
    ({"public": {"name": "no_such"}}, "data.public.name is 'no_such'"),
])
def test_refused(change, message):
  with pytest.raises(ValueError, match=message):
    closed_set.load({**OPTIONS, **change}, 0)
