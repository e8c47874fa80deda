"""Images of people with their labels, and the operations that keep the arrays consistent."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fedjax_face import draws
from fedjax_face.data import image_source, numbering
from fedjax_face.data.image_source import ImageSource

# attribute -> (dtype, shape after N; None = any size)
ATTRIBUTES: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "landmarks": (np.float32, (None, 2)),
    "visible": (np.bool_, (None,)),
    "pose": (np.float32, (3,)),
    "gender": (np.int8, ()),
    "box": (np.float32, (4,)),
    "landmarks_known": (np.bool_, ()),
    "visible_known": (np.bool_, ()),
    "pose_known": (np.bool_, ()),
    "gender_known": (np.bool_, ()),
    "box_known": (np.bool_, ()),
}


@dataclasses.dataclass(frozen=True, repr=False)
class FaceDataset:
  """N images, who is on them, and what is known about each.

  Attributes:
    name: where the images come from.
    images: uint8 [N, H, W, C], C 1 or 3: an array, in memory or memory-mapped, or an
      `ImageSource`, whose rows are made when they are asked for.
    label: int32 [N], the identity or class that is recognised, 0..num_labels-1.
    person: int32 [N], the privacy unit (faces: equal to label; FEMNIST: the writer).
    landmarks: float32 [N, L, 2], (x, y) in pixels.
    visible: bool [N, L], whether a landmark can be seen.
    pose: float32 [N, 3], roll, pitch, yaw in radians.
    gender: int8 [N], 0 male, 1 female.
    box: float32 [N, 4], x, y of the upper-left corner, width, height in pixels.
    landmarks_known, visible_known, pose_known, gender_known, box_known: bool [N], where the
      attribute is an annotation; absent mask = known everywhere the attribute is given.
    names: name of each label, or empty.
    person_names: name of each person where persons are not labels, or empty.
    attributes: by name, one more number per image, integers or floats [N]; -1 in integers and NaN
      in floats = unknown.
    identity: uint64 [N], the stable identity of the person on each image, from which all draws
      about the person come (`fedjax_face.draws`); None: that of the person's name or, without
      names, number, see `identities`.

  Raises:
    ValueError: an array has the wrong shape, dtype or range.
  """

  name: str
  images: np.ndarray | ImageSource
  label: np.ndarray
  person: np.ndarray
  landmarks: np.ndarray | None = None
  visible: np.ndarray | None = None
  pose: np.ndarray | None = None
  gender: np.ndarray | None = None
  box: np.ndarray | None = None
  landmarks_known: np.ndarray | None = None
  visible_known: np.ndarray | None = None
  pose_known: np.ndarray | None = None
  gender_known: np.ndarray | None = None
  box_known: np.ndarray | None = None
  names: Sequence[str] = ()
  person_names: Sequence[str] = ()
  attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  identity: np.ndarray | None = None

  def __post_init__(self):
    if not isinstance(self.images, ImageSource):
      check_array(self.name, "images", self.images, np.uint8, (None, None, None))
    if self.images.shape[-1] not in (1, 3):
      raise ValueError(f"{self.name}: images have {self.images.shape[-1]} channels; "
                       "expected 1 or 3")
    count = len(self.images)
    for field in ("label", "person"):
      array = getattr(self, field)
      check_array(self.name, field, array, np.int32, (), count)
      names = self.names if field == "label" else self.person_names
      _check_range(self.name, field, array, len(names))
    for field, (dtype, shape) in ATTRIBUTES.items():
      if getattr(self, field) is not None:
        check_array(self.name, field, getattr(self, field), dtype, shape, count)
    if (self.landmarks is not None and self.visible is not None
        and self.landmarks.shape[1] != self.visible.shape[1]):
      raise ValueError(f"{self.name}: {self.landmarks.shape[1]} landmarks but visible has "
                       f"{self.visible.shape[1]}; expected the same number")
    if self.identity is not None:
      check_array(self.name, "identity", self.identity, np.uint64, (), count)
    for name, array in self.attributes.items():
      _check_attribute(self.name, name, array, count)

  def __len__(self) -> int:
    return len(self.images)

  def __repr__(self) -> str:
    shape = "x".join(map(str, self.images.shape[1:]))
    return f"<{self.name}: {len(self):,} images {shape} of {self.num_persons:,} people>"

  @property
  def targets(self) -> tuple[()]:
    """Nothing: the labels of a cohort travel with its examples."""
    return ()

  def split(self, evaluation: float = 0.1, public: FaceDataset | None = None,
            seed: int = 0, validation: float = 0.0) -> Any:
    """`Sources`: each person evaluates with probability `evaluation`, else trains.

    Args:
      evaluation: in (0, 1).
      public: a set that is declared public.
      seed: of the draw.
      validation: probability with which a person judges while training goes on; 0 for nobody.

    Raises:
      ValueError: other probabilities, or a side would be empty.
    """
    from fedjax_face.data import by_hand
    return by_hand.split(self, evaluation, public, seed, validation)

  @property
  def num_labels(self) -> int:
    """Size of the label space: the number of names, or one more than the largest label."""
    return len(self.names) or int(self.label.max(initial=-1)) + 1

  @property
  def num_persons(self) -> int:
    """Number of different persons that have at least one image."""
    return int(np.count_nonzero(np.bincount(self.person)))

  def label_name(self, label: int) -> str:
    """The name of a label, or its number where labels have no names."""
    return self.names[label] if self.names else str(label)

  def person_name(self, person: int) -> str:
    """The name of a person, or its number where persons have no names."""
    if self.person_names:
      return self.person_names[person]
    return self.names[person] if self.persons_are_labels and self.names else str(person)

  @functools.cached_property
  def identities(self) -> np.ndarray:
    """uint64 [N], the stable identity of the person on each image.

    `select`, `compact` and `concatenate` keep it, whatever numbers they give to persons.

    Raises:
      ValueError: two persons have one identity, or a person has two.
    """
    persons, row = numbering.present(self.person)
    if self.identity is None:
      names = self.person_names or (self.names if self.persons_are_labels else ())
      of_person = draws.identity_of(numbering.some(names, persons) or persons.tolist())
    else:
      of_person = self.identity[numbering.first_rows(row)]
      if (of_person[row] != self.identity).any():
        raise ValueError(f"{self.name}: a person has images of two identities; expected one")
    draws.require_distinct(of_person, self.name, "persons")
    return of_person[row]

  @property
  def persons_are_labels(self) -> bool:
    """Whether the recognised class is the person (faces) rather than, say, a character."""
    return bool(np.array_equal(self.person, self.label))

  def attribute(self, name: str) -> np.ndarray:
    """An attribute of every image, float64 [N], NaN = unknown; 'gender' is the field of that name.

    Raises:
      ValueError: the data set does not have it.
    """
    gender = {} if self.gender is None else {"gender": self.gender}
    given = {**gender, **self.attributes}
    if name not in given:
      raise ValueError(f"{self.name}: no attribute {name!r}; "
                       f"expected one of {', '.join(given) or 'none (the data set has none)'}")
    value = given[name].astype(np.float64)
    if np.issubdtype(given[name].dtype, np.integer):
      value[given[name] == -1] = np.nan
    if name == "gender" and self.gender_known is not None:
      value[~self.gender_known] = np.nan
    return value

  def select(self, index: np.ndarray) -> FaceDataset:
    """The rows of `index` (integers [M] or a mask [N]); labels and persons keep their numbers.

    Raises:
      ValueError: an index is out of range or a mask has another length.
    """
    index = np.asarray(index)
    if index.dtype == np.bool_:
      if index.shape != (len(self),):
        raise ValueError(f"{self.name}: mask has shape {index.shape}; expected ({len(self)},)")
      index = np.flatnonzero(index)
    elif index.size == 0:
      index = index.astype(np.int64)
    if index.size and not (0 <= index.min() and index.max() < len(self)):
      raise ValueError(f"{self.name}: row {index.min() if index.min() < 0 else index.max()} "
                       f"selected; expected 0..{len(self) - 1}")
    arrays: dict[str, Any] = {field: array[index] for field, array in _present_arrays(self).items()}
    arrays["images"] = image_source.select(self.images, index)
    attributes = {name: array[index] for name, array in self.attributes.items()}
    return dataclasses.replace(self, **arrays, attributes=attributes)


def compact(dataset: FaceDataset) -> FaceDataset:
  """Re-numbers labels and persons to 0..n-1 in their old order, dropping those without images.

  Identities stay.
  """
  labels, label = numbering.present(dataset.label)
  persons, person = (labels, label) if dataset.persons_are_labels else numbering.present(
      dataset.person)
  return dataclasses.replace(
      dataset,
      identity=dataset.identities,
      label=label.astype(np.int32),
      person=person.astype(np.int32),
      names=numbering.some(dataset.names, labels),
      person_names=numbering.some(dataset.person_names, persons))


def concatenate(datasets: Sequence[FaceDataset], name: str = "") -> FaceDataset:
  """All images of several sources; labels and persons of different sources never collide.

  Labels and persons of source i are shifted by the sizes of the sources before it, and identities
  are combined with i. An attribute
  that only some sources have is filled with zeros and marked unknown in its `*_known` mask, or
  filled with NaN in `attributes`, which become floats.

  Raises:
    ValueError: nothing to concatenate, or image shapes or landmark counts differ.
  """
  if not datasets:
    raise ValueError("concatenate: no data sets given; expected at least one")
  name = name or "+".join(d.name for d in datasets)
  shapes = {d.images.shape[1:] for d in datasets}
  if len(shapes) > 1:
    raise ValueError(f"{name}: images of shapes {sorted(shapes)}; expected one shape (use resize)")
  label, names = _shifted([d.label for d in datasets], [d.names for d in datasets],
                          [d.name for d in datasets])
  person_names = [d.person_names or (d.names if d.persons_are_labels else ()) for d in datasets]
  person, merged = _shifted([d.person for d in datasets], person_names,
                            [d.name for d in datasets])
  return FaceDataset(
      name=name, images=image_source.join([d.images for d in datasets]), label=label, person=person,
      names=names, person_names=() if np.array_equal(person, label) else merged,
      identity=np.concatenate([draws.combined(d.identities, i) for i, d in enumerate(datasets)]),
      attributes=_merged_numbers(datasets), **_merged_attributes(name, datasets))


def resize(dataset: FaceDataset, size: int) -> FaceDataset:
  """Images of `size` x `size` pixels (antialiased bilinear); landmarks and boxes scale along."""
  if size < 1:
    raise ValueError(f"{dataset.name}: resize to {size} pixels; expected at least 1")
  count, height, width, channels = dataset.images.shape
  if (height, width) == (size, size):
    return dataset
  images = image_source.changed(
      dataset.images, (size, size, channels), lambda rows: _scaled(rows, size))
  scale = np.array([size / width, size / height], np.float32)
  landmarks = None if dataset.landmarks is None else dataset.landmarks * scale
  box = None if dataset.box is None else dataset.box * np.tile(scale, 2)
  return dataclasses.replace(dataset, images=images, landmarks=landmarks, box=box)


def grayscale(dataset: FaceDataset) -> FaceDataset:
  """One channel, luma of ITU-R BT.601 (0.299 R + 0.587 G + 0.114 B), rounded."""
  if dataset.images.shape[-1] == 1:
    return dataset
  images = image_source.changed(dataset.images, (*dataset.images.shape[1:-1], 1), _luma)
  return dataclasses.replace(dataset, images=images)


def _scaled(images: np.ndarray, size: int) -> np.ndarray:
  """uint8 [n, size, size, C]."""
  channels = images.shape[-1]
  out = np.empty((len(images), size, size, channels), np.uint8)
  for row, image in enumerate(images):
    pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
    scaled = pixels.resize((size, size), Image.Resampling.BILINEAR)
    out[row] = np.asarray(scaled).reshape(size, size, channels)
  return out


def _luma(images: np.ndarray) -> np.ndarray:
  """uint8 [n, H, W, 1]."""
  weights = np.array([0.299, 0.587, 0.114], np.float32)
  return np.rint(images.astype(np.float32) @ weights).astype(np.uint8)[..., None]


def _present_arrays(dataset: FaceDataset) -> dict[str, np.ndarray]:
  """Every array with a row for an image, by field, but the images."""
  fields = ("label", "person", "identity", *ATTRIBUTES)
  return {f: getattr(dataset, f) for f in fields if getattr(dataset, f) is not None}


def check_array(source: str, field: str, array: Any, dtype: Any, shape: tuple[int | None, ...],
                count: int | None = None, free: str = "N") -> None:
  """Raises ValueError for an array of another dtype, rank, trailing shape or length.

  Args:
    source, field: for the message.
    array: what was given.
    dtype: expected.
    shape: expected after the first axis; None fits any size.
    count: expected length, None for any.
    free: letter for a size that may be any.
  """
  sizes = (count, *shape)
  expected = f"{np.dtype(dtype)} [{', '.join(free if s is None else str(s) for s in sizes)}]"
  if not isinstance(array, np.ndarray):
    raise ValueError(f"{source}: {field} is {type(array).__name__}; expected a numpy {expected}")
  fits = array.ndim == len(sizes) and all(
      s in (None, a) for s, a in zip(sizes, array.shape, strict=True))
  if not fits or array.dtype != dtype:
    raise ValueError(f"{source}: {field} is {array.dtype} {list(array.shape)}; expected {expected}")


def _check_attribute(source, name, array, count):
  """Refuses anything but one number per image under a name that is no field."""
  if name in FaceDataset.__dataclass_fields__:
    raise ValueError(f"{source}: attribute {name} is a field of its own; expected another name")
  if not (isinstance(array, np.ndarray) and array.shape == (count,) and array.dtype.kind in "iuf"):
    given = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array)
    raise ValueError(f"{source}: attribute {name} is {given}; "
                     f"expected numpy integers or floats [{count}]")


def _check_range(source, field, array, count):
  """Refuses negative numbers, and numbers without a name where names are given."""
  if array.size and array.min() < 0:
    raise ValueError(f"{source}: {field} {array.min()} is out of range; expected 0 or more")
  if count and array.size and array.max() >= count:
    raise ValueError(f"{source}: {field} {array.max()} is out of range; "
                     f"expected 0..{count - 1} ({count} names)")


def _shifted(numbers, names, sources):
  """Numbers of several sources made disjoint, and the names that go with them."""
  shifted, merged, offset = [], [], 0
  for number, known, source in zip(numbers, names, sources, strict=True):
    size = len(known) or int(number.max(initial=-1)) + 1
    shifted.append(number + np.int32(offset))
    merged += known or (f"{source}:{i}" for i in range(size))
    offset += size
  return np.concatenate(shifted).astype(np.int32), tuple(merged) if any(names) else ()


def _merged_attributes(name, datasets):
  """Optional arrays of several sources; what one source lacks is zero and unknown."""
  merged: dict[str, np.ndarray] = {}
  for field in ("landmarks", "visible", "pose", "gender", "box"):
    given = [getattr(d, field) for d in datasets if getattr(d, field) is not None]
    if not given:
      continue
    shapes = {a.shape[1:] for a in given}
    if len(shapes) > 1:
      raise ValueError(f"{name}: {field} of shapes {sorted(shapes)} per image; expected one shape")
    arrays, known = [], []
    for d in datasets:
      array, mask = getattr(d, field), getattr(d, field + "_known")
      absent = array is None
      arrays.append(np.zeros((len(d), *given[0].shape[1:]), given[0].dtype) if absent else array)
      default = np.full(len(d), not absent)
      known.append(default if mask is None or absent else mask)
    merged[field] = np.concatenate(arrays)
    if not np.concatenate(known).all():
      merged[field + "_known"] = np.concatenate(known)
  return merged


def _merged_numbers(datasets):
  """`attributes` of several sources; what one source lacks is NaN."""
  names = dict.fromkeys(name for d in datasets for name in d.attributes)
  return {name: np.concatenate([
      d.attribute(name) if name in d.attributes else np.full(len(d), np.nan) for d in datasets])
      for name in names}
