"""What a run keeps of its data, and how it tells others from them."""

import dataclasses
import json
import types

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.sources import Sources
from fedjax_face.runs import inputs, training_set
from tests.data.conftest import encoded
from tests.data.test_facts import faces as five
from tests.data.test_facts import regions

NAMES = ["anna", "anna", "anna", "bo", "bo", "bo", "eve", "eve"]


def people(person=NAMES, seed=0, **known):
  """Faces whose pixels follow from the person and the image's place among theirs."""
  place = [person[:i].count(p) for i, p in enumerate(person)]
  pixels = np.stack([np.random.default_rng([seed, place[i], *map(ord, p)]).integers(
      0, 256, (4, 4, 1), np.uint8) for i, p in enumerate(person)])
  return ff.faces(pixels, person, name="mine", **known)


def sources(train=None, evaluation=None, public=None):
  return Sources(people() if train is None else train,
                 people(["zoe"] * 3) if evaluation is None else evaluation, public)


def other_pixel(of, row):
  images = of.images.copy()
  images[row, 0, 0, 0] ^= 1
  return dataclasses.replace(of, images=images)


def refused(workdir, given):
  with pytest.raises(ValueError) as raised:
    inputs.require_same(given, workdir)
  said = str(raised.value)
  assert "\n" not in said and said.startswith(f"{workdir} is of a run on other data: ")
  return said.removeprefix(f"{workdir} is of a run on other data: ").split(";")[0]


@pytest.fixture
def kept(tmp_path):
  inputs.record(sources(), tmp_path)
  return tmp_path


def test_a_folder_knows_its_own_data_and_one_that_has_not_begun_is_anybodys(kept, tmp_path):
  inputs.require_same(sources(), kept)
  inputs.require_same(sources(dataclasses.replace(people(), name="moved")), kept)
  inputs.require_same(sources(), tmp_path / "nothing")
  for name in (inputs.INPUTS, inputs.FACTS, training_set.KEY):
    assert (kept / name).stat().st_mode & 0o077 == 0
  before = (kept / inputs.FACTS).read_bytes()
  inputs.record(sources(people(["ann"])), kept)  # what is kept stays
  assert (kept / inputs.FACTS).read_bytes() == before


@pytest.mark.parametrize("given, difference", [
    (lambda: sources(people(NAMES[3:])), "person 'anna' trains there and not here"),
    (lambda: sources(people([*NAMES, "kim"])), "person 'kim' trains here and not there"),
    (lambda: sources(people(NAMES[:-1])), "train: person 'eve' has 2 images there and 1 here"),
    (lambda: sources(people(["anna", *NAMES])),
     "train: person 'anna' has 3 images there and 4 here"),
    (lambda: sources(other_pixel(people(), 2)), "train: image 3 of person 'anna' differs"),
    (lambda: sources(evaluation=other_pixel(people(["zoe"] * 3), 0)),
     "evaluation: image 1 of person 'zoe' differs"),
    (lambda: sources(evaluation=people(["zoe"] * 3 + ["anna"])),
     "person 'anna' evaluates here and not there"),
    (lambda: sources(people().select(np.arange(8)[::-1])),
     "train: image 1 of person 'anna' differs"),
    (lambda: sources(people([*NAMES[3:], *NAMES[:3]])),
     "train: the same images are in another order"),
    (lambda: sources(people(label=[*NAMES[:4], "x", *NAMES[5:]])),
     "train: the label of image 2 of person 'bo' is 'bo' there and 'x' here"),
    (lambda: sources(people(gender=np.zeros(8, np.int8))), "train: gender is not known there"),
    (lambda: sources(public=people(["pat"])), "there is no public set there and one here"),
    (lambda: sources(ff.faces(np.zeros((8, 5, 5, 1), np.uint8), NAMES, name="mine")),
     "train: images are [4, 4, 1] there and [5, 5, 1] here"),
])
def test_other_data_are_refused_by_their_first_difference(kept, given, difference):
  assert refused(kept, given()) == difference


def test_people_without_names_are_told_by_their_numbers(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8)
  set_of = lambda person: sources(ff.faces(images, person, name="mine"))
  inputs.record(set_of([4, 7, 7, 9]), tmp_path)
  assert refused(tmp_path, set_of([4, 7, 7, 4])) == "person 2 trains there and not here"


@pytest.mark.parametrize("change, difference", [
    (lambda r: r._replace(images=255 - r.images), "train: image 1 of photograph 0 differs"),
    (lambda r: r._replace(pose=np.where(np.arange(12)[:, None] == 7, 2, r.pose).astype("f")),
     "train: image 2 of photograph 3 differs"),
    (lambda r: type(r)(*(field[2:] for field in r)), "photograph 0 trains there and not here"),
])
def test_regions_are_told_by_their_photographs(tmp_path, change, difference):
  of = lambda train: types.SimpleNamespace(train=train, evaluation=regions(4), public=None)
  inputs.record(of(regions()), tmp_path)
  inputs.require_same(of(regions()), tmp_path)
  made = regions()
  cut = change(made.regions)
  assert refused(tmp_path, of(made._replace(
      regions=cut, face_box=made.face_box[-len(cut.person):]))) == difference


def test_a_large_set_enters_with_the_pixels_of_some_images(tmp_path, monkeypatch):
  monkeypatch.setattr(training_set, "_WHOLE_BYTES", 8)
  monkeypatch.setattr(training_set, "_SOME_IMAGES", 3)  # rows 0, 3 and 7
  inputs.record(sources(), tmp_path)
  inputs.require_same(sources(other_pixel(people(), 1)), tmp_path)  # not looked at
  assert refused(tmp_path, sources(other_pixel(people(), 3))) == (
      "train: image 1 of person 'bo' differs")
  assert refused(tmp_path, sources(people(NAMES[:-1]))) == (
      "train: person 'eve' has 2 images there and 1 here")


def test_a_set_that_is_decoded_on_demand_enters_with_each_of_its_files(tmp_path):
  """Of 80 pictures of one person; 64 of a set that is rendered on demand would be looked at."""
  for number in range(82):
    place = tmp_path / "faces" / f"p{max(number - 79, 0)}"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{number:02}.png").write_bytes(encoded(number))
  read = lambda on_demand=True: ff.folder(
      str(tmp_path / "faces"), size=8, seed=0, evaluation=.3, on_demand=on_demand).sources
  inputs.record(read(), tmp_path)
  assert read().train.person_name(0) == "p0"
  inputs.require_same(read(), tmp_path)
  assert refused(tmp_path, read(False)) == (
      "train: digests are of 'encoded images' there and 'pixels' here")
  for number in (1, 40):
    changed = tmp_path / "faces" / "p0" / f"{number:02}.png"
    changed.write_bytes(encoded(200))
    assert refused(tmp_path, read()) == f"train: image {number + 1} of person 'p0' differs"
    changed.write_bytes(encoded(number))


def test_digests_need_the_key(tmp_path):
  said = []
  for folder in ("a", "b"):
    inputs.record(sources(), tmp_path / folder)
    said.append(json.loads((tmp_path / folder / inputs.INPUTS).read_text()))
  assert said[0]["train"].pop("digest") != said[1]["train"].pop("digest")
  assert said[0]["train"] == said[1]["train"] == {
      "name": "mine", "image_shape": [4, 4, 1], "images": 8, "people": 3}
  assert said[0]["public"] is None


def test_what_is_kept_is_what_was_known(kept):
  known = inputs.recorded(kept)
  assert known.public is None and known.evaluation.names == ("zoe",)
  np.testing.assert_array_equal(known.train.identities, people().identities)
  assert known.train.names == ("anna", "bo", "eve") and known.train.images.shape == (8, 4, 4, 1)


@pytest.mark.parametrize("damage, words", [
    (lambda w: (w / inputs.FACTS).unlink(), "facts.npz: gone"),
    (lambda w: (w / inputs.FACTS).write_bytes(b""), "is not the file whose digest inputs.json"),
    (lambda w: (w / inputs.INPUTS).write_text("{"), "inputs.json is damaged"),
    (lambda w: (w / inputs.INPUTS).write_text("{}"), "inputs.json is damaged"),
])
def test_damaged_files_are_named(kept, damage, words):
  damage(kept)
  for call in (lambda: inputs.recorded(kept), lambda: inputs.require_same(sources(), kept)):
    with pytest.raises((ValueError, OSError), match=words):
      call()


def test_attributes_that_are_not_known_are_the_same_again(tmp_path):
  inputs.record(sources(five()), tmp_path)
  inputs.require_same(sources(five()), tmp_path)
