"""A list of faces that are marked on photographs of one's own, for networks of face tasks.

CSV, TSV or Parquet, a row for each face; a photograph may have several, and one with an empty box
has none that is marked:

    path                     of the photograph, relative to the folder of the list or to `root`
    left,top,width,height    the box of the face, in pixels of the upright photograph
    person                   whose face it is, empty where unknown
    gender                   M or F (0 or 1), empty where unknown
    roll,pitch,yaw           degrees, empty where unknown
    x0,y0,x1,y1...           the 21 landmarks of AFLW in their order, or five (eyes, nose, corners
                             of the mouth, left to right), empty where one is not visible

Only `path` and the box have to be there.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY, Photographs
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, settle
from fedjax_face.data.readers.face_tasks import LFW_POINTS, POINTS
from fedjax_face.data.readers.image_decoder import image_size
from fedjax_face.data.readers.list_columns import (
  gender_column,
  landmark_columns,
  landmarks_of,
  numbers_column,
)
from fedjax_face.data.readers.person_lists import bytes_below, read_list, require_inside
from fedjax_face.data.readers.text_file import Columns
from fedjax_face.data.readers.tfds_photographs import EncodedPhotographs
from fedjax_face.draws import identity_of

_BOX = ("left", "top", "width", "height")
_POSE = ("roll", "pitch", "yaw")


def read_marked_list(path: str | pathlib.Path, *, root: str | pathlib.Path | None = None,
                     limit: int | None = None, on_bad: OnBad = "skip",
                     ) -> tuple[Photographs, ReadReport]:
  """Reads a list of faces; see the module. Photographs are decoded when they are asked for.

  Args:
    path: of the list.
    root: folder that paths are relative to; None: that of the list.
    limit: only the first so many photographs, in order of their paths.
    on_bad: 'skip' leaves out photographs that are missing or no image and warns, 'refuse' raises.

  Raises:
    FileNotFoundError: no list.
    ValueError: a list that is no table or lacks a column, a path out of `root`, a box without a
      size, half a pose or landmark, no number; or no photograph can be read.
  """
  check_on_bad(on_bad)
  path = pathlib.Path(path)
  table = read_list(path, ("path", *_BOX), filled=("path",))
  for file, row in zip(table.of["path"], table.row, strict=True):
    require_inside(f"{path}: {row}", file)
  read = bytes_below(path.parent if root is None else pathlib.Path(root))
  files, skipped = [], []
  for file in sorted(set(table.of["path"]))[:limit]:
    try:
      image_size(read(file))
      files.append(file)
    except (OSError, ValueError) as error:
      why = "missing" if isinstance(error, FileNotFoundError) else str(error)
      skipped.append((f"{table.row[table.of['path'].index(file)]}: {file}", why))
  report = settle(ReadReport(str(path), tuple(files), tuple(skipped)), on_bad)
  if not files:
    raise ValueError(f"{path}: no readable photograph among {len(skipped)}")
  number = {file: place for place, file in enumerate(files)}
  rows = [row for row, file in enumerate(table.of["path"])
          if file in number and any(table.of[name][row] for name in _BOX)]
  rows.sort(key=lambda row: number[table.of["path"][row]])
  image = np.array([number[table.of["path"][row]] for row in rows], np.int32)
  return Photographs(
      name=path.stem, image=image, identity=identity_of(files),
      images=EncodedPhotographs(files, lambda place: read(files[place]), upright=True),
      **_people(table, rows), **_marks(path, table, rows)), report


def _people(table: Columns, rows: list[int]) -> dict[str, Any]:
  """`person`, by name, and whether everybody has one; who has none is somebody else each time."""
  said = [table.of["person"][row] if "person" in table.of else "" for row in rows]
  own = [name or f"\0{place}" for place, name in enumerate(said)]
  person = np.unique(np.array(own, np.str_), return_inverse=True)[1].astype(np.int32)
  return {"person": person.reshape(-1), "persons_known": bool(said) and all(said)}


def _marks(path: pathlib.Path, table: Columns, rows: list[int]) -> dict[str, Any]:
  """Box, landmarks, visibility, pose and gender, and which of them are known."""
  box = np.stack([numbers_column(path, table, name, rows) for name in _BOX], -1)
  wrong = np.flatnonzero(~(box[:, 2:] > 0).all(-1) | np.isnan(box).any(-1))
  if wrong.size:
    raise ValueError(f"{path}: {table.row[rows[wrong[0]]]} has a box without a size; expected "
                     "left, top, width and height, or all four empty")
  known = np.zeros((len(rows), 5), bool)
  known[:, DETECTION] = True
  landmarks, visible = _landmarks(path, table, rows, known)
  middle = (box[:, :2] + .5 * box[:, 2:])[:, None]
  pose = np.zeros((len(rows), 3))
  if set(_POSE) & set(table.of):
    pose = np.stack([numbers_column(path, table, name, rows) for name in _POSE
                     if name in table.of], -1)
    known[:, POSE] = ~np.isnan(pose).any(-1)
    half = ~known[:, POSE] & ~np.isnan(pose).all(-1)
    if pose.shape[1] < 3 or half.any():
      where = table.row[rows[int(half.argmax())]] if half.any() else "the header"
      raise ValueError(f"{path}: {where} has half a pose; expected {', '.join(_POSE)}, or none")
  gender = (gender_column(path, table, rows) if "gender" in table.of
            else np.full(len(rows), -1, np.int8))
  known[:, GENDER] = gender >= 0
  return {"box": box.astype(np.float32), "visible": visible, "known": known,
          "landmarks": np.where(visible[..., None], landmarks, middle).astype(np.float32),
          "pose": np.deg2rad(np.nan_to_num(pose)).astype(np.float32),
          "gender": np.maximum(gender, 0).astype(np.int32)}


def _landmarks(path: pathlib.Path, table: Columns, rows: list[int], known: np.ndarray,
               ) -> tuple[np.ndarray, np.ndarray]:
  """Points [F, 21, 2] and which are visible; notes in `known` whether they are labels.

  With the five of LFW whether a point is visible is not known.
  """
  points = landmark_columns(path, table)
  landmarks, visible = np.zeros((len(rows), POINTS, 2)), np.zeros((len(rows), POINTS), bool)
  if not points:
    return landmarks, visible
  places = {2 * POINTS: range(POINTS), 2 * len(LFW_POINTS): LFW_POINTS.values()}.get(len(points))
  if places is None:
    raise ValueError(f"{path}: {len(points) // 2} landmarks; expected the {POINTS} of AFLW, or "
                     f"five ({', '.join(LFW_POINTS)})")
  given = landmarks_of(path, table, rows, points)
  landmarks[:, list(places)], visible[:, list(places)] = given["landmarks"], given["visible"]
  known[:, LANDMARKS] = given["landmarks_known"]
  known[:, VISIBILITY] = given["landmarks_known"] & (len(points) == 2 * POINTS)
  return landmarks, visible
