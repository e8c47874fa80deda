"""Labelled candidate regions, cut out of photographs and resized: what HyperFace trains on.

Sources: Ranjan, Patel, Chellappa, HyperFace, TPAMI 2017, section 3.2; Zhang et al., DPLH, 2020.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fedjax_face.data.photographs import DETECTION, LANDMARKS, Photographs
from fedjax_face.data.regions.boxes import Frame, clip_boxes, iou, to_region
from fedjax_face.data.regions.proposals import Proposer, jittered_boxes, parts_of_boxes
from fedjax_face.draws import Draws, combined, part_identities, smallest_by_group


class Regions(NamedTuple):
  """N regions of one size and their labels; a photograph's regions are neighbours.

  Attributes:
    images: uint8 [N, S, S, C].
    image: int32 [N], the photograph that a region comes from, ascending.
    person: int32 [N], whose face it is; -1 = no face.
    box: float32 [N, 4], left, top, width, height in pixels of the photograph.
    face: int32 [N], 1 = a face, 0 = none.
    landmarks: float32 [N, L, 2], in the region's frame; 0 where there is no face.
    visible: bool [N, L]; False outside the region.
    pose: float32 [N, 3], roll, pitch, yaw in radians.
    gender: int32 [N], 1 = female.
    known: bool [N, 5], tasks that apply and have a label; regions without a face: detection only.
    original: int32 [N], equal for regions of one photograph or of views made of it.
    identity: uint64 [N], that of the photograph.
  """

  images: np.ndarray
  image: np.ndarray
  person: np.ndarray
  box: np.ndarray
  face: np.ndarray
  landmarks: np.ndarray
  visible: np.ndarray
  pose: np.ndarray
  gender: np.ndarray
  known: np.ndarray
  original: np.ndarray
  identity: np.ndarray


_PARTS_PER_WANTED = 3  # candidates for each part of a face that is wanted; some overlap too much


@dataclasses.dataclass(frozen=True)
class RegionOptions:
  """Which candidates become regions.

  Attributes:
    size: S, side of the resized regions in pixels.
    positives_per_face: at most so many regions of a face.
    negatives_per_image: at most so many regions without a face.
    jittered_per_face: boxes near each face that join the proposer's candidates; 0 = none, and a
      face that the proposer misses has no region.
    parts_per_face: at most so many regions without a face that show a part of one.
    frame: coordinates of the landmarks, 'corner' (DPLH) or 'centre' (HyperFace).
    positive_iou: a candidate that overlaps a face by more than this is that face.
    negative_iou: a candidate that overlaps every face by less than this is none; between, ignored.

  Raises:
    ValueError: a number is out of range.
  """

  size: int
  positives_per_face: int
  negatives_per_image: int
  jittered_per_face: int
  parts_per_face: int = 0
  frame: Frame = "corner"
  positive_iou: float = .5
  negative_iou: float = .35

  def __post_init__(self):
    for field, least in (("size", 1), ("positives_per_face", 0), ("negatives_per_image", 0),
                         ("jittered_per_face", 0), ("parts_per_face", 0)):
      if getattr(self, field) < least:
        raise ValueError(f"{field} is {getattr(self, field)}; expected at least {least}")
    if not 0 < self.negative_iou <= self.positive_iou <= .95:
      raise ValueError(f"negative_iou is {self.negative_iou}, positive_iou {self.positive_iou}; "
                       "expected 0 < negative_iou <= positive_iou <= 0.95")


def assign(candidates: np.ndarray, faces: np.ndarray, positive_iou: float,
           negative_iou: float) -> np.ndarray:
  """Which face each candidate is.

  Args:
    candidates: [P, 4].
    faces: [F, 4], F may be 0.
    positive_iou: more than this overlap with the best face: that face.
    negative_iou: less than this overlap with every face: no face.

  Returns:
    int64 [P]: row of the face, -1 = no face, -2 = between the two, to be ignored.
  """
  if not len(faces):
    return np.full(len(candidates), -1)
  overlap = iou(candidates, faces)
  best = overlap.max(-1)
  return np.where(best > positive_iou, overlap.argmax(-1), np.where(best < negative_iou, -1, -2))


def extract_regions(photographs: Photographs, proposer: Proposer, options: RegionOptions,
                    draws: Draws) -> Regions:
  """Cuts labelled regions out of photographs.

  A face's box is cut to the photograph before it is compared, so a face at the border is found by
  what is inside. Where faces are not annotated (people in the background), a region without an
  annotated face is not known to be empty: use negatives_per_image=0 there.

  Args:
    photographs: M photographs of C channels; ones without a face give negatives only.
    proposer: gives the candidates.
    options: which of them become regions.
    draws: give each photograph a generator of its own, from its identity: its regions depend on
      neither its number nor the others.

  Returns:
    Regions; landmarks are known where at least one is visible inside the region.

  Raises:
    ValueError: a face's box is outside its photograph, or no photograph gives a region.
  """
  def cut(number: int) -> Regions:
    own = draws.generator(photographs.identities[number], "regions")
    return _regions_of(photographs, number, proposer, options, own)

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    parts = [part for part in pool.map(cut, range(len(photographs))) if len(part.image)]
  if not parts:
    raise ValueError(f"{photographs.name}: no region from {len(photographs)} photographs; "
                     "expected more candidates or faces")
  return Regions(*map(np.concatenate, zip(*parts, strict=True)))


def crop(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
  """Boxes of one image, each stretched to `size` x `size` pixels (antialiased bilinear).

  The filter sees the pixels just outside a box where the image has them.

  Args:
    image: uint8 [H, W, C], C 1 or 3.
    boxes: float [N, 4] inside the image; parts outside are cut off.
    size: S.

  Returns:
    uint8 [N, S, S, C].

  Raises:
    ValueError: a box has no part inside the image.
  """
  height, width, channels = image.shape
  inside = clip_boxes(boxes, width, height).astype(np.float64)
  empty = np.flatnonzero((inside[:, 2:] <= 0).any(-1))
  if empty.size:
    raise ValueError(f"box {np.asarray(boxes)[empty[0]].tolist()} is outside the image of "
                     f"{width} x {height} pixels")
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  out = np.empty((len(inside), size, size, channels), np.uint8)
  for i, (left, top, wide, high) in enumerate(inside):
    area = (left, top, min(left + wide, width), min(top + high, height))
    part = picture.resize((size, size), Image.Resampling.BILINEAR, box=area)
    out[i] = np.asarray(part).reshape(size, size, channels)
  return out


def face_boxes(regions: Regions, photographs: Photographs) -> np.ndarray:
  """float32 [N, 4]: the annotated box of each region's face; a region without one has its own.

  Args:
    regions: cut out of `photographs` by `extract_regions`.
    photographs: their photographs, with the same numbers.
  """
  boxes = regions.box.copy()
  positive = regions.face == 1
  for number in np.unique(regions.image[positive]):
    rows = np.flatnonzero(positive & (regions.image == number))
    size = photographs.size_of(number)
    overlap = iou(regions.box[rows], _inside(photographs, number, *size))
    boxes[rows] = photographs.box[photographs.faces_of(number)][overlap.argmax(-1)]
  return boxes


def select(regions: Regions, rows: np.ndarray) -> Regions:
  """The regions of `rows` (integers or a mask); numbers of photographs and persons stay."""
  return Regions(*(field[rows] for field in regions))


def of_photographs(regions: Regions, images: np.ndarray) -> Regions:
  """The regions of some photographs, for the sides of a split (`photographs.split_by_person`)."""
  return select(regions, np.isin(regions.image, images))


def units_of(regions: Regions, unit: str) -> np.ndarray:
  """int [N], the privacy unit that each region belongs to.

  Args:
    regions: N regions.
    unit: `image`: all regions of a photograph and of the views made of it; `region`: each by
      itself; `person`: all regions of all photographs of a person.

  Raises:
    ValueError: another unit, or `person` where a photograph shows several people or nobody.
  """
  if unit == "image":
    return regions.original
  if unit == "region":
    return np.arange(len(regions.image))
  if unit != "person":
    raise ValueError(f"unit {unit!r} is not one of image, region, person")
  shown = np.unique(np.stack([regions.image, regions.person])[:, regions.person >= 0], axis=1)
  count = np.bincount(shown[0], minlength=int(regions.image.max()) + 1)
  wrong = np.flatnonzero(count[np.unique(regions.image)] != 1)
  if wrong.size:
    number = np.unique(regions.image)[wrong[0]]
    raise ValueError(f"photograph {number} shows {count[number]} people in its regions; "
                     "unit=person needs photographs of one person each")
  person_of = np.zeros(len(count), int)
  person_of[shown[0]] = shown[1]
  return person_of[regions.image]


def unit_identities(regions: Regions, unit: str) -> np.ndarray:
  """uint64 [N], the stable identity of the unit (`units_of`) that each region belongs to.

  A region's is made of its photograph's and its box. A photograph's, or a person's, is the
  smallest of all its photographs: these come and go with it alone.
  """
  if unit == "region":
    words = np.ascontiguousarray(regions.box, np.float32).view(np.uint64)
    return part_identities(combined(combined(regions.identity, words[:, 0]), words[:, 1]))
  groups = np.unique(units_of(regions, unit), return_inverse=True)[1]
  return smallest_by_group(regions.identity, groups)[groups]


def mixture(sources: Sequence[Regions]) -> Regions:
  """All regions of several sources, whose photographs and persons are taken as different ones.

  A photograph's identity is combined with its source's place in the list.

  Raises:
    ValueError: no sources, or they differ in size, channels or number of landmarks.
  """
  if not sources:
    raise ValueError("mixture: no sources given; expected at least one")
  shapes = {(s.images.shape[1:], s.landmarks.shape[1]) for s in sources}
  if len(shapes) > 1:
    raise ValueError(f"mixture: regions of (shape, landmarks) {sorted(shapes)}; expected one kind")
  shifted, image, person, original = [], 0, 0, 0
  for place, source in enumerate(sources):
    shifted.append(source._replace(
        identity=combined(source.identity, place),
        image=source.image + np.int32(image), original=source.original + np.int32(original),
        person=np.where(source.person < 0, -1, source.person + person).astype(np.int32)))
    image += int(source.image.max(initial=-1)) + 1
    person += int(source.person.max(initial=-1)) + 1
    original += int(source.original.max(initial=-1)) + 1
  return Regions(*map(np.concatenate, zip(*shifted, strict=True)))


def _regions_of(photographs: Photographs, number: int, proposer: Proposer,
                options: RegionOptions, rng: np.random.Generator) -> Regions:
  """The regions of one photograph, positives before negatives."""
  image = photographs.images[number]
  faces = photographs.faces_of(number)
  truth = _inside(photographs, number, image.shape[1], image.shape[0])
  size = image.shape[1], image.shape[0]
  whole = np.concatenate([
      jittered_boxes(truth, options.jittered_per_face, *size, options.positive_iou, rng),
      proposer(image, rng)])
  candidates = np.concatenate(
      [whole, parts_of_boxes(truth, _PARTS_PER_WANTED * options.parts_per_face, *size, rng)])
  owner = assign(candidates, truth, options.positive_iou, options.negative_iou)
  proposed = np.arange(len(candidates)) < len(whole)
  wanted = [(proposed & (owner == face), options.positives_per_face) for face in range(len(truth))]
  wanted += [(proposed & (owner == -1), options.negatives_per_image),
             (~proposed & (owner == -1), options.parts_per_face * len(truth))]
  rows = np.concatenate([_sample(np.flatnonzero(chosen), count, rng) for chosen, count in wanted])
  return _labelled(photographs, number, candidates[rows], faces.start + owner[rows],
                   owner[rows] >= 0, crop(image, candidates[rows], options.size), options.frame)


def _inside(photographs: Photographs, number: int, width: int, height: int) -> np.ndarray:
  """Boxes of a photograph's faces cut to the photograph, which must leave something."""
  boxes = photographs.box[photographs.faces_of(number)]
  truth = clip_boxes(boxes, width, height)
  outside = np.flatnonzero((truth[:, 2:] <= 0).any(-1))
  if outside.size:
    raise ValueError(f"{photographs.name}: the box {boxes[outside[0]].tolist()} is outside "
                     f"photograph {number} of {width} x {height} pixels")
  return truth


def _sample(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """At most `count` of `rows`, in their order."""
  return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def _labelled(photographs: Photographs, number: int, boxes: np.ndarray, face: np.ndarray,
              positive: np.ndarray, images: np.ndarray, frame: Frame) -> Regions:
  """Regions with the labels of their faces; `face` counts only where `positive`."""
  count, points = len(boxes), photographs.num_landmarks
  on_face = face[positive]
  landmarks, visible = np.zeros((count, points, 2), np.float32), np.zeros((count, points), bool)
  pose, known = np.zeros((count, 3), np.float32), np.zeros((count, 5), bool)
  person, gender = np.full(count, -1, np.int32), np.zeros(count, np.int32)
  corner = to_region(photographs.landmarks[on_face], boxes[positive], "corner")
  inside = ((corner >= 0) & (corner <= 1)).all(-1)
  landmarks[positive] = to_region(photographs.landmarks[on_face], boxes[positive], frame)
  visible[positive] = photographs.visible[on_face] & inside
  pose[positive], gender[positive] = photographs.pose[on_face], photographs.gender[on_face]
  person[positive], known[positive] = photographs.person[on_face], photographs.known[on_face]
  known[~positive, DETECTION] = True
  known[:, LANDMARKS] &= visible.any(-1)
  original = np.full(count, photographs.originals[number], np.int32)
  return Regions(images, np.full(count, number, np.int32), person, boxes.astype(np.float32),
                 positive.astype(np.int32), landmarks, visible, pose, gender, known, original,
                 np.full(count, photographs.identities[number], np.uint64))
