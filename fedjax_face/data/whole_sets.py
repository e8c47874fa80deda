"""Sets as they are read, whole, by the name and the options of a config."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.domains import Domain, street
from fedjax_face.data.numbering import Numbered
from fedjax_face.data.readers import (
  femnist,
  folders,
  insightface_rec,
  lfw,
  person_lists,
  tfds_source,
)
from fedjax_face.data.readers.decode import OnBad, ReadReport
from fedjax_face.data.readers.encoded_images import is_on_demand

Whole = tuple[FaceDataset, tuple[str, ...]]
"""A set that is not split, and notes about it."""


def data_root() -> pathlib.Path:
  """Folder of downloaded data: $FEDJAX_FACE_DATA, or shared/data beside the repository."""
  beside = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
  return pathlib.Path(os.environ.get("FEDJAX_FACE_DATA") or beside)


def _synthetic(*, num_people: int, images_per_person: int, size: int, seed: int = 0,
               first_person: int = 0, grayscale: bool = False, on_demand: bool | None = None,
               domain: Domain | None = None) -> Whole:
  from fedjax_face.data.rendering import synthetic_faces  # a renderer: slow to import
  kind = domain or street()
  late = is_on_demand(on_demand, num_people * images_per_person, size, channels_of(grayscale))
  make = synthetic_faces.rendered_faces if late else synthetic_faces.synthetic_faces
  dataset = make(num_people, images_per_person, size, seed, first_person=first_person,
                 grayscale=grayscale, variation=kind.variation)
  names = Numbered(f"world{seed}-person", range(first_person, first_person + num_people))
  where = "" if kind.name == "street" else f"_{kind.name}"
  return dataclasses.replace(dataset, name=f"{dataset.name}_world{seed}{where}", names=names), ()


def _femnist(*, path: str | None = None, num_writers: int | None = None) -> Whole:
  place = pathlib.Path(path) if path else data_root() / "femnist" / "femnist_leaf_105writers.npz"
  if place.suffix == ".npz":
    dataset, report = femnist.read_femnist_npz(place)
  else:
    dataset, report = femnist.read_leaf(place)
  if num_writers is not None:
    dataset = dataset.select(dataset.person < num_writers)
  return dataset, notes_of(report)


def _lfw(*, root: str | None = None, size: int = 112, grayscale: bool = False,
         min_images: int = 1) -> Whole:
  dataset, report = lfw.read_lfw(root or data_root() / "lfw", size=size, min_images=min_images,
                                 channels=channels_of(grayscale))
  return dataset, notes_of(report)


def _folder(*, path: str, size: int, grayscale: bool = False, min_images: int = 1,
            people_at: int | None = None, on_bad: OnBad = "skip",
            on_demand: bool | None = None) -> Whole:
  dataset, report = folders.read_folder(path, size=size, channels=channels_of(grayscale),
                                        min_images=min_images, people_at=people_at, on_bad=on_bad,
                                        on_demand=on_demand)
  return dataset, notes_of(report)


def read_listing(*, path: str, size: int, root: str | None = None, grayscale: bool = False,
                 min_images: int = 1, split: str | None = None, on_bad: OnBad = "skip",
                 on_demand: bool | None = None,
                 ) -> tuple[FaceDataset, np.ndarray | None, tuple[str, ...]]:
  """The rows of a `split`, or all; the side of each, if the list has them; notes."""
  read = person_lists.read_listing(path, root=root, size=size, channels=channels_of(grayscale),
                                   min_images=min_images, split=split, on_bad=on_bad,
                                   on_demand=on_demand)
  return read.dataset, read.side, (*notes_of(read.report), *read.notes)


def _listing(*, path: str, size: int, root: str | None = None, grayscale: bool = False,
             min_images: int = 1, split: str | None = None, on_bad: OnBad = "skip",
             on_demand: bool | None = None) -> Whole:
  dataset, _, notes = read_listing(path=path, size=size, root=root, grayscale=grayscale,
                                   min_images=min_images, split=split, on_bad=on_bad,
                                   on_demand=on_demand)
  return dataset, notes


def _rec(*, path: str, size: int, grayscale: bool = False, limit: int | None = None,
         on_bad: OnBad = "skip", on_demand: bool | None = None) -> Whole:
  dataset, report = insightface_rec.read_rec(path, size=size, channels=channels_of(grayscale),
                                             limit=limit, on_bad=on_bad, on_demand=on_demand)
  return dataset, notes_of(report)


def _orl(*, path: str | None = None, size: int = 112, grayscale: bool = False) -> Whole:
  return _folder(path=str(path or data_root() / "orl" / "att_faces.zip"), size=size,
                 grayscale=grayscale)


def _tfds(*, dataset: str, size: int, split: str = "train", data_dir: str | None = None,
          grayscale: bool = False, limit: int | None = None, image: str | None = None,
          label: str | None = None, person: str | None = None,
          on_demand: bool | None = None) -> Whole:
  known = tfds_source.KNOWN_FEATURES.get(dataset.split("/")[0], tfds_source.FeatureNames())
  given: dict[str, Any] = {"image": image, "label": label, "person": person}
  features = dataclasses.replace(known, **{k: v for k, v in given.items() if v is not None})
  loaded, report = tfds_source.read_tfds(
      dataset, split=split, data_dir=data_dir, features=features, size=size,
      channels=channels_of(grayscale), limit=limit, on_demand=on_demand)
  return loaded, notes_of(report)


def _digiface(*, data_dir: str, size: int = 112, manual_dir: str | None = None,
              grayscale: bool = False, limit: int | None = None,
              on_demand: bool | None = None) -> Whole:
  if manual_dir is not None:
    from fedjax_face.data.readers import digiface_builder  # imports TFDS
    digiface_builder.prepare(manual_dir, data_dir)
  return _tfds(dataset="digiface", data_dir=data_dir, size=size, grayscale=grayscale,
               limit=limit, on_demand=on_demand)


def channels_of(grayscale: bool) -> int:
  """1 or 3."""
  return 1 if grayscale else 3


def notes_of(*reports: ReadReport) -> tuple[str, ...]:
  """What reports have to say."""
  return tuple(str(report) for report in reports if report.skipped or report.remarks)


PUBLIC: Mapping[str, Callable[..., Whole]] = {
    "synthetic_faces": _synthetic, "femnist": _femnist, "lfw": _lfw,
    "folder": _folder, "listing": _listing, "insightface_rec": _rec,
    "orl": _orl, "tfds": _tfds, "digiface": _digiface,
}
