"""What the average precision ranks, and what is drawn."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.data.regions.proposers import grid
from fedjax_face.models.hyperface import TaskOutputs
from fedjax_face.runs import face_tasks, settings
from tests.methods import tiny_faces

SIDE = 32
PROBABILITY = .95, .7, .5, .2  # of a face, in the quarters of a photograph
FACES = 0, 2                   # quarters that are faces


def quarters(*, count):
  """Photographs of four quarters; how bright one is, is how likely the network takes it."""
  made = tiny_faces.photographs(count, people_each=len(FACES), size=2 * SIDE)
  corner = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * SIDE
  bright = np.round(np.multiply(PROBABILITY, 200)).astype(np.uint8).reshape(2, 2)
  image = np.repeat(np.repeat(bright, SIDE, 0), SIDE, 1)[..., None]
  box = np.concatenate([corner[list(FACES)], np.full((len(FACES), 2), SIDE)], -1)
  return dataclasses.replace(
      made, name="quarters", images=np.tile(image, (count, 1, 1, 3)),
      box=np.tile(box, (count, 1)).astype(np.float32)), None


def predict(state, images):
  """Believes what `quarters` shows; the landmarks are spread over a region."""
  del state
  probability = images.astype(jnp.float32).mean((1, 2, 3)) / 200
  grid = np.stack(np.meshgrid(np.linspace(.1, .9, 7), [.2, .5, .8]), -1).reshape(-1, 2)
  logits = jnp.stack([jnp.log1p(-probability), jnp.log(probability)], -1)
  count = len(images)
  return TaskOutputs(detection=logits, landmarks=jnp.tile(jnp.asarray(grid), (count, 1, 1)),
                     visibility=jnp.ones((count, 21)), pose=jnp.zeros((count, 3)), gender=logits)


def asked(**overrides):
  """The section of an evaluation that draws where it is sure, and ranks almost everything."""
  detections = settings.detections(threshold=.9, refinements=0)
  return options.made(settings.face_tasks(**{
      "photographs": 2, "bootstrap": 20, "batch_size": 16, "detections": detections,
      "proposer": grid(scales=(.5,), stride=1.)} | overrides)).section()


@pytest.fixture
def sources(monkeypatch):
  monkeypatch.setitem(region_sources.SOURCES, "quarters", quarters)
  return region_sources.load({
      "sources": {"quarters": {"name": "quarters", "count": 4}}, "regions": {
          "size": 16, "positives_per_face": 2, "negatives_per_image": 3, "jittered_per_face": 4},
      "proposer": {"name": "random", "count": 10}, "test_fraction": .5, "split": "person"}, 0)


def precision(chosen, sources):
  evaluator = face_tasks.FaceTaskEvaluator(
      types.SimpleNamespace(predict=predict), chosen, sources, 0)
  return evaluator.outcome({"step": jnp.zeros(1)}).metrics["average_precision/quarters"]


def test_the_average_precision_counts_faces_that_are_not_worth_drawing(sources):
  """Scores .95 (a face), .7 (none) and .5 (a face): recall 1/2 at precision 1, 1 at 2/3."""
  metric = precision(asked(), sources)
  assert metric.value == pytest.approx(5 / 6)
  assert metric.low == metric.high == pytest.approx(5 / 6)
  assert metric.note.startswith("IoU 0.5, ranked down to score 0.05; 4 faces on 2 photographs")


def test_the_ranking_ends_where_it_says(sources):
  metric = precision(asked(ranking_threshold=.6), sources)
  assert metric.value == pytest.approx(1 / 2) and "down to score 0.6" in metric.note


def test_drawing_has_a_threshold_of_its_own(sources):
  find = face_tasks.detector(asked(), lambda images: predict({}, images), sources.train, None)
  found = find(sources.evaluation.photographs[0].images[0], np.random.default_rng(0))
  assert [one.score for one in found] == [pytest.approx(.95, abs=.01)]


def test_a_threshold_out_of_range_is_named_before_training():
  with pytest.raises(ValueError, match=r"ranking_threshold=1.5: expected a number in \[0, 1\]"):
    asked(ranking_threshold=1.5)
