"""Labeled Faces in the Wild: images, people and the official pair lists.

Source: Huang, Ramesh, Berg, Learned-Miller, UMass Amherst Technical Report 07-49, 2007.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.pairs import Pairs
from fedjax_face.data.readers.decode import OnBad, ReadReport, settle
from fedjax_face.data.readers.file_bytes import printable, require_given
from fedjax_face.data.readers.folders import composed, read_folder
from fedjax_face.data.readers.text_file import read_table, read_text

ARCHIVE = "lfw-112x112.zip"
_GENDER = {"M": 0, "F": 1}
_NUMBERED = re.compile(r"(.+)_(\d{4})\.\w+$")

Photograph = tuple[str, int]  # person, number of the image


class NamedPair(NamedTuple):
  """One line of a pair list; fold is 1-based, 0 = the list has no folds."""

  first: Photograph
  second: Photograph
  fold: int

  @property
  def same(self) -> bool:
    """Whether both images are of one person."""
    return self.first[0] == self.second[0]


def read_lfw(root: str | pathlib.Path, *, archive: str = ARCHIVE, size: int | None = None,
             channels: int = 3, people: Collection[str] | None = None, min_images: int = 1,
             limit: int | None = None, on_bad: OnBad = "skip") -> tuple[FaceDataset, ReadReport]:
  """Reads LFW images from a zip archive (or folder) below `root`; label = person.

  If `root` has images.csv (columns file, person, gender, ...), gender is 0 male, 1 female, and
  unknown where blank. Other arguments, results and errors as in `read_folder`.
  """
  root = require_given(root, "root")
  dataset, report = read_folder(root / archive, size=size, channels=channels, people=people,
                                min_images=min_images, limit=limit, on_bad=on_bad)
  table = root / "images.csv"
  if table.exists():
    dataset = _with_gender(dataset, report.files, table)
  return dataclasses.replace(dataset, name="lfw"), report


def parse_pairs(path: str | pathlib.Path) -> list[NamedPair]:
  """Reads pairs.txt (View 2, ten folds), pairsDevTrain.txt or pairsDevTest.txt (View 1).

  The first line gives folds and pairs of each kind per fold (one number: no folds); then, per fold,
  `person i j` for same and `person i person j` for different persons.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no text, a malformed line, or another number of pairs than the first line says.
  """
  path = require_given(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected an LFW pair list")
  lines = [line.split() for line in composed(read_text(path)).splitlines() if line.strip()]
  try:
    header = [int(field) for field in lines[0]]
    folds, per_kind = (1, header[0]) if len(header) == 1 else header
  except (IndexError, ValueError):
    raise ValueError(f"{path}: first line must be '<folds> <pairs>' or '<pairs>'") from None
  if len(lines) - 1 != folds * per_kind * 2:
    raise ValueError(f"{path}: {len(lines) - 1} pairs; expected {folds * per_kind * 2} "
                     "as the first line says")
  numbered = len(header) == 2
  return [_parse_line(path, i, fields, i // (2 * per_kind) + 1 if numbered else 0)
          for i, fields in enumerate(lines[1:])]


def person_folds(named_pairs: Collection[NamedPair]) -> dict[str, int]:
  """The fold of every person of a pair list.

  Raises:
    ValueError: a person is in two folds.
  """
  folds: dict[str, int] = {}
  for pair in named_pairs:
    for person, _ in (pair.first, pair.second):
      if folds.setdefault(person, pair.fold) != pair.fold:
        raise ValueError(f"{person} is in folds {folds[person]} and {pair.fold}; expected one fold")
  return folds


def locate_pairs(named_pairs: Collection[NamedPair], report: ReadReport,
                 on_bad: OnBad = "refuse") -> tuple[Pairs, ReadReport]:
  """Finds the rows of a pair list in a data set that `read_lfw` read.

  Args:
    named_pairs: from `parse_pairs`, perhaps only some folds.
    report: the report of `read_lfw`.
    on_bad: 'skip' leaves out pairs with an image that was not read, 'refuse' raises.

  Returns:
    The pairs, in order, and a report of those left out.

  Raises:
    ValueError: `on_bad` is 'refuse' and an image was not read, or no pair has both images: the list
      is of other images.
  """
  row = {_photograph(file): i for i, file in enumerate(report.files)}
  found, skipped = [], []
  for pair in named_pairs:
    absent = [p for p in (pair.first, pair.second) if p not in row]
    if absent:
      skipped.append((f"{absent[0][0]}_{absent[0][1]:04d}", "image of a pair is missing"))
    else:
      found.append((row[pair.first], row[pair.second], pair.same, pair.fold))
  if skipped and not found:
    raise ValueError(printable(
        f"{report.source}: none of the {len(skipped):,} pairs has both images, {skipped[0][0]} for "
        "one is missing; expected <person>/<person>_<number>.jpg as the list of pairs names them"))
  left_out = settle(ReadReport(f"{report.source} pairs", skipped=tuple(skipped)), on_bad)
  columns = np.array(found, np.int32).reshape(-1, 4).T
  return Pairs(columns[0], columns[1], columns[2].astype(np.bool_), columns[3]), left_out


def _parse_line(path: pathlib.Path, number: int, fields: list[str], fold: int) -> NamedPair:
  """One pair of a list."""
  try:
    if len(fields) == 3:
      return NamedPair((fields[0], int(fields[1])), (fields[0], int(fields[2])), fold)
    if len(fields) == 4:
      return NamedPair((fields[0], int(fields[1])), (fields[2], int(fields[3])), fold)
  except ValueError:
    pass
  raise ValueError(f"{path}: pair {number + 1} is '{printable(' '.join(fields))}'; "
                   "expected 'person i j' or 'person i person j'")


def _photograph(file: str) -> Photograph:
  """Person and number of `.../<Person>_<NNNN>.jpg`."""
  name = composed(pathlib.PurePosixPath(file).name)
  match = _NUMBERED.match(name)
  return (match[1], int(match[2])) if match else (name, 0)


def _with_gender(dataset: FaceDataset, files: tuple[str, ...], table: pathlib.Path) -> FaceDataset:
  """Adds the gender column of images.csv."""
  columns, rows = read_table(table)
  absent = [name for name in ("file", "gender") if name not in columns]
  if absent:
    raise ValueError(f"{table}: no column {absent[0]}; expected file, gender")
  known = {composed(row["file"]): _GENDER.get(row["gender"], -1) for row in rows}
  gender = np.array([known.get(composed(pathlib.PurePosixPath(file).name), -1) for file in files],
                    np.int8)
  return dataclasses.replace(dataset, gender=np.maximum(gender, 0).astype(np.int8),
                             gender_known=gender >= 0)
