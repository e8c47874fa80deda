"""Figures of silos: what is drawn is what was given."""

import numpy as np
import pytest

from fedjax_face.figures import silo_figures

EDGES = [-1.0, 0.0, 1.0]


def test_overlap_draws_shares_of_every_run():
  fig = silo_figures.overlap({"fedpe": {"edges": EDGES, "pairs": [1, 3], "nearest": [0, 4]},
                              "fedgc": {"edges": EDGES, "pairs": [2, 2], "nearest": [4, 0]}})
  pairs, nearest = ([patch.get_data().values for patch in axes.patches] for axes in fig.axes)
  np.testing.assert_allclose(pairs, [[0.25, 0.75], [0.5, 0.5]])
  np.testing.assert_allclose(nearest, [[0, 1], [1, 0]])
  assert [text.get_text() for text in fig.legends[0].get_texts()] == ["FedPE", "FedGC"]


def test_overlap_of_nothing_is_refused():
  with pytest.raises(ValueError, match="at least one run"):
    silo_figures.overlap({})


def table(**means):
  return {name: {"metrics": {"m": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}}
          for name, mean in means.items()}


def test_gap_has_a_row_for_each_setting_and_lines_at_both_ends():
  fig = silo_figures.gap(table(fedpe=0.3, gc_1=0.4, gc_10=0.5, centralized=0.6), ["m"], "fedpe",
                         "centralized")
  axes = fig.axes[0]
  assert [label.get_text() for label in axes.get_yticklabels()] == [
      "FedPE", "gc 1", "gc 10", "centralized"]
  assert {line.get_xdata()[0] for line in axes.lines
          if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2} >= {0.3, 0.6}


@pytest.mark.parametrize("metric, end, words", [
    ("m", "best", "no setting 'best': fedpe"), ("n", "fedpe", "no metric 'n': m")])
def test_what_the_table_lacks_is_named(metric, end, words):
  with pytest.raises(ValueError, match=words):
    silo_figures.gap(table(fedpe=0.3), [metric], "fedpe", end)
