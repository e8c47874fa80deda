import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY
from fedjax_face.data.readers.tfds_photographs import read_tfds_photographs
from tests.data.conftest import encoded
from tests.data.readers.pictures import turned

pytest.importorskip("tensorflow_datasets")
aflw_builder = pytest.importorskip("fedjax_face.data.readers.aflw_builder")

SCHEMA = """
CREATE TABLE Faces (face_id INTEGER PRIMARY KEY, file_id TEXT, db_id TEXT);
CREATE TABLE FaceImages (image_id INTEGER PRIMARY KEY, db_id TEXT, file_id TEXT, filepath TEXT,
                         bw INTEGER, width INTEGER, height INTEGER);
CREATE TABLE FaceRect (face_id INTEGER, x, y, w, h, annot_type_id INTEGER);
CREATE TABLE FacePose (face_id INTEGER, roll REAL, pitch REAL, yaw REAL, annot_type_id INTEGER);
CREATE TABLE FaceMetaData (face_id INTEGER, sex TEXT, occluded INTEGER, glasses INTEGER,
                           bw INTEGER, annot_type_id INTEGER);
CREATE TABLE FeatureCoords (face_id INTEGER, feature_id INTEGER, x REAL, y REAL);
CREATE TABLE FeatureCoordTypes (feature_id INTEGER PRIMARY KEY, descr TEXT, code TEXT,
                                x REAL, y REAL, z REAL);
INSERT INTO FeatureCoordTypes (feature_id, descr) VALUES
  (1, 'LeftBrowLeftCorner'), (8, 'LeftEyeCenter'), (13, 'LeftEar'), (15, 'NoseCenter'),
  (21, 'ChinCenter'), (22, 'LeftTemple');
"""


def write(root, images, faces):
  """A database of faces {number: (file, rect, pose, sex, points)} and its images {file: bytes}."""
  root.mkdir(parents=True, exist_ok=True)
  with sqlite3.connect(root / "aflw.sqlite") as database:
    database.executescript(SCHEMA)
    for file in sorted({face[0] for face in faces.values()}):
      database.execute("INSERT INTO FaceImages (db_id, file_id, filepath) VALUES ('aflw', ?, ?)",
                       (file.split("/")[-1], file))
    for number, (file, rect, pose, sex, points) in faces.items():
      database.execute("INSERT INTO Faces VALUES (?, ?, 'aflw')", (number, file.split("/")[-1]))
      if rect:
        database.execute("INSERT INTO FaceRect VALUES (?, ?, ?, ?, ?, 1)", (number, *rect))
      if pose:
        database.execute("INSERT INTO FacePose VALUES (?, ?, ?, ?, 1)", (number, *pose))
      if sex:
        database.execute("INSERT INTO FaceMetaData (face_id, sex) VALUES (?, ?)", (number, sex))
      database.executemany("INSERT INTO FeatureCoords VALUES (?, ?, ?, ?)",
                           [(number, feature, *at) for feature, at in points.items()])
  database.close()
  for file, content in images.items():
    (root / "flickr" / file).parent.mkdir(parents=True, exist_ok=True)
    (root / "flickr" / file).write_bytes(content)


PHOTOS = {"0/b.jpg": encoded(40, 100, "JPEG"), "2/c.jpg": encoded(80, 60, "JPEG", mode="L"),
          "0/a.jpg": encoded(120, 100, "JPEG")}
FACES = {
    39341: ("2/c.jpg", (10, 10, 30, 30), (.1, -.2, 1.9), "f", {8: (20, 21), 15: (25, 30.5)}),
    39342: ("0/b.jpg", (-5, 60, 20, 20), None, None, {}),
    39340: ("0/b.jpg", (50, 40, 20, 24), (-6.3, -6.3, -6.3), "m",
            {1: (51, 41), 13: (-1, -1), 22: (52, 52), 21: (60, 62)}),
    39343: ("0/a.jpg", (1, 2, 3, 4), (0, 0, 0), "?", {13: (0, 5)})}


def test_aflw_by_hand(tmp_path):
  write(tmp_path, PHOTOS, FACES)
  faces, report = aflw_builder.read_aflw(tmp_path)
  assert report.files == ("0/a.jpg", "0/b.jpg", "2/c.jpg") and report.skipped == ()
  np.testing.assert_array_equal(faces.image, [0, 1, 1, 2])
  np.testing.assert_array_equal(faces.person, np.arange(4))
  np.testing.assert_array_equal(faces.box[:, :2], [[1, 2], [50, 40], [-5, 60], [10, 10]])
  assert [np.flatnonzero(row).tolist() for row in faces.visible] == [[12], [0, 20], [], [7, 14]]
  np.testing.assert_array_equal(faces.landmarks[1, [0, 20]], [[51, 41], [60, 62]])
  np.testing.assert_array_equal(faces.landmarks[1, 12], [60, 52])
  np.testing.assert_array_equal(faces.landmarks[3, 14], [25, 30.5])
  np.testing.assert_allclose(faces.pose[3], [-.1, -.2, 1.9], rtol=1e-6)
  np.testing.assert_array_equal(faces.gender, [0, 0, 0, 1])
  known = faces.known
  assert known[:, DETECTION].all()
  np.testing.assert_array_equal(known[:, LANDMARKS], [True, True, False, True])
  np.testing.assert_array_equal(known[:, VISIBILITY], known[:, LANDMARKS])
  np.testing.assert_array_equal(known[:, POSE], [True, False, False, True])
  np.testing.assert_array_equal(known[:, GENDER], [False, True, False, True])
  assert [image.shape for image in faces.images] == [(100, 100, 3), (100, 100, 3), (60, 60, 3)]
  assert [int(image[0, 0, 2]) for image in faces.images] == [120, 40, 80]
  assert len(aflw_builder.read_aflw(tmp_path, limit=2)[0]) == 2


def test_photographs_that_cannot_be_used_are_left_out(tmp_path):
  faces = {1: ("0/missing.jpg", (1, 1, 5, 5), None, None, {}),
           2: ("0/junk.jpg", (1, 1, 5, 5), None, None, {}),
           3: ("0/two.jpg", (1, 1, 5, 5), None, None, {}), 4: ("0/two.jpg", None, None, None, {}),
           5: ("0/flat.jpg", (1, 1, 5, 0), None, None, {}),
           6: ("0/outside.jpg", (100, 1, 5, 5), None, None, {}),
           7: ("0/good.jpg", (90, 90, 20, 20), None, None, {})}
  images = {face[0]: encoded(9, 100, "JPEG") for face in faces.values()} | {"0/junk.jpg": b"junk"}
  del images["0/missing.jpg"]
  write(tmp_path, images, faces)
  with pytest.warns(UserWarning, match="skipped 5"):
    photographs, report = aflw_builder.read_aflw(tmp_path)
  assert report.files == ("0/good.jpg",) and photographs.num_faces == 1
  assert dict(report.skipped) == {
      "0/missing.jpg": "missing", "0/junk.jpg": "not an image", "0/two.jpg": "face 4 has no box",
      "0/flat.jpg": "face 5 has no box", "0/outside.jpg": "face 6 has a box outside the photograph"}
  with pytest.raises(ValueError, match=r"5 bad file\(s\), first 0/flat.jpg"):
    aflw_builder.read_aflw(tmp_path, on_bad="refuse")


def damage(path, kind):
  content = path.read_bytes()
  if kind == "junk":
    path.write_bytes(b"this is no database, " * 100)
  elif kind == "cut":
    path.write_bytes(content[:len(content) // 3])
  elif kind == "overwritten":
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
  else:
    with sqlite3.connect(path) as database:
      database.execute(kind)
    database.close()


@pytest.mark.parametrize("kind, message", [
    ("junk", "aflw.sqlite: not AFLW's database, or damaged .file is not a database"),
    ("cut", "aflw.sqlite: not AFLW's database, or damaged"),
    ("overwritten", "aflw.sqlite: not AFLW's database, or damaged"),
    ("DROP TABLE FacePose", "no such table: FacePose"),
    ("UPDATE FaceRect SET w = 'wide' WHERE face_id = 39340",
     r"FaceRect of face 39340 is \[50, 40, 'wide', 24\]; expected numbers"),
    ("DELETE FROM Faces", "no usable photograph among 0")])
def test_damaged_databases_are_one_line(tmp_path, kind, message):
  write(tmp_path, PHOTOS, FACES)
  damage(tmp_path / "aflw.sqlite", kind)
  with pytest.raises(ValueError, match=message) as error:
    aflw_builder.read_aflw(tmp_path)
  assert "\n" not in str(error.value)


def test_no_database_says_what_is_expected(tmp_path):
  with pytest.raises(FileNotFoundError, match="aflw.sqlite does not exist; expected the database"):
    aflw_builder.read_aflw(tmp_path)
  with pytest.raises(FileNotFoundError, match="aflw.sqlite does not exist; Ask for AFLW") as error:
    aflw_builder.prepare(tmp_path, tmp_path / "tfds")
  assert "\n" not in str(error.value)


def test_built_and_read_back_is_the_same(tmp_path):
  manual, data_dir = tmp_path / "manual", tmp_path / "tfds"
  write(manual, PHOTOS, FACES)
  aflw_builder.prepare(manual, data_dir)
  direct, _ = aflw_builder.read_aflw(manual)
  built, report = read_tfds_photographs("aflw", data_dir=data_dir)
  assert report.skipped == () and len(built) == 3
  where = {int(image[0, 0, 0]): number for number, image in enumerate(built.images)}
  same = built.select(np.array([where[value] for value in (120, 40, 80)]))  # TFDS shuffles
  for field in ("image", "person", "box", "landmarks", "visible", "pose", "gender", "known"):
    np.testing.assert_array_equal(getattr(same, field), getattr(direct, field), err_msg=field)
    assert getattr(same, field).dtype == getattr(direct, field).dtype
  for one, other in zip(same.images, direct.images, strict=True):
    np.testing.assert_array_equal(one, other)


def test_tensorflow_is_not_imported():
  code = "import sys, fedjax_face.data.readers.aflw_builder; assert 'tensorflow' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)


FACE = ((1, 1, 5, 5), None, None, {})


@pytest.mark.parametrize("file", ["../../secret.jpg", "0/../../../secret.jpg", "/secret.jpg", ""])
def test_a_name_in_the_database_leads_to_no_file_outside(tmp_path, file):
  root = tmp_path / "aflw"
  write(root, {"0/a.jpg": encoded(1, 20, "JPEG")}, {1: ("0/a.jpg", *FACE)})
  (tmp_path / "secret.jpg").write_bytes(encoded(2, 20, "JPEG"))
  with sqlite3.connect(root / "aflw.sqlite") as database:
    database.execute("INSERT INTO FaceImages (db_id, file_id, filepath) VALUES ('aflw', 'b', ?)",
                     (file,))
    database.execute("INSERT INTO Faces VALUES (2, 'b', 'aflw')")
    database.execute("INSERT INTO FaceRect VALUES (2, 1, 1, 5, 5, 1)")
  database.close()
  with pytest.warns(UserWarning, match="a name that leads out of"):
    assert aflw_builder.read_aflw(root)[1].files == ("0/a.jpg",)


def test_photographs_that_are_cut_off_are_found_when_the_set_is_opened(tmp_path):
  whole = encoded(9, 100, "JPEG")
  write(tmp_path, {"0/a.jpg": whole, "0/b.jpg": whole[:-30]},
        {1: ("0/a.jpg", *FACE), 2: ("0/b.jpg", *FACE)})
  os.mkfifo(tmp_path / "flickr" / "0" / "c.jpg")
  with pytest.warns(UserWarning, match="skipped 1: 0/b.jpg: broken image"):
    photographs, _ = aflw_builder.read_aflw(tmp_path)
  assert len(photographs.images) == 1 and photographs.images[0].shape == (100, 100, 3)


def test_a_turned_photograph_and_its_marks_stay_as_stored(tmp_path):
  write(tmp_path, {"0/a.jpg": turned(6)}, {1: ("0/a.jpg", (20, 1, 10, 10), None, None, {})})
  photographs, _ = aflw_builder.read_aflw(tmp_path)
  assert photographs.images[0].shape == (24, 32, 3) and photographs.size_of(0) == (32, 24)


@pytest.mark.parametrize("change, message", [
    ("DROP TABLE FaceRect; CREATE VIEW FaceRect AS SELECT 1 AS face_id, zeroblob(1000000000) AS x, "
     "1 AS y, 1 AS w, 1 AS h", "FaceRect is no table"),
    ("DROP TABLE Faces; CREATE VIEW Faces AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT "
     "i + 1 FROM n) SELECT i AS face_id, 'a' AS file_id, 'aflw' AS db_id FROM n",
     "Faces is no table"),
    ("UPDATE FaceMetaData SET sex = zeroblob(100000)", "too big")])
def test_a_database_that_asks_for_memory_is_refused(tmp_path, change, message):
  write(tmp_path, PHOTOS, FACES)
  with sqlite3.connect(tmp_path / "aflw.sqlite") as database:
    database.executescript(change)
  database.close()
  with pytest.raises(ValueError, match=f"not AFLW's database, or damaged .*{message}"):
    aflw_builder.read_aflw(tmp_path)
