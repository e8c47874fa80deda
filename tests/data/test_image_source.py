"""Images that need not be in memory are indexed as if they were."""

import numpy as np
import pytest

from fedjax_face.data import dataset as ds
from fedjax_face.data import image_source
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.image_source import ImageSource

WHOLE = np.random.default_rng(0).integers(0, 256, (7, 3, 2, 3), np.uint8)


class Counted(ImageSource):
  """`WHOLE`, with an account of the rows that were made."""

  shape = WHOLE.shape

  def __init__(self):
    self.made = []

  def rows(self, index):
    self.made += index.tolist()
    return WHOLE[index]


def people(images):
  person = np.arange(len(images), dtype=np.int32) // 2
  return FaceDataset("made", images, person, person)


@pytest.mark.parametrize("index", [
    3, -1, slice(None), slice(5, 1, -2), [6, 0, 6], np.array([[1, 2], [2, 0]]), np.array([], int),
    np.array([-1, 2], np.int32), np.array([True] * 3 + [False] * 4), np.s_[1:3, :, ::-1],
    np.s_[..., 0], np.s_[[2, 1], 0, 1], ..., []], ids=repr)
def test_it_is_indexed_like_an_array(index):
  made = Counted()[index]
  np.testing.assert_array_equal(made, WHOLE[index])
  assert made.dtype == np.uint8


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint64])
def test_numbers_of_rows_may_be_small(kind):
  source = image_source.SomeRows(Counted(), np.arange(300) % 7)
  np.testing.assert_array_equal(source[np.array([3, 6], kind)], WHOLE[[3, 6]])


@pytest.mark.parametrize("index", [7, [0, -8], np.array([9])])
def test_a_row_that_is_not_there_is_refused(index):
  with pytest.raises(IndexError):
    Counted()[index]


def test_a_row_is_made_once_and_only_when_asked_for():
  source = Counted()
  chosen = ds.compact(people(source).select(np.array([5, 2, 4])))
  joined = ds.concatenate([chosen, people(WHOLE)])
  small = ds.grayscale(ds.resize(joined, 2))
  assert not source.made and len(small) == 10
  np.testing.assert_array_equal(joined.images[[0, 9, 0, 2]], WHOLE[[5, 6, 5, 4]])
  assert source.made == [4, 5]


@pytest.mark.parametrize("change", [
    lambda d: d.select(np.array([3, 0, 3])), lambda d: d.select(d.person == 1), ds.compact,
    lambda d: ds.concatenate([d, d.select(np.array([2]))]), lambda d: ds.resize(d, 2),
    lambda d: ds.grayscale(d), lambda d: d.select(np.array([4, 1, 0])).select(np.array([2, 0]))])
def test_what_is_done_to_a_set_gives_the_same_images_in_memory_or_not(change):
  late, whole = change(people(Counted())), change(people(WHOLE.copy()))
  assert isinstance(late.images, ImageSource) and isinstance(whole.images, np.ndarray)
  np.testing.assert_array_equal(np.asarray(late.images), whole.images)
  np.testing.assert_array_equal(late.identities, whole.identities)


def test_a_mapped_array_stays_on_the_disk(tmp_path):
  np.save(tmp_path / "images.npy", WHOLE)
  mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
  chosen = image_source.select(mapped, np.array([6, 1]))
  assert not image_source.in_memory(mapped) and not image_source.in_memory(chosen)
  np.testing.assert_array_equal(chosen[:], WHOLE[[6, 1]])


def test_what_images_are_made_from_is_known_of_rows_of_them():
  source = Counted()
  source.contents = np.arange(7 * 16, dtype=np.uint8).reshape(7, 16)
  chosen = image_source.SomeRows(image_source.SomeRows(source, np.array([5, 2, 4])), np.array([2]))
  small = image_source.Changed(chosen, (1, 1, 3), lambda rows: rows[:, :1, :1])
  np.testing.assert_array_equal(small.contents, source.contents[[4]])
  np.testing.assert_array_equal(image_source.Joined([chosen, source]).contents[:2],
                                source.contents[[4, 0]])
  assert image_source.Joined([chosen, WHOLE]).contents is None and not source.made
