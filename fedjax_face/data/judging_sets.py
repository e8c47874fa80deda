"""Sets that judge a trained model by lists of their own, as parts: pairs or templates of images.

Who is on the images may be known to nobody: such a set has no place in training.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.pairs import Pairs
from fedjax_face.data.readers.decode import ReadReport, decode_images, settle
from fedjax_face.data.readers.file_bytes import inside, read_file, require_given
from fedjax_face.data.readers.insightface_bin import read_insightface_bin
from fedjax_face.data.readers.template_lists import TemplateLists, read_template_lists
from fedjax_face.data.sets import Count
from fedjax_face.options import register


class Judges(NamedTuple):
  """A set and its lists.

  Attributes:
    dataset: images; labels and persons as far as the lists tell them.
    pairs: rows of `dataset`, or None.
    templates: lists of a template protocol on them, or None.
    notes: sentences about what was read.
  """

  dataset: FaceDataset
  pairs: Pairs | None = None
  templates: TemplateLists | None = None
  notes: tuple[str, ...] = ()


class JudgingSet(NamedTuple):
  """A set that is read when it is asked for.

  Attributes:
    load: () -> Judges.
    protocols: all that can be asked of it, those first that are asked where nothing is said.
    default: how many of these are asked where nothing is said.
  """

  load: Callable[[], Judges]
  protocols: tuple[str, ...]
  default: int


register.kind(JudgingSet, name="judging_set")


@register.judging_set
def bin(path: str, *, size: Count = 112, grayscale: bool = False) -> JudgingSet:
  """Pairs of InsightFace: lfw.bin, cfp_fp.bin, agedb_30.bin and others of their form.

  Two images are known to show one person where a pair says so, or where they are the same; whoever
  is on the others counts as somebody else in the intervals.

  Args:
    path: of the .bin file.
    size: pixels, height and width, to which images are scaled.
    grayscale: one channel, else three.
  """
  return JudgingSet(lambda: _bin(path, size, 1 if grayscale else 3),
                    ("insightface", "tar_at_far", "lfw_view2"), default=2)


@register.judging_set
def templates(path: str, *, size: Count = 112, grayscale: bool = False) -> JudgingSet:
  """Templates of aligned faces and their lists, as in IJB-B and IJB-C: 1:1, 1:N or both.

  Args:
    path: folder with images.csv, and pairs.csv (1:1) or gallery.csv and perhaps probes.csv (1:N) or
      both, as `data.readers.template_lists` says; names of images are relative to the folder.
    size: pixels, height and width, to which images are scaled.
    grayscale: one channel, else three.
  """
  return JudgingSet(lambda: _templates(require_given(path), size, 1 if grayscale else 3),
                    ("templates",), default=1)


def _bin(path: str, size: int, channels: int) -> Judges:
  images, pairs, report = read_insightface_bin(path, size=size, channels=channels, on_bad="skip")
  if not len(pairs.same):
    raise ValueError(f"{path}: no pair has two readable images")
  person = _groups(images, pairs)
  return Judges(FaceDataset(pathlib.Path(path).stem, images, person, person.copy()), pairs,
                notes=_notes(report))


def _groups(images: np.ndarray, pairs: Pairs) -> np.ndarray:
  """int32 [N]: images that are the same, or of a pair of one person, have one number."""
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import connected_components
  digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
  first_alike = np.unique(digests, return_index=True, return_inverse=True)
  alike = first_alike[1][first_alike[2].reshape(-1)]
  rows = np.concatenate([np.arange(len(images)), pairs.first[pairs.same]])
  columns = np.concatenate([alike, pairs.second[pairs.same]])
  graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(images),) * 2)
  return connected_components(graph, directed=False)[1].astype(np.int32)


def _templates(path: pathlib.Path, size: int, channels: int) -> Judges:
  lists = read_template_lists(path)
  names = np.unique(lists.images.name)
  images, _, bad = decode_images(str(path), names.tolist(),
                                 lambda name: read_file(inside(path, name)), size, channels)
  settle(ReadReport(str(path), skipped=tuple(bad)), "refuse")
  subject = np.empty(len(names), np.int64)
  subject[lists.row] = lists.images.subject
  alone = lists.images.subject.max(initial=-1) + 1 + np.arange(len(names))
  person = np.unique(np.where(subject < 0, alone, subject), return_inverse=True)[1]
  person = person.reshape(-1).astype(np.int32)
  return Judges(FaceDataset(path.resolve().name, images, person, person.copy()), templates=lists)


def _notes(report: ReadReport) -> tuple[str, ...]:
  return (str(report),) if report.skipped or report.remarks else ()
