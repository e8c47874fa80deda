"""Photographs with any number of faces, what is known about each face, and splits of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fedjax_face import draws as draws_
from fedjax_face.data.dataset import check_array
from fedjax_face.draws import Draws

DETECTION, LANDMARKS, VISIBILITY, POSE, GENDER = range(5)
"""Columns of `known`, in the order of `losses.multi_task.TASKS`."""

_FACE_FIELDS = {"image": (np.int32, ()), "person": (np.int32, ()), "box": (np.float32, (4,)),
                "landmarks": (np.float32, (None, 2)), "visible": (np.bool_, (None,)),
                "pose": (np.float32, (3,)), "gender": (np.int32, ()), "known": (np.bool_, (5,))}


@dataclasses.dataclass(frozen=True)
class Photographs:
  """M uncropped photographs with F annotated faces.

  Attributes:
    name: where the photographs come from.
    images: M arrays, uint8 [H, W, C], C 1 or 3; sizes may differ. Any sequence, also one that
      decodes a photograph when it is asked for; of such a one `select(numbers)` gives some, still
      encoded, and `size_of(number)` a size; without these they are decoded.
    image: int32 [F], the photograph that a face is on, ascending.
    person: int32 [F], whose face it is, 0 or more.
    box: float32 [F, 4], left, top, width, height in pixels; may reach over the border.
    landmarks: float32 [F, L, 2], (x, y) in pixels; any finite number where not visible.
    visible: bool [F, L], False also where a point is not annotated.
    pose: float32 [F, 3], roll, pitch, yaw in radians.
    gender: int32 [F], 0 male, 1 female.
    known: bool [F, 5], whether a task has a label: detection, landmarks, visibility, pose, gender.
    persons_known: whether two faces of one person always have one number in `person`; else a
      person may go under several.
    original: int32 [M], 0 or more, equal for views that were made of one photograph; None = each
      is a photograph of its own.
    identity: uint64 [M], the stable identity of each photograph, from which all draws about it
      come (`fedjax_face.draws`), for instance of its file's name; None: that of its number here.

  Raises:
    ValueError: an array has the wrong shape, dtype or range, or a box has no size.
  """

  name: str
  images: Sequence[np.ndarray] | np.ndarray
  image: np.ndarray
  person: np.ndarray
  box: np.ndarray
  landmarks: np.ndarray
  visible: np.ndarray
  pose: np.ndarray
  gender: np.ndarray
  known: np.ndarray
  persons_known: bool = True
  original: np.ndarray | None = None
  identity: np.ndarray | None = None

  def __post_init__(self):
    for field, (dtype, shape) in _FACE_FIELDS.items():
      check_array(self.name, field, getattr(self, field), dtype, shape, len(self.image), free="L")
    if self.landmarks.shape[1] != self.visible.shape[1]:
      raise ValueError(f"{self.name}: {self.landmarks.shape[1]} landmarks but visible has "
                       f"{self.visible.shape[1]}; expected the same number")
    if len(self.image) and (self.image.min() < 0 or self.image.max() >= len(self.images)
                            or (np.diff(self.image) < 0).any()):
      raise ValueError(f"{self.name}: image numbers of the faces must be ascending in "
                       f"0..{len(self.images) - 1}")
    if self.original is not None:
      check_array(self.name, "original", self.original, np.int32, (), len(self.images))
      if self.original.min(initial=0) < 0:
        raise ValueError(f"{self.name}: original {self.original.min()}; expected 0 or more")
    if self.identity is not None:
      check_array(self.name, "identity", self.identity, np.uint64, (), len(self.images))
    if len(self.person) and self.person.min() < 0:
      raise ValueError(f"{self.name}: person {self.person.min()}; expected 0 or more")
    for field in ("box", "landmarks", "pose"):
      if not np.isfinite(getattr(self, field)).all():
        raise ValueError(f"{self.name}: {field} has a number that is not finite")
    bad = np.flatnonzero((self.box[:, 2:] <= 0).any(-1))
    if bad.size:
      raise ValueError(f"{self.name}: face {bad[0]} has the box {self.box[bad[0]].tolist()}; "
                       "expected a width and height above 0")

  def __len__(self) -> int:
    return len(self.images)

  @property
  def num_faces(self) -> int:
    """F."""
    return len(self.image)

  @property
  def num_landmarks(self) -> int:
    """L."""
    return self.landmarks.shape[1]

  @property
  def originals(self) -> np.ndarray:
    """int32 [M], equal for views of one photograph."""
    return np.arange(len(self), dtype=np.int32) if self.original is None else self.original

  @functools.cached_property
  def identities(self) -> np.ndarray:
    """uint64 [M], the stable identity of each photograph; `select` keeps it.

    Raises:
      ValueError: two photographs have one identity.
    """
    identity = draws_.identity_of(range(len(self))) if self.identity is None else self.identity
    draws_.require_distinct(identity, self.name, "photographs")
    return identity

  def faces_of(self, image: int) -> slice:
    """Rows of the faces on one photograph."""
    first, last = np.searchsorted(self.image, [image, image + 1])
    return slice(int(first), int(last))

  def size_of(self, image: int) -> tuple[int, int]:
    """(width, height) of one photograph; encoded ones (`size_of(number)`) are not decoded."""
    if hasattr(self.images, "size_of"):
      return self.images.size_of(image)
    height, width = self.images[image].shape[:2]
    return width, height

  def select(self, images: np.ndarray) -> Photographs:
    """Some photographs (integers, in their order of `images`), numbered anew.

    Persons and originals keep their numbers, photographs their identities.

    Raises:
      ValueError: a number is out of range.
    """
    images = np.asarray(images, np.int64)
    outside = images[(images < 0) | (images >= len(self))]
    if outside.size:
      raise ValueError(f"{self.name}: photograph {outside[0]} selected; "
                       f"expected 0..{len(self) - 1}")
    rows = [np.arange(faces.start, faces.stop) for faces in map(self.faces_of, images)]
    row = np.concatenate([np.empty(0, np.int64), *rows])
    number = np.repeat(np.arange(len(images), dtype=np.int32), [len(r) for r in rows])
    faces = {field: getattr(self, field)[row] for field in _FACE_FIELDS}
    return dataclasses.replace(
        self, images=self._images_of(images), **(faces | {"image": number}),
        original=None if self.original is None else self.original[images],
        identity=self.identities[images])

  def _images_of(self, images: np.ndarray) -> Sequence[np.ndarray] | np.ndarray:
    """Images of which none is decoded that need not be."""
    if isinstance(self.images, np.ndarray):
      return self.images[images]
    if hasattr(self.images, "select"):
      return self.images.select(images)
    return [self.images[i] for i in images]


def split_by_image(photographs: Photographs, fraction: float, draws: Draws,
                   ) -> tuple[np.ndarray, np.ndarray]:
  """(train, test) photograph numbers, ascending; a person may be on both sides.

  Views of one photograph stay together. Each photograph is drawn from its own identity, whatever
  the others are, as `draws.halves` says.

  Args:
    photographs: M photographs.
    fraction: of the photographs for the test set, on average.
    draws: of the split.

  Raises:
    ValueError: the fraction is not between 0 and 1, or a side would be empty.
  """
  return _split(photographs, fraction, draws, photographs.originals)


def split_by_person(photographs: Photographs, fraction: float, draws: Draws,
                    ) -> tuple[np.ndarray, np.ndarray]:
  """(train, test) photograph numbers, ascending, such that nobody is on both sides.

  Photographs that share people stay together, so every photograph is used, and so do views of one
  photograph. Each group of them is drawn by itself, from the smallest identity of a photograph in
  it: it goes to the test set with probability `fraction`, as `draws.halves` says. So a photograph
  more or less moves at most others of its group, which it may have joined together. Where
  `persons_known` is False, nobody is on both sides under one number.

  Raises:
    ValueError: the fraction is not between 0 and 1, or a side would be empty (also because one
      person or a chain of people connects all photographs).
  """
  return _split(photographs, fraction, draws, people_groups(photographs))


def people_groups(photographs: Photographs) -> np.ndarray:
  """int64 [M]: equal for views of one photograph and where a chain of shared people connects."""
  original = photographs.originals
  return connected(original[photographs.image], photographs.person,
                   int(original.max(initial=-1)) + 1)[original]


def connected(image: np.ndarray, person: np.ndarray, num_images: int) -> np.ndarray:
  """int64 [M]: equal numbers for photographs that a chain of shared people connects.

  Args:
    image: integers [F], the photograph that a face is on.
    person: integers [F], whose face it is, 0 or more.
    num_images: M.
  """
  group = np.arange(num_images)
  while True:
    of_person = np.full(person.max(initial=-1) + 1, num_images)
    np.minimum.at(of_person, person, group[image])
    merged = group.copy()
    np.minimum.at(merged, image, of_person[person])
    if (merged == group).all():
      return group
    group = merged


def _split(photographs: Photographs, fraction: float, draws: Draws, group: np.ndarray,
           ) -> tuple[np.ndarray, np.ndarray]:
  """Numbers on both sides, groups (integers [M]) whole."""
  _check_fraction(photographs, fraction)
  groups, row = np.unique(group, return_inverse=True)
  if len(groups) < 2:
    raise ValueError(f"{photographs.name}: the training side of the split would be empty; "
                     "expected photographs of unconnected people on both")
  identity = draws_.smallest_by_group(photographs.identities, row)
  test = draws.halves(identity, fraction, "evaluation")[row]
  return np.flatnonzero(~test), np.flatnonzero(test)


def _check_fraction(photographs: Photographs, fraction: float) -> None:
  if not 0 < fraction < 1:
    raise ValueError(f"{photographs.name}: test fraction is {fraction}; expected between 0 and 1")
