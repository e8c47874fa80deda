"""Scores of the five face tasks by hand, their masks, constants, intervals and equivalence."""

import numpy as np
import pytest

from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions.cutting import Regions, face_boxes, select
from fedjax_face.evaluation import face_tasks
from fedjax_face.evaluation.detection import Detection
from fedjax_face.evaluation.face_tasks import Score
from fedjax_face.models.hyperface import TaskOutputs

LANDMARKS = np.array([[.2, .2], [.8, .2], [.5, .8]], np.float32)
VISIBLE = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)


def regions():
  """Faces 0 and 1, a negative, and a face of which only detection and gender are known."""
  known = np.ones((4, 5), bool)
  known[2, 1:] = known[3, 1:4] = False
  return Regions(
      images=np.zeros((4, 2, 2, 3), np.uint8), image=np.array([0, 0, 1, 2], np.int32),
      person=np.array([0, 1, -1, 2], np.int32),
      box=np.array([[0, 0, 20, 10], [0, 0, 40, 40], [5, 5, 9, 9], [0, 0, 8, 8]], np.float32),
      face=np.array([1, 1, 0, 1], np.int32), landmarks=np.tile(LANDMARKS, (4, 1, 1)),
      visible=VISIBLE, pose=np.array([[0, .1, .2], [.3, 0, 0], [0] * 3, [9] * 3], np.float32),
      gender=np.array([1, 0, 1, 0], np.int32), known=known,
      original=np.array([0, 0, 1, 2], np.int32), identity=np.array([0, 0, 1, 2], np.uint64))


FACE_BOX = np.array([[0, 0, 10, 10], [0, 0, 20, 80], [0, 0, 0, 0], [0, 0, 8, 8]], np.float32)


def outputs(**changes):
  """The truth of `regions`, with changes."""
  r = regions()
  truth = {"detection": np.eye(2)[r.face], "landmarks": r.landmarks.astype(float),
           "visibility": r.visible.astype(float), "pose": r.pose.astype(float),
           "gender": np.eye(2)[r.gender]}
  return TaskOutputs(**truth | changes)


def scored(**changes):
  return face_tasks.region_scores(outputs(**changes), regions(), FACE_BOX)


def test_the_truth_has_no_errors_and_every_task_its_own_rows():
  scores = scored()
  rows = {name: score.rows.tolist() for name, score in scores.items()}
  faces = [0, 1]
  assert rows == {
      "detection_accuracy": [0, 1, 2, 3], "gender_accuracy": [0, 1, 3], "landmark_nme": faces,
      "landmark_mse": faces, "visibility_accuracy": faces, "visibility_mse": faces,
      "roll_mae": faces, "pitch_mae": faces, "yaw_mae": faces, "pose_mse": faces}
  for name, score in scores.items():
    np.testing.assert_allclose(score.values, float(name in face_tasks.HIGHER_IS_BETTER), atol=1e-6)


def test_landmark_errors_by_hand():
  moved = regions().landmarks.astype(float)
  moved[0] += [[.3, .8], [0, 0], [7, 7]]      # 6 and 8 of 20 x 10 pixels; the hidden one is far off
  moved[1] += [[.1, 0], [5, 5], [5, 5]]       # 4 of 40 x 40
  scores = scored(landmarks=moved)
  np.testing.assert_allclose(scores["landmark_nme"].values, [.5 * 10 / 10, 4 / 40], rtol=1e-5)
  np.testing.assert_allclose(scores["landmark_mse"].values,
                             [.5 * (.09 + .64) / 2, .01 / 2], rtol=1e-5)


def test_visibility_pose_and_classes_by_hand():
  visibility, pose = VISIBLE.astype(float), regions().pose.astype(float)
  visibility[0] = [.5, .4, .1]                # right, wrong, right
  pose[1] += [np.pi / 6, -np.pi / 3, 0]
  scores = scored(visibility=visibility, pose=pose,
                  detection=np.array([[0, 1], [1, 0], [0, 1], [2, 3.]]),
                  gender=np.array([[0, 1], [0, 1], [0, 0], [1, 1.]]))
  np.testing.assert_allclose(scores["visibility_accuracy"].values, [2 / 3, 1])
  np.testing.assert_allclose(scores["visibility_mse"].values, [(.25 + .36 + .01) / 3, 0])
  np.testing.assert_allclose(scores["roll_mae"].values, [0, 30], atol=1e-6)
  np.testing.assert_allclose(scores["pitch_mae"].values, [0, 60], atol=1e-6)
  np.testing.assert_allclose(scores["yaw_mae"].values, [0, 0], atol=1e-6)
  np.testing.assert_allclose(scores["pose_mse"].values, [0, np.pi**2 * (1 / 36 + 1 / 9) / 3],
                             atol=1e-6)
  assert scores["detection_accuracy"].values.tolist() == [1, 0, 0, 1]
  assert scores["gender_accuracy"].values.tolist() == [1, 0, 1]  # a tie is the first class


def test_what_is_unknown_may_hold_anything():
  broken = outputs()
  for field in ("landmarks", "visibility", "pose"):
    getattr(broken, field)[2:] = np.nan
  for name, score in face_tasks.region_scores(broken, regions(), FACE_BOX).items():
    assert np.isfinite(score.values).all(), name


def test_predictions_that_are_not_a_number_are_not_scored_as_right():
  scores = scored(detection=np.full((4, 2), np.nan), visibility=np.full((4, 3), np.nan))
  assert np.isnan(scores["detection_accuracy"].values).all()
  assert np.isnan(scores["visibility_accuracy"].values).all()


def test_tasks_without_a_label_are_left_out():
  some = select(regions(), np.array([2, 3]))
  kept = TaskOutputs(*(field[2:] for field in outputs()))
  assert set(face_tasks.region_scores(kept, some, FACE_BOX[2:])) == {"detection_accuracy",
                                                                     "gender_accuracy"}


def test_outputs_of_other_regions_are_refused():
  with pytest.raises(ValueError, match="outputs of 4 regions, 2 regions given"):
    face_tasks.region_scores(outputs(), select(regions(), np.arange(2)), FACE_BOX[:2])


def test_constant_predictor_by_hand():
  train = regions()
  train.landmarks[1] += .2
  said = face_tasks.constant_predictor(train)(np.zeros((5, 2, 2, 3), np.uint8))
  assert {len(field) for field in said} == {5}
  share = lambda logits: 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
  np.testing.assert_allclose(share(said.detection), .75, rtol=1e-5)
  np.testing.assert_allclose(share(said.gender), 1 / 3, rtol=1e-5)
  np.testing.assert_allclose(said.landmarks[0, :2], [[.3, .3], [.8, .2]], rtol=1e-6)
  assert np.isnan(said.landmarks[:, 2]).all()         # never visible
  np.testing.assert_allclose(said.visibility[4], [1, .5, 0])
  np.testing.assert_allclose(said.pose[2], [.15, .05, .1], rtol=1e-6)


def test_a_constant_without_labels_is_not_a_number():
  said = face_tasks.constant_predictor(select(regions(), np.array([2])))(np.zeros((1, 2, 2, 3)))
  assert np.isfinite(said.detection).all()
  assert all(np.isnan(field).all() for field in said[1:])


# ---- metrics ----


def many(value, noise, seed=0):
  """A score of 120 rows on 40 photographs; rows of one photograph are alike."""
  rng = np.random.default_rng(seed)
  group = np.repeat(np.arange(40), 3)
  return Score(np.arange(120), value + noise * rng.normal(size=40)[group]), group


def test_metrics_gain_in_the_right_direction_with_intervals():
  error, group = many(.3, .1)
  right = Score(np.arange(120), (np.arange(120) % 4 > 0).astype(float))
  scores = {"pose_mse": error, "gender_accuracy": right}
  constant = {"pose_mse": Score(error.rows, error.values + .5),
              "gender_accuracy": Score(right.rows, np.full(120, .5))}
  metrics = face_tasks.summarise(scores, constant, group, 200, np.random.default_rng(0))
  pose, gender = metrics["pose_mse"], metrics["gender_accuracy"]
  assert pose.value == pytest.approx(error.values.mean())
  assert pose.low < pose.value < pose.high
  assert [pose.gain, pose.gain_low, pose.gain_high] == pytest.approx([.5] * 3)
  assert (gender.value, gender.constant, gender.gain) == (.75, .5, .25)
  assert gender.low - .5 < gender.gain_low + .1 < gender.gain + .1
  assert (pose.rows, pose.groups) == (120, 40)


def test_intervals_are_over_photographs_not_rows():
  error, group = many(.3, .1)
  width = lambda by: np.ptp(face_tasks.summarise(
      {"x": error}, {"x": error}, by, 400, np.random.default_rng(0))["x"][1:3])
  assert width(group) > 1.4 * width(np.arange(120))


@pytest.mark.parametrize("constant, words", [
    ({}, "x: the constant predictor has no such score"),
    ({"x": Score(np.arange(1, 4), np.zeros(3))}, "x: the two scores are of different rows")])
def test_a_constant_of_other_rows_is_refused(constant, words):
  with pytest.raises(ValueError, match=words):
    face_tasks.summarise({"x": Score(np.arange(3), np.zeros(3))}, constant, np.arange(3), 5,
                         np.random.default_rng(0))


def test_equivalence_of_paired_scores():
  first, group = many(.8, .1)
  near, far = many(.005, .01, seed=1)[0].values, many(.1, .01, seed=1)[0].values
  same = face_tasks.equivalence(first, Score(first.rows, first.values + near), group, .02)
  assert same.equivalent and same.difference == pytest.approx(-near.mean())
  other = face_tasks.equivalence(first, Score(first.rows, first.values + far), group, .02)
  assert not other.equivalent
  unpaired = face_tasks.equivalence(first, many(.8, .5, seed=2)[0], group, .02)
  assert not unpaired.equivalent             # not proven different either: the spread is too large
  assert unpaired.low < 0 < unpaired.high


def test_equivalence_counts_photographs_once():
  rows, group = np.arange(4), np.array([7, 7, 7, 9])
  first, second = Score(rows, np.array([3., 3, 3, 1])), Score(rows, np.zeros(4))
  assert face_tasks.equivalence(first, second, group, 1.).difference == 2


def test_equivalence_refuses_other_rows_and_one_group():
  score = Score(np.arange(2), np.zeros(2))
  with pytest.raises(ValueError, match="different rows"):
    face_tasks.equivalence(score, Score(np.arange(1, 3), np.zeros(2)), np.zeros(3), .1)
  with pytest.raises(ValueError, match="over 1 groups; expected at least 2"):
    face_tasks.equivalence(score, score, np.zeros(2), .1)


# ---- photographs ----


def photographs():
  """Two faces on the first of two photographs of 100 x 100, one over the border on the second."""
  box = np.array([[10, 10, 20, 20], [50, 40, 40, 40], [-10, 0, 40, 40]], np.float32)
  known = np.ones((3, 5), bool)
  known[1, 4] = False
  return Photographs(
      "made", np.zeros((2, 100, 100, 3), np.uint8), np.array([0, 0, 1], np.int32),
      np.arange(3, dtype=np.int32), box, LANDMARKS * box[:, None, 2:] + box[:, None, :2],
      np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool), np.full((3, 3), .2, np.float32),
      np.array([1, 0, 0], np.int32), known)


def test_faces_of_regions_have_their_whole_boxes():
  truth = photographs()
  cut = regions()._replace(
      image=np.array([0, 0, 0, 1], np.int32),
      box=np.array([[48, 42, 40, 40], [12, 9, 20, 20], [0, 70, 9, 9], [0, 0, 30, 40]], np.float32))
  np.testing.assert_allclose(face_boxes(cut, truth),
                             [truth.box[1], truth.box[0], cut.box[2], truth.box[2]])


def found(face, shift=(0, 0), female=.9):
  truth = photographs()
  return Detection(truth.box[face] + [*shift, 0, 0], .9, truth.landmarks[face] + shift,
                   truth.visible[face].astype(float), truth.pose[face] + [.1, 0, 0], female)


def test_scores_of_found_faces_by_hand():
  scores = face_tasks.found_face_scores([[found(1, (0, 4)), found(0)], []], photographs())
  assert scores["detection_recall"].values.tolist() == [1, 1, 0]
  assert "detection_accuracy" not in scores
  assert scores["landmark_nme"].rows.tolist() == [0, 1]
  np.testing.assert_allclose(scores["landmark_nme"].values, [0, .1], atol=1e-6)
  np.testing.assert_allclose(scores["landmark_mse"].values, [0, .01 / 2], atol=1e-6)
  np.testing.assert_allclose(scores["roll_mae"].values, np.rad2deg([.1, .1]), rtol=1e-5)
  assert scores["gender_accuracy"].rows.tolist() == [0]  # unknown of the other
  assert scores["gender_accuracy"].values.tolist() == [1]


def test_nothing_found_is_a_recall_of_zero():
  (name, score), = face_tasks.found_face_scores([[], []], photographs()).items()
  assert name == "detection_recall"
  assert score.values.tolist() == [0, 0, 0]
