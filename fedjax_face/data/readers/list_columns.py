"""Columns of a list of images beside who is on them: gender, landmarks, further numbers."""

from __future__ import annotations

import pathlib
import re

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.text_file import Columns

GENDERS = {"M": 0, "F": 1, "0": 0, "1": 1, "male": 0, "female": 1, "": -1}
_OF_THE_LIST = ("path", "person", "label", "split", "gender")
_POINT = re.compile(r"([xy])(0|[1-9]\d*)")


def landmark_columns(path: pathlib.Path, table: Columns) -> list[str]:
  """Columns of the landmarks, x0, y0, x1, ...; none.

  Raises:
    ValueError: one of them is missing.
  """
  given = [name for name in table.of if _POINT.fullmatch(name)]
  wanted = [f"{axis}{number}" for number in range(-(-len(given) // 2)) for axis in "xy"]
  absent = [name for name in wanted if name not in given]
  if absent:
    raise ValueError(f"{path}: no column {absent[0]}, though there is {given[0]}; "
                     "expected x0,y0,x1,y1,...")
  return wanted


def known_columns(path: pathlib.Path, table: Columns, rows: list[int], points: list[str],
           ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Fields and attributes [N] beside images, label and person; and notes of columns not read.

  Landmarks are in pixels of the images as they are stored.
  """
  known: dict[str, np.ndarray] = {}
  if "gender" in table.of:
    gender = gender_column(path, table, rows)
    known |= {"gender": np.maximum(gender, 0), "gender_known": gender >= 0}
  if points:
    known |= landmarks_of(path, table, rows, points)
  others = [name for name in table.of if name not in (*_OF_THE_LIST, *points)]
  words = [name for name in others if not any(map(_is_number, table.of[name]))]
  for name in others:
    if name in words:
      continue
    if name in FaceDataset.__dataclass_fields__:
      raise ValueError(f"{path}: column {name} has a name that means something else here; expected "
                       "another")
    known[name] = numbers_column(path, table, name, rows)
  return known, ((f"{path}: no numbers, so not read: {', '.join(words)}",) if words else ())


def gender_column(path: pathlib.Path, table: Columns, rows: list[int]) -> np.ndarray:
  """int8 [N], 0 male, 1 female, -1 unknown.

  Raises:
    ValueError: another word, naming the row.
  """
  for row in rows:
    if (said := table.of["gender"][row]) not in GENDERS:
      raise ValueError(f"{path}: {table.row[row]}: gender is {said!r}; expected M, F, 0 (male), "
                       "1 (female) or nothing")
  return np.array([GENDERS[table.of["gender"][row]] for row in rows], np.int8)


def landmarks_of(path: pathlib.Path, table: Columns, rows: list[int], points: list[str],
                 ) -> dict[str, np.ndarray]:
  """`landmarks` float64 [N, L, 2], `visible` [N, L] where one is not empty, `landmarks_known` [N].

  Raises:
    ValueError: an x without a y, naming the row.
  """
  given = np.stack([numbers_column(path, table, name, rows) for name in points], axis=-1)
  given = given.reshape(len(rows), -1, 2)
  visible = ~np.isnan(given).any(-1)
  half = ~visible & ~np.isnan(given).all(-1)
  if half.any():
    raise ValueError(f"{path}: {table.row[rows[int(half.any(-1).argmax())]]} has half a landmark; "
                     "expected x and y, or neither")
  return {"landmarks": np.nan_to_num(given), "visible": visible,
          "landmarks_known": visible.any(-1)}


def numbers_column(path: pathlib.Path, table: Columns, column: str, rows: list[int],
                   ) -> np.ndarray:
  """float64 [N] of a column, NaN where it is empty.

  Raises:
    ValueError: a word, or a number that is not finite, naming the row.
  """
  cells = table.of[column]
  for row in rows:
    if cells[row] and not _is_number(cells[row]):
      raise ValueError(f"{path}: {table.row[row]}: {column} is {cells[row]!r}; expected a number, "
                       "or nothing where it is unknown")
  return np.array([float(cells[row]) if cells[row] else np.nan for row in rows], np.float64)


def _is_number(cell: str) -> bool:
  try:
    return bool(np.isfinite(float(cell)))
  except ValueError:
    return False
