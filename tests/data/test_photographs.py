import dataclasses

import numpy as np
import pytest

from fedjax_face.data.photographs import (
  Photographs,
  people_groups,
  split_by_image,
  split_by_person,
)
from fedjax_face.draws import Draws
from fedjax_face.losses.multi_task import TASKS


def make_photographs(image, person=None, *, num_images=None, size=16, box=(4, 4, 8, 8), **changes):
  """Photographs whose pixels are their numbers, every face in the middle, three landmarks."""
  image = np.asarray(image, np.int32)
  count = len(image)
  num_images = num_images or int(image.max(initial=-1)) + 1
  pixels = np.zeros((num_images, size, size, 3), np.uint8) + np.arange(
      num_images, dtype=np.uint8)[:, None, None, None]
  person = np.arange(count) if person is None else person
  fields = dict(
      name="made", images=pixels, image=image, person=np.asarray(person, np.int32),
      box=np.tile(np.array(box, np.float32), (count, 1)),
      landmarks=np.tile(np.array([[5, 5], [8, 8], [11, 11]], np.float32), (count, 1, 1)),
      visible=np.ones((count, 3), bool), pose=np.full((count, 3), .1, np.float32),
      gender=np.ones(count, np.int32), known=np.ones((count, 5), bool))
  return Photographs(**(fields | changes))


def test_columns_of_known_are_in_the_order_of_the_tasks():
  from fedjax_face.data import photographs
  assert [getattr(photographs, task.upper()) for task in TASKS] == list(range(5))


def test_faces_of_a_photograph_and_selection():
  photographs = make_photographs([0, 0, 2, 3, 3, 3])
  assert [photographs.faces_of(i) for i in range(4)] == [slice(0, 2), slice(2, 2), slice(2, 3),
                                                         slice(3, 6)]
  some = photographs.select(np.array([3, 1, 0]))
  np.testing.assert_array_equal(some.images[:, 0, 0, 0], [3, 1, 0])
  np.testing.assert_array_equal(some.image, [0, 0, 0, 2, 2])
  np.testing.assert_array_equal(some.person, [3, 4, 5, 0, 1])
  as_list = dataclasses.replace(photographs, images=list(photographs.images))
  np.testing.assert_array_equal(as_list.select(np.array([2])).images[0], photographs.images[2])
  with pytest.raises(ValueError, match=r"photograph 4 selected; expected 0\.\.3"):
    photographs.select(np.array([4]))


class Lazy(list):
  """Images that would be decoded one by one."""

  def __getitem__(self, number):
    raise AssertionError(f"photograph {number} decoded")

  def select(self, numbers):
    return tuple(("chosen", int(number)) for number in numbers)


def test_selection_decodes_nothing_that_can_stay_encoded():
  photographs = dataclasses.replace(make_photographs([0, 1, 2]), images=Lazy(range(3)))
  some = photographs.select(np.array([2, 0]))
  assert some.images == (("chosen", 2), ("chosen", 0)) and some.person.tolist() == [2, 0]


@pytest.mark.parametrize("changes, message", [
    (dict(image=np.array([1, 0], np.int32)), "ascending"),
    (dict(image=np.array([0, 5], np.int32)), r"0\.\.1"),
    (dict(person=np.array([0, -1], np.int32)), "person -1"),
    (dict(box=np.array([[1, 1, 0, 4], [1, 1, 4, 4]], np.float32)), "face 0 has the box"),
    (dict(pose=np.full((2, 3), np.nan, np.float32)), "pose has a number that is not finite"),
    (dict(gender=np.zeros(2)), r"gender is float64 \[2\]; expected int32 \[2\]"),
    (dict(visible=np.ones((2, 4), bool)), "3 landmarks but visible has 4"),
    (dict(original=np.zeros(3, np.int32)), r"original is int32 \[3\]; expected int32 \[2\]"),
    (dict(original=np.array([0, -2], np.int32)), "original -2"),
])
def test_bad_annotation_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(make_photographs([0, 1]), **changes)


def test_split_by_image_is_a_partition():
  train, test = split_by_image(make_photographs(range(400)), .3, Draws.of(0))
  assert abs(len(test) - 120) < 5 * np.sqrt(400 * .3 * .7)
  np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(400))


def test_split_by_person_shares_nobody_and_keeps_chains_together():
  image = [0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 7]
  person = [0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6]      # photographs 0-1-2, 4-5 and 6-7 are connected
  photographs = make_photographs(image, person, num_images=9)
  for seed in range(8):
    train, test = split_by_person(photographs, .3, Draws.of(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(9))
    assert len(train) and len(test)
    seen = photographs.select(train), photographs.select(test)
    assert not set(seen[0].person) & set(seen[1].person)
    for chain in ({0, 1, 2}, {4, 5}, {6, 7}):
      assert chain <= set(train) or chain <= set(test)


def test_impossible_splits_are_refused():
  everywhere = make_photographs([0, 1, 2], [4, 4, 4])
  with pytest.raises(ValueError, match="training side of the split would be empty"):
    split_by_person(everywhere, .3, Draws.of(0))
  assert len(split_by_image(everywhere, 1e-9, Draws.of(0))[1]) == 1  # never an empty side
  with pytest.raises(ValueError, match="test fraction is 1"):
    split_by_image(everywhere, 1, Draws.of(0))


VIEWS = np.array([5, 5, 2, 2, 2, 7, 7, 9, 9], np.int32)


def test_views_of_a_photograph_are_never_parted():
  photographs = make_photographs(range(9), original=VIEWS, persons_known=False)
  assert photographs.select(np.array([8, 2])).original.tolist() == [9, 2]
  for seed in range(6):
    for split in (split_by_image, split_by_person):
      train, test = split(photographs, .25, Draws.of(seed))
      assert set(VIEWS[train]).isdisjoint(VIEWS[test])
      np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(9))
    assert len(set(VIEWS[test])) in (1, 2, 3)


def test_groups_are_of_shared_people_and_views():
  alone = make_photographs([0, 0, 1, 2, 4], [1, 2, 2, 3, 1], num_images=5)
  assert people_groups(alone).tolist() == [0, 0, 2, 3, 0]
  views = dataclasses.replace(alone, original=np.array([0, 1, 2, 2, 4], np.int32))
  assert people_groups(views).tolist() == [0, 0, 2, 2, 0]


def test_a_size_needs_no_decoding():
  class Sized(Lazy):
    def size_of(self, number):
      return 10 + number, 20

  photographs = dataclasses.replace(make_photographs([0, 1]), images=Sized(range(2)))
  assert photographs.size_of(1) == (11, 20)
  assert make_photographs([0], size=17).size_of(0) == (17, 17)
