import dataclasses

import numpy as np
import pytest

from fedjax_face.data import dataset as ds
from fedjax_face.data.dataset import FaceDataset
from tests.data.conftest import make_dataset


@pytest.mark.parametrize("field, array, message", [
    ("images", np.zeros((3, 2, 2, 1), np.float32), r"is float32 \[3, 2, 2, 1\]; expected uint8"),
    ("images", np.zeros((3, 2, 2), np.uint8), r"images is uint8 \[3, 2, 2\]"),
    ("images", np.zeros((3, 2, 2, 2), np.uint8), "2 channels; expected 1 or 3"),
    ("images", [[0]], "images is list; expected a numpy uint8"),
    ("label", np.zeros(3, np.int64), r"label is int64 \[3\]; expected int32 \[3\]"),
    ("label", np.zeros(2, np.int32), r"label is int32 \[2\]; expected int32 \[3\]"),
    ("label", np.array([0, -1, 0], np.int32), "label -1 is out of range"),
    ("label", np.array([0, 2, 0], np.int32), r"label 2 is out of range; expected 0..1 \(2 names\)"),
    ("person", np.array([0, 1, 5], np.int32), "person 5 is out of range; expected 0..4"),
    ("landmarks", np.zeros((3, 5, 3), np.float32), r"expected float32 \[3, N, 2\]"),
    ("visible", np.zeros((3, 4), bool), "5 landmarks but visible has 4"),
    ("pose_known", np.zeros(3, np.int8), r"pose_known is int8 \[3\]; expected bool"),
    ("attributes", {"age": np.zeros(2)}, r"attribute age is float64 \[2\]; .* integers or floats"),
    ("attributes", {"age": [1, 2, 3]}, "attribute age is <class 'list'>; expected numpy"),
    ("attributes", {"age": np.zeros(3, bool)}, "attribute age is bool"),
    ("attributes", {"gender": np.zeros(3)}, "attribute gender is a field of its own"),
])
def test_bad_arrays_are_refused_in_one_line(field, array, message):
  good = make_dataset([0, 1, 0], person=[0, 1, 4], names=("a", "b"), person_names=tuple("pqrst"),
                      landmarks=np.zeros((3, 5, 2), np.float32), visible=np.zeros((3, 5), bool))
  with pytest.raises(ValueError, match=message) as error:
    dataclasses.replace(good, **{field: array})
  assert "\n" not in str(error.value)


def test_select_keeps_rows_together_and_numbers_unchanged():
  data = make_dataset([0, 3, 3, 1], names=tuple("abcd"), gender=np.array([0, 1, 1, 0], np.int8))
  for index in (np.array([2, 0]), [2, 0]):
    part = data.select(index)
    np.testing.assert_array_equal(part.images[:, 0, 0, 0], [2, 0])
    np.testing.assert_array_equal(part.label, [3, 0])
    np.testing.assert_array_equal(part.gender, [1, 0])
  assert len(data.select(np.array([True, False, False, True]))) == 2
  assert len(data.select([])) == 0
  assert data.select([0]).num_labels == 4 and make_dataset([0, 3]).num_labels == 4


@pytest.mark.parametrize("index, message", [
    ([0, 4], "row 4 selected; expected 0..3"), ([-1], "row -1 selected"),
    (np.ones(3, bool), r"mask has shape \(3,\); expected \(4,\)")])
def test_select_refuses_rows_that_are_not_there(index, message):
  with pytest.raises(ValueError, match=message):
    make_dataset([0, 1, 2, 3]).select(index)


def test_names_of_labels_and_persons():
  faces = make_dataset([0, 1], names=("ann", "bob"))
  assert faces.person_name(1) == faces.label_name(1) == "bob" and faces.persons_are_labels
  letters = make_dataset([0, 1], person=[1, 1], names=("x", "y"))
  assert letters.person_name(1) == "1" and letters.num_persons == 1
  assert dataclasses.replace(letters, person_names=("u", "v")).person_name(1) == "v"


def test_compact_closes_gaps():
  data = make_dataset([5, 2, 5], person=[7, 7, 3], names=tuple("abcdef"),
                      person_names=tuple("01234567"))
  tight = ds.compact(data)
  np.testing.assert_array_equal(tight.label, [1, 0, 1])
  np.testing.assert_array_equal(tight.person, [1, 1, 0])
  assert tight.names == ("c", "f") and tight.person_names == ("3", "7")


def test_attributes_follow_their_rows_and_say_what_is_unknown():
  data = make_dataset([5, 2, 5], attributes={"age": np.array([30, -1, 50], np.int16),
                                             "tone": np.array([-1, .5, np.nan], np.float32)},
                      gender=np.array([0, 1, 1], np.int8),
                      gender_known=np.array([True, True, False]))
  np.testing.assert_array_equal(data.attribute("age"), [30, np.nan, 50])
  np.testing.assert_array_equal(data.attribute("tone"), [-1, .5, np.nan])
  np.testing.assert_array_equal(data.attribute("gender"), [0, 1, np.nan])
  part = ds.compact(data.select([2, 0]))
  np.testing.assert_array_equal(part.attributes["age"], [50, 30])
  np.testing.assert_array_equal(part.attribute("gender"), [np.nan, 0])
  with pytest.raises(ValueError, match="no attribute 'height'; expected one of gender, age, tone"):
    data.attribute("height")
  with pytest.raises(ValueError, match="no attribute 'age'; expected one of none"):
    make_dataset([0]).attribute("age")


def test_concatenated_attributes_are_unknown_where_a_source_lacks_them():
  both = ds.concatenate([make_dataset([0, 1], attributes={"age": np.array([30, -1], np.int16)}),
                         make_dataset([0], attributes={"tone": np.array([.5])})])
  np.testing.assert_array_equal(both.attributes["age"], [30, np.nan, np.nan])
  np.testing.assert_array_equal(both.attributes["tone"], [np.nan, np.nan, .5])


def test_concatenate_never_mixes_people_of_different_sources():
  first = make_dataset([0, 1], name="a", names=("x", "y"))
  second = make_dataset([0, 2], name="b", gender=np.array([1, 1], np.int8))
  both = ds.concatenate([first, second])
  np.testing.assert_array_equal(both.label, [0, 1, 2, 4])
  np.testing.assert_array_equal(both.person, both.label)
  assert both.name == "a+b" and both.names == ("x", "y", "b:0", "b:1", "b:2")
  np.testing.assert_array_equal(both.gender, [0, 0, 1, 1])
  np.testing.assert_array_equal(both.gender_known, [False, False, True, True])
  assert both.landmarks is None


def test_concatenate_shifts_persons_apart_from_labels():
  letters = make_dataset([0, 1, 1], person=[0, 0, 1], person_names=("u", "v"), name="w")
  both = ds.concatenate([letters, letters])
  np.testing.assert_array_equal(both.person, [0, 0, 1, 2, 2, 3])
  np.testing.assert_array_equal(both.label, [0, 1, 1, 2, 3, 3])
  assert both.person_names == ("u", "v", "u", "v")


def test_concatenate_refuses_different_shapes():
  with pytest.raises(ValueError, match="expected one shape"):
    ds.concatenate([make_dataset([0]), make_dataset([0], size=3)])
  with pytest.raises(ValueError, match="at least one"):
    ds.concatenate([])


def test_resize_scales_landmarks_and_boxes():
  data = make_dataset([0], size=4, landmarks=np.array([[[4, 2]]], np.float32),
                      box=np.array([[0, 0, 4, 2]], np.float32))
  small = ds.resize(data, 2)
  assert small.images.shape == (1, 2, 2, 1)
  np.testing.assert_array_equal(small.landmarks, [[[2, 1]]])
  np.testing.assert_array_equal(small.box, [[0, 0, 2, 1]])
  assert ds.resize(data, 4) is data
  with pytest.raises(ValueError, match="resize to 0"):
    ds.resize(data, 0)


def test_resize_averages_pixels():
  images = np.zeros((1, 4, 4, 3), np.uint8)
  images[:, :, 2:] = 200
  data = FaceDataset("x", images, np.zeros(1, np.int32), np.zeros(1, np.int32))
  small = ds.resize(data, 1).images
  np.testing.assert_allclose(small[0, 0, 0], 100, atol=1)


def test_grayscale_is_luma():
  images = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 10, 10]]]], np.uint8)
  data = FaceDataset("x", images, np.zeros(1, np.int32), np.zeros(1, np.int32))
  np.testing.assert_array_equal(ds.grayscale(data).images[0, 0, :, 0], [76, 150, 29, 10])
  grey = make_dataset([0])
  assert ds.grayscale(grey) is grey


def test_memory_mapped_images_stay_on_disk(tmp_path):
  np.save(tmp_path / "i.npy", np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1))
  images = np.load(tmp_path / "i.npy", mmap_mode="r")
  zeros = np.zeros(6, np.int32)
  data = FaceDataset("disk", images, zeros, zeros)
  assert isinstance(data.images, np.memmap)
  np.testing.assert_array_equal(data.select([3]).images[:].ravel(), [12, 13, 14, 15])
