"""Whether a public source is a private one, from the options alone."""

import pathlib

import pytest

from fedjax_face.data import region_places, region_sources


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


@pytest.mark.parametrize("public, private, both", [
    (scenes(3), scenes(3, 20), "synthetic_scenes with seed 3"),
    ({"name": "utkface"}, {"name": "utkface", "path": "ROOT/utkface/UTKFace-1000.zip", "limit": 2},
     "utkface in "),
    ({"name": "aflw", "root": "a"}, {"name": "aflw", "root": "b/../a"}, "aflw in "),
    ({"name": "celeb_a", "split": "train"}, {"name": "celeb_a", "split": "test"}, "celeb_a in "),
    ({"name": "the300w_lp", "data_dir": "TFDS"}, {"name": "the300w_lp"}, "the300w_lp in "),
    ({"name": "aflw2000"}, {"name": "aflw"}, "AFLW photographs (aflw2000, aflw)"),
    ({"name": "aflw", "root": "x"}, {"name": "aflw2000"}, "AFLW photographs (aflw, aflw2000)"),
])
def test_a_public_source_that_is_private_is_refused(tmp_path, monkeypatch, public, private, both):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path / "ROOT"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "TFDS"))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError) as refusal:
    check(public, private)
  said = str(refusal.value)
  assert f"data.public.sources.p and data.sources.q are both {both}" in said
  assert "\n" not in said


@pytest.mark.parametrize("public, private, checked", [
    (scenes(3), scenes(4), True),
    (scenes(3), {"name": "lfw_originals"}, True),
    ({"name": "lfw_originals"}, scenes(3), True),
    ({"name": "lfw_originals"}, {"name": "celeb_a"}, False),
    ({"name": "aflw2000", "root": "a"}, {"name": "aflw2000", "root": "b"}, False),
    ({"name": "own"}, {"name": "own"}, False),
])
def test_what_cannot_be_checked_is_noted(public, private, checked):
  notes = check(public, private)
  assert len(notes) == (not checked)
  assert all("whether they share a person cannot be checked" in note for note in notes)
