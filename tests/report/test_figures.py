"""Figures draw what they are given, without a display and without touching global settings."""

from __future__ import annotations

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from fedjax_face.report import figures
from fedjax_face.report.figures import Curve, Frontier

FAR, TAR = np.array([0, 0.01, 0.1, 1.0]), np.array([0.1, 0.3, 0.6, 1.0])
IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 8, 8, 3), dtype=np.uint8)


def texts(axes):
  return [text.get_text() for text in axes.texts]


def test_roc_draws_curve_band_and_unreliable_range():
  fig = figures.roc({"a": Curve(FAR, TAR, TAR - 0.1, TAR), "b": Curve(FAR, TAR)}, reliable_far=1e-3)
  (axes,) = fig.axes
  assert axes.get_xscale() == "log"
  line = next(line for line in axes.lines if line.get_label() == "b")
  np.testing.assert_array_equal(line.get_ydata(), TAR[1:])  # FAR 0 has no place on a log axis.
  assert len(axes.collections) == 1 and any("fewer than 10" in text for text in texts(axes))
  assert [text.get_text() for text in axes.get_legend().texts] == ["a", "b"]


def test_training_curves_from_a_file(tmp_path):
  path = tmp_path / "metrics.csv"
  path.write_text("round,loss,recall@far=0.01,epsilon\n1,2.0,,0.5\n2,1.5,0.2,0.7\n3,1.2,,0.8\n")
  fig = figures.training_curves(path)
  assert [axes.get_title(loc="left") for axes in fig.axes] == ["Loss", "Evaluation", "Epsilon"]
  loss, evaluation, _ = (axes.lines[0] for axes in fig.axes)
  np.testing.assert_array_equal(loss.get_xydata(), [[1, 2.0], [2, 1.5], [3, 1.2]])
  np.testing.assert_array_equal(evaluation.get_xydata(), [[2, 0.2]])  # Only where it was measured.
  assert texts(fig.axes[1]) == ["recall@far=0.01"]


def test_training_curves_draw_the_evaluation_metrics_that_they_are_told():
  columns = {"round": np.arange(3.0), "loss": np.ones(3), "pose_mse": np.array([np.nan, 0.3, 0.2])}
  fig = figures.training_curves(columns, evaluation=("pose_mse", "gender_accuracy"))
  assert [axes.get_title(loc="left") for axes in fig.axes] == ["Loss", "Evaluation"]
  assert texts(fig.axes[1]) == ["pose_mse"]


def test_training_curves_have_no_panel_for_an_infinite_epsilon():
  columns = {"round": np.arange(3.0), "loss": np.ones(3), "epsilon": np.full(3, np.inf)}
  fig = figures.training_curves(columns)
  assert [axes.get_title(loc="left") for axes in fig.axes] == ["Loss"]


def test_training_curves_with_chosen_panels():
  columns = {"round": np.arange(3.0), "accuracy": np.array([-0.1, 0.2, 0.3])}
  fig = figures.training_curves(columns, {"Accuracy": ["accuracy"], "Empty": []})
  assert len(fig.axes) == 1 and fig.axes[0].get_ylim()[0] < -0.1
  with pytest.raises(ValueError, match="no column loss; metrics has round, accuracy"):
    figures.training_curves(columns, {"Loss": ["loss"]})
  with pytest.raises(ValueError, match="no column to draw"):
    figures.training_curves(columns)


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "column 'round'"),
    ("step,loss\n1,2\n", "column 'round'"),
    ("round,loss\n1,x\n", "could not convert"),
  ],
)
def test_bad_metrics_are_refused(tmp_path, text, message):
  (tmp_path / "metrics.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    figures.read_metrics(tmp_path / "metrics.csv")


def test_privacy_utility_sets_the_non_private_value_apart():
  frontier = Frontier([8, 1, np.inf], [0.3, 0.1, 0.4], [0.2, 0.05, 0.35], [0.35, 0.2, 0.5])
  fig = figures.privacy_utility(
    {"ours": frontier}, metric="recall", delta=1e-5, unit="person", adjacency="replace one"
  )
  (axes,) = fig.axes
  assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8", "∞"]
  np.testing.assert_array_equal(
    axes.lines[0].get_xydata(), [[1, 0.1], [8, 0.3]]
  )  # Sorted; ∞ not joined.
  assert (
    "person" in axes.get_xlabel()
    and "replace one" in axes.get_xlabel()
    and "1e-05" in axes.get_xlabel()
  )
  segments = axes.collections[0].get_segments()
  np.testing.assert_allclose([s[:, 1] for s in segments], [[0.05, 0.2], [0.2, 0.35], [0.35, 0.5]])
  with pytest.raises(ValueError, match="finite epsilon"):
    figures.privacy_utility(
      {"a": Frontier([np.inf], [1.0])}, metric="m", delta=1e-5, unit="u", adjacency="a"
    )


def test_population_planning_marks_the_first_that_meets_the_target():
  fig = figures.population_planning(
    [1e3, 1e4, 1e5],
    {"K = 8": [9, 4, 2]},
    target=4,
    delta=1e-6,
    unit="person",
    adjacency="add or remove one",
  )
  marked = [line.get_xydata() for line in fig.axes[0].lines if line.get_marker() == "o"]
  np.testing.assert_array_equal(marked, [[[1e4, 4]]])
  assert fig.axes[0].get_ylabel().endswith("unit: person, add or remove one")
  assert "K = 8" in texts(fig.axes[0]) and "target 4" in texts(fig.axes[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_shows_every_image(channels):
  fig = figures.contact_sheet(IMAGES[..., :channels], [str(i) for i in range(6)], columns=4)
  shown = [axes.images[0].get_array() for axes in fig.axes if axes.images]
  assert len(shown) == 6 and len(fig.axes) == 8
  np.testing.assert_array_equal(shown[5], IMAGES[5] if channels == 3 else IMAGES[5, ..., 0])
  with pytest.raises(ValueError, match="at least one image"):
    figures.contact_sheet(IMAGES[:0])


def test_nearest_neighbours_frames_and_marks():
  fig = figures.nearest_neighbours(IMAGES[:1], IMAGES[None, 1:3], np.array([[True, False]]))
  marks = [
    (texts(axes)[0], matplotlib.colors.to_hex(axes.spines["left"].get_edgecolor()))
    for axes in fig.axes
    if texts(axes)
  ]
  assert marks == [("✓", "#009e73"), ("✗", "#d55e00")]
  with pytest.raises(ValueError, match="must agree"):
    figures.nearest_neighbours(IMAGES[:2], IMAGES[None, 1:3], np.array([[True, False]]))


def test_save_is_atomic_and_leaves_nothing_behind(tmp_path, monkeypatch):
  fig = figures.contact_sheet(IMAGES)
  target = tmp_path / "new" / "sheet.png"
  figures.save(fig, target)
  before = target.read_bytes()
  assert matplotlib.image.imread(target).ndim == 3

  def fail(self, path, **_):
    path.write_bytes(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(type(fig), "savefig", fail)
  with pytest.raises(OSError, match="disk full"):
    figures.save(fig, target)
  assert target.read_bytes() == before and [p.name for p in target.parent.iterdir()] == [
    "sheet.png"
  ]


def test_global_settings_are_untouched():
  before = dict(matplotlib.rcParams)
  figures.roc({"a": Curve(FAR, TAR)})
  assert dict(matplotlib.rcParams) == before
