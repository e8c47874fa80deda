"""What is known of a data set without its pixels: all that a method is bound to.

Who is there, who has how many images of which label, what groups people, and shapes. What comes
from pixels is a run's state, or comes from a public set. Facts are small, and lie beside a run
(`runs.inputs`), so that it can be used where its images are not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedjax_face.data.dataset import ATTRIBUTES, FaceDataset
from fedjax_face.data.image_source import ImageSource
from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions.cutting import Regions
from fedjax_face.data.regions.sources import RegionSet

_KEPT = ("gender", "gender_known")  # of the attributes of an image: what a partition may go by
_OF_REGIONS = ("image", "person", "box", "face", "known", "original", "identity")
_LANDMARKS, _NAMES, _FRAME = "landmarks", "names", "frame"


class UnseenImages(ImageSource):
  """Images of which only the shape is known; whoever asks for pixels is refused.

  Args:
    shape: (N, H, W, C).

  Raises:
    ValueError: when pixels are asked for.
  """

  def __init__(self, shape: tuple[int, ...]) -> None:
    count, height, width, channels = shape
    self.shape = (count, height, width, channels)

  def rows(self, index: np.ndarray) -> np.ndarray:
    """Refuses."""
    raise ValueError("pixels of the training set are not facts: a method is bound to who has how "
                     "many images of which shape; compute what needs pixels in `Algorithm.look` or "
                     "in a step, or take it from the public set")


class ImagesWhenAsked(UnseenImages):
  """Images that are read when one of them is first asked for.

  Args:
    shape: (N, H, W, C).
    read: () -> uint8 [N, H, W, C].
  """

  def __init__(self, shape: tuple[int, ...], read: Callable[[], Any]) -> None:
    super().__init__(shape)
    self._read = read

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    return self._whole[index]

  @functools.cached_property
  def _whole(self) -> Any:
    return self._read()


def facts(known: Any) -> Any:
  """A FaceDataset or a RegionSet with `UnseenImages`; facts of facts are the same.

  Of an image, label, person, gender and `attributes` stay; of a region, whose face it is, where it
  is and which photograph it is from, while landmarks and the like keep their shapes alone.
  """
  unseen: Any = UnseenImages(known.images.shape)
  if isinstance(known, FaceDataset):
    gone: dict[str, Any] = {field: None for field in ATTRIBUTES if field not in _KEPT}
    return dataclasses.replace(known, images=unseen, **gone)
  kept = {field: getattr(known.regions, field) for field in _OF_REGIONS}
  sources = [(source.name, source.persons_known) for source in known.photographs]
  return _region_set(known.name, unseen, kept, known.regions.landmarks.shape[1], sources,
                     known.frame)


def packed(known: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Facts as arrays, and what is beside them as JSON holds it; `unpacked` turns them back."""
  said = {"name": known.name, "image_shape": list(known.images.shape[1:]),
          "images": len(known.images)}
  if isinstance(known, FaceDataset):
    persons, first = np.unique(known.person, return_index=True)
    identity = known.identities[first]
    arrays = {"label": known.label, "person": known.person, "persons": persons,
              "identity": identity, _NAMES: np.asarray(known.names, np.str_),
              "person_names": np.asarray(known.person_names, np.str_)}
    arrays |= {field: value for field in _KEPT if (value := getattr(known, field)) is not None}
    return arrays | {f"attributes/{name}": value for name, value in known.attributes.items()}, said
  regions = known.regions
  sources = [[source.name, bool(source.persons_known)] for source in known.photographs]
  return ({field: getattr(regions, field) for field in _OF_REGIONS},
          said | {_LANDMARKS: regions.landmarks.shape[1], _FRAME: known.frame, "sources": sources})


def unpacked(arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> Any:
  """The facts that `packed` made these of.

  Raises:
    ValueError, KeyError: arrays that are not of facts.
  """
  unseen: Any = UnseenImages((said["images"], *said["image_shape"]))
  if _FRAME in said:
    return _region_set(said["name"], unseen, arrays, said[_LANDMARKS], said["sources"],
                       said[_FRAME])
  row = np.searchsorted(arrays["persons"], arrays["person"])
  return FaceDataset(
      said["name"], unseen, arrays["label"], arrays["person"],
      names=tuple(map(str, arrays[_NAMES])), identity=arrays["identity"][row],
      person_names=tuple(map(str, arrays["person_names"])),
      attributes={name.removeprefix("attributes/"): value for name, value in arrays.items()
                  if name.startswith("attributes/")},
      **{field: arrays[field] for field in _KEPT if field in arrays})


def _region_set(name: str, images: Any, kept: Mapping[str, np.ndarray], landmarks: int,
                sources: Any, frame: Any) -> RegionSet:
  """Regions whose labels are zero, without memory of their own, and sources without photographs."""
  count = len(images)
  zero = lambda kind, *shape: np.broadcast_to(np.zeros((), kind), (count, *shape))
  regions = Regions(
      images=images, landmarks=zero(np.float32, landmarks, 2),
      visible=zero(np.bool_, landmarks), pose=zero(np.float32, 3), gender=zero(np.int32),
      **{field: kept[field] for field in _OF_REGIONS})
  return RegionSet(name, regions, kept["box"],
                   tuple(_no_photographs(of, known, landmarks) for of, known in sources), frame)


def _no_photographs(name: str, persons_known: bool, landmarks: int) -> Photographs:
  """A source of which only the name, and whether it says who is who, are known."""
  empty = lambda kind, *shape: np.zeros((0, *shape), kind)
  return Photographs(
      name, (), empty(np.int32), empty(np.int32), empty(np.float32, 4),
      empty(np.float32, landmarks, 2), empty(np.bool_, landmarks), empty(np.float32, 3),
      empty(np.int32), empty(np.bool_, 5), persons_known=persons_known)
