"""Readers of photographs with face annotation from TensorFlow Datasets, without TensorFlow.

A set must have been prepared with random access (`tfds_source.prepare_command`). What it does not
say is unknown in `Photographs.known`. Landmarks are the 21 of AFLW in the order of
`rendering.landmarks.LANDMARK_NAMES`. Photographs are decoded when they are asked for: celeb_a and
the300w_lp would fill tens of gigabytes.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, Photographs
from fedjax_face.data.readers import tfds_source
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, settle
from fedjax_face.data.readers.face_tasks import (
  LARGEST_ANGLE,
  LFW_POINTS,
  POINTS,
  one_face_each,
  square_on_chin,
)
from fedjax_face.data.readers.image_decoder import check_whole, decode_image, image_size
from fedjax_face.data.regions.boxes import box_from_eyes
from fedjax_face.draws import identity_of

Records = Sequence[Mapping[str, Any]]
"""Records of a TFDS data source whose images are still encoded."""

_CELEB_A_POINTS = {"lefteye": "left_eye", "righteye": "right_eye", "nose": "nose",
                   "leftmouth": "mouth_left", "rightmouth": "mouth_right"}
_SIDE_300W_LP = 450  # pixels; its landmarks are shares of it

POINTS_OF_68: Mapping[int, tuple[int, ...]] = {
    0: (17,), 1: (19,), 2: (21,), 3: (22,), 4: (24,), 5: (26,),
    6: (36,), 7: (36, 37, 38, 39, 40, 41), 8: (39,),
    9: (42,), 10: (42, 43, 44, 45, 46, 47), 11: (45,),
    14: (30,), 17: (48,), 18: (62, 66), 19: (54,), 20: (8,)}
"""Which of the 68 points (numbered from 0) have AFLW's point as their mean.

The ears and the wings of the nose (12, 13, 15, 16) are not among the 68.
"""


class EncodedPhotographs(Sequence[np.ndarray]):
  """Images that are decoded when they are asked for: uint8 [H, W, 3].

  Args:
    names: of the images, for messages.
    read: the bytes of image number i; must be safe to call from several threads.
    upright: turned as EXIF says; False: as stored, where boxes and landmarks were marked so.

  Raises:
    ValueError: when an image that is asked for cannot be decoded.
  """

  def __init__(self, names: Sequence[str], read: Callable[[int], bytes], upright: bool = False):
    self._names, self._read, self._upright = tuple(names), read, upright

  def __len__(self) -> int:
    return len(self._names)

  @property
  def names(self) -> tuple[str, ...]:
    """Of each image, for messages and identities."""
    return self._names

  def __getitem__(self, number):
    name = self._names[number]
    try:
      return decode_image(self._read(range(len(self))[number]), upright=self._upright)
    except (ValueError, OSError) as error:
      raise ValueError(f"{name}: {error}") from None

  def size_of(self, number: int) -> tuple[int, int]:
    """(width, height) from the header of an image."""
    return image_size(self._read(number), upright=self._upright)

  def select(self, numbers: Sequence[int] | np.ndarray) -> EncodedPhotographs:
    """Some of the images, still encoded."""
    chosen = [int(number) for number in numbers]
    return EncodedPhotographs([self._names[i] for i in chosen], lambda i: self._read(chosen[i]),
                              self._upright)


def read_tfds_photographs(name: str, *, split: str = "train",
                          data_dir: str | pathlib.Path | None = None, limit: int | None = None,
                          on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """Reads one split of a prepared TFDS data set.

  Args:
    name: one of `READERS`: 'celeb_a', 'the300w_lp', or 'aflw' (built by `aflw_builder.prepare`).
    split: TFDS split, slices such as 'train[:100]' included.
    data_dir: where TFDS keeps its data; None = its default.
    limit: only the first so many photographs.
    on_bad: 'skip' leaves out photographs that cannot be used and warns, 'refuse' raises.

  Raises:
    FileNotFoundError: the data set is not prepared; the message says how to prepare it.
    ValueError: no such data set or split, or a bad photograph and `on_bad` is 'refuse'.
  """
  if name not in READERS:
    raise ValueError(f"{name} is no TFDS data set of photographs with faces; "
                     f"expected {', '.join(READERS)}")
  if name == "aflw":
    from fedjax_face.data.readers import aflw_builder  # noqa: F401  registers the name with TFDS
  try:
    builder = tfds_source.prepared_builder(name, data_dir)
  except FileNotFoundError:
    if name != "aflw":
      raise
    raise FileNotFoundError(
        f"aflw is not prepared in {data_dir or 'the default folder of TFDS'}; build it with "
        "fedjax_face.data.readers.aflw_builder.prepare(manual_dir, data_dir)") from None
  only_images = tfds_source.FeatureNames(label=tfds_source.EACH_IMAGE,
                                         person=tfds_source.EACH_IMAGE)
  records = tfds_source.encoded_records(builder, name, split, data_dir, only_images)
  return READERS[name](records, limit=limit, on_bad=on_bad)


def celeb_a_photographs(records: Records, *, limit: int | None = None,
                        on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """CelebA: box, five landmarks, gender, person.

  The photographs are the set's aligned ones, 178 x 218 pixels, which show more than the face. The
  box follows from the eyes (`boxes.box_from_eyes`). Of the 21 landmarks five have a place; the
  others are not visible, and visibility itself is unknown.

  Args:
    records: with `image`, `landmarks` (lefteye_x, ...: left is that of the image), `attributes`
      (Male) and `identity` (Identity_No).
    limit: only the first so many records.
    on_bad: 'skip' leaves out records that are no whole image or have both eyes in one place and
      warns, 'refuse' raises.

  Raises:
    ValueError: no record can be used, or a bad one and `on_bad` is 'refuse'.

  Source: Liu, Luo, Wang, Tang, Deep Learning Face Attributes in the Wild, ICCV 2015.
  """
  def check(record: Mapping[str, Any]) -> None:
    at = record["landmarks"]
    if (at["lefteye_x"], at["lefteye_y"]) == (at["righteye_x"], at["righteye_y"]):
      raise ValueError("both eyes in one place")

  images, kept, report = _usable("celeb_a", records, limit, on_bad, check)
  landmarks, visible = np.zeros((len(kept), POINTS, 2)), np.zeros((len(kept), POINTS), bool)
  for feature, point in _CELEB_A_POINTS.items():
    column = LFW_POINTS[point]
    landmarks[:, column] = [[record["landmarks"][f"{feature}_{axis}"] for axis in "xy"]
                            for record in kept]
    visible[:, column] = True
  box = box_from_eyes(landmarks[:, LFW_POINTS["left_eye"]], landmarks[:, LFW_POINTS["right_eye"]])
  person = np.unique([int(record["identity"]["Identity_No"]) for record in kept],
                     return_inverse=True)[1]
  return one_face_each(
      "celeb_a", images, identity=identity_of(images.names), box=box, visible=visible,
      landmarks=_placed(landmarks, visible, box), person=person.astype(np.int32),
      gender=np.array([not record["attributes"]["Male"] for record in kept]),
      known={DETECTION: True, LANDMARKS: True, GENDER: True}), report


def the300w_lp_photographs(records: Records, *, limit: int | None = None,
                           on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """300W-LP: box, landmarks, pose; gender is unknown.

  The set turns each of its photographs to several poses. Those views have one shape of the face,
  and are one photograph (`original`) and one person here, so that neither a split nor the privacy
  unit cuts through them; whether two photographs show one person the set does not say. Of the 21
  landmarks 17 follow from the 68 (`POINTS_OF_68`), where the fitted head has them, be they hidden
  or not; the others are not visible, and visibility itself is unknown. The box is that of
  `face_tasks.read_aflw2000`, and poses with an angle beyond 99 degrees are unknown, as there.

  Args:
    records: with `image`, `landmarks_3d` [68, 2] (shares of 450 pixels), `pose_params` [7] (pitch,
      yaw, roll in radians first) and `shape_params`.
    limit: only the first so many records.
    on_bad: 'skip' leaves out records that are no whole image or have points or angles that are no
      finite numbers or a box without a size or outside the image, and warns, 'refuse' raises.

  Raises:
    ValueError: no record can be used, or a bad one and `on_bad` is 'refuse'.

  Source: Zhu et al., Face Alignment Across Large Poses, CVPR 2016.
  """
  def check(record: Mapping[str, Any]) -> None:
    points = _SIDE_300W_LP * np.asarray(record["landmarks_3d"], float)
    if not (np.isfinite(points).all() and np.isfinite(record["pose_params"][:3]).all()):
      raise ValueError("a landmark or an angle is not a finite number")
    (left, top), (right, bottom) = points.min(0), points.max(0)
    if min(right - left, bottom - top) <= 0:
      raise ValueError("all landmarks are on one line")
    if min(right, bottom) <= 0 or max(left, top) >= _SIDE_300W_LP:
      raise ValueError("the face is outside the image")

  images, kept, report = _usable("the300w_lp", records, limit, on_bad, check)
  of_68 = _SIDE_300W_LP * np.array([record["landmarks_3d"] for record in kept], float)
  landmarks, visible = np.zeros((len(kept), POINTS, 2)), np.zeros((len(kept), POINTS), bool)
  for column, points in POINTS_OF_68.items():
    landmarks[:, column] = of_68[:, points].mean(1)
    visible[:, column] = True
  box = square_on_chin(np.concatenate([of_68.min(1), of_68.max(1)], -1))
  pose = np.array([record["pose_params"][:3] for record in kept], float)[:, [2, 0, 1]]
  person = np.unique(np.array([record["shape_params"] for record in kept]), axis=0,
                     return_inverse=True)[1].reshape(-1)
  return one_face_each(
      "the300w_lp", images, identity=identity_of(images.names), box=box, visible=visible,
      pose=pose,
      landmarks=_placed(landmarks, visible, box), person=person.astype(np.int32),
      persons_known=False, original=person.astype(np.int32),
      known={DETECTION: True, LANDMARKS: True,
             POSE: (np.abs(pose) <= np.deg2rad(LARGEST_ANGLE)).all(-1)}), report


def aflw_photographs(records: Records, *, limit: int | None = None,
                     on_bad: OnBad = "skip") -> tuple[Photographs, ReadReport]:
  """AFLW as `aflw_builder.prepare` built it: what `aflw_builder.read_aflw` reads, in TFDS's order.

  Args:
    records: with `image` and `faces`, which has the fields of `Photographs` that are of faces.
    limit: only the first so many records.
    on_bad: 'skip' leaves out records that are no whole image and warns, 'refuse' raises.

  Raises:
    ValueError: no record can be used, or a bad one and `on_bad` is 'refuse'.
  """
  images, kept, report = _usable("aflw", records, limit, on_bad, lambda record: None)
  faces = [record["faces"] for record in kept]
  fields = {field: np.concatenate([np.asarray(one[field]) for one in faces])
            for field in ("person", "box", "landmarks", "visible", "pose", "gender", "known")}
  number = np.repeat(np.arange(len(kept), dtype=np.int32), [len(one["box"]) for one in faces])
  return Photographs(
      name="aflw", images=images, image=number, persons_known=False,
      identity=identity_of(images.names), **fields), report


READERS: Mapping[str, Callable[..., tuple[Photographs, ReadReport]]] = {
    "celeb_a": celeb_a_photographs, "the300w_lp": the300w_lp_photographs, "aflw": aflw_photographs}


def _usable(name: str, records: Records, limit: int | None, on_bad: OnBad,
            check: Callable[[Mapping[str, Any]], None],
            ) -> tuple[EncodedPhotographs, list[dict[str, Any]], ReadReport]:
  """Images and annotation of the records that are whole images and pass the check."""
  check_on_bad(on_bad)
  rows, kept, skipped = [], [], []
  for row in range(len(records) if limit is None else min(limit, len(records))):
    try:
      record = tfds_source.record_of(records, row)
      check_whole(record["image"])
      check(record)
    except ValueError as error:
      skipped.append((f"record {row}", str(error)))
      continue
    rows.append(row)
    kept.append({feature: value for feature, value in record.items() if feature != "image"})
  report = settle(ReadReport(name, skipped=tuple(skipped)), on_bad)
  if not kept:
    raise ValueError(f"{name}: no usable record among {len(skipped)}")
  images = EncodedPhotographs([f"{name}: record {row}" for row in rows],
                         lambda number: tfds_source.record_of(records, rows[number])["image"])
  return images, kept, report


def _placed(landmarks: np.ndarray, visible: np.ndarray, box: np.ndarray) -> np.ndarray:
  """The landmarks, those without a place in the middle of the box."""
  middle = (box[:, :2] + .5 * box[:, 2:])[:, None]
  return np.where(visible[..., None], landmarks, middle)
