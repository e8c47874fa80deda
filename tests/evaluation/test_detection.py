"""From a photograph to its faces, with predictors that know the truth; AP by hand."""

import json

import numpy as np
import pytest

from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions.boxes import paired_iou, to_region
from fedjax_face.data.regions.proposals import grid_proposer
from fedjax_face.evaluation import detection
from fedjax_face.evaluation.detection import Candidates, Detection, DetectionOptions, Matches
from fedjax_face.models.hyperface import TaskOutputs

TEMPLATE = np.array([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]])
OPTIONS = DetectionOptions(size=16, batch_size=32)
GRID = grid_proposer((.25,), stride=.2)


def on_box(box):
  return TEMPLATE * box[2:] + box[:2]


def ruler(size=200):
  """An image whose first two channels are the coordinates of its pixels."""
  y, x = np.mgrid[:size, :size].astype(np.uint8)
  return np.stack([x, y, np.zeros_like(x)], -1)


class Oracle:
  """Reads the place of a region of the ruler off its pixels, and knows where the faces are."""

  def __init__(self, *faces, frame="corner"):
    self.faces, self.frame = np.array(faces, np.float32).reshape(-1, 4), frame
    self.shapes = set()

  def __call__(self, images):
    self.shapes.add(images.shape)
    values, count, size = images.astype(float), len(images), images.shape[1]
    x, y = values[..., 0].mean(1), values[..., 1].mean(2)
    side = np.stack([axis[:, -1] - axis[:, 0] for axis in (x, y)], -1) * size / (size - 1) + 1e-3
    box = np.concatenate([np.stack([x.mean(1), y.mean(1)], -1) + .5 - .5 * side, side], -1)
    if not len(self.faces):
      return self.answer(np.zeros(count), np.zeros((count, 5, 2)), np.zeros(count, int))
    overlap = np.stack([paired_iou(box, face) for face in self.faces], -1)
    best = overlap.argmax(-1)
    points = np.stack([on_box(self.faces[i]) for i in best])
    return self.answer(overlap.max(-1), to_region(points, box, self.frame), best)

  def answer(self, overlap, landmarks, which):
    score, count = 20 * (overlap - .5), len(overlap)
    return TaskOutputs(
        detection=np.stack([np.zeros(count), score], -1), landmarks=landmarks,
        visibility=np.tile([1, 1, 1, 0, 1.], (count, 1)),
        pose=np.stack([which, 0 * which, -which], -1) * .1,
        gender=np.stack([np.zeros(count), np.where(which == 0, 2, -2)], -1))


def detect(oracle, options=OPTIONS, proposer=GRID):
  return detection.detect(ruler(), oracle, proposer, detection.template_rule(TEMPLATE), options,
                          np.random.default_rng(0))


@pytest.mark.parametrize("frame", ["corner", "centre"])
def test_two_faces_close_together_stay_two(frame):
  faces = np.array([[52, 63, 50, 50], [94, 67, 54, 54]], np.float32)
  options = DetectionOptions(size=16, batch_size=32, frame=frame)
  found = sorted(detect(Oracle(*faces, frame=frame), options), key=lambda d: d.box[0])
  assert len(found) == 2
  for number, (face, one) in enumerate(zip(faces, found, strict=True)):
    assert paired_iou(one.box, face) > .9
    np.testing.assert_allclose(one.landmarks, on_box(face), atol=1)
    np.testing.assert_allclose(one.pose, [.1 * number, 0, -.1 * number], atol=1e-6)
    np.testing.assert_allclose(one.visibility, [1, 1, 1, 0, 1])
    assert (one.female > .5) == (number == 0)
    assert one.score > .95


def test_boxes_from_landmarks_are_nearer_than_proposals():
  face = np.array([52, 63, 58, 58], np.float32)
  reach = [paired_iou(detect(Oracle(face), DetectionOptions(16, 32, refinements=n))[0].box, face)
           for n in (0, 1)]
  assert reach[0] < .85
  assert reach[1] > .92


def test_votes_are_over_the_boxes_of_all_stages():
  face = np.array([52, 63, 50, 50], np.float32)
  near = np.array([[60, 63, 50, 50], [52, 70, 50, 50]], np.float32)
  seen = []
  rule = detection.template_rule(TEMPLATE)

  def noted(landmarks, visibility):
    seen.append(rule(landmarks, visibility))
    return seen[-1]

  options = DetectionOptions(16, 32, refinements=1, voters=4)
  (found,) = detection.detect(ruler(), Oracle(face), lambda *_: near, noted, options,
                              np.random.default_rng(0))
  np.testing.assert_allclose(found.box, np.median(np.concatenate([near, seen[0]]), 0), rtol=1e-6)


def test_the_network_sees_batches_of_one_shape():
  oracle = Oracle([52, 63, 50, 50])
  detect(oracle)
  assert oracle.shapes == {(32, 16, 16, 3)}


def test_no_face_gives_no_detection():
  assert detect(Oracle()) == []


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), [[300, 10, 20, 20]], [[10, 10, 0, 5]],
                                   [[np.nan, 1, 5, 5]]])
def test_no_usable_box_gives_no_detection(boxes):
  oracle = Oracle([10, 10, 20, 20])
  assert detect(oracle, proposer=lambda *_: np.array(boxes, np.float32)) == []
  assert not oracle.shapes


def test_a_face_cut_by_the_border_has_a_box_inside():
  face = np.array([-12, 60, 50, 50], np.float32)
  (found,) = detect(Oracle(face), DetectionOptions(16, 32, threshold=.3))
  assert found.box[0] >= 0
  assert found.landmarks[0, 0] == pytest.approx(on_box(face)[0, 0], abs=1.5)


def candidates(shift, score, size=10.):
  """Candidates whose landmarks are at the corners of squares."""
  shift = np.asarray(shift, float)[:, None]
  corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * size
  count = len(shift)
  return Candidates(
      box=np.concatenate([shift, shift * 2, np.full((count, 2), size)], -1),
      score=np.asarray(score, float), landmarks=corners + shift[:, None] * [1, 0],
      visibility=np.tile(shift, (1, 4)), pose=shift * [1, 2, 3], female=shift[:, 0] / 10)


def test_medians_of_the_best_voters_by_hand():
  found = detection.suppress(candidates([0, 2, 1, 50, 3], [.9, .8, .7, .6, .5]), .3, 3)
  assert [one.score for one in found] == [.9, .6]
  first = found[0]                                    # of the shifts 0, 2, 1; 3 has no vote
  np.testing.assert_allclose(first.box, [1, 2, 10, 10])
  np.testing.assert_allclose(first.landmarks, [[1, 0], [11, 0], [1, 10], [11, 10]])
  np.testing.assert_allclose(first.visibility, [1] * 4)
  np.testing.assert_allclose(first.pose, [1, 2, 3])
  assert first.female == pytest.approx(.1)
  np.testing.assert_allclose(found[1].box, [50, 100, 10, 10])


def test_overlap_is_of_the_landmarks_and_above_the_limit():
  pair = candidates([0, 5], [.5, .6])                 # tight boxes overlap by 1/3
  assert len(detection.suppress(pair, .33, 5)) == 1
  assert len(detection.suppress(pair, .34, 5)) == 2
  point = candidates([0, 0], [.5, .6], size=0.)       # of no size: nothing overlaps
  assert [one.score for one in detection.suppress(point, .3, 5)] == [.6, .5]


def test_a_detection_is_json():
  text = json.dumps(detection.suppress(candidates([0], [.5]), .3, 5)[0].to_json())
  assert json.loads(text)["landmarks"] == [[0, 0], [10, 0], [0, 10], [10, 10]]
  assert set(json.loads(text)) == {"box", "score", "landmarks", "visibility", "pose", "female"}


def test_eyes_rule_by_hand():
  box = detection.eyes_rule(1, 0)(np.array([[[60., 50.], [40., 50.]]]), np.ones((1, 2)))
  np.testing.assert_allclose(box, [[24.4, 34.4, 51.2, 51.2]], rtol=1e-6)


def test_template_rule_finds_the_box_without_hidden_landmarks():
  faces = np.array([[10, 20, 30, 30], [-5, 0, 80, 80]], float)
  points = np.stack([on_box(face) for face in faces])
  points[:, 3] = 1e4
  visibility = np.tile([1, 1, 2, -.5, 1.], (2, 1))
  rule = detection.template_rule(TEMPLATE)
  np.testing.assert_allclose(rule(points, visibility), faces, atol=1e-4)
  assert rule(points[:0], visibility[:0]).shape == (0, 4)


def test_template_rule_leaves_out_points_that_the_template_lacks():
  template = np.where(np.arange(5)[:, None] == 2, np.nan, TEMPLATE)
  face = np.array([10, 20, 30, 30.])
  points = on_box(face)
  points[2] = 1e4
  box = detection.template_rule(template)(points[None], np.ones((1, 5)))
  np.testing.assert_allclose(box[0], face, atol=1e-4)


def test_template_rule_gives_no_box_where_there_is_none():
  points = np.stack([on_box(np.array([0, 0, 9, 9])), on_box(np.array([0, 0, -9, -9]))])
  box = detection.template_rule(TEMPLATE)(points, np.array([[1., 0, 0, 0, 0], [1] * 5]))
  assert np.isnan(box).any(-1).all()


@pytest.mark.parametrize("option, words", [
    ({"size": 0}, "size is 0"), ({"voters": 0}, "voters is 0"), ({"refinements": -1}, "least 0"),
    ({"threshold": 1.5}, "threshold is 1.5; expected 0 to 1"), ({"frame": "left"}, "'corner'")])
def test_bad_options_are_named(option, words):
  with pytest.raises(ValueError, match=words):
    DetectionOptions(**{"size": 16, "batch_size": 4} | option)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"image is float64 \[4, 4, 3\]"):
    detection.detect(np.zeros((4, 4, 3)), Oracle(), GRID, detection.eyes_rule(0, 1), OPTIONS,
                     np.random.default_rng(0))
  with pytest.raises(ValueError, match="no images"):
    detection.predict_in_batches(Oracle(), np.zeros((0, 4, 4, 3), np.uint8), 4)
  with pytest.raises(ValueError, match="template of shape"):
    detection.template_rule(np.full((3, 2), np.nan))


# ---- average precision ----


def photographs(*faces, unknown=()):
  """Photographs of 100 x 100 with these faces (photograph, left, top, side)."""
  rows = np.array(faces, np.float32).reshape(-1, 4)
  count, number = len(rows), rows[:, 0].astype(np.int32)
  known = np.ones((count, 5), bool)
  known[list(unknown)] = False
  return Photographs(
      "made", np.zeros((3, 100, 100, 3), np.uint8), number, np.arange(count, dtype=np.int32),
      rows[:, [1, 2, 3, 3]], np.zeros((count, 4, 2), np.float32), np.ones((count, 4), bool),
      np.zeros((count, 3), np.float32), np.zeros(count, np.int32), known)


def at(left, top, side, score):
  return Detection(np.array([left, top, side, side], np.float32), score, np.zeros((4, 2)),
                   np.zeros(4), np.zeros(3), .5)


SET = photographs((0, 10, 10, 20), (0, 60, 60, 20), (1, 10, 10, 40))
FOUND = [[at(60, 60, 20, .7), at(12, 10, 20, .9)], [at(60, 10, 30, .8)], []]


def test_matches_and_average_precision_by_hand():
  matches = detection.match_faces(FOUND, SET)
  assert matches.face.tolist() == [1, 0, -1]
  assert matches.photograph.tolist() == [0, 0, 1]
  assert matches.faces.tolist() == [2, 1, 0]
  # recall 1/3 at precision 1, then 2/3 at precision 2/3
  assert detection.average_precision(matches) == pytest.approx(5 / 9)


def test_a_face_is_found_once_by_its_best_detection():
  twice = [[at(10, 10, 20, .6), at(11, 10, 20, .8)], [], []]
  assert detection.match_faces(twice, SET).face.tolist() == [-1, 0]


def test_too_little_overlap_finds_nothing_and_the_limit_counts():
  half = [[at(10, 10, 40, .9)], [at(10, 10, 20, .9)], []]  # IoU 1/4 with both
  assert detection.match_faces(half, SET).face.tolist() == [-1, -1]
  assert detection.match_faces(half, SET, .25).face.tolist() == [0, 2]


def test_a_face_over_the_border_is_compared_by_its_part_inside():
  cut = photographs((0, -20, 10, 40))
  inside = Detection(np.array([0, 10, 20, 40.]), .9, *at(0, 0, 1, 1)[2:])
  assert detection.match_faces([[inside], [], []], cut).face.tolist() == [0]


def test_faces_without_a_label_neither_count_nor_cost():
  matches = detection.match_faces(FOUND, photographs(
      (0, 10, 10, 20), (0, 60, 60, 20), (1, 10, 10, 40), unknown=[0]))
  assert matches.face.tolist() == [1, -2, -1]
  assert matches.faces.tolist() == [1, 1, 0]
  assert detection.average_precision(matches) == pytest.approx(1 / 4)


def test_the_order_of_equal_scores_does_not_count():
  def of(*faces):
    return detection.average_precision(Matches(
        np.full(4, .5), np.zeros(4, int), np.array(faces), np.array([4])))
  assert of(0, 1, -1, -1) == of(-1, -1, 0, 1) == pytest.approx(.25)  # recall 1/2, precision 1/2


def test_weights_are_copies_of_photographs():
  rng = np.random.default_rng(0)
  score, photograph = rng.random(40), np.sort(rng.integers(0, 5, 40))
  face = np.where(rng.random(40) < .6, np.arange(40), -1)
  faces = np.bincount(photograph[face >= 0], minlength=5) + 1
  weights = np.array([2, 0, 1, 3, 1])
  copies = np.repeat(np.arange(40), weights[photograph])
  expected = detection.average_precision(Matches(
      score[copies], photograph[copies], face[copies], weights * faces))
  matches = Matches(score, photograph, face, faces)
  assert detection.average_precision(matches, weights) == pytest.approx(expected)
  interval = detection.bootstrap_average_precision(matches, 200, rng)
  assert interval.low < detection.average_precision(matches) < interval.high
  together = detection.bootstrap_average_precision(matches, 20, rng, group=np.full(5, 3))
  assert together == pytest.approx(2 * (detection.average_precision(matches),))


def test_nothing_found_is_zero_and_no_faces_nan():
  assert detection.average_precision(detection.match_faces([[], [], []], SET)) == 0
  assert np.isnan(detection.average_precision(detection.match_faces(FOUND, photographs())))


def test_detections_of_other_photographs_are_refused():
  with pytest.raises(ValueError, match="detections of 2 photographs; expected 3"):
    detection.match_faces(FOUND[:2], SET)
