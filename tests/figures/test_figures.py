"""Figures draw what they are given, without a display and without touching global settings."""

from __future__ import annotations

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import scipy.special

from fedjax_face.figures import figures
from fedjax_face.figures.figures import Curve, Frontier

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
  (legend,) = fig.legends
  assert [text.get_text() for text in legend.texts] == ["a", "b", "chance"]
  assert axes.get_xlim()[0] == 1e-4


def test_det_is_straight_for_normal_scores_and_shades_the_unreliable_range():
  """Same pairs score one standard deviation higher: probit(FRR) = -1 - probit(FAR)."""
  place = np.linspace(-3, 1, 9)
  far, tar = scipy.special.ndtr(place), scipy.special.ndtr(place + 1)
  fig = figures.det({"a": Curve(far, tar, tar - 0.05, tar)}, smallest_far=1e-3, reliable_far=1e-2)
  (axes,) = fig.axes
  line = next(line for line in axes.lines if line.get_label() == "a")
  np.testing.assert_allclose(line.get_ydata(), -1 - line.get_xdata(), atol=1e-6)
  assert axes.get_xlim()[0] == pytest.approx(scipy.special.ndtri(1e-3))
  ticks = dict(zip((t.get_text() for t in axes.get_xticklabels()), axes.get_xticks(), strict=True))
  assert ticks["0.1"] == pytest.approx(scipy.special.ndtri(0.1)) and "0.5" in ticks
  assert len(axes.collections) == 1 and len(axes.patches) == 1


def test_det_leaves_out_rates_that_have_no_place():
  fig = figures.det({"a": Curve(FAR, TAR)})
  line = next(line for line in fig.axes[0].lines if line.get_label() == "a")
  assert len(line.get_xdata()) == 2  # FAR 0, and TAR 1, are infinitely far away


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
