"""Scores of the five face tasks, beside those of the best constant, with intervals.

A score is a number for each region or face where the task applies; a metric is its mean. Regions of
one photograph are not independent, so intervals and tests are over photographs.

Source of the tasks and masks: Ranjan, Patel, Chellappa, TPAMI 2017; Zhang et al., Frontiers in
Neurorobotics 13:112, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY, Photographs
from fedjax_face.data.regions.boxes import to_region
from fedjax_face.data.regions.cutting import Regions
from fedjax_face.evaluation.confidence import (
  Equivalence,
  bootstrap_mean,
  percentiles,
  resampled_mean,
  tost,
)
from fedjax_face.evaluation.detection import Detection, Predict, match_faces
from fedjax_face.losses.multi_task import Targets
from fedjax_face.models.hyperface import TaskOutputs

HIGHER_IS_BETTER = frozenset({"detection_accuracy", "detection_recall", "visibility_accuracy",
                              "gender_accuracy"})
"""The other metrics are errors."""


class Score(NamedTuple):
  """A number for each row where a task applies: rows int64 [Q], ascending; values float64 [Q]."""

  rows: np.ndarray
  values: np.ndarray


class Metric(NamedTuple):
  """The mean of a score, and how much better it is than that of a constant predictor.

  Attributes:
    value: mean over rows.
    low, high: its interval.
    constant: mean of the constant predictor on the same rows.
    gain: value - constant, or the reverse for errors; above 0 = better than the constant.
    gain_low, gain_high: its interval.
    rows: Q.
    groups: photographs (or people) that are resampled.
    draws: value in every resample, float64 [R].
  """

  value: float
  low: float
  high: float
  constant: float
  gain: float
  gain_low: float
  gain_high: float
  rows: int
  groups: int
  draws: np.ndarray


# ---- scores ----


def region_scores(outputs: TaskOutputs, regions: Regions,
                  face_box: np.ndarray) -> dict[str, Score]:
  """Scores of regions; a task that applies to no region is left out.

      detection_accuracy, gender_accuracy   0 or 1
      landmark_nme          mean distance over visible points / sqrt(w h) of the face's box
      landmark_mse          mean squared error of the coordinates of visible points, region's frame
      visibility_accuracy   share of the L points on the right side of one half
      visibility_mse        mean over L points
      roll_mae, pitch_mae, yaw_mae   degrees
      pose_mse              mean over the three angles, radians squared

  All but detection are of faces with a known label. Where a prediction is not a number, neither
  is its score.

  Args:
    outputs: of a network for the N regions.
    regions: N regions.
    face_box: [N, 4], the whole face's box (`regions.face_boxes`); counts for faces only.

  Raises:
    ValueError: outputs are not of N regions.
  """
  if len(outputs.detection) != len(regions.face):
    raise ValueError(f"outputs of {len(outputs.detection)} regions, {len(regions.face)} regions "
                     "given; expected the same number")
  return _scores(outputs, regions, regions.box[:, 2:], np.asarray(face_box)[:, 2:])


def found_face_scores(detections: Sequence[Sequence[Detection]], photographs: Photographs,
                      least_iou: float = .5) -> dict[str, Score]:
  """Scores of whole detections, a row for each annotated face of the photographs.

  `detection_recall` is 1 where a face is found and 0 where not; the others are those of
  `region_scores` for the faces found, with the face's annotated box as the region.

  Args:
    detections: of each of the M photographs.
    photographs: F faces.
    least_iou: a detection finds a face that it overlaps at least so much.

  Raises:
    ValueError: detections are not of M photographs.
  """
  matches = match_faces(detections, photographs, least_iou)
  labelled = np.flatnonzero(photographs.known[:, DETECTION])
  recall = {"detection_recall": Score(labelled, np.isin(labelled, matches.face).astype(float))}
  every = [detection for found in detections for detection in found]
  finder = sorted((row, number) for number, row in enumerate(matches.face) if row >= 0)
  if not finder:
    return recall
  found = [every[number] for _, number in finder]
  rows = np.array([row for row, _ in finder])
  box, female = photographs.box[rows], np.array([d.female for d in found])
  outputs: Any = {
      "detection": np.tile([0., 1.], (len(rows), 1)), "gender": np.stack([1 - female, female], -1),
      "landmarks": to_region(np.stack([d.landmarks for d in found]), box, "corner"),
      "visibility": np.stack([d.visibility for d in found]),
      "pose": np.stack([d.pose for d in found])}
  targets: Any = {
      "face": np.ones(len(rows), np.int32), "known": photographs.known[rows],
      "landmarks": to_region(photographs.landmarks[rows], box, "corner"),
      "visible": photographs.visible[rows], "pose": photographs.pose[rows],
      "gender": photographs.gender[rows]}
  scores = _scores(TaskOutputs(**outputs), Targets(**targets), box[:, 2:], box[:, 2:])
  del scores["detection_accuracy"]
  return recall | {name: Score(rows[s.rows], s.values) for name, s in scores.items()}


def constant_predictor(regions: Regions) -> Predict:
  """The predictor that says the same of every region: the training set's shares and means.

  Class probabilities are the shares; landmarks (over visible ones), visibility and pose the means,
  the visibility on the side of the majority. What no region has a label for is not a number. For
  the average precision of a constant give it to `detection.detect` with threshold 0.

  Args:
    regions: of the TRAINING set.
  """
  known = _applies(regions)
  seen = known[:, LANDMARKS, None] & np.asarray(regions.visible, bool)
  constant = {
      "detection": _log_shares(regions.face[known[:, DETECTION]]),
      "landmarks": _mean(regions.landmarks, seen[..., None]),
      "visibility": _mean(regions.visible, known[:, VISIBILITY, None]),
      "pose": _mean(regions.pose, known[:, POSE, None]),
      "gender": _log_shares(regions.gender[known[:, GENDER]])}

  def predict(images: np.ndarray) -> TaskOutputs:
    outputs: Any = {task: np.broadcast_to(value, (len(images), *value.shape))
                    for task, value in constant.items()}
    return TaskOutputs(**outputs)

  return predict


# ---- metrics ----


def summarise(scores: Mapping[str, Score], constant: Mapping[str, Score], group: np.ndarray,
              resamples: int, rng: np.random.Generator, level: float = .95) -> dict[str, Metric]:
  """The metric of every score, with percentile intervals over resampled photographs.

  Args:
    scores: of a network.
    constant: of `constant_predictor` for the same regions.
    group: int [N], the photograph (or person) of every region or face.
    resamples: bootstrap resamples.
    rng: draws the photographs.
    level: coverage.

  Raises:
    ValueError: the constant lacks a score or has it for other rows.
  """
  metrics = {}
  for name, score in scores.items():
    if name not in constant:
      raise ValueError(f"{name}: the constant predictor has no such score")
    base = constant[name]
    _check_paired(name, score, base)
    gain = score.values - base.values if name in HIGHER_IS_BETTER else base.values - score.values
    groups = np.asarray(group)[score.rows]
    draws = resampled_mean(score.values, groups, resamples, rng)
    metrics[name] = Metric(
        float(score.values.mean()), *percentiles(draws, level),
        float(base.values.mean()), float(gain.mean()),
        *bootstrap_mean(gain, groups, resamples, rng, level), len(gain), len(np.unique(groups)),
        draws)
  return metrics


def equivalence(first: Score, second: Score, group: np.ndarray, margin: float,
                alpha: float = .05) -> Equivalence:
  """Are two networks equally good on one test set, within +-`margin`? Paired TOST over groups.

  Every photograph counts once, with the mean over its rows. The test is about other photographs,
  not about other runs of the training; for these use `confidence.tost` with a metric a seed.

  Args:
    first: score of one network.
    second: the same score of the other, for the same regions.
    group: int [N], the photograph (or person) of every region or face.
    margin: largest difference that counts as equivalent, above 0, fixed beforehand.
    alpha: level of each one-sided test.

  Raises:
    ValueError: scores of different rows, or of fewer than two groups; a margin of 0 or less.
  """
  _check_paired("equivalence", first, second)
  names, dense = np.unique(np.asarray(group)[first.rows], return_inverse=True)
  if len(names) < 2:
    raise ValueError(f"equivalence over {len(names)} groups; expected at least 2")
  count = np.bincount(dense)
  means = [(np.bincount(dense, score.values) / count).tolist() for score in (first, second)]
  return tost(means[0], means[1], margin, alpha)


def _scores(outputs: TaskOutputs, targets: Regions | Targets, size: np.ndarray,
            face_size: np.ndarray) -> dict[str, Score]:
  """The scores of `region_scores`; width and height [N, 2] of the regions and the faces' boxes."""
  applies = _applies(targets)
  rows = {task: np.flatnonzero(applies[:, task]) for task in range(5)}
  scores = {
      "detection_accuracy": (DETECTION, _correct(outputs.detection, targets.face)),
      "gender_accuracy": (GENDER, _correct(outputs.gender, targets.gender))}
  error = np.asarray(outputs.landmarks, float) - targets.landmarks
  visible = np.asarray(targets.visible, bool) & applies[:, LANDMARKS, None]
  points = np.maximum(visible.sum(-1), 1)
  distance = np.linalg.norm(error * np.asarray(size, float)[:, None], axis=-1)
  side = np.sqrt(np.where(applies[:, LANDMARKS], face_size.prod(-1), 1))
  for name, values in (("landmark_nme", distance / side[:, None]),
                       ("landmark_mse", (error**2).mean(-1))):
    scores[name] = LANDMARKS, np.where(visible, values, 0).sum(-1) / points
  predicted, truth = np.asarray(outputs.visibility, float), np.asarray(targets.visible, float)
  right = np.where(np.isnan(predicted), np.nan, (predicted >= .5) == (truth >= .5))
  scores["visibility_accuracy"] = VISIBILITY, right.mean(-1)
  scores["visibility_mse"] = VISIBILITY, ((predicted - truth)**2).mean(-1)
  turn = np.asarray(outputs.pose, float) - targets.pose
  for angle, name in enumerate(("roll", "pitch", "yaw")):
    scores[f"{name}_mae"] = POSE, np.rad2deg(np.abs(turn[:, angle]))
  scores["pose_mse"] = POSE, (turn**2).mean(-1)
  return {name: Score(rows[task], values[rows[task]])
          for name, (task, values) in scores.items() if len(rows[task])}


def _applies(targets: Regions | Targets) -> np.ndarray:
  """bool [N, 5]: a label is known and means something."""
  face = np.asarray(targets.face) == 1
  applies = np.asarray(targets.known) & np.stack([np.ones_like(face), *[face] * 4], -1)
  applies[:, LANDMARKS] &= np.asarray(targets.visible, bool).any(-1)
  return applies


def _correct(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """float64 [N]: 1 where the larger logit is the label's (the first one's on a tie)."""
  logits = np.asarray(logits, float)
  margin = logits[:, 1] - logits[:, 0]
  return np.where(np.isnan(margin), np.nan, (margin > 0) == (np.asarray(labels) == 1))


def _log_shares(labels: np.ndarray) -> np.ndarray:
  """Logits float64 [2] of the shares of two classes, of which neither is quite zero."""
  share = (np.bincount(labels, minlength=2) + 1e-6) / (len(labels) + 2e-6)
  return np.log(share) if len(labels) else np.full(2, np.nan)


def _mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Mean over the first axis where known; nan where nothing is."""
  known = np.broadcast_to(known, values.shape)
  count = known.sum(0)
  total = np.where(known, values, 0).sum(0, dtype=float)
  return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _check_paired(name: str, first: Score, second: Score) -> None:
  if not np.array_equal(first.rows, second.rows):
    raise ValueError(f"{name}: the two scores are of different rows; expected the same regions")
