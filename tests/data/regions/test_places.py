"""Whether a public source is a private one, from the options alone."""

import pathlib

import numpy as np
import pytest

import fedjax_face as ff
from configs import dp_hyperface
from fedjax_face import options
from fedjax_face.data.readers.tfds_photographs import EncodedPhotographs
from fedjax_face.data.regions import places as region_places
from fedjax_face.data.regions import sources as region_sources
from tests.data.test_photographs import make_photographs


def check(public, private):
  return region_places.check_public({"p": public}, {"q": private})


def scenes(seed, num_people=8):
  return {"name": "synthetic_scenes", "seed": seed, "num_people": num_people}


def test_every_reader_of_files_has_a_place(tmp_path, monkeypatch):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  for name in region_sources.SOURCES:
    assert (region_places.place({"name": name}) is None) == (name == "synthetic_scenes"), name
  assert region_places.place({"name": "utkface", "path": ""}) == (
      tmp_path / "utkface" / "UTKFace-1000.zip").resolve()
  assert region_places.place({"name": "aflw", "root": "here"}) == pathlib.Path("here").resolve()


SAME = pytest.mark.parametrize("public, private, both", [
    (scenes(3), scenes(3, 20), "synthetic_scenes with seed 3"),
    ({"name": "utkface"}, {"name": "utkface", "path": "ROOT/utkface/UTKFace-1000.zip", "limit": 2},
     "utkface in "),
    ({"name": "aflw", "root": "a"}, {"name": "aflw", "root": "b/../a"}, "aflw in "),
    ({"name": "celeb_a", "split": "train"}, {"name": "celeb_a", "split": "test"}, "celeb_a in "),
    ({"name": "the300w_lp", "data_dir": "TFDS"}, {"name": "the300w_lp"}, "the300w_lp in "),
    ({"name": "aflw2000"}, {"name": "aflw"}, "AFLW photographs (aflw2000, aflw)"),
    ({"name": "aflw", "root": "x"}, {"name": "aflw2000"}, "AFLW photographs (aflw, aflw2000)"),
    ({"name": "lfw_aligned"}, {"name": "lfw_originals", "root": ""}, "LFW photographs (lfw_al"),
    ({"name": "lfw_aligned", "people": "others", "root": "copy"}, {"name": "lfw_originals"},
     "LFW photographs (lfw_aligned, lfw_originals)"),
    ({"name": "lfw_aligned", "people": "others"}, {"name": "lfw_aligned"}, "lfw_aligned in "),
    ({"name": "lfw_aligned", "people": "all"}, {"name": "lfw_originals"}, "LFW photographs"),
])


@SAME
def test_a_public_source_that_is_private_is_refused(tmp_path, monkeypatch, public, private, both):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path / "ROOT"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "TFDS"))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError) as refusal:
    check(public, private)
  said = str(refusal.value)
  assert f"data.public.p and data.sources.q are both {both}" in said
  assert "\n" not in said


@SAME
def test_a_private_source_twice_is_refused(tmp_path, monkeypatch, public, private, both):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path / "ROOT"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "TFDS"))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError) as refusal:
    region_places.check_private({"a": public, "other": {"name": "own"}, "b": private})
  said = str(refusal.value)
  assert f"data.sources.a and data.sources.b are both {both}" in said
  assert "\n" not in said


def test_it_is_said_that_nobody_is_in_two_private_sources():
  real = {"a": {"name": "lfw_originals"}, "b": {"name": "celeb_a"}}
  said, = region_places.check_private(real | {"made": scenes(3)})
  assert said.startswith("data.sources.a, data.sources.b: epsilon assumes that no person")
  assert "method.units.unit=person" in said and "method.units.unit=image" in said
  for known in ({"a": real["a"]}, {"a": scenes(3), "b": scenes(4)},
                {"a": scenes(3), "b": real["b"]}):
    assert region_places.check_private(known) == ()


@pytest.mark.parametrize("variant, sentences", [("synthetic", 0), ("faces", 1), ("faces_lfw", 1),
                                                ("aflw", 0)])
def test_the_variants_hold_no_set_twice(variant, sentences):
  data = ff.from_config(dp_hyperface.get_config(variant))["data"]
  sources = options.made(options.argument(data, "sources"))
  private = {name: source.section for name, source in sources.items()}
  assert private and len(region_places.check_private(private)) == sentences


def numbered(*numbers):
  """A photograph for each number, filled with it."""
  return make_photographs(np.arange(max(numbers) + 1)).select(np.array(numbers))


def test_a_photograph_in_two_sources_is_refused():
  with pytest.raises(ValueError, match="photograph 1 of data.public.p is photograph 0 of "
                                       "data.sources.b, pixel for pixel; expected public"):
    region_places.check_copies({"p": numbered(7, 3)}, {"a": numbered(1, 2), "b": numbered(3, 4)})
  with pytest.raises(ValueError, match="photograph 0 of data.sources.b is photograph 1 of "
                                       "data.sources.a, pixel for pixel; expected every ph"):
    region_places.check_copies({}, {"a": numbered(1, 2), "b": numbered(2, 4)})


def test_other_photographs_and_those_of_one_side_are_not():
  twice = numbered(5, 5)
  region_places.check_copies({"p": twice, "q": twice}, {"a": numbered(1, 1), "b": numbered(2)})
  wide = make_photographs([0], images=np.zeros((1, 8, 32, 3), np.uint8))  # as many pixels
  region_places.check_copies({"p": wide}, {"a": numbered(0)})
  region_places.check_copies({}, {"a": twice})


def test_photographs_are_not_decoded_again_to_be_compared():
  def read(number):
    raise AssertionError("decoded")

  whole = numbered(0)
  encoded = make_photographs([0], images=EncodedPhotographs(["one"], read))
  region_places.check_copies({"p": encoded}, {"a": whole, "b": encoded})


def test_it_is_said_how_people_of_lfw_are_told_apart():
  note, = check({"name": "lfw_aligned", "people": "others"}, {"name": "lfw_originals"})
  assert "told apart by LFW's names and by their photographs alone" in note


@pytest.mark.parametrize("public, private, checked", [
    (scenes(3), scenes(4), True),
    (scenes(3), {"name": "lfw_originals"}, True),
    ({"name": "lfw_originals"}, scenes(3), True),
    ({"name": "lfw_originals"}, {"name": "celeb_a"}, False),
    ({"name": "aflw2000", "root": "a"}, {"name": "aflw2000", "root": "b"}, False),
    ({"name": "own"}, {"name": "own"}, False),
    ({"name": "lfw_aligned", "people": "others"}, {"name": "utkface"}, False),
])
def test_what_cannot_be_checked_is_noted(public, private, checked):
  notes = check(public, private)
  assert len(notes) == (not checked)
  assert all("whether they share a person cannot be checked" in note for note in notes)
