"""AFLW from its database aflw.sqlite: a reader, and a TFDS builder with manual download.

Source: Koestinger, Wohlhart, Roth, Bischof, Annotated Facial Landmarks in the Wild, ICCV Workshops
2011. Reads and builds without TensorFlow.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import sqlite3
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY, Photographs
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, settle
from fedjax_face.data.readers.file_bytes import inside, printable, read_file, require_given
from fedjax_face.data.readers.image_decoder import check_whole, image_size
from fedjax_face.data.readers.tfds_photographs import EncodedPhotographs
from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES
from fedjax_face.draws import identity_of

_DATABASE, _IMAGES = "aflw.sqlite", "flickr"
_MOST_TEXT, _MOST_ROWS = 2**16, 5_000_000  # bytes of a value, rows of a query; AFLW has 380,000
_GENDER = {"m": 0, "f": 1}
_POINTS = len(LANDMARK_NAMES)
_COLUMN = {name.replace("_", "").replace("centre", "center"): column
           for column, name in enumerate(LANDMARK_NAMES)}
_FACE_FEATURES = {
    "person": tfds.features.Scalar(np.int32),
    "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
    "landmarks": tfds.features.Tensor(shape=(_POINTS, 2), dtype=np.float32),
    "visible": tfds.features.Tensor(shape=(_POINTS,), dtype=np.bool_),
    "pose": tfds.features.Tensor(shape=(3,), dtype=np.float32),
    "gender": tfds.features.Scalar(np.int32),
    "known": tfds.features.Tensor(shape=(5,), dtype=np.bool_)}
_TABLES = {
    "Faces": "SELECT Faces.face_id, FaceImages.filepath FROM Faces JOIN FaceImages "
             "ON Faces.file_id = FaceImages.file_id AND Faces.db_id = FaceImages.db_id "
             "ORDER BY FaceImages.filepath, Faces.face_id",
    "FaceRect": "SELECT face_id, x, y, w, h FROM FaceRect ORDER BY rowid",
    "FacePose": "SELECT face_id, roll, pitch, yaw FROM FacePose ORDER BY rowid",
    "FaceMetaData": "SELECT face_id, sex FROM FaceMetaData ORDER BY rowid",
    "FeatureCoords": "SELECT face_id, descr, FeatureCoords.x, FeatureCoords.y FROM FeatureCoords "
                     "JOIN FeatureCoordTypes USING (feature_id) ORDER BY FeatureCoords.rowid"}


class _Face(NamedTuple):
  """What the database says of a face; None where it says nothing usable."""
  box: tuple[float, ...] | None
  pose: tuple[float, ...] | None
  gender: int | None
  points: dict[int, tuple[float, ...]]


def read_aflw(root: str | pathlib.Path, *, limit: int | None = None,
              on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads AFLW: box, 21 landmarks, visibility, pose, gender; any number of faces on a photograph.

  A landmark without coordinates is not visible, as AFLW means it. A face without any has unknown
  landmarks and visibility. Roll changes its sign, so that all signs are those of AFLW2000-3D;
  AFLW's angles belong to another order of rotations (roll, pitch, yaw), so the angles of a head
  turned in several ways differ between the two sets. AFLW does not say who is who: every face is a
  person, and the same person on another photograph is not known as such. Photographs are decoded
  when they are asked for; here each is read once, to see that it is whole. Marks are of the pixels
  as stored, so that photographs are not turned as EXIF says. A name in the database leads to files
  in `root` only.

  Args:
    root: folder of aflw.sqlite and of the images, flickr/0/..., flickr/2/..., flickr/3/...
    limit: only the first so many photographs, in order of their file names.
    on_bad: 'skip' leaves out photographs that are missing or no image, or that have a face without
      a box or with a box outside the photograph, and warns; 'refuse' raises.

  Raises:
    FileNotFoundError: no aflw.sqlite.
    ValueError: a damaged database, no usable photograph, or a bad one and `on_bad` is 'refuse'.
  """
  check_on_bad(on_bad)
  root = require_given(root, "root")
  of_file = _read_database(root / _DATABASE)
  files: list[str] = []
  skipped: list[tuple[str, str]] = []
  for file in sorted(of_file)[:limit]:
    mistake = _mistake(root / _IMAGES, file, of_file[file])
    if mistake:
      skipped.append((printable(file), mistake))
    else:
      files.append(file)
  report = settle(ReadReport(str(root), tuple(files), tuple(skipped)), on_bad)
  if not files:
    raise ValueError(f"{root}: no usable photograph among {len(skipped)}")
  images = EncodedPhotographs([printable(str(root / _IMAGES / file)) for file in files],
                         lambda number: read_file(root / _IMAGES / files[number]))
  number = np.repeat(np.arange(len(files), dtype=np.int32), [len(of_file[f]) for f in files])
  faces = [face for file in files for face in of_file[file].values()]
  return Photographs(name="aflw", images=images, image=number, persons_known=False,
                     identity=identity_of(files), **_labels(faces)), report


class Aflw(tfds.core.GeneratorBasedBuilder):
  """AFLW: uncropped photographs, and for each face what `Photographs` has of it."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = """
  Ask for AFLW (non-commercial research licence) at
  https://www.tugraz.at/institute/icg/research/team-bischof/learning-recognition-surveillance/downloads/aflw
  and put aflw.sqlite and the image folders, as flickr/0, flickr/2 and flickr/3, into the manual
  directory.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Photographs of faces with box, 21 landmarks, pose and gender.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "faces": tfds.features.Sequence(_FACE_FEATURES)}))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(pathlib.Path(dl_manager.manual_dir))}

  def _generate_examples(self, root):
    photographs, report = read_aflw(root)
    for number, file in enumerate(report.files):
      rows = photographs.faces_of(number)
      yield file, {"image": str(root / _IMAGES / file),
                   "faces": {field: getattr(photographs, field)[rows] for field in _FACE_FEATURES}}


def prepare(manual_dir: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
  """Builds the data set once, so that `tfds_photographs` can read 'aflw'.

  Args:
    manual_dir: folder of aflw.sqlite and flickr.
    data_dir: where TFDS keeps its data.

  Raises:
    FileNotFoundError: no aflw.sqlite in `manual_dir`.
    ValueError: as `read_aflw`.
  """
  manual_dir = require_given(manual_dir, "manual_dir")
  if not (manual_dir / _DATABASE).is_file():
    raise FileNotFoundError(f"{manual_dir / _DATABASE} does not exist; "
                            + " ".join(Aflw.MANUAL_DOWNLOAD_INSTRUCTIONS.split()))
  Aflw(data_dir=str(data_dir)).download_and_prepare(
      file_format="array_record",
      download_config=tfds.download.DownloadConfig(manual_dir=str(manual_dir)))


def _read_database(path: pathlib.Path) -> dict[str, dict[int, _Face]]:
  """Faces by file of the photograph and number of the face."""
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; expected the database of AFLW")
  try:
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro",
                                            uri=True)) as database:
      tables = {name: _rows(database, query) for name, query in _TABLES.items()}
  except (sqlite3.Error, OverflowError) as error:
    raise ValueError(f"{path}: not AFLW's database, or damaged ({error})") from None
  box = _first(path, tables, "FaceRect")
  pose = _first(path, tables, "FacePose")
  sex = {face: str(value).lower() for face, value in reversed(tables["FaceMetaData"])}
  points: dict[int, dict[int, tuple[float, ...]]] = {}
  for face, name, *place in tables["FeatureCoords"]:
    column, xy = _COLUMN.get(str(name).lower()), _numbers(path, "FeatureCoords", face, place)
    if column is not None and xy is not None and min(xy) >= 0:
      points.setdefault(face, {}).setdefault(column, xy)
  of_file: dict[str, dict[int, _Face]] = {}
  for face, file in tables["Faces"]:
    of_file.setdefault(str(file), {})[face] = _Face(
        box.get(face), pose.get(face), _GENDER.get(sex.get(face, "")), points.get(face, {}))
  return of_file


def _rows(database: sqlite3.Connection, query: str) -> list[tuple]:
  """All rows of a query, which a database of another make cannot turn into endless ones.

  Raises:
    sqlite3.Error: a view in place of a table, a value or a number of rows beyond those of AFLW.
  """
  database.text_factory = lambda text: text.decode(errors="surrogateescape")
  database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_TEXT)
  views = database.execute("SELECT name FROM sqlite_master WHERE type != 'table' AND sql IS NOT "
                           "NULL AND type != 'index'").fetchall()
  if views:
    raise sqlite3.DatabaseError(f"{printable(str(views[0][0]))} is no table")
  rows = database.execute(query).fetchmany(_MOST_ROWS + 1)
  if len(rows) > _MOST_ROWS:
    raise sqlite3.DatabaseError(f"more than {_MOST_ROWS:,} rows")
  return rows


def _first(path: pathlib.Path, tables: dict[str, list[tuple]],
           name: str) -> dict[int, tuple[float, ...] | None]:
  """The first row of each face in a table of numbers."""
  first: dict[int, tuple[float, ...] | None] = {}
  for face, *values in tables[name]:
    if face not in first:
      first[face] = _numbers(path, name, face, values)
  return first


def _numbers(path: pathlib.Path, table: str, face: int,
             values: list[Any]) -> tuple[float, ...] | None:
  """Finite floats, None if one is absent or not finite; SQLite keeps text in columns of numbers."""
  if None in values:
    return None
  try:
    numbers = tuple(float(value) for value in values)
  except ValueError:
    raise ValueError(f"{path}: {table} of face {face} is {values}; expected numbers") from None
  return numbers if all(map(math.isfinite, numbers)) else None


def _mistake(folder: pathlib.Path, file: str, faces: dict[int, _Face]) -> str:
  """Why a photograph cannot be used, '' if it can."""
  try:
    content = read_file(inside(folder, file))
    check_whole(content)
    width, height = image_size(content, upright=False)
  except FileNotFoundError:
    return "missing"
  except (OSError, ValueError) as error:
    return str(error)
  for number, face in faces.items():
    if face.box is None or min(face.box[2:]) <= 0:
      return f"face {number} has no box"
    left, top, across, down = face.box
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
      return f"face {number} has a box outside the photograph"
  return ""


def _labels(faces: list[_Face]) -> dict[str, np.ndarray]:
  """The fields of `Photographs` for faces, all of which have a box."""
  count = len(faces)
  box = np.array([face.box for face in faces], np.float32)
  landmarks = np.repeat((box[:, :2] + .5 * box[:, 2:])[:, None], _POINTS, axis=1)
  visible, known = np.zeros((count, _POINTS), bool), np.zeros((count, 5), bool)
  pose, gender = np.zeros((count, 3), np.float32), np.zeros(count, np.int32)
  known[:, DETECTION] = True
  for row, face in enumerate(faces):
    for column, place in face.points.items():
      landmarks[row, column], visible[row, column] = place, True
    known[row, [LANDMARKS, VISIBILITY]] = bool(face.points)
    if face.pose is not None and max(map(abs, face.pose)) <= math.pi:
      pose[row], known[row, POSE] = np.multiply(face.pose, (-1, 1, 1)), True
    if face.gender is not None:
      gender[row], known[row, GENDER] = face.gender, True
  return {"person": np.arange(count, dtype=np.int32), "box": box, "landmarks": landmarks,
          "visible": visible, "pose": pose, "gender": gender, "known": known}
