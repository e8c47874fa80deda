"""Verification of templates, sets of images and video frames of one person, as in IJB-B and IJB-C.

A protocol has two text files. Images: lines `name template media`, or CSV with a header that has
TEMPLATE_ID, SUBJECT_ID, MEDIA_ID and FILENAME. Pairs: lines `template template same` with same 0 or
1; in CSV form `template,template`, the label then following from the subjects. Lines that start
with # are skipped.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.evaluation.pairwise import pair_similarity
from fedjax_face.evaluation.verification import TarAtFar, tar_at_far


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


def pool_templates(
  embeddings: np.ndarray | jax.Array, template: np.ndarray, media: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Averages the images of a medium, then the media of a template, then normalises.

  Args:
    embeddings: float [N, D], one an image.
    template: integer [N]; an image in several templates appears once for each.
    media: integer [N], ids unique within a template.

  Returns:
    (ids int64 [T] ascending, pooled float32 [T, D] of unit length).
  """
  embeddings = np.asarray(embeddings, np.float32)
  if not len(embeddings) == len(template) == len(media):
    raise ValueError(
      "embeddings, template and media must have one length, got "
      f"{len(embeddings)}, {len(template)}, {len(media)}"
    )
  keys, medium = np.unique(np.stack([template, media], axis=1), axis=0, return_inverse=True)
  ids, owner = np.unique(keys[:, 0], return_inverse=True)
  pooled = _group_mean(_group_mean(embeddings, medium.reshape(-1), len(keys)), owner, len(ids))
  return ids, pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def verify_templates(
  embeddings: np.ndarray | jax.Array,
  images: TemplateImages,
  pairs: TemplatePairs,
  fars: Sequence[float],
) -> TarAtFar:
  """TAR at each FAR over the pairs of a template protocol; embeddings [N, D] in the order of
  `images`.
  """
  ids, pooled = pool_templates(embeddings, images.template, images.media)
  sides = [
    np.minimum(np.searchsorted(ids, side), len(ids) - 1) for side in (pairs.left, pairs.right)
  ]
  for side, wanted in zip(sides, (pairs.left, pairs.right), strict=True):
    if np.any(ids[side] != wanted):
      raise ValueError(f"template {wanted[ids[side] != wanted][0]} of the pair list has no image")
  return tar_at_far(pair_similarity(pooled, *sides), pairs.same, fars)


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


def _group_mean(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
  """Mean of the rows of each group: float32 [groups, D]."""
  total = np.zeros((groups, values.shape[1]), np.float32)
  np.add.at(total, group, values)
  return total / np.bincount(group, minlength=groups)[:, None].astype(np.float32)


def _rows(path: str | os.PathLike) -> list[list[str]]:
  """Fields of every line, split at commas where the first line has one, else at blanks."""
  with open(path, newline="", encoding="utf-8") as file:
    lines = [line for line in file.read().splitlines() if line.strip() and not line.startswith("#")]
  if not lines:
    raise ValueError(f"{path}: holds no line")
  return list(csv.reader(lines)) if "," in lines[0] else [line.split() for line in lines]


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
