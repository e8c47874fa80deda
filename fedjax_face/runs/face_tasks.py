"""Evaluation of a network of the five face tasks within a run, and its use afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.data.photographs import Photographs, people_groups
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.data.regions.proposals import Proposer
from fedjax_face.data.regions.sources import RegionSet, RegionSources
from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES
from fedjax_face.draws import Draws
from fedjax_face.evaluation import face_tasks
from fedjax_face.evaluation.detection import (
  BoxRule,
  Detection,
  DetectionOptions,
  Predict,
  average_precision,
  detect,
  eyes_rule,
  match_faces,
  predict_in_batches,
  resampled_average_precision,
  template_rule,
)
from fedjax_face.evaluation.metric import Metric
from fedjax_face.method.algorithm import Algorithm, State
from fedjax_face.runs.evaluator import Outcome, on_one_device


class Detector(NamedTuple):
  """What turns a photograph into faces, see `evaluation.detection.detect`."""

  predict: Predict
  proposer: Proposer
  box_rule: BoxRule
  options: DetectionOptions

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> list[Detection]:
    """The faces of a photograph uint8 [H, W, C], best first."""
    return detect(image, self.predict, self.proposer, self.box_rule, self.options, rng)


class FaceTaskEvaluator:
  """Scores on the regions of the evaluation photographs, and average precision on some of these.

  Args:
    algorithm: whose `predict` is evaluated.
    asked: `batch_size`, `bootstrap`, `photographs`, `proposer`, `detection`, `ranking_threshold`.
    sources: its data.
    seed: of resamples.
  """

  def __init__(self, algorithm: Algorithm, asked: Mapping[str, Any], sources: RegionSources,
               seed: int):
    assert algorithm.predict is not None
    self._predict = jax.jit(algorithm.predict)
    self._asked, self._seed, self._evaluation = asked, seed, sources.evaluation
    self._sources = sources
    self._ranking = dataclasses.replace(  # the curve must not end where faces are worth drawing
        _options(asked, sources.train), threshold=asked["ranking_threshold"])
    constant = face_tasks.constant_predictor(sources.train.regions)
    self._constant = face_tasks.region_scores(
        constant(sources.evaluation.images), sources.evaluation.regions,
        sources.evaluation.face_box)

  def values(self, state: State) -> dict[str, float]:
    """Metrics of the regions without intervals, for the course of training."""
    return {name: float(score.values.mean()) for name, score in self.scores(state).items()}

  def outcome(self, state: State) -> Outcome:
    """Metrics, each beside that of the constant predictor.

    Intervals are over photographs, those that share people drawn together.
    """
    rng = np.random.default_rng(self._seed)
    found = face_tasks.summarise(self.scores(state), self._constant,
                                 self._evaluation.group,
                                 max(self._asked["bootstrap"], 1), rng)
    metrics = {name: self._with_constant(metric) for name, metric in found.items()}
    for photographs in self._evaluation.photographs:
      count = min(len(photographs), self._asked["photographs"])
      if count:
        metrics[f"average_precision/{photographs.name}"] = self._precision(
            state, photographs.select(np.arange(count)), rng)
    return Outcome(metrics)

  def scores(self, state: State) -> dict[str, face_tasks.Score]:
    """The scores of every evaluation region."""
    outputs = predict_in_batches(self._bound(state), self._evaluation.images,
                                 self._asked["batch_size"])
    return face_tasks.region_scores(outputs, self._evaluation.regions, self._evaluation.face_box)

  def _precision(self, state: State, photographs: Photographs,
                 rng: np.random.Generator) -> Metric:
    find = detector(self._asked, self._bound(state), self._sources.train,
                    self._sources.public)._replace(options=self._ranking)
    found = [find(image, Draws.of(0).generator(identity, "detection"))
             for identity, image in zip(photographs.identities, photographs.images, strict=True)]
    matches = match_faces(found, photographs)
    draws = None
    if self._asked["bootstrap"]:
      draws = resampled_average_precision(
          matches, self._asked["bootstrap"], rng, group=people_groups(photographs))
    return Metric.resampled(average_precision(matches), draws,
                            f"IoU 0.5, ranked down to score {self._ranking.threshold:g}; "
                            f"{matches.faces.sum()} faces on {len(photographs)} photographs")

  def _with_constant(self, m: face_tasks.Metric) -> Metric:
    """The metric with the constant predictor in its note; without resamples, no intervals."""
    note = f"constant {m.constant:.3f}, better by {m.gain:+.3f}"
    rows = f"{m.rows} regions; {m.groups} groups of photographs that share nobody"
    if not self._asked["bootstrap"]:
      return Metric(m.value, note=f"{note}; {rows}", chance=m.constant)
    return Metric(m.value, m.low, m.high,
                  f"{note} [{m.gain_low:+.3f}, {m.gain_high:+.3f}]; {rows}", m.constant, m.draws)

  def _bound(self, state: State) -> Predict:
    on_device = on_one_device(state)
    return lambda images: self._predict(on_device, images)


def detector(asked: Mapping[str, Any], predict: Predict, regions: RegionSet,
             public: RegionSet | None) -> Detector:
  """The detector that an evaluation describes.

  A face's box follows from its landmarks as in the public set; without one, from the eyes, as no
  number may come from the private set without noise.

  Args:
    asked: as of `FaceTaskEvaluator`.
    predict: of the network.
    regions: whose size and frame are those of the network's.
    public: the public set, or None.
  """
  return detector_of(asked, predict, regions, None if public is None else mean_landmarks(
      public, regions.frame))


def detector_of(asked: Mapping[str, Any], predict: Predict, regions: RegionSet,
                template: np.ndarray | None) -> Detector:
  """With the mean landmarks [L, 2] of the public set, if there is one."""
  rule = eyes_rule(LANDMARK_NAMES.index("left_eye_centre"),
                   LANDMARK_NAMES.index("right_eye_centre")
                   ) if template is None else template_rule(template)
  return Detector(predict, region_sources.proposer(asked["proposer"], "evaluation.proposer"),
                  rule, _options(asked, regions))


def _options(asked: Mapping[str, Any], regions: RegionSet) -> DetectionOptions:
  """For regions like those that train."""
  return DetectionOptions(size=regions.images.shape[1], batch_size=asked["batch_size"],
                          frame=regions.frame, **asked["detection"])


def mean_landmarks(public: RegionSet, frame: str) -> np.ndarray:
  """float64 [L, 2], mean of the visible landmarks in the faces' boxes, 0 to 1 from their corner."""
  regions = public.regions
  corner = regions.landmarks + (.5 if frame == "centre" else 0)
  on_face = (regions.face == 1) & regions.known[:, 1]
  points = regions.box[on_face, None, :2] + corner[on_face] * regions.box[on_face, None, 2:]
  inside = (points - public.face_box[on_face, None, :2]) / public.face_box[on_face, None, 2:]
  seen = np.where(regions.visible[on_face, :, None], inside, np.nan)
  with np.errstate(invalid="ignore"):
    count = regions.visible[on_face].sum(0)[:, None]
    return np.nansum(seen, 0) / np.where(count, count, np.nan)
