"""Data sets of one's own: from arrays, by who evaluates, checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fedjax_face import draws
from fedjax_face.data.dataset import ATTRIBUTES, FaceDataset, compact
from fedjax_face.data.sources import Sources, check_public, disjoint, private_sets
from fedjax_face.data.splits import by_chance


def faces(images: Any, person: Any, *, label: Any = None, name: str = "faces",
          **known: Any) -> FaceDataset:
  """A data set of one's own.

  Args:
    images: uint8 [N, H, W, C], C 1 or 3, or [N, H, W].
    person: [N], who is on each image: names or numbers, in any order. Numbers of two sets of
      different names are not compared, so whether these share a person is not known.
    label: [N], what is recognised, where that is not the person; names or numbers.
    name: where the images come from.
    **known: further attributes of `FaceDataset`: `landmarks`, `gender`, ...

  Raises:
    ValueError: an array of another shape or type.
  """
  unknown = sorted(set(known) - set(ATTRIBUTES) - {"attributes", "identity"})
  if unknown:
    raise ValueError(f"{name}: no attribute is called {unknown[0]}; expected some of "
                     f"{', '.join(ATTRIBUTES)}")
  pixels = np.asarray(images) if not hasattr(images, "shape") else images
  if len(pixels.shape) == 3:
    pixels = pixels[..., None]
  person_names, persons = _numbered(name, "person", person, len(pixels))
  if not person_names and "identity" not in known:  # draws follow the numbers that were given
    known["identity"] = draws.identity_of(np.asarray(person).tolist())
  if label is None:
    return FaceDataset(name, pixels, persons, persons, names=person_names, **known)
  names, labels = _numbered(name, "label", label, len(pixels))
  return FaceDataset(name, pixels, labels, persons, names=names, person_names=person_names, **known)


def _numbered(name: str, what: str, values: Any, count: int) -> tuple[tuple[str, ...], np.ndarray]:
  """Names in order, none of numbers, and the place int32 [N] of each value among the values."""
  values = np.asarray(values)
  if values.shape != (count,):
    raise ValueError(f"{name}: {what} is {list(values.shape)}; expected [{count}], one for each "
                     "image")
  names, numbers = np.unique(values, return_inverse=True)
  named = () if np.issubdtype(values.dtype, np.integer) else tuple(map(str, names))
  return named, numbers.astype(np.int32)


def split(dataset: FaceDataset, evaluation: float = 0.1, public: FaceDataset | None = None,
          seed: int = 0, validation: float = 0.0) -> Sources:
  """People who train, others who evaluate, and perhaps others who judge while training goes on.

  Args:
    dataset: of all.
    evaluation: probability with which a person evaluates, drawn from the person's identity alone.
    public: a set that is declared public.
    seed: of the draw.
    validation: probability with which a person validates; 0 for nobody.

  Raises:
    ValueError: probabilities that leave nobody to train, or a side would be empty.
  """
  sides = by_chance(dataset, evaluation, validation, draws.Draws.of(seed))
  train, judges, validates = (None if side is None else compact(side) for side in sides)
  assert train is not None and judges is not None
  return Sources(train, judges, public, known_disjoint=True, validation=validates)


def checked(made: Sources) -> Sources:
  """Sets that were made by hand: people and labels are numbered 0..n-1, and none are in two sets.

  Raises:
    ValueError: sets that share a person, by name, or differ in the shape of their images.
  """
  for name, judges in (("evaluation", made.evaluation), ("validation", made.validation)):
    if judges is not None and judges.images.shape[1:] != made.train.images.shape[1:]:
      raise ValueError(f"data: {name} images are {list(judges.images.shape[1:])}, "
                       f"training images {list(made.train.images.shape[1:])}; expected one shape")
  whole = made if made.known_disjoint else disjoint(
      made.train, made.evaluation, made.validation, pairs=made.pairs, notes=made.notes)
  whole = whole._replace(
      not_covered=(*made.not_covered, *whole.not_covered),
      evaluates_training_people=whole.evaluates_training_people or made.evaluates_training_people)
  if made.public is None:
    return whole
  said = check_public(made.public, *private_sets(made))
  _refuse_same_images(made.public, made.train)
  public = compact(made.public)
  if public.name == whole.train.name:  # the statement names both
    public = dataclasses.replace(public, name=f"{public.name} (public)")
  return whole._replace(public=public, notes=(*whole.notes, *said), not_covered=(
      *whole.not_covered, *(f"{unknown}." for unknown in said[1:])))


def _refuse_same_images(public: FaceDataset, train: FaceDataset) -> None:
  """Raises ValueError for a public set that holds the images of the training set."""
  ends = [0, len(train) - 1]
  if (len(public) == len(train) and np.array_equal(public.images[ends], train.images[ends])
      and np.array_equal(public.images[:], train.images[:])):
    raise ValueError(f"data: the public set {public.name} has the images of the training set, "
                     "which are to be protected; expected other people")
