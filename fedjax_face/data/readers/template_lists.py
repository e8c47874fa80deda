"""Lists of a protocol on templates, sets of images and video frames of one person (IJB-B, IJB-C).

All are text; a list has its fields at commas where its first line has one, else at blanks, and
lines that start with # are skipped.

Images: lines `name template media`, or CSV with a header that has TEMPLATE_ID, SUBJECT_ID, MEDIA_ID
and FILENAME; an image of several templates has a line for each. Pairs (1:1): lines
`template template same` with same 0 or 1; in CSV form `template,template`, the label then following
from the subjects. Gallery and probes (1:N): lines that start with a template, in CSV form with or
without a header that has TEMPLATE_ID.
"""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_face.data.readers.text_file import read_text


class TemplateImages(NamedTuple):
  """Per image: `name`, `template` int64, `media` int64 (frames of a video share it), `subject`
  int64 (-1 unknown).
  """

  name: tuple[str, ...]
  template: np.ndarray
  media: np.ndarray
  subject: np.ndarray


class TemplatePairs(NamedTuple):
  """Pairs of template ids int64 [P], and whether they show one person, bool [P]."""

  left: np.ndarray
  right: np.ndarray
  same: np.ndarray


class TemplateLists(NamedTuple):
  """A template protocol.

  Attributes:
    images: which image is in which template.
    row: int64, of each of `images` in a data set.
    pairs: of 1:1, or None.
    gallery: int64 [G], templates that are enrolled in 1:N, or None.
    probes: int64 [Q], templates that are looked for in it; those of other subjects than the
      gallery's are strangers.
  """

  images: TemplateImages
  row: np.ndarray
  pairs: TemplatePairs | None = None
  gallery: np.ndarray | None = None
  probes: np.ndarray | None = None

  def subjects_of(self, templates: np.ndarray) -> np.ndarray:
    """Subject int64 of each template; -1 where the images do not say it."""
    subject = dict(zip(self.images.template.tolist(), self.images.subject.tolist(), strict=True))
    return np.array([subject.get(template, -1) for template in templates.tolist()], np.int64)

  def kept(self, rows: np.ndarray) -> TemplateLists:
    """The lists on the rows that are kept, bool [N], numbered as among these.

    A template of which no image is kept is in no pair, and is neither enrolled nor looked for.
    """
    keep = rows[self.row]
    images = TemplateImages(
        tuple(name for name, there in zip(self.images.name, keep, strict=True) if there),
        *(column[keep] for column in self.images[1:]))
    pairs = self.pairs
    if pairs is not None:
      both = np.isin(pairs.left, images.template) & np.isin(pairs.right, images.template)
      pairs = TemplatePairs(*(column[both] for column in pairs))
    gallery, probes = (None if column is None else column[np.isin(column, images.template)]
                       for column in (self.gallery, self.probes))
    return TemplateLists(images, (np.cumsum(rows) - 1)[self.row[keep]], pairs, gallery, probes)


IMAGES, PAIRS, GALLERY, PROBES = (f"{name}.csv" for name in (
  "images", "pairs", "gallery", "probes"))


def read_template_lists(folder: str | os.PathLike) -> TemplateLists:
  """Reads images.csv and, where they are there, pairs.csv, gallery.csv and probes.csv of a folder.

  `row` numbers the names of the images in ascending order. Without probes.csv every template that
  is not in the gallery is a probe.

  Raises:
    FileNotFoundError: no list of images, or neither pairs nor a gallery.
    ValueError: a list of another form, a gallery without subjects, a template without an image.
  """
  folder = pathlib.Path(folder)
  there = [name for name in (PAIRS, GALLERY) if (folder / name).is_file()]
  if not (folder / IMAGES).is_file() or not there:
    raise FileNotFoundError(f"{folder}: expected {IMAGES}, and {PAIRS} or {GALLERY} or both")
  images = read_template_images(folder / IMAGES)
  found = TemplateLists(images, np.unique(images.name, return_inverse=True)[1].reshape(-1))
  if PAIRS in there:
    pairs = read_template_pairs(folder / PAIRS, images)
    _require_images(found, folder / PAIRS, pairs.left, pairs.right)
    found = found._replace(pairs=pairs)
  if GALLERY not in there:
    return found
  gallery = read_templates(folder / GALLERY)
  probes = (read_templates(folder / PROBES) if (folder / PROBES).is_file()
            else np.setdiff1d(images.template, gallery))
  found = found._replace(gallery=gallery, probes=probes)
  _require_images(found, folder / GALLERY, gallery)
  _require_images(found, folder / PROBES, probes)
  if (found.subjects_of(np.concatenate([gallery, probes])) < 0).any():
    raise ValueError(f"{folder / IMAGES}: {GALLERY} needs the subject of every template; expected "
                     "a CSV header with SUBJECT_ID")
  return found


def _require_images(found: TemplateLists, path: pathlib.Path, *templates: np.ndarray) -> None:
  lost = np.setdiff1d(np.concatenate(templates), found.images.template)
  if len(lost):
    raise ValueError(f"{path}: template {lost[0]} has no image")


def read_templates(path: str | os.PathLike) -> np.ndarray:
  """Templates int64, ascending, of a gallery or of probes."""
  rows = _rows(path)
  header = [name.strip().lower() for name in rows[0]]
  column = 0
  if "template_id" in header:
    column, rows = header.index("template_id"), _of_length(rows[1:], len(header), path)
  return np.unique(_integers([row[column] for row in rows], path))


def read_template_images(path: str | os.PathLike) -> TemplateImages:
  """Reads the images of a protocol (see the module's docstring)."""
  rows = _rows(path)
  header = [name.strip().lower() for name in rows[0]]
  if "template_id" in header:
    missing = {"template_id", "subject_id", "media_id", "filename"} - set(header)
    if missing:
      raise ValueError(f"{path}: header lacks {', '.join(sorted(missing)).upper()}")
    columns = [header.index(name) for name in ("filename", "template_id", "media_id", "subject_id")]
    fields = [[row[c] for c in columns] for row in _of_length(rows[1:], len(header), path)]
  else:
    fields = [[*row, "-1"] for row in _of_length(rows, 3, path)]
  name, *numbers = zip(*fields, strict=True)
  return TemplateImages(name, *(_integers(column, path) for column in numbers))


def read_template_pairs(path: str | os.PathLike, images: TemplateImages) -> TemplatePairs:
  """Reads the pairs of a protocol; pairs without a label take it from the subjects of `images`."""
  rows = _rows(path)
  if len(rows[0]) == 3:
    left, right, same = (_integers(c, path) for c in zip(*_of_length(rows, 3, path), strict=True))
    if not np.isin(same, (0, 1)).all():
      raise ValueError(
        f"{path}: third column must be 0 or 1, got {same[~np.isin(same, (0, 1))][0]}"
      )
    return TemplatePairs(left, right, same == 1)
  left, right = (_integers(c, path) for c in zip(*_of_length(rows, 2, path), strict=True))
  subject = dict(zip(images.template.tolist(), images.subject.tolist(), strict=True))
  unknown = [t for t in np.concatenate([left, right]).tolist() if subject.get(t, -1) < 0]
  if unknown:
    raise ValueError(
      f"{path}: template {unknown[0]} has no subject in the image list, and pairs carry no label"
    )
  same = np.array(
    [subject[a] == subject[b] for a, b in zip(left.tolist(), right.tolist(), strict=True)]
  )
  return TemplatePairs(left, right, same)


def _rows(path: str | os.PathLike) -> list[list[str]]:
  """Fields of every line, split at commas where the first line has one, else at blanks."""
  lines = [line for line in read_text(path).splitlines()
           if line.strip() and not line.startswith("#")]
  if not lines:
    raise ValueError(f"{path}: holds no line")
  if "," not in lines[0]:
    return [line.split() for line in lines]
  try:
    return list(csv.reader(lines))
  except csv.Error as error:
    raise ValueError(f"{path}: {error}") from None


def _of_length(rows: list[list[str]], length: int, path: str | os.PathLike) -> list[list[str]]:
  for number, row in enumerate(rows, 1):
    if len(row) != length:
      raise ValueError(f"{path}: entry {number} has {len(row)} fields, expected {length}")
  if not rows:
    raise ValueError(f"{path}: holds a header only")
  return rows


def _integers(values: Sequence[str], path: str | os.PathLike) -> np.ndarray:
  try:
    return np.array([int(value) for value in values], np.int64)
  except ValueError as error:
    raise ValueError(f"{path}: expected an integer, {error}") from None
