"""Lists of images: who is on them, as what, on which side; odd rows by name."""

import sys

import numpy as np
import pytest
from PIL import Image

from fedjax_face.data.readers import person_lists
from tests.data.conftest import encoded

ROWS = ("a/1.png,ann,lily,train", "a/2.png,ann,rose,train", "b.png,bo,lily,test",
        "c.png,cem,oak,val")


@pytest.fixture
def folder(tmp_path):
  """Images of one grey level each: 10, 20, 30, 40."""
  (tmp_path / "a").mkdir()
  for level, name in enumerate(("a/1.png", "a/2.png", "b.png", "c.png"), 1):
    (tmp_path / name).write_bytes(encoded(10 * level))
  return tmp_path


def write(place, *rows, header="path,person,label,split", name="list.csv"):
  (place / name).write_text("\n".join((header, *rows)) + "\n")
  return place / name


def test_person_and_label_may_differ(folder):
  read = person_lists.read_listing(write(folder, *ROWS), size=4, channels=1)
  data = read.dataset
  assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40] and data.images.shape[1:] == (4, 4, 1)
  assert [data.person_name(p) for p in data.person] == ["ann", "ann", "bo", "cem"]
  assert [data.label_name(k) for k in data.label] == ["lily", "rose", "lily", "oak"]
  assert read.side.tolist() == ["train", "train", "evaluation", "validation"]
  assert (data.name, read.notes, str(read.report)) == (
      "list", (), f"{folder}/list.csv: nothing skipped")


def test_a_list_of_two_columns_has_people_as_labels(folder):
  path = write(folder, "b.png,bo", "a/1.png,ann", header=" path , person")
  read = person_lists.read_listing(path, size=4)
  assert read.dataset.persons_are_labels and read.dataset.names == ("ann", "bo")
  assert read.side is None and read.report.files == ("a/1.png", "b.png")


def test_tabs_marks_and_spellings(folder):
  """A byte-order mark, tabs, and one name in two Unicode spellings."""
  path = folder / "list.tsv"
  path.write_text("path\tperson\nb.png\tAndr\u00e9\n\na/1.png\tAndre\u0301\n", "utf-8-sig")
  assert person_lists.read_listing(path, size=4).dataset.names == ("Andr\u00e9",)


def test_paths_may_be_relative_to_another_folder(folder, tmp_path_factory):
  path = write(tmp_path_factory.mktemp("lists"), "b.png,bo", header="path,person")
  assert len(person_lists.read_listing(path, root=folder, size=4).dataset) == 1
  with pytest.raises(ValueError, match="no readable image"):
    person_lists.read_listing(path, size=4)


def test_attributes_gender_and_landmarks(folder):
  """Landmarks scale with the image; what is empty is unknown; words are told and left out."""
  path = write(folder, "b.png,bo,F,31,a,2,4,,", "c.png,cem,,,b,,,,", "a/1.png,ann,0,7.5,c,8,8,4,0",
               header="path,person,gender,age,note,x0,y0,x1,y1")
  read = person_lists.read_listing(path, size=16)
  data = read.dataset
  assert data.names == ("ann", "bo", "cem")
  assert data.gender_known.tolist() == [True, True, False] and data.gender.tolist() == [0, 1, 0]
  np.testing.assert_array_equal(data.attributes["age"], [7.5, 31, np.nan])
  assert data.landmarks.tolist() == [[[16, 16], [8, 0]], [[4, 8], [0, 0]], [[0, 0], [0, 0]]]
  assert data.visible.tolist() == [[True, True], [True, False], [False, False]]
  assert data.landmarks_known.tolist() == [True, True, False]
  assert read.notes == (f"{path}: no numbers, so not read: note",)


def test_landmarks_are_of_the_upright_image(tmp_path):
  """A camera that lay on its side: 8 x 4 pixels are stored, of a picture of 4 x 8."""
  tag, pixels = Image.Exif(), np.zeros((4, 8, 3), np.uint8)
  tag[0x0112] = 6
  pixels[3, 0] = 255  # stored in the lower left corner, seen in the upper left one
  Image.fromarray(pixels).save(tmp_path / "a.png", exif=tag)
  (tmp_path / "list.csv").write_text("path,person,x0,y0\na.png,Ann,0,0\n")
  for on_demand in (False, True):
    read = person_lists.read_listing(tmp_path / "list.csv", size=8, on_demand=on_demand)
    assert read.dataset.images[0, 0, 0, 0] > 100 and read.dataset.images[0, 7, 0, 0] == 0
  (tmp_path / "list.csv").write_text("path,person,x0,y0\na.png,Ann,4,8\n")
  read = person_lists.read_listing(tmp_path / "list.csv", size=2)
  np.testing.assert_allclose(read.dataset.landmarks[0], [[2, 2]])



def test_what_cannot_be_read_is_counted_with_its_line(folder):
  (folder / "junk.png").write_bytes(b"junk")
  path = write(folder, "b.png,bo", "junk.png,bo", "b.png,bo", "none.png,zoe", "a,ann",
               header="path,person")
  with pytest.warns(UserWarning, match="skipped 6"):
    read = person_lists.read_listing(path, size=4)
  assert len(read.dataset) == 1
  assert [name for name, _ in read.report.skipped] == [
      "line 4: b.png", "line 6: a", "line 3: junk.png", "line 5: none.png", "ann", "zoe"]
  with pytest.raises(ValueError, match=r"6 bad file\(s\), first line 4: b.png: is in line 2 too"):
    person_lists.read_listing(path, size=4, on_bad="refuse")


def test_people_with_few_rows_and_other_sides_are_left_out(folder):
  path = write(folder, *ROWS)
  assert person_lists.read_listing(path, size=4, min_images=2).dataset.person_names == ("ann",)
  assert person_lists.read_listing(path, size=4, split="evaluation").dataset.person_names == ("bo",)


@pytest.mark.parametrize("header, row, message", [
    ("file,person", "b.png,bo", "no column path among file, person; expected path, person"),
    ("path,person", "b.png, ", "line 3 has no person"),
    ("path,person", ",bo", "line 3 has no path"),
    ("path,person,label", "b.png,bo,", "line 3 has no label"),
    ("path,person,split", "b.png,bo,dev", "line 3: split is 'dev'; expected one of train, valid"),
    ("path,person,split", "b.png,bo,", "line 3: split is ''"),
    ("path,person", "../b.png,bo", "line 3: ../b.png leads out of the folder"),
    ("path,person", "/etc/passwd,bo", "line 3: /etc/passwd leads out of the folder"),
    ("path,person", "a/1.png,bo", "line 3: a/1.png has person 'bo', in line 2 'ann'"),
    ("path,person", "b.png,bo,more", "line 3 has 3 fields; expected 2"),
    ("path,person,person", "b.png,bo,bo", "names a column twice"),
    ("path,person,age", "b.png,bo,old", "line 3: age is 'old'; expected a number"),
    ("path,person,age", "b.png,bo,inf", "line 3: age is 'inf'; expected a number"),
    ("path,person,gender", "b.png,bo,x", "line 3: gender is 'x'; expected M, F"),
    ("path,person,x0", "b.png,bo,1", "no column y0, though there is x0; expected x0,y0"),
    ("path,person,x0,y0", "b.png,bo,1,", "line 3 has half a landmark"),
    ("path,person,pose", "b.png,bo,1", "column pose has a name that means something else"),
])
def test_odd_rows_are_refused_in_one_line_that_names_them(folder, header, row, message):
  good = {"label": "k", "split": "train", "age": "1", "gender": "M", "x0": "1", "y0": "1",
          "pose": "1", "person": "ann", "path": "a/1.png", "file": "a/1.png"}
  path = write(folder, ",".join(good[name] for name in header.split(",")), row, header=header)
  with pytest.raises(ValueError, match=message) as error:
    person_lists.read_listing(path, size=4)
  assert "\n" not in str(error.value) and "list.csv" in str(error.value)


def test_a_list_without_rows_and_no_list(folder):
  with pytest.raises(ValueError, match="no image of a person with at least 1 row"):
    person_lists.read_listing(write(folder, header="path,person"), size=4)
  with pytest.raises(FileNotFoundError, match=r"none.csv does not exist; expected a list"):
    person_lists.read_listing(folder / "none.csv", size=4)


def test_parquet_is_the_same_list(folder, monkeypatch):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet
  parquet.write_table(pyarrow.table({"path": ["b.png", "c.png"], "person": [7, 7],
                                     "age": [None, 2.5]}), folder / "list.parquet")
  data = person_lists.read_listing(folder / "list.parquet", size=4).dataset
  assert data.names == ("7",) and data.attributes["age"].tolist()[1] == 2.5
  (folder / "list.parquet").write_bytes(b"junk")
  with pytest.raises(ValueError, match="list.parquet: no Parquet file") as error:
    person_lists.read_listing(folder / "list.parquet", size=4)
  assert "\n" not in str(error.value)
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match="Parquet is read by pyarrow, which is not installed"):
    person_lists.read_listing(folder / "list.parquet", size=4)


def test_people_of_a_file(folder):
  path = write(folder, "ann,train", "bo,test", "bo,evaluation", header="person,split")
  assert person_lists.read_people(path) == {"ann": "train", "bo": "evaluation"}
  with pytest.raises(ValueError, match="line 3: person ann is in train and validation"):
    person_lists.read_people(write(folder, "ann,train", "ann,val", header="person,split"))


def test_one_image_under_two_spellings_of_its_path_is_not_of_two_people(folder):
  twice = write(folder, "a/1.png,ann", "./a//1.png,ann", "b.png,bo", header="path,person")
  with pytest.warns(UserWarning, match="line 3: a/1.png: is in line 2 too"):
    assert len(person_lists.read_listing(twice, size=4).dataset) == 2
  for spelling in ("./a/1.png", "a//1.png", "a/./1.png"):
    of_two = write(folder, "a/1.png,ann", f"{spelling},bo", header="path,person")
    with pytest.raises(ValueError, match="has person 'bo', in line 2 'ann'; expected one"):
      person_lists.read_listing(of_two, size=4)


def test_names_are_on_one_line_and_separators_of_unicode_end_no_row(folder):
  listed = write(folder, "a/1.png,an\u2028n", 'b.png,"b\no"', "c.png,c\x85m", header="path,person")
  assert person_lists.read_listing(listed, size=4).dataset.names == (
      r"an\u2028n", r"b\no", r"c\x85m")


def test_a_landmark_of_any_number_takes_no_room(folder):
  far = write(folder, "a/1.png,ann,1,2", header=f"path,person,x0,x{10**15}")
  with pytest.raises(ValueError, match="no column y0, though there is x0"):
    person_lists.read_listing(far, size=4)
