"""The course of a run beside what it is compared with."""

import numpy as np
import pytest

from fedjax_face.figures import style
from fedjax_face.figures.training_figure import read_metrics, training_curves

NAN = float("nan")


def titles(fig):
  return [axes.get_title(loc="left") for axes in fig.axes]


def texts(axes):
  return [text.get_text() for text in axes.texts]


def course(loss, **others):
  rounds = np.arange(len(loss), dtype=float)
  return {"round": rounds, "loss": np.array(loss)} | {
      name: np.array(values) for name, values in others.items()}


def test_from_a_file_with_round_0(tmp_path):
  path = tmp_path / "metrics.csv"
  path.write_text("round,recall@far=0.01,loss,epsilon\n0,0.1,,\n1,,2.0,0.5\n2,0.2,1.5,0.7\n")
  fig = training_curves(path)
  assert titles(fig) == ["Loss", "Recall at FAR 0.01", "Epsilon"]
  loss, evaluation, _ = (axes.lines[0] for axes in fig.axes)
  np.testing.assert_array_equal(loss.get_xydata(), [[1, 2.0], [2, 1.5]])
  np.testing.assert_array_equal(evaluation.get_xydata(), [[0, 0.1], [2, 0.2]])


def test_the_headline_has_a_panel_each_and_without_one_the_first_few():
  columns = course([NAN, 1.0], **{f"a@{i}": [0.1, 0.2] for i in range(5)}, pose_mse=[0.3, 0.2])
  assert titles(training_curves(columns, evaluation=("pose_mse", "absent"))) == ["Loss", "Pose MSE"]
  assert titles(training_curves(columns)) == ["Loss", "A@0", "A@1", "A@2"]


def test_what_is_compared_is_a_labelled_line_inside_the_panel():
  columns = course([NAN, 1.0, 1.0], **{"recall@far=0.1": [0.3, 0.31, 0.32]})
  levels = {"public start": 0.3, "raw pixels": 0.6, "untrained": 0.59, "chance": 0.1}
  fig = training_curves(columns, levels={"recall@far=0.1": levels})
  axes = fig.axes[1]
  assert sorted(texts(axes)) == sorted(
      ["trained 0.320", *(f"{words} {value:.3f}" for words, value in levels.items())])
  drawn = {float(line.get_ydata()[0]) for line in axes.lines[1:]}
  assert drawn == set(levels.values())
  low, high = axes.get_ylim()
  assert low < 0.1 and high > 0.6


def test_labels_are_pushed_apart_and_stay_in_the_panel():
  assert style._pushed_apart([0, 1, 50], 10, 100) == [0, 10, 50]
  assert style._pushed_apart([70, 95, 96], 10, 100) == [70, 90, 100]
  assert style._pushed_apart([], 10, 100) == []


def test_the_axis_of_the_loss_shows_its_course():
  fine = training_curves(course([4.0, 3.99, 3.98])).axes[0]
  low, high = fine.get_ylim()
  assert 3.9 < low < 3.98 and 4.0 < high < 4.1 and fine.get_yscale() == "linear"
  assert training_curves(course([40.0, 5.0, 1.0])).axes[0].get_yscale() == "log"
  assert training_curves(course([20.0, 5.0, 1.0])).axes[0].get_yscale() == "linear"


def test_chance_is_a_line_of_the_loss_where_it_does_not_flatten_it():
  near = training_curves(course([2.3, 2.2, 2.0], chance_loss=[NAN, 2.25, 2.35])).axes[0]
  assert "chance (no margin) 2.3" in texts(near) and len(near.lines) == 2
  far = training_curves(course([0.3, 0.2, 0.1], chance_loss=[5.0] * 3)).axes[0]
  assert len(far.lines) == 1 and far.get_ylim()[1] < 0.4
  assert far.get_title(loc="right") == "chance (no margin) 5 (above)"


def test_no_panel_for_an_infinite_epsilon():
  assert titles(training_curves(course([1.0, 1.0], epsilon=[np.inf, np.inf]))) == ["Loss"]


def test_chosen_panels():
  columns = {"round": np.arange(3.0), "accuracy": np.array([-0.1, 0.2, 0.3])}
  fig = training_curves(columns, {"Accuracy": ["accuracy"], "Empty": []})
  assert len(fig.axes) == 1 and fig.axes[0].get_ylim()[0] < -0.1
  with pytest.raises(ValueError, match="no column loss; metrics has round, accuracy"):
    training_curves(columns, {"Loss": ["loss"]})
  with pytest.raises(ValueError, match="no column to draw"):
    training_curves(columns)


@pytest.mark.parametrize("text, message", [
    ("", "column 'round'"), ("step,loss\n1,2\n", "column 'round'"),
    ("round,loss\n1,x\n", "could not convert")])
def test_bad_metrics_are_refused(tmp_path, text, message):
  (tmp_path / "metrics.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    read_metrics(tmp_path / "metrics.csv")
