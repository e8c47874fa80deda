"""Lists of faces that are marked on photographs: what is said is known, the rest is masked."""

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY
from fedjax_face.data.readers.marked_list import read_marked_list
from tests.data.conftest import encoded

BOX = "path,left,top,width,height"


@pytest.fixture
def folder(tmp_path):
  for name, size in (("a.png", 40), ("b.png", 60), ("c.png", 40)):
    (tmp_path / name).write_bytes(encoded(100, size))
  return tmp_path


def write(place, header, *rows):
  (place / "list.csv").write_text("\n".join((header, *rows)) + "\n")
  return place / "list.csv"


def test_photographs_with_several_faces_and_with_none(folder):
  read, report = read_marked_list(write(
      folder, BOX + ",person,gender,roll,pitch,yaw",
      "b.png,1,2,10,12,ann,F,90,0,-45", "a.png,3,4,20,20,bo,,,,", "b.png,30,2,10,12,bo,0,0,0,0",
      "c.png,,,,,,,,,"))
  assert report.files == ("a.png", "b.png", "c.png") and len(read) == 3
  assert read.image.tolist() == [0, 1, 1] and read.images[1].shape == (60, 60, 3)
  assert read.box.tolist() == [[3, 4, 20, 20], [1, 2, 10, 12], [30, 2, 10, 12]]
  assert read.person[0] == read.person[2] != read.person[1] and read.persons_known
  assert read.known[:, DETECTION].all() and not read.known[:, [LANDMARKS, VISIBILITY]].any()
  assert read.known[:, GENDER].tolist() == read.known[:, POSE].tolist() == [False, True, True]
  assert read.gender[1:].tolist() == [1, 0]
  np.testing.assert_allclose(read.pose[1], [np.pi / 2, 0, -np.pi / 4], rtol=1e-6)


def test_people_without_a_name_are_somebody_else_each_time(folder):
  read, _ = read_marked_list(write(folder, BOX + ",person", "a.png,1,1,9,9,", "b.png,1,1,9,9,"))
  assert len(set(read.person.tolist())) == 2 and not read.persons_known


def test_five_landmarks_take_their_places_among_the_21(folder):
  points = ",".join(f"x{i},y{i}" for i in range(5))
  read, _ = read_marked_list(write(folder, f"{BOX},{points}", "a.png,0,0,40,40,1,2,3,4,5,6,7,8,,"))
  assert read.landmarks[0, [7, 10, 14, 17]].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
  assert read.visible[0].sum() == 4 and read.landmarks[0, 19].tolist() == [20, 20]
  assert read.known[0, LANDMARKS] and not read.known[0, VISIBILITY]
  points = ",".join(f"x{i},y{i}" for i in range(21))
  every = ",".join(["3"] * 42)
  read, _ = read_marked_list(write(folder, f"{BOX},{points}", f"a.png,0,0,40,40,{every}"))
  assert read.visible.all() and read.known[0, VISIBILITY]


@pytest.mark.parametrize("header, row, message", [
    ("path,left,top,width", "b.png,1,1,9", "no column height"),
    (BOX, "b.png,1,1,0,9", "line 3 has a box without a size"),
    (BOX, "b.png,1,1,,9", "line 3 has a box without a size"),
    (BOX, "../b.png,1,1,9,9", "line 3: ../b.png leads out"),
    (BOX + ",roll,pitch,yaw", "b.png,1,1,9,9,3,,", "line 3 has half a pose"),
    (BOX + ",roll", "b.png,1,1,9,9,3", "the header has half a pose"),
    (BOX + ",x0,y0", "b.png,1,1,9,9,3,3", "1 landmarks; expected the 21 of AFLW, or five"),
])
def test_odd_rows_are_refused_in_one_line(folder, header, row, message):
  first = ["a.png", "1", "1", "9", "9"][:4 if "height" not in header else 5]
  first += ["1"] * (header.count(",") + 1 - len(first))
  with pytest.raises(ValueError, match=message) as error:
    read_marked_list(write(folder, header, ",".join(first), row))
  assert "\n" not in str(error.value) and "list.csv" in str(error.value)


def test_photographs_that_cannot_be_read_are_counted(folder):
  (folder / "junk.png").write_bytes(b"junk")
  path = write(folder, BOX, "a.png,1,1,9,9", "junk.png,1,1,9,9", "none.png,1,1,9,9")
  with pytest.warns(UserWarning, match="line 3: junk.png: .*; line 4: none.png: missing"):
    assert len(read_marked_list(path)[0]) == 1
  with pytest.warns(UserWarning), pytest.raises(ValueError, match="no readable photograph among 1"):
    read_marked_list(write(folder, BOX, "none.png,1,1,9,9"))


def test_regions_are_cut_of_a_list(folder):
  path = write(folder, BOX + ",person", "a.png,5,5,30,30,ann", "b.png,5,5,30,30,bo",
               "c.png,5,5,30,30,cem")
  made = options.made(ff.photographs(
      {"own": ff.photograph_sources.listing(str(path))}, evaluation=.4,
      regions=options.build(*_small()))).sources
  assert len(made.train.regions.face) and len(made.evaluation.regions.face)
  assert not made.evaluates_training_people


def _small():
  from fedjax_face.data.regions.kinds import RegionCut
  return RegionCut, {"name": "regions", "size": 16, "positives_per_face": 1,
                     "negatives_per_image": 1}, "regions"
