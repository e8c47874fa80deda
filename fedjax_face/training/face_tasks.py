"""Evaluation of a network of the five face tasks within a run, and its use afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from fedjax_face.data import region_sources
from fedjax_face.data.photographs import Photographs, people_groups
from fedjax_face.data.proposals import Proposer
from fedjax_face.data.region_sources import RegionSet, RegionSources
from fedjax_face.data.regions import Regions
from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES
from fedjax_face.draws import Draws, identity_of
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
from fedjax_face.evaluation.protocols import Metric
from fedjax_face.method.algorithm import Algorithm, State
from fedjax_face.training import checkpoint
from fedjax_face.training.evaluator import Outcome, on_one_device


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
    config: of the run.
    sources: its data.

  Raises:
    ValueError: an option of the detector is out of range.
  """

  def __init__(self, algorithm: Algorithm, config: Any, sources: RegionSources):
    assert algorithm.predict is not None
    self._predict = jax.jit(algorithm.predict)
    self._config, self._evaluation = config, sources.evaluation
    self._sources = sources
    self._ranking = _ranking_options(config)
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
    rng = np.random.default_rng(self._config.seed)
    found = face_tasks.summarise(self.scores(state), self._constant,
                                 self._evaluation.group,
                                 max(self._config.evaluation.bootstrap, 1), rng)
    metrics = {name: self._with_constant(metric) for name, metric in found.items()}
    for photographs in self._evaluation.photographs:
      count = min(len(photographs), self._config.evaluation.photographs)
      if count:
        metrics[f"average_precision/{photographs.name}"] = self._precision(
            state, photographs.select(np.arange(count)), rng)
    return Outcome(metrics)

  def scores(self, state: State) -> dict[str, face_tasks.Score]:
    """The scores of every evaluation region."""
    outputs = predict_in_batches(self._bound(state), self._evaluation.images,
                                 self._config.evaluation.batch_size)
    return face_tasks.region_scores(outputs, self._evaluation.regions, self._evaluation.face_box)

  def _precision(self, state: State, photographs: Photographs,
                 rng: np.random.Generator) -> Metric:
    find = detector(self._config, self._bound(state), self._sources.public)._replace(
        options=self._ranking)
    found = [find(image, Draws.of(0).generator(identity, "detection"))
             for identity, image in zip(photographs.identities, photographs.images, strict=True)]
    matches = match_faces(found, photographs)
    draws = None
    if self._config.evaluation.bootstrap:
      draws = resampled_average_precision(
          matches, self._config.evaluation.bootstrap, rng, group=people_groups(photographs))
    return Metric.resampled(average_precision(matches), draws,
                            f"IoU 0.5, ranked down to score {self._ranking.threshold:g}; "
                            f"{matches.faces.sum()} faces on {len(photographs)} photographs")

  def _with_constant(self, m: face_tasks.Metric) -> Metric:
    """The metric with the constant predictor in its note; without resamples, no intervals."""
    note = f"constant {m.constant:.3f}, better by {m.gain:+.3f}"
    rows = f"{m.rows} regions; {m.groups} groups of photographs that share nobody"
    if not self._config.evaluation.bootstrap:
      return Metric(m.value, note=f"{note}; {rows}", chance=m.constant)
    return Metric(m.value, m.low, m.high,
                  f"{note} [{m.gain_low:+.3f}, {m.gain_high:+.3f}]; {rows}", m.constant, m.draws)

  def _bound(self, state: State) -> Predict:
    on_device = on_one_device(state)
    return lambda images: self._predict(on_device, images)


def detector(config: Any, predict: Predict, public: RegionSet | None) -> Detector:
  """The detector that the config's `evaluation.detection` and `evaluation.proposer` describe.

  A face's box follows from its landmarks as in the public set; without one, from the eyes, as no
  number may come from the private set without noise.
  """
  return _detector(config, predict, None if public is None else mean_landmarks(
      public, _options(config).frame))


def _detector(config: Any, predict: Predict, template: np.ndarray | None) -> Detector:
  """With the mean landmarks [L, 2] of the public set, if there is one."""
  rule = eyes_rule(LANDMARK_NAMES.index("left_eye_centre"),
                   LANDMARK_NAMES.index("right_eye_centre")
                   ) if template is None else template_rule(template)
  return Detector(predict, region_sources.proposer(config.evaluation.proposer,
                                                   "evaluation.proposer"),
                  rule, _options(config))


def _options(config: Any) -> DetectionOptions:
  """`evaluation.detection`, for regions like those that train."""
  regions = config.data.regions
  return DetectionOptions(size=regions["size"], batch_size=config.evaluation.batch_size,
                          frame=regions.get("frame", "corner"), **config.evaluation.detection)


def _ranking_options(config: Any) -> DetectionOptions:
  """Those of the average precision, whose curve must not end where faces are worth drawing."""
  threshold = config.evaluation.ranking_threshold
  if not 0 <= threshold <= 1:
    raise ValueError(f"evaluation.ranking_threshold={threshold}: expected 0 to 1")
  return dataclasses.replace(_options(config), threshold=threshold)


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


def load_detector(workdir: str | os.PathLike) -> Detector:
  """The detector of a run's newest checkpoint.

  Of the run's data it reads the public set alone, once: where landmarks lie in a face's box is then
  kept in the folder, mean_landmarks.npy. Frozen layers need the public set every time.

  Raises:
    FileNotFoundError: no run, no checkpoint yet, or frozen layers are not beside it.
    ValueError: a run of a method without landmarks and boxes.
  """
  from fedjax_face.algorithms import registry
  from fedjax_face.training.mesh import clients_mesh
  workdir = pathlib.Path(workdir)
  path = workdir / "config.json"
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file; expected the folder of a run")
  config: Any = ml_collections.ConfigDict(json.loads(path.read_text()))
  if not config.data.get("regions"):
    raise ValueError(f"{workdir}: algorithm {config.algorithm} finds no faces; expected a run of "
                     "configs/dp_hyperface.py")
  with config.unlocked():
    if config.privacy.get("epsilon") is not None:
      config.privacy.epsilon, config.hparams.noise_multiplier = None, 1.0
  blank, mesh = _blank_set(config), clients_mesh(jax.devices()[:1])
  sources = RegionSources(blank, blank, None)
  public = functools.cache(lambda: region_sources.load_public(config.data.to_dict())[0])
  algorithm = registry.build(config, sources, mesh,
                             _frozen_of(config, sources, mesh, workdir, public))
  found = checkpoint.restore(workdir / "checkpoints",
                             jax.eval_shape(algorithm.init, jax.random.key(0)), print)
  if found is None:
    raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint yet")
  assert algorithm.predict is not None
  state, predict = jax.tree.map(jax.numpy.asarray, found.state), jax.jit(algorithm.predict)
  return _detector(config, lambda images: predict(state, images), _kept_landmarks(
      config, workdir, public))


def _kept_landmarks(config: Any, workdir: pathlib.Path,
                    public: Callable[[], RegionSet | None]) -> np.ndarray | None:
  """`mean_landmarks` of the public set of the run in a folder; None where it has none."""
  kept = workdir / "mean_landmarks.npy"
  with contextlib.suppress(OSError, ValueError, EOFError):  # absent or cut off
    return np.load(kept)
  if not config.data.get("public"):
    return None
  print("reading the public set for where landmarks lie in a face's box; this happens once")
  read = public()
  assert read is not None
  found = mean_landmarks(read, _options(config).frame)
  with contextlib.suppress(OSError):  # a folder that cannot be written still detects
    np.save(kept, found)
  return found


def _frozen_of(config: Any, sources: RegionSources, mesh: Any, workdir: pathlib.Path,
               public: Callable[[], RegionSet | None]) -> Any:
  """The pre-trained network that a run's frozen layers are of; None where all layers train."""
  from fedjax_face.training import experiment
  if not config.model.frozen:
    return None
  if not (workdir / "pretrained").is_dir():
    raise FileNotFoundError(f"{workdir}/pretrained: no such folder; it holds the frozen layers "
                            f"{', '.join(config.model.frozen)}")
  return experiment.pretrained(config, sources._replace(public=public()), mesh, workdir, print)


def _blank_set(config: Any) -> RegionSet:
  """Regions of the size of the training set's, enough for a step: what a state's shapes need."""
  count, size, points = config.cohort.batch_size, config.data.regions["size"], len(LANDMARK_NAMES)
  number, box = np.arange(count, dtype=np.int32), np.zeros((count, 4), np.float32)
  regions = Regions(
      images=np.zeros((count, size, size, 3), np.uint8), image=number, person=number, box=box,
      face=np.ones(count, np.int32), landmarks=np.zeros((count, points, 2), np.float32),
      visible=np.zeros((count, points), bool), pose=np.zeros((count, 3), np.float32),
      gender=np.zeros(count, np.int32), known=np.zeros((count, 5), bool), original=number,
      identity=identity_of(number))
  return RegionSet("blank", regions, box, (), _options(config).frame)
