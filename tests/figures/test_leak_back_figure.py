import numpy as np
import pytest

from fedjax_face.attacks.leak_back import Outcome
from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.figures.leak_back_figure import recovered_templates

PROBE = Estimate(0.6, 0.6, 0.6)


def outcome(form, scale, strength, value):
  return Outcome(form, scale, strength, PROBE, Estimate(value, value - 0.02, value + 0.01))


def test_a_panel_for_each_form_and_a_line_for_each_scale():
  outcomes = [outcome(form, scale, strength, value)
              for form in ("as_written", "calibrated") for scale in (8.0, 64.0)
              for strength, value in ((10.0, 0.9), (0.0, 0.6), (0.1, 0.7))]
  fig = recovered_templates(outcomes, title="300 classes")
  assert [axes.get_title(loc="left") for axes in fig.axes] == ["as written", "calibrated"]
  for axes in fig.axes:
    assert axes.get_xscale() == "log" and len(axes.containers) == 2
    line, _, (bars,) = axes.containers[0].lines
    np.testing.assert_array_equal(line.get_ydata(), [0.7, 0.9])
    np.testing.assert_allclose(np.asarray(bars.get_segments()[1])[:, 1], [0.88, 0.91])
    beside = axes.containers[1].lines[0]
    middle = [np.sqrt(a * b) for a, b in zip(line.get_xdata(), beside.get_xdata(), strict=True)]
    assert middle == pytest.approx([0.1, 10])
  names = [text.get_text() for text in fig.legends[0].texts]
  assert sorted(names) == ["probe, before", "s = 64", "s = 8"]
  assert fig._suptitle.get_text() == "300 classes"


def test_a_scale_that_one_form_lacks_and_a_single_target_are_drawn():
  nan = Estimate(0.4, np.nan, np.nan)
  fig = recovered_templates([outcome("as_written", 8.0, 1.0, 0.9),
                             Outcome("calibrated", 16.0, 1.0, PROBE, nan)])
  assert len(fig.axes) == 2 and fig.axes[0].get_ylim()[0] < 0.4
  assert [len(axes.containers) for axes in fig.axes] == [1, 1]
  assert {"s = 8", "s = 16"} < {text.get_text() for text in fig.legends[0].texts}


def test_nothing_to_draw_is_refused():
  with pytest.raises(ValueError, match="lambda above 0"):
    recovered_templates([outcome("as_written", 8.0, 0.0, 0.6)])
