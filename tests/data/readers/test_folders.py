import zipfile

import numpy as np
import pytest

from fedjax_face.data.readers.folders import count_files, read_folder
from tests.data.conftest import encoded

GOOD = {"bob/2.png": encoded(22), "bob/1.png": encoded(21), "ann/1.jpg": encoded(10, kind="JPEG"),
        "cem/1.pgm": encoded(31, kind="PPM", mode="L")}


@pytest.fixture(params=["folder", "zip"])
def make(request, tmp_path):
  """Writes {path: bytes} as a folder or a zip archive; a path that ends in / is an empty folder."""
  def write(files):
    if request.param == "zip":
      with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for name, content in files.items():
          archive.writestr(name, content)
      return tmp_path / "faces.zip"
    for name, content in files.items():
      place = tmp_path / "faces" / name
      (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
      if not name.endswith("/"):
        place.write_bytes(content)
    return tmp_path / "faces"
  return write


@pytest.mark.parametrize("root", ["", "faces/", "faces-8x8/", "a/b/"])
def test_persons_are_the_innermost_folders(make, root):
  path = make({root + name: content for name, content in GOOD.items()})
  data, report = read_folder(path)
  assert data.names == ("ann", "bob", "cem") and data.name == "faces"
  np.testing.assert_array_equal(data.label, [0, 1, 1, 2])
  np.testing.assert_array_equal(data.person, data.label)
  np.testing.assert_array_equal(data.images[1:, 0, 0, 0], [21, 22, 31])
  assert report.files == tuple(root + name for name in sorted(GOOD))
  assert report.skipped == () and str(report).startswith(f"{path}: ")
  told = (f"people are the folders in {root[:-1]}",) if root not in ("", "faces/") else ()
  assert report.remarks == told
  assert count_files(path) == {"ann": 1, "bob": 2, "cem": 1}


BAD = {"bob/3.png": encoded(1, 64)[:70], "bob/notes.txt": b"hello", "dan/": b"",
       "eve/1.png": b"", "README": b"text", "ann/.DS_Store": b"x"}


def test_bad_files_are_skipped_counted_and_warned_about(make):
  path = make(GOOD | BAD)
  with pytest.warns(UserWarning, match="skipped 6"):
    data, report = read_folder(path)
  assert data.names == ("ann", "bob", "cem") and len(data) == 4
  reasons = dict(report.skipped)
  assert reasons["bob/notes.txt"] == "not an image"
  assert reasons["README"] == "not in a person's folder"
  assert reasons["dan"] == "person with no images"
  assert reasons["eve"] == "person with no readable image" and reasons["eve/1.png"] == "empty file"
  assert "ann/.DS_Store" not in reasons and "bob/3.png" in reasons


@pytest.mark.parametrize("name", ["bob/3.png", "bob/notes.txt", "dan/", "eve/1.png"])
def test_bad_files_can_be_refused(make, name):
  with pytest.raises(ValueError, match=r"bad file\(s\), first .*; repair them") as error:
    read_folder(make(GOOD | {name: BAD[name]}), on_bad="refuse")
  assert name.rstrip("/") in str(error.value) and "\n" not in str(error.value)


def test_filters(make):
  path = make(GOOD)
  assert read_folder(path, people={"bob"})[0].names == ("bob",)
  assert read_folder(path, min_images=2)[0].names == ("bob",)
  assert read_folder(path, limit=2)[1].files == ("ann/1.jpg", "bob/1.png")
  small, _ = read_folder(path, size=4, channels=1)
  assert small.images.shape == (4, 4, 4, 1)
  with pytest.raises(FileNotFoundError, match=r"1 person\(s\) not found: zoe"):
    read_folder(path, people={"bob", "zoe"})
  with pytest.raises(ValueError, match="at least 3 file"):
    read_folder(path, min_images=3)


def test_one_name_in_two_places_is_refused(make):
  with pytest.raises(ValueError, match="person bob is in both test/bob and train/bob"):
    read_folder(make({"train/bob/1.png": encoded(), "test/bob/1.png": encoded()}), people_at=2)


def test_two_spellings_of_a_name_are_one_person_and_capitals_are_told(make):
  one, two = "Zo\xeb", "Zoe\u0308"  # composed and decomposed
  path = make({f"{one}/1.png": encoded(1), f"{two}/2.png": encoded(2), f"{two}/3.png": encoded(3),
               "Ann/1.png": encoded(4), "ann/1.png": encoded(5)})
  data, report = read_folder(path)
  assert data.names == ("Ann", one, "ann") and report.skipped == ()
  np.testing.assert_array_equal(np.bincount(data.person), [1, 3, 1])
  assert report.remarks == (f"{one} is spelled in 2 forms of Unicode; taken as one person",
                            "Ann and ann differ in capitals only; taken as 2 people")
  assert count_files(path)[one] == 3 and read_folder(path, people={two})[0].names == (one,)


def test_sessions_are_never_people(make):
  sessions = {"ann/monday/1.png": encoded(1), "ann/friday/1.png": encoded(2),
              "bob/monday/1.png": encoded(3)}
  path = make(sessions)
  with pytest.raises(ValueError, match="ann/friday may be session friday of person ann, or person "
                     "friday of group ann; say people_at=1 if ann is"):
    read_folder(path)
  data, _ = read_folder(path, people_at=1)
  assert data.names == ("ann", "bob") and np.bincount(data.person).tolist() == [2, 1]
  assert count_files(path, people_at=1) == {"ann": 2, "bob": 1}


def test_groups_of_people_are_said(make):
  path = make({"class a/ann/1.png": encoded(1), "class b/bob/1.png": encoded(2),
               "class b/bob/old/2.png": encoded(3), "class b/plan.png": encoded(4)})
  with pytest.warns(UserWarning, match="skipped 1: class b/plan.png: not in a person's folder"):
    data, _ = read_folder(path, people_at=2)
  assert data.names == ("ann", "bob") and np.bincount(data.person).tolist() == [1, 2]


def test_images_of_people_that_lie_in_sub_folders_too_are_theirs(make):
  path = make({"ann/1.png": encoded(1), "ann/old/2.png": encoded(2), "bob/1.png": encoded(3)})
  data, report = read_folder(path)
  assert data.names == ("ann", "bob") and np.bincount(data.person).tolist() == [2, 1]
  assert report.remarks == (
      "pictures in folders of a person's folder, as in ann/old, are that person's",)


def test_sources_that_are_nothing_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
    read_folder(tmp_path / "nowhere")
  (tmp_path / "x.zip").write_bytes(b"PK no")
  with pytest.raises(ValueError, match="neither a folder nor a readable zip"):
    read_folder(tmp_path / "x.zip")
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="expected <person>/<image>"):
    read_folder(tmp_path / "empty")


def test_damage_inside_an_archive_is_a_skipped_file(tmp_path):
  path = tmp_path / "faces.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a/1.png", encoded(1))
    archive.writestr("b/1.png", encoded(2, 64))
  content = bytearray(path.read_bytes())
  start = content.index(b"b/1.png") + 60
  content[start:start + 4] = b"\x00\x00\x00\x00"
  path.write_bytes(content)
  with pytest.warns(UserWarning, match="broken in the archive"):
    data, report = read_folder(path)
  assert data.names == ("a",) and report.skipped[0][0] == "b/1.png"


def test_orl(real_data):
  path = real_data("orl", "att_faces.zip")
  with pytest.warns(UserWarning, match="skipped 1: att_faces/README: not in a person's folder"):
    data, _ = read_folder(path, channels=1, people={"s1", "s2"})
  assert data.images.shape == (20, 112, 92, 1) and data.names == ("s1", "s2")
  assert len(count_files(path)) == 40
