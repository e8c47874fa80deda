"""Readers of photographs with labels of some of the five face tasks.

No set has all labels; what a set lacks is unknown in `Photographs.known`. Landmarks are the 21 of
AFLW in the order of `rendering.landmarks.LANDMARK_NAMES`. Boxes and landmarks were marked on the
pixels as stored, so photographs of these sets are not turned as EXIF says.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from fedjax_face.data import duplicates
from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY, Photographs
from fedjax_face.data.readers import lfw
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.file_bytes import require_given
from fedjax_face.data.readers.folders import composed, count_files
from fedjax_face.data.readers.listing import listing
from fedjax_face.data.readers.npz import read_npz
from fedjax_face.data.readers.text_file import read_table
from fedjax_face.data.regions.boxes import box_from_eyes
from fedjax_face.draws import identity_of

POINTS = 21
"""Landmarks of a face."""

LFW_POINTS = {"left_eye": 7, "right_eye": 10, "nose": 14, "mouth_left": 17, "mouth_right": 19}
"""Columns of the five points that detectors find; left is that of the image."""

LFW_ORIGINALS = "lfw-250x250-originals-600.zip"

LARGEST_ANGLE = 99.
"""Degrees; poses fitted beyond it are taken as wrong."""

_PICTURES = (".jpg", ".jpeg", ".png")
_GENDER = {"M": 0, "F": 1}
_BOX_SIDE = 1.15              # of the longer side of the tight box of the 68 points
_AFLW2000_ARRAYS = ("name", "pitch_yaw_roll_deg", "pt2d_21", "bbox_from_pt68")


def read_aflw2000(root: str | pathlib.Path, *, archive: str = "AFLW2000_subset.zip",
                  annotations: str = "annotations.npz", limit: int | None = None,
                  on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads AFLW2000-3D: landmarks, visibility, pose; gender is unknown.

  It does not say who is who: every image is a person. The box is a square on the chin line: 1.15
  times the longer side of the tight box of the 68 points, with the same lower edge, which is near
  AFLW's own box where that is defined. Poses with an angle beyond 99 degrees, which the set's users
  leave out as fits gone wrong, are unknown.

  Args:
    root: folder of `archive` and `annotations`.
    archive: zip archive (or folder) of `<...>/<name>.jpg`.
    annotations: npz of name [N], pitch_yaw_roll_deg [N, 3], pt2d_21 [N, 2, 21] (x -1 = not
      visible), bbox_from_pt68 [N, 4] (left, top, right, bottom).
    limit: only the first so many images.
    on_bad: 'skip' leaves out images that cannot be read and warns, 'refuse' raises.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: a damaged file, or a bad image and `on_bad` is 'refuse'.

  Source: Zhu et al., Face Alignment Across Large Poses, CVPR 2016.
  """
  root = require_given(root, "root")
  table = _read_annotations(root / annotations)
  stems = [str(name) for name in table["name"]]
  images, rows, report = _read_images(root / archive, stems, ".jpg", limit, on_bad)
  points = table["pt2d_21"][rows].transpose(0, 2, 1)
  degrees = table["pitch_yaw_roll_deg"][rows][:, [2, 0, 1]]
  visible = points[..., 0] >= 0
  box = square_on_chin(table["bbox_from_pt68"][rows])
  centre = (box[:, :2] + .5 * box[:, 2:])[:, None]
  return one_face_each(
      "aflw2000", images, identity=identity_of(report.files), box=box, visible=visible,
      pose=np.deg2rad(degrees),
      landmarks=np.where(visible[..., None], points, centre),
      known={DETECTION: True, LANDMARKS: True, VISIBILITY: True,
             POSE: (np.abs(degrees) <= LARGEST_ANGLE).all(-1)}), report


def read_lfw_originals(root: str | pathlib.Path, *,
                       archive: str = LFW_ORIGINALS,
                       limit: int | None = None,
                       on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads uncropped LFW with images.csv: box, five landmarks, gender.

  The box follows from the eyes (`boxes.box_from_eyes`). Of the 21 landmarks five have a place (eye
  centres, nose, mouth corners, found by a detector); the others are not visible, and visibility
  itself is unknown. People in the background are not annotated.

  Args:
    root: folder of `archive` and images.csv (columns file, person, gender, left_eye_x, ...).
    archive: zip archive (or folder) of `lfw/<Person>/<Person>_<NNNN>.jpg`.
    limit: only the first so many images.
    on_bad: 'skip' leaves out images that cannot be read or have no row in images.csv and warns,
      'refuse' raises.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: images.csv lacks a column or has no number, or bad images and `on_bad` is 'refuse'.

  Source: Huang et al., UMass Amherst Technical Report 07-49, 2007.
  """
  root = require_given(root, "root")
  table = _read_table(root / "images.csv")
  images, rows, report = _read_images(root / archive, sorted(table), "", limit, on_bad)
  files = sorted(table)
  annotated = [table[files[row]] for row in rows]
  landmarks, visible = _five_points(root / "images.csv", annotated)
  box = box_from_eyes(landmarks[:, LFW_POINTS["left_eye"]], landmarks[:, LFW_POINTS["right_eye"]])
  centre = (box[:, :2] + .5 * box[:, 2:])[:, None]
  gender = np.array([_GENDER.get(row["gender"], -1) for row in annotated], np.int32)
  person = np.unique([row["person"] for row in annotated], return_inverse=True)[1]
  return one_face_each(
      "lfw_originals", images, identity=identity_of(report.files), box=box,
      visible=visible, gender=np.maximum(gender, 0),
      landmarks=np.where(visible[..., None], landmarks, centre), person=person.astype(np.int32),
      known={DETECTION: True, LANDMARKS: True, GENDER: gender >= 0}), report


def read_lfw_aligned(root: str | pathlib.Path, *, archive: str = lfw.ARCHIVE,
                     not_in: str = "", limit: int | None = None,
                     on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads aligned LFW with images.csv: gender; the box is the whole picture.

  Who is in `not_in` is told by name, and by photograph: LFW has people under two names, and who
  has a picture that looks the same as one of theirs is left out too. Two names with different
  photographs remain two people.

  Args:
    root: folder of `archive` and images.csv (columns file, person, gender, ...).
    archive: zip archive (or folder) of `<Person>/<Person>_<NNNN>.jpg`.
    not_in: archive in `root`; only people who are not in it are read. Empty: everybody.
    limit: only the first so many images, in order of the file names.
    on_bad: 'skip' leaves out images that cannot be read and warns, 'refuse' raises.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: images.csv lacks a column, a file without a row or of another person there, somebody
      of `not_in` who is not in `archive`, nobody left, pictures of several shapes, or a bad image
      and `on_bad` is 'refuse'.

  Source: Huang et al., UMass Amherst Technical Report 07-49, 2007.
  """
  root = require_given(root, "root")
  table = _read_table(root / "images.csv")
  people: set[str] | None = None
  alike: list[tuple[str, str]] = []
  if not_in:
    people, alike = _others(root, archive, not_in, table)
  faces, report = lfw.read_lfw(root, archive=archive, people=people, limit=limit, on_bad=on_bad)
  _check_rows(root / archive, report.files, table)
  report = dataclasses.replace(report, skipped=(*report.skipped, *alike))
  height, width = faces.images.shape[1:3]
  assert faces.gender is not None
  pixels = np.asarray(faces.images)
  return one_face_each(
      "lfw_aligned", pixels, identity=identity_of(report.files), gender=faces.gender,
      person=faces.person,
      box=np.tile(np.array([0, 0, width, height], np.float32), (len(faces), 1)),
      known={DETECTION: True, GENDER: faces.gender_known}), report


def _others(root: pathlib.Path, archive: str, not_in: str, table: dict[str, dict[str, str]],
            ) -> tuple[set[str], list[tuple[str, str]]]:
  """People of an archive who are not in another one, and (person, why not) of some more."""
  with listing(root / not_in) as content:
    files = [f for f in content.files if f.lower().endswith(_PICTURES)]
  _check_rows(root / not_in, files, table, of_folder=False)
  theirs = {table[_last(file)]["person"] for file in files}
  everybody = {name for name, count in count_files(root / archive).items() if count}
  if theirs - everybody:
    raise ValueError(f"{root / not_in}: {min(theirs - everybody)} is not in {archive}; expected "
                     "the same people under the same names")
  people = everybody - theirs
  if not people:
    raise ValueError(f"{root / archive}: everybody in it is in {not_in}")
  own, report = lfw.read_lfw(root, archive=archive, people=people)
  held, _ = lfw.read_lfw(root, archive=archive, people=theirs)
  same = (duplicates.thumbnails(own.images) @ duplicates.thumbnails(held.images).T
          ).max(1) > duplicates.SAME_PICTURE
  alike = {composed(pathlib.PurePosixPath(report.files[row]).parent.name)
           for row in np.flatnonzero(same)}
  if not people - alike:
    raise ValueError(f"{root / archive}: everybody in it is in {not_in}")
  return people - alike, [(name, f"a picture like one of {not_in}") for name in sorted(alike)]


def _check_rows(source: pathlib.Path, files: Sequence[str], table: dict[str, dict[str, str]],
                of_folder: bool = True) -> None:
  """Refuses a file that images.csv does not have, or has for another person than its folder."""
  for file in files:
    row = table.get(_last(file))
    folder = composed(pathlib.PurePosixPath(file).parent.name)
    if row is None or of_folder and row["person"] != folder:
      raise ValueError(f"{source}: {file} is "
                       f"{'nobody' if row is None else row['person']} in images.csv; expected "
                       f"{folder if of_folder else 'a row'}")


def read_utkface(path: str | pathlib.Path, *, limit: int | None = None,
                 on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads UTKFace chips: gender; the box is the whole chip.

  It does not say who is who: every image is a person.

  Args:
    path: zip archive or folder of `[age]_[gender]_[race]_[time].jpg.chip.jpg`, gender 0 male, 1
      female.
    limit: only the first so many images, in order of the file names.
    on_bad: 'skip' leaves out files that cannot be read or are named otherwise and warns, 'refuse'
      raises.

  Raises:
    FileNotFoundError: nothing at `path`.
    ValueError: no readable image, or a bad file and `on_bad` is 'refuse'.

  Source: Zhang, Song, Qi, Age Progression/Regression by CAAE, CVPR 2017.
  """
  check_on_bad(on_bad)
  with listing(path) as content:
    gender = {name: _utkface_gender(name) for name in content.files}
    files = [name for name, value in gender.items() if value is not None][:limit]
    images, rows, bad = decode_images(str(path), files, content.read)
  bad += [(name, "name does not tell a gender") for name, value in gender.items() if value is None]
  kept = [files[row] for row in rows]
  report = settle(ReadReport(str(path), tuple(kept), tuple(bad)), on_bad)
  box = np.tile(np.array([0, 0, images.shape[2], images.shape[1]], np.float32), (len(kept), 1))
  return one_face_each(
      "utkface", images, identity=identity_of(kept), box=box,
      gender=np.array([gender[name] for name in kept], np.int32),
      known={DETECTION: True, GENDER: True}), report


def one_face_each(name: str, images: Sequence[np.ndarray] | np.ndarray, *, box: np.ndarray,
                  known: dict[int, object], landmarks: np.ndarray | None = None,
                  visible: np.ndarray | None = None, pose: np.ndarray | None = None,
                  gender: np.ndarray | None = None,
                  person: np.ndarray | None = None, persons_known: bool = True,
                  original: np.ndarray | None = None,
                  identity: np.ndarray | None = None) -> Photographs:
  """Photographs with one face each; what is not given is zero.

  Args:
    name: of the set.
    images: M photographs, as in `Photographs`.
    box: [M, 4].
    known: column of `Photographs.known` -> True, or bool [M]; unknown where not given.
    landmarks, visible, pose, gender: as in `Photographs`, of any dtype.
    person: int32 [M]; everybody another one where not given.
    persons_known: as in `Photographs`; not so where no person is given.
    original, identity: as in `Photographs`.
  """
  count = len(images)
  labelled = np.zeros((count, 5), bool)
  for task, rows in known.items():
    labelled[:, task] = rows

  def given(value: np.ndarray | None, *shape: int) -> np.ndarray:
    return np.zeros((count, *shape)) if value is None else value

  number = np.arange(count, dtype=np.int32)
  return Photographs(
      name=name, images=images, image=number, person=number.copy() if person is None else person,
      box=box.astype(np.float32), landmarks=given(landmarks, POINTS, 2).astype(np.float32),
      visible=given(visible, POINTS).astype(bool), pose=given(pose, 3).astype(np.float32),
      gender=given(gender).astype(np.int32), known=labelled,
      persons_known=persons_known and person is not None, original=original,
      identity=identity)


def _read_images(path: pathlib.Path, names: list[str], suffix: str, limit: int | None,
                 on_bad: OnBad) -> tuple[np.ndarray, np.ndarray, ReadReport]:
  """Images of an archive whose file names (plus suffix) are among `names`; rows of `names`."""
  check_on_bad(on_bad)
  row_of = {composed(name + suffix): row for row, name in enumerate(names)}
  with listing(path) as content:
    pictures = [f for f in content.files if f.lower().endswith(_PICTURES)]
    files = [f for f in pictures if _last(f) in row_of]
    images, rows, bad = decode_images(str(path), files[:limit], content.read, upright=False)
  unknown = [(f, "no annotation") for f in pictures if _last(f) not in row_of]
  kept = [files[row] for row in rows]
  report = settle(ReadReport(str(path), tuple(kept), tuple([*bad, *unknown])), on_bad)
  return images, np.array([row_of[_last(f)] for f in kept]), report


def _last(file: str) -> str:
  return composed(pathlib.PurePosixPath(file).name)


def _read_annotations(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of the AFLW2000-3D annotations."""
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected {', '.join(_AFLW2000_ARRAYS)}")
  try:
    return read_npz(path, _AFLW2000_ARRAYS)
  except (OSError, ValueError) as error:
    raise ValueError(f"{path}: damaged annotations ({error}); "
                     f"expected {', '.join(_AFLW2000_ARRAYS)}") from None


def _read_table(path: pathlib.Path) -> dict[str, dict[str, str]]:
  """Rows of images.csv by file name."""
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected a row per image")
  columns, rows = read_table(path)
  needed = ["file", "person", "gender", *(f"{p}_{axis}" for p in LFW_POINTS for axis in "xy")]
  absent = [column for column in needed if column not in columns]
  if absent:
    raise ValueError(f"{path}: no column {absent[0]}; expected {', '.join(needed)}")
  return {composed(row["file"]): {**row, "person": composed(row["person"])} for row in rows}


def _five_points(path: pathlib.Path, rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
  """(landmarks [N, 21, 2], visible [N, 21]) with the five points of images.csv."""
  landmarks = np.zeros((len(rows), POINTS, 2), np.float32)
  visible = np.zeros((len(rows), POINTS), bool)
  for point, column in LFW_POINTS.items():
    try:
      landmarks[:, column] = [[float(row[f"{point}_{axis}"]) for axis in "xy"] for row in rows]
    except ValueError as error:
      raise ValueError(f"{path}: column {point}_x or {point}_y has no number ({error})") from None
    visible[:, column] = True
  return landmarks, visible


def square_on_chin(tight: np.ndarray) -> np.ndarray:
  """Square boxes [N, 4] with the lower edge on the chin, from tight ones of the 68 points.

  Args:
    tight: [N, 4], left, top, right, bottom.
  """
  side = _BOX_SIDE * (tight[:, 2:] - tight[:, :2]).max(-1)
  middle = .5 * (tight[:, 0] + tight[:, 2])
  return np.stack([middle - .5 * side, tight[:, 3] - side, side, side], -1)


def _utkface_gender(name: str) -> int | None:
  """0 male, 1 female, None where the file name does not say."""
  fields = _last(name).split("_")
  return int(fields[1]) if len(fields) >= 3 and fields[1] in ("0", "1") else None
