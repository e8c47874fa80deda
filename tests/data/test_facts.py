"""Facts of a data set: everything but pixels, and the same again from arrays."""

import dataclasses
import io

import numpy as np
import pytest

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.facts import ImagesWhenAsked, UnseenImages, facts, packed, unpacked
from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions.cutting import Regions
from fedjax_face.data.regions.sources import RegionSet
from fedjax_face.draws import identity_of


def faces():
  person = np.array([0, 0, 2, 2, 1], np.int32)
  return FaceDataset(
      "five", np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3), person, person,
      landmarks=np.ones((5, 4, 2), np.float32), gender=np.array([0, 0, 1, 1, 0], np.int8),
      gender_known=np.array([1, 1, 1, 0, 1], bool), names=("anna", "bo", "eve"),
      attributes={"age": np.array([3, 3, 8, 8, -1])})


def regions(count=12, side=16, landmarks=21, persons_known=True, name="cut"):
  """Regions of half as many photographs, each of one person."""
  rng = np.random.default_rng(0)
  photograph = np.repeat(np.arange(count // 2, dtype=np.int32), 2)
  box = rng.uniform(0, 9, (count, 4)).astype(np.float32)
  made = Regions(
      images=rng.integers(0, 256, (count, side, side, 3), np.uint8), image=photograph,
      person=photograph, box=box, face=np.ones(count, np.int32),
      landmarks=rng.uniform(size=(count, landmarks, 2)).astype(np.float32),
      visible=np.ones((count, landmarks), bool), pose=np.ones((count, 3), np.float32),
      gender=np.ones(count, np.int32), known=np.ones((count, 5), bool), original=photograph,
      identity=identity_of(photograph.tolist()))
  empty = lambda kind, *shape: np.zeros((0, *shape), kind)
  source = Photographs(
      name, np.zeros((count // 2, 8, 8, 3), np.uint8), empty(np.int32), empty(np.int32),
      empty(np.float32, 4), empty(np.float32, landmarks, 2), empty(np.bool_, landmarks),
      empty(np.float32, 3), empty(np.int32), empty(np.bool_, 5), persons_known=persons_known)
  return RegionSet(name, made, box, (source,), "centre")


@pytest.mark.parametrize("look", [
    lambda images: images[0], lambda images: images[np.array([1, 2])], np.asarray, list,
    lambda images: np.asarray(images, np.float32), lambda images: np.stack([images, images])])
@pytest.mark.parametrize("known", [faces, regions])
def test_pixels_are_no_facts(known, look):
  images = facts(known()).images
  assert images.shape == known().images.shape and len(images) == images.shape[0]
  assert (images.dtype, images.ndim) == (np.uint8, 4)
  with pytest.raises(ValueError, match="^pixels of the training set are not facts: [^\n]*$"):
    look(images)


def test_facts_of_faces_say_who_is_there_and_what_partitions_ask():
  whole, known = faces(), facts(faces())
  for field in ("label", "person", "identities", "gender", "gender_known"):
    np.testing.assert_array_equal(getattr(known, field), getattr(whole, field))
  np.testing.assert_array_equal(known.attribute("age"), [3, 3, 8, 8, np.nan])
  assert known.names == whole.names and known.num_persons == 3
  assert known.landmarks is None and facts(known).images.shape == (5, 2, 2, 3)


def test_facts_of_regions_say_who_is_where_and_the_labels_keep_their_shapes():
  whole, known = regions(), facts(regions())
  for unit in ("image", "region", "person"):
    np.testing.assert_array_equal(known.units(unit), whole.units(unit))
    np.testing.assert_array_equal(known.unit_identities(unit), whole.unit_identities(unit))
  assert known.frame == "centre" and known.persons_known
  for name, labels in known.targets.items():
    assert (labels.shape, labels.dtype) == (whole.targets[name].shape, whole.targets[name].dtype)
  assert not known.targets["landmarks"].any() and not len(known.photographs[0])
  with pytest.raises(ValueError, match="cut does not say which faces are of one person"):
    facts(regions(persons_known=False)).units("person")


@pytest.mark.parametrize("known", [faces, regions, lambda: dataclasses.replace(
    faces(), person_names=("x", "y", "z"), identity=np.array([7, 7, 9, 9, 8], np.uint64))])
def test_facts_come_back_from_a_file_as_they_were(known):
  arrays, said = packed(facts(known()))
  assert not any(array.dtype == object for array in arrays.values())
  held = io.BytesIO()
  np.savez_compressed(held, **arrays)
  held.seek(0)
  again = packed(unpacked(dict(np.load(held)), said))
  assert again[1] == said and again[0].keys() == arrays.keys()
  for field, array in arrays.items():
    np.testing.assert_array_equal(again[0][field], array)
  back = unpacked(arrays, said)
  assert back.images.shape == known().images.shape and isinstance(back.images, UnseenImages)
  if isinstance(back, FaceDataset):
    np.testing.assert_array_equal(back.identities, known().identities)
    assert [back.person_name(p) for p in range(3)] == [known().person_name(p) for p in range(3)]


def test_images_that_are_asked_for_are_read_once():
  whole, read = faces().images, []

  def images():
    read.append(1)
    return whole

  when_asked = ImagesWhenAsked(whole.shape, images)
  assert len(when_asked) == 5 and when_asked.shape == whole.shape and not read
  np.testing.assert_array_equal(when_asked[1:3], whole[1:3])
  np.testing.assert_array_equal(np.asarray(when_asked), whole)
  assert read == [1]
