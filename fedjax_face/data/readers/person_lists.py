"""Lists of one's own: which image shows whom, as what, on which side; and who is on which side.

A list of images has a row for each, as CSV, TSV or Parquet, with these columns in any order:

    path            of the image, relative to the folder of the list or to `root`
    person          whom a guarantee is for: who is on it, who took it, who contributed it
    label           what is recognised, where that is not the person
    split           train, validation (val) or evaluation (test)
    gender          M or F (0 or 1), empty where unknown
    x0,y0,x1,y1...  landmarks in pixels of the upright image, empty where one is not visible
    any other       an attribute, if it holds numbers, empty where unknown

Only `path` and `person` have to be there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data.dataset import ATTRIBUTES, FaceDataset
from fedjax_face.data.image_source import Images
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.encoded_images import decode_later, is_on_demand
from fedjax_face.data.readers.file_bytes import one_spelling, read_file
from fedjax_face.data.readers.image_decoder import image_size
from fedjax_face.data.readers.list_columns import known_columns, landmark_columns
from fedjax_face.data.readers.text_file import Columns, read_columns
from fedjax_face.data.splits import side_of


class Listed(NamedTuple):
  """What a list of images gave.

  Attributes:
    dataset: an image a row; persons and labels are numbered in the order of their names.
    side: text [N], "train", "validation" or "evaluation"; None without a column split.
    report: the file of every row, and what was left out, with its line.
    notes: columns that are not read.
  """

  dataset: FaceDataset
  side: np.ndarray | None
  report: ReadReport
  notes: tuple[str, ...] = ()


def read_listing(path: str | pathlib.Path, *, root: str | pathlib.Path | None = None,
                 size: int | None = None, channels: int = 3, min_images: int = 1,
                 split: str | None = None, on_bad: OnBad = "skip",
                 on_demand: bool | None = False) -> Listed:
  """Reads the images of a list; see the module.

  Args:
    path: of the list: .csv, .tsv or .parquet (which needs pyarrow).
    root: folder that paths are relative to; None: that of the list.
    size: height and width to scale to, landmarks with them; None = as stored, all of one shape.
    channels: 1 (grey) or 3 (RGB).
    min_images: leaves out persons with fewer rows (a choice, so not reported as bad).
    split: only the rows of this side; None = all.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: images that are missing, cut off or none,
      a row that is there twice, persons with no readable image.
    on_demand: decodes an image when it is asked for, and needs `size`; None: where all would take
      much memory.

  Raises:
    FileNotFoundError: no list.
    ValueError: a list that is no table, lacks a column or has a row without a person, with a path
      out of `root`, an unknown split or no number; an image of two persons; no readable image.
  """
  check_on_bad(on_bad)
  path = pathlib.Path(path)
  table = read_list(path)
  place = path.parent if root is None else pathlib.Path(root)
  rows, twice = _rows(path, table, min_images, split)
  files = [table.of["path"][row] for row in rows]
  named = {file: table.row[row] for file, row in zip(files, rows, strict=True)}
  points = landmark_columns(path, table)
  known, notes = known_columns(path, table, rows, points)
  sizes: dict[str, tuple[int, int]] = {}
  later = is_on_demand(on_demand, len(files), size, channels)
  decode = decode_later if later else decode_images
  images, good, bad = decode(
      str(path), files, bytes_below(place, sizes if points else None), size, channels)
  kept = [rows[i] for i in good]
  person = _cells(table, "person", kept)
  lost = sorted({table.of["person"][row] for row in rows} - set(person))
  skipped = (*twice, *((f"{named[file]}: {file}", why) for file, why in bad),
             *((name, "person with no readable image") for name in lost))
  report = settle(ReadReport(str(path), tuple(files[i] for i in good), skipped), on_bad)
  arrays = {field: array[good] for field, array in known.items()}
  if points:
    stored = np.array([sizes[files[i]] for i in good], np.float64)
    scale = np.array(images.shape[2:0:-1], np.float64) / stored
    arrays["landmarks"] = (arrays["landmarks"] * scale[:, None]).astype(np.float32)
  side = (np.array([side_of(said, str(path)) for said in _cells(table, "split", kept)])
          if "split" in table.of else None)
  return Listed(_dataset(path, table, images, kept, arrays), side, report, notes)


def read_people(path: str | pathlib.Path) -> dict[str, str]:
  """Side of each person of a CSV file with columns person and split.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no table, a column that is missing, an unknown split, or a person on two sides.
  """
  path = pathlib.Path(path)
  table = read_list(path, ("person", "split"))
  sides: dict[str, str] = {}
  for name, said, row in zip(table.of["person"], table.of["split"], table.row, strict=True):
    side = side_of(said, f"{path}: {row}")
    if sides.setdefault(name, side) != side:
      raise ValueError(f"{path}: {row}: person {name} is in {sides[name]} and {side}; expected one")
  return sides


def read_list(path: pathlib.Path, required: tuple[str, ...] = ("path", "person"),
              filled: tuple[str, ...] | None = None) -> Columns:
  """A list by column: CSV, TSV or Parquet.

  A name of a person or label, and a path, has one spelling: a name is in Unicode's composed form
  and on one line, as the name of a folder is (`listing`), a path without `.` and doubled slashes.

  Args:
    path: of the list.
    required: columns that have to be there.
    filled: those of them that have no empty field; None: all.

  Raises:
    ValueError, FileNotFoundError: as `read_listing`.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; expected a list with columns "
                            f"{', '.join(required)}")
  kind = path.suffix.lower()
  table = _parquet(path) if kind == ".parquet" else read_columns(
      path, "\t" if kind in (".tsv", ".tab") else ",")
  absent = [name for name in required if name not in table.of]
  if absent:
    raise ValueError(f"{path}: no column {absent[0]} among {', '.join(table.of)}; expected "
                     f"{', '.join(required)}")
  for name in required if filled is None else filled:
    if "" in table.of[name]:
      raise ValueError(f"{path}: {table.row[table.of[name].index('')]} has no {name}")
  for name in ("person", "label"):
    if name in table.of:
      table.of[name][:] = [one_spelling(cell) for cell in table.of[name]]
  if "path" in table.of:
    table.of["path"][:] = [str(pathlib.PurePosixPath(cell)) for cell in table.of["path"]]
  if "" in table.of.get("label", ()):
    raise ValueError(f"{path}: {table.row[table.of['label'].index('')]} has no label")
  return table


def _parquet(path: pathlib.Path) -> Columns:
  """A Parquet file by column; rows count from 1."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise ValueError(f"{path}: Parquet is read by pyarrow, which is not installed: install it, or "
                     "save the list as CSV") from None
  try:
    read = parquet.read_table(path)
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{path}: no Parquet file ({str(error).splitlines()[0]})") from None
  text = lambda cell: "" if cell is None else str(cell).strip()
  return Columns({name: list(map(text, read[name].to_pylist())) for name in read.column_names},
                 [f"row {number}" for number in range(1, read.num_rows + 1)])


def _rows(path: pathlib.Path, table: Columns, min_images: int, split: str | None,
          ) -> tuple[list[int], list[tuple[str, str]]]:
  """Rows to read, in the order of their persons, and those that were there before.

  Raises:
    ValueError: a path that leads out, an image of two persons or labels, an unknown split, or no
      row is left.
  """
  first: dict[str, int] = {}
  twice = []
  for row, (file, name) in enumerate(zip(table.of["path"], table.row, strict=True)):
    require_inside(f"{path}: {name}", file)
    if "split" in table.of:
      side = side_of(table.of["split"][row], f"{path}: {name}")
      if split is not None and side != split:
        continue
    before = first.setdefault(file, row)
    if before == row:
      continue
    for column in ("person", "label", "split"):
      if column in table.of and table.of[column][row] != table.of[column][before]:
        raise ValueError(f"{path}: {name}: {file} has {column} {table.of[column][row]!r}, in "
                         f"{table.row[before]} {table.of[column][before]!r}; expected one")
    twice.append((f"{name}: {file}", f"is in {table.row[before]} too"))
  if split is not None and "split" not in table.of:
    raise ValueError(f"{path}: no column split, of which {split} was asked for")
  person = np.array([table.of["person"][row] for row in first.values()], np.str_)
  _, inverse, counts = np.unique(person, return_inverse=True, return_counts=True)
  order = np.argsort(inverse, kind="stable")
  rows = list(first.values())
  kept = [rows[i] for i in order if counts[inverse[i]] >= min_images]
  if not kept:
    raise ValueError(f"{path}: no image of a person with at least {min_images} row(s)"
                     + (f" of split {split}" if split else ""))
  return kept, twice


def require_inside(where: str, file: str) -> None:
  """Refuses a path that is absolute or leads out of the folder that it is relative to."""
  pure = pathlib.PurePosixPath(file)
  if pure.is_absolute() or ".." in pure.parts:
    raise ValueError(f"{where}: {file} leads out of the folder; expected a path relative to that "
                     "of the list, or to data.root")


def bytes_below(root: pathlib.Path, sizes: dict[str, tuple[int, int]] | None = None,
                ) -> Callable[[str], bytes]:
  """The bytes of a file below a root; the size of each upright image is left in `sizes`."""
  def read(file: str) -> bytes:
    content = read_file(root / file)
    if sizes is not None:
      sizes[file] = image_size(content)
    return content
  return read


def _cells(table: Columns, column: str, rows: list[int]) -> list[str]:
  return [table.of[column][row] for row in rows]


def _dataset(path: pathlib.Path, table: Columns, images: Images, rows: list[int],
             known: Mapping[str, np.ndarray]) -> FaceDataset:
  """Labels and persons by name; a label that is the person's name is the person."""
  people = np.array(_cells(table, "person", rows), np.str_)
  labels = np.array(_cells(table, "label", rows), np.str_) if "label" in table.of else people
  names, label = np.unique(labels, return_inverse=True)
  person_names, person = np.unique(people, return_inverse=True)
  fields: dict[str, Any] = {name: of for name, of in known.items() if name in ATTRIBUTES}
  return FaceDataset(
      path.stem, images, label.astype(np.int32), person.astype(np.int32),
      names=tuple(names.tolist()),
      person_names=() if np.array_equal(labels, people) else tuple(person_names.tolist()),
      attributes={name: of for name, of in known.items() if name not in fields}, **fields)
