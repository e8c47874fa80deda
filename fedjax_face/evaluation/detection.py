"""From a photograph to its faces, and how many of them are found.

    proposed boxes -> scores, landmarks -> boxes from these -> scores, landmarks -> ...
    all boxes of all stages that score enough -> landmark-based suppression -> faces

Source: Ranjan, Patel, Chellappa, HyperFace, TPAMI 2017 (algorithms 1 and 2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fedjax_face.data.photographs import DETECTION, Photographs
from fedjax_face.data.regions.boxes import (
  Frame,
  box_from_eyes,
  clip_boxes,
  iou,
  paired_iou,
  to_image,
)
from fedjax_face.data.regions.cutting import crop
from fedjax_face.data.regions.proposals import Proposer
from fedjax_face.evaluation.confidence import Interval, percentiles, resample_people
from fedjax_face.models.hyperface import TaskOutputs

Predict = Callable[[np.ndarray], TaskOutputs]
"""uint8 regions [B, S, S, C] -> what a network says about them."""

BoxRule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Landmarks [N, L, 2] in pixels and their visibility [N, L] -> boxes [N, 4] in pixels."""

_LEAST_SIDE = 2.  # pixels
_NO_FACE, _UNKNOWN_FACE = -1, -2


class Candidates(NamedTuple):
  """N boxes of one photograph and what a network says about them.

  Attributes:
    box: float32 [N, 4], left, top, width, height in pixels.
    score: float32 [N], probability of a face.
    landmarks: float32 [N, L, 2], (x, y) in pixels of the photograph.
    visibility: float32 [N, L], towards 1 where a landmark is visible, else 0.
    pose: float32 [N, 3], roll, pitch, yaw in radians.
    female: float32 [N], probability.
  """

  box: np.ndarray
  score: np.ndarray
  landmarks: np.ndarray
  visibility: np.ndarray
  pose: np.ndarray
  female: np.ndarray


class Detection(NamedTuple):
  """A face; the fields are those of `Candidates`, for one."""

  box: np.ndarray
  score: float
  landmarks: np.ndarray
  visibility: np.ndarray
  pose: np.ndarray
  female: float

  def to_json(self) -> dict[str, Any]:
    """Numbers and lists under the names of the fields: pixels, radians, probabilities."""
    return {name: np.asarray(value).tolist() for name, value in self._asdict().items()}


class Matches(NamedTuple):
  """D detections on M photographs and the faces that they find.

  Attributes:
    score: float64 [D].
    photograph: int64 [D].
    face: int64 [D], row of the face that a detection finds; -1 = none, or one found already by a
      better detection; -2 = a face whose detection label is unknown, which does not count.
    faces: int64 [M], faces with a label on each photograph.
  """

  score: np.ndarray
  photograph: np.ndarray
  face: np.ndarray
  faces: np.ndarray


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
  """How candidates become faces.

  Attributes:
    size: S, side of the network's regions in pixels.
    batch_size: B, regions in a call of the network; the last batch is filled up.
    frame: coordinates of the network's landmarks, as in `RegionOptions`.
    threshold: boxes with a lower probability of a face are dropped, at every stage.
    refinements: how often boxes are made from the landmarks of the last stage and scored again.
    overlap: candidates are of one face where the tight boxes of their landmarks have a larger
      intersection over union with that of its best.
    voters: best candidates of a face of which the medians are taken.

  Raises:
    ValueError: a number is out of range, or the frame is unknown.
  """

  size: int
  batch_size: int
  frame: Frame = "corner"
  threshold: float = .5
  refinements: int = 1
  overlap: float = .3
  voters: int = 5

  def __post_init__(self):
    for field, least in (("size", 1), ("batch_size", 1), ("refinements", 0), ("voters", 1)):
      if getattr(self, field) < least:
        raise ValueError(f"{field} is {getattr(self, field)}; expected at least {least}")
    for field in ("threshold", "overlap"):
      if not 0 <= getattr(self, field) <= 1:
        raise ValueError(f"{field} is {getattr(self, field)}; expected 0 to 1")
    if self.frame not in ("corner", "centre"):
      raise ValueError(f"frame is {self.frame!r}; expected 'corner' or 'centre'")


def detect(image: np.ndarray, predict: Predict, proposer: Proposer, box_rule: BoxRule,
           options: DetectionOptions, rng: np.random.Generator) -> list[Detection]:
  """The faces of a photograph, best first; none where no box scores enough.

  Args:
    image: uint8 [H, W, C], C as the network wants it.
    predict: the network; called with [B, S, S, C] only, so that it compiles once.
    proposer: gives the first boxes.
    box_rule: makes a face's box from its landmarks, e.g. `template_rule`.
    options: sizes and thresholds.
    rng: for the proposer.

  Raises:
    ValueError: the image is not uint8 [H, W, C] with a pixel.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
    raise ValueError(f"image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, C]")
  boxes, stages = proposer(image, rng), []
  for _ in range(1 + options.refinements):
    boxes = _inside(boxes, image)
    if not len(boxes):
      break
    scored = score_boxes(image, boxes, predict, options)
    stages.append(_select(scored, scored.score >= options.threshold))
    boxes = box_rule(stages[-1].landmarks, stages[-1].visibility)
  if not stages:
    return []
  found = Candidates(*map(np.concatenate, zip(*stages, strict=True)))
  return suppress(found, options.overlap, options.voters)


def score_boxes(image: np.ndarray, boxes: np.ndarray, predict: Predict,
                options: DetectionOptions) -> Candidates:
  """What the network says about boxes [N, 4], N at least 1, that have a part inside the image."""
  outputs = predict_in_batches(predict, crop(image, boxes, options.size), options.batch_size)
  return Candidates(
      box=np.asarray(boxes, np.float32), score=_second_probability(outputs.detection),
      landmarks=to_image(np.asarray(outputs.landmarks), boxes, options.frame),
      visibility=np.asarray(outputs.visibility), pose=np.asarray(outputs.pose),
      female=_second_probability(outputs.gender))


def predict_in_batches(predict: Predict, images: np.ndarray, batch_size: int) -> TaskOutputs:
  """Outputs, in numpy, for uint8 images [N, S, S, C], N at least 1, in batches of one size.

  Raises:
    ValueError: there are no images.
  """
  if not len(images):
    raise ValueError("predict_in_batches: no images given; expected at least one")
  parts = []
  for start in range(0, len(images), batch_size):
    batch = images[start:start + batch_size]
    missing = batch_size - len(batch)
    outputs = predict(np.pad(batch, [(0, missing), (0, 0), (0, 0), (0, 0)]))
    parts.append([np.asarray(field)[:len(batch)] for field in outputs])
  return TaskOutputs(*map(np.concatenate, zip(*parts, strict=True)))  # type: ignore[arg-type]


def suppress(candidates: Candidates, overlap: float, voters: int) -> list[Detection]:
  """One detection for each face, best first.

  The best candidate and all whose tight boxes of landmarks overlap its own by more than `overlap`
  are a face, and so on with the rest. Of a face's `voters` best candidates, box, landmarks,
  visibility, pose and gender are the medians and the score is the largest.
  """
  near = candidates.landmarks.min(1)
  tight = np.concatenate([near, candidates.landmarks.max(1) - near], -1)
  faces, rest = [], np.argsort(-candidates.score, kind="stable")
  while len(rest):
    same = paired_iou(tight[rest], tight[rest[0]]) > overlap
    same[0] = True
    best = _select(candidates, rest[same][:voters])
    box, _, landmarks, visibility, pose, female = (np.median(field, axis=0) for field in best)
    faces.append(Detection(box, float(best.score[0]), landmarks, visibility, pose, float(female)))
    rest = rest[~same]
  return faces


def eyes_rule(left_eye: int, right_eye: int) -> BoxRule:
  """AFLW's box of a frontal face from the centres of its eyes (`boxes.box_from_eyes`).

  It shrinks as the head turns, and fits sets only whose boxes were made in this way.

  Args:
    left_eye: which landmark is the centre of the eye at the left of an upright image.
    right_eye: the other.
  """
  return lambda landmarks, _: box_from_eyes(landmarks[:, left_eye], landmarks[:, right_eye])


def template_rule(template: np.ndarray) -> BoxRule:
  """The square in which the landmarks lie as they do in the boxes of a training set.

  That is the scale and shift which bring the template nearest to the landmarks, in least squares
  weighted by visibility. Boxes are not a number where no two different landmarks are visible or
  the scale is not positive.

  Args:
    template: float [L, 2], mean landmarks, 0 to 1 from the upper-left corner of the box; points
      that are not a number (never visible in the training set) do not count.

  Raises:
    ValueError: the template is not [L, 2] or has fewer than two points.
  """
  template = np.asarray(template, np.float64)
  if template.ndim != 2 or template.shape[1] != 2 or np.isfinite(template).all(-1).sum() < 2:
    raise ValueError(f"template of shape {list(template.shape)}: expected [L, 2] with at least two "
                     "points that are numbers")
  known = np.isfinite(template).all(-1)
  template = np.where(known[:, None], template, 0)

  def rule(landmarks: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    weight = (known * np.clip(visibility, 0, 1))[..., None].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
      weight = weight / weight.sum(1, keepdims=True)
      middle, own_middle = ((weight * points).sum(1) for points in (landmarks, template))
      centred = template - own_middle[:, None]
      side = (weight * centred * landmarks).sum((1, 2)) / (weight * centred**2).sum((1, 2))
    side = np.where(side > 0, side, np.nan)[:, None]
    return np.concatenate([middle - side * own_middle, side, side], -1).astype(np.float32)

  return rule


# ---- how many faces are found ----


def annotated_boxes(photographs: Photographs, number: int) -> np.ndarray:
  """float32 [F, 4]: the parts of a photograph's annotated boxes that are inside it."""
  boxes = photographs.box[photographs.faces_of(number)]
  if not len(boxes):
    return boxes
  height, width = photographs.images[number].shape[:2]
  return clip_boxes(boxes, width, height)


def match_faces(detections: Sequence[Sequence[Detection]], photographs: Photographs,
                least_iou: float = .5) -> Matches:
  """Which detection finds which face, the best detections first.

  A detection takes the face that it overlaps most, of those left over, if by at least `least_iou`.
  Boxes of faces are cut to the photograph.

  Raises:
    ValueError: detections are not of M photographs.
  """
  if len(detections) != len(photographs):
    raise ValueError(f"{photographs.name}: detections of {len(detections)} photographs; "
                     f"expected {len(photographs)}")
  labelled = photographs.known[:, DETECTION]
  owners = [_owners([d.score for d in found], np.reshape([d.box for d in found], (-1, 4)),
                    annotated_boxes(photographs, number), photographs.faces_of(number).start,
                    labelled[photographs.faces_of(number)], least_iou)
            for number, found in enumerate(detections)]
  return Matches(
      score=np.array([d.score for found in detections for d in found], float),
      photograph=np.repeat(np.arange(len(detections)), [len(found) for found in detections]),
      face=np.concatenate([np.zeros(0, int), *owners]),
      faces=np.bincount(photographs.image[labelled], minlength=len(photographs)))


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> float:
  """Area under the precision-recall curve, precision made monotone; nan without labelled faces.

  Detections of equal scores are taken together, so their order does not count. Where faces in the
  background are not annotated, finding them costs precision.

  Args:
    matches: of `match_faces`, which sets the overlap (one half in the field's AP).
    weights: [M], how often each photograph counts; once by default.

  Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, all points.
  """
  weights = np.ones(len(matches.faces)) if weights is None else np.asarray(weights, float)
  faces = weights @ matches.faces
  rows = np.flatnonzero((matches.face != _UNKNOWN_FACE) & (weights[matches.photograph] > 0))
  if not faces or not len(rows):
    return 0. if faces else float("nan")
  rows = rows[np.argsort(-matches.score[rows], kind="stable")]
  weight = weights[matches.photograph[rows]]
  last = np.flatnonzero(np.diff(matches.score[rows], append=np.nan))
  true = np.cumsum(weight * (matches.face[rows] >= 0))[last]
  precision = np.maximum.accumulate((true / np.cumsum(weight)[last])[::-1])[::-1]
  return float(np.diff(true, prepend=0) @ precision / faces)


def bootstrap_average_precision(matches: Matches, resamples: int, rng: np.random.Generator,
                                level: float = .95, group: np.ndarray | None = None) -> Interval:
  """Percentile interval of the average precision when photographs are resampled.

  Args:
    matches: of M photographs.
    resamples: bootstrap resamples.
    rng: draws the photographs.
    level: coverage.
    group: int [M]; photographs of one group are drawn together. Each by itself by default.
  """
  return percentiles(resampled_average_precision(matches, resamples, rng, group), level)


def resampled_average_precision(matches: Matches, resamples: int, rng: np.random.Generator,
                                group: np.ndarray | None = None) -> np.ndarray:
  """The average precision in every resample of `bootstrap_average_precision`: [resamples]."""
  names, dense = np.unique(np.arange(len(matches.faces)) if group is None else group,
                           return_inverse=True)
  return np.array([average_precision(matches, weights[dense])
                   for weights in resample_people(len(names), resamples, rng)])


def _inside(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
  """The parts of boxes inside an image, without those of hardly any size or not finite."""
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  height, width = image.shape[:2]
  boxes = clip_boxes(boxes[np.isfinite(boxes).all(-1)], width, height)
  return boxes[(boxes[:, 2:] >= min(_LEAST_SIDE, height, width)).all(-1)]


def _select(candidates: Candidates, rows: np.ndarray) -> Candidates:
  return Candidates(*(field[rows] for field in candidates))


def _second_probability(logits: ArrayLike) -> np.ndarray:
  """Probability float32 [N] of the second of two classes."""
  logits = np.asarray(logits, np.float32)
  return scipy.special.expit(logits[:, 1] - logits[:, 0])


def _owners(scores: Sequence[float], boxes: np.ndarray, faces: np.ndarray, first: int,
            labelled: np.ndarray, least_iou: float) -> np.ndarray:
  """`Matches.face` of one photograph's detections; its faces are rows `first` and on."""
  owner = np.full(len(boxes), _NO_FACE)
  overlap = iou(boxes, faces)
  free = labelled.copy()
  for row in np.argsort(-np.asarray(scores), kind="stable") if len(faces) else ():
    reach = np.where(free, overlap[row], -1)
    if reach.max() >= least_iou:
      free[reach.argmax()] = False
      owner[row] = first + reach.argmax()
    elif np.where(labelled, -1, overlap[row]).max() >= least_iou:
      owner[row] = _UNKNOWN_FACE
  return owner
