import dataclasses

import numpy as np
import pytest

from fedjax_face.data.photographs import split_by_person
from fedjax_face.data.regions.boxes import iou, to_image
from fedjax_face.data.regions.cache import cached_regions, digest
from fedjax_face.data.regions.cutting import (
  RegionOptions,
  assign,
  crop,
  extract_regions,
  mixture,
  of_photographs,
  units_of,
)
from fedjax_face.data.regions.proposals import random_proposer
from fedjax_face.draws import Draws
from tests.data.test_photographs import make_photographs

OPTIONS = RegionOptions(size=8, positives_per_face=4, negatives_per_image=3, jittered_per_face=6)


def fixed(*boxes):
  """A proposer of the same boxes for every image."""
  return lambda image, rng: np.array(boxes, np.float32).reshape(-1, 4)


def extract(photographs, proposer=None, seed=0, **changes):
  return extract_regions(photographs, proposer or random_proposer(60),
                         dataclasses.replace(OPTIONS, **changes), Draws.of(seed))


def test_assignment_by_overlap():
  faces = np.array([[0, 0, 10, 10], [20, 0, 10, 10]], float)
  candidates = np.array([[0, 0, 10, 10], [20, 2, 10, 10], [5, 0, 10, 10], [4, 0, 10, 10],
                         [0, 0, 10, 20], [40, 0, 5, 5]], float)
  # overlaps 1, 2/3, 1/3, 3/7, exactly 1/2, 0
  np.testing.assert_array_equal(assign(candidates, faces, .5, .35), [0, 1, -1, -2, -2, -1])
  np.testing.assert_array_equal(assign(candidates, np.empty((0, 4)), .5, .35), [-1] * 6)


def test_labels_of_a_positive_by_hand():
  photographs = make_photographs([0], [7])
  regions = extract(photographs, fixed([6, 4, 8, 8]), jittered_per_face=0)    # overlap 3/5
  assert regions.face.tolist() == [1] and regions.person.tolist() == [7]
  np.testing.assert_allclose(regions.landmarks[0], [[-1 / 8, 1 / 8], [.25, .5], [5 / 8, 7 / 8]])
  np.testing.assert_array_equal(regions.visible[0], [False, True, True])
  assert regions.known.all() and regions.gender[0] == 1 and regions.pose[0, 0] == np.float32(.1)
  centred = extract(photographs, fixed([6, 4, 8, 8]), jittered_per_face=0, frame="centre")
  np.testing.assert_allclose(centred.landmarks, regions.landmarks - .5)
  np.testing.assert_array_equal(centred.visible, regions.visible)


def test_parts_of_faces_are_no_faces():
  photographs = make_photographs([0])
  whole, both = (extract(photographs, fixed([6, 4, 8, 8]), jittered_per_face=0,
                         negatives_per_image=0, parts_per_face=parts) for parts in (0, 3))
  assert whole.face.tolist() == [1] and both.face.tolist() == [1, 0, 0, 0]
  assert (iou(both.box[1:], photographs.box) < .35).all()
  assert (iou(both.box[1:], photographs.box) > 0).all()
  np.testing.assert_array_equal(both.images[0], whole.images[0])
  assert not both.known[1:, 1:].any() and both.known[:, 0].all()


def test_a_negative_trains_detection_only():
  regions = extract(make_photographs([0]), fixed([0, 0, 5, 5]), jittered_per_face=0)
  assert regions.face.tolist() == [0] and regions.person.tolist() == [-1]
  np.testing.assert_array_equal(regions.known, [[True, False, False, False, False]])
  assert not regions.visible.any() and not regions.landmarks.any() and not regions.pose.any()


def test_unknown_labels_stay_unknown():
  known = np.array([[True, False, False, False, True]])
  regions = extract(make_photographs([0], known=known), negatives_per_image=0)
  np.testing.assert_array_equal(regions.known, np.repeat(known, 4, 0))


def test_landmarks_without_a_visible_point_are_unknown():
  regions = extract(make_photographs([0], visible=np.zeros((1, 3), bool)), negatives_per_image=0)
  np.testing.assert_array_equal(regions.known, [[True, False, True, True, True]] * 4)


def test_counts_numbers_and_places():
  photographs = make_photographs([0, 2, 2], [5, 6, 7], num_images=4, size=32)
  photographs.box[2] = [20, 20, 10, 10]
  regions = extract(photographs)
  np.testing.assert_array_equal(np.bincount(regions.image), [7, 3, 11, 3])
  np.testing.assert_array_equal(np.unique(regions.person, return_counts=True),
                                [[-1, 5, 6, 7], [12, 4, 4, 4]])
  np.testing.assert_array_equal(regions.images[:, 0, 0, 0], regions.image)
  assert (regions.box[:, :2] >= 0).all() and (regions.box[:, :2] + regions.box[:, 2:] <= 32).all()
  on_face = regions.face == 1
  back = to_image(regions.landmarks[on_face], regions.box[on_face], "corner")
  np.testing.assert_allclose(back, np.tile([[5, 5], [8, 8], [11, 11]], (12, 1, 1)), atol=1e-4)


def test_regions_of_a_photograph_do_not_depend_on_those_after_it():
  few, many = extract(make_photographs([0, 1])), extract(make_photographs([0, 1, 2]))
  for left, right in zip(few, many, strict=True):
    np.testing.assert_array_equal(left, right[:len(left)])
  assert not np.array_equal(few.box, extract(make_photographs([0, 1]), seed=1).box)


def test_a_face_cut_by_the_border_is_found_by_its_inside():
  regions = extract(make_photographs([0], box=(-6, 4, 12, 8)), fixed([0, 4, 6, 8]),
                    jittered_per_face=2)
  assert regions.face.sum() == 3 and (regions.box[:, 0] >= 0).all()


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match=r"outside photograph 0 of 16 x 16 pixels"):
    extract(make_photographs([0], box=(17, 2, 5, 5)))
  with pytest.raises(ValueError, match="no region from 1 photographs"):
    extract(make_photographs([0]), fixed(), jittered_per_face=0)
  with pytest.raises(ValueError, match="size is 0"):
    dataclasses.replace(OPTIONS, size=0)
  with pytest.raises(ValueError, match="negative_iou is 0.6"):
    dataclasses.replace(OPTIONS, negative_iou=.6)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_show_the_box_and_scale_both_sides(channels):
  image = np.zeros((12, 20, channels), np.uint8)
  image[4:8, 10:20] = 200
  part, whole = crop(image, np.array([[10, 4, 10, 4], [0, 0, 20, 12]], np.float32), 6)
  assert (part[1:5, 1:] == 200).all() and part.shape == (6, 6, channels)
  assert (crop(image, np.array([[10, 4, 4, 4]]), 4) == 200).all()
  np.testing.assert_allclose(whole.mean(), 200 * 40 / 240, atol=2)
  np.testing.assert_array_equal(crop(image, np.array([[0, 0, 20, 12]]), 1).shape,
                                (1, 1, 1, channels))
  with pytest.raises(ValueError, match="outside the image of 20 x 12"):
    crop(image, np.array([[20, 0, 5, 5]]), 6)


def test_sources_mix_without_collisions():
  first, second = extract(make_photographs([0, 1], [0, 4])), extract(make_photographs([0], [0]))
  both = mixture([first, second])
  assert len(both.image) == len(first.image) + len(second.image)
  assert set(both.image) == {0, 1, 2} and set(both.person) == {-1, 0, 4, 5}
  np.testing.assert_array_equal(both.images[len(first.image):], second.images)
  with pytest.raises(ValueError, match="expected one kind"):
    mixture([first, extract(make_photographs([0]), size=9)])
  with pytest.raises(ValueError, match="no sources"):
    mixture([])


def test_views_of_a_photograph_are_one_image_unit():
  views = make_photographs([0, 1, 2], [4, 4, 3], original=np.array([1, 1, 0], np.int32))
  regions = mixture([extract(views), extract(make_photographs([0, 1]))])
  units = units_of(regions, "image")
  assert [set(units[regions.image == number]) for number in range(5)] == [
      {1}, {1}, {0}, {2}, {3}]
  assert len(set(units_of(regions, "region"))) == len(regions.image)


def test_split_regions_share_nobody():
  photographs = make_photographs(np.repeat(np.arange(8), 2), np.repeat([0, 1, 2, 3, 4, 5, 6, 7], 2))
  regions = extract(photographs)
  sides = split_by_person(photographs, .4, Draws.of(0))
  train, test = (of_photographs(regions, side) for side in sides)
  assert len(train.image) + len(test.image) == len(regions.image)
  assert set(train.person) & set(test.person) == {-1} and not set(train.image) & set(test.image)


def test_cache_makes_once_per_key(tmp_path):
  made = []

  def make():
    made.append(extract(make_photographs([0, 1])))
    return made[-1]

  key = {"source": "made", "seed": 0, "options": dataclasses.asdict(OPTIONS)}
  first = cached_regions(tmp_path / "regions", key, make)
  again = cached_regions(tmp_path / "regions", dict(reversed(key.items())), make)
  assert len(made) == 1
  for left, right in zip(first, again, strict=True):
    np.testing.assert_array_equal(left, right)
    assert left.dtype == right.dtype
  cached_regions(tmp_path / "regions", key | {"seed": 1}, make)
  assert len(made) == 2 and len(list((tmp_path / "regions").iterdir())) == 2


def test_damaged_cache_and_bad_key_are_refused(tmp_path):
  key = {"seed": 0}
  (tmp_path / f"regions-{digest(key)}.npz").write_bytes(b"PK\x03\x04 cut off")
  with pytest.raises(ValueError, match="damaged region file.*delete it"):
    cached_regions(tmp_path, key, lambda: extract(make_photographs([0])))
  with pytest.raises(ValueError, match="must be JSON"):
    digest({"proposer": random_proposer(3)})
