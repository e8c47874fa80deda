import math

import pytest

from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.figures.activation_figure import Setting, utility_and_attacks

SOME = Estimate(0.4, 0.3, 0.5)
NOTHING = Estimate(math.nan, math.nan, math.nan)


def setting(epsilon, **changes):
  noisy = not math.isinf(epsilon)
  given = {"epsilon": epsilon, "accuracy": SOME, "accuracy_noised": SOME,
           "ceiling": 0.6 if noisy else math.nan, "recognised": SOME,
           "recognisable": 0.3 if noisy else 1.0, "originals": 0.8,
           "ssim": SOME, "blind": 0.2, "members": SOME,
           "distinguished": SOME if noisy else NOTHING, "bound": 0.5 if noisy else 1.0}
  return Setting(**(given | changes))


def test_a_column_for_each_cut_and_a_tick_for_each_epsilon():
  figure = utility_and_attacks(
      {cut: [setting(1.0), setting(8.0), setting(math.inf)] for cut in ("first", "bottleneck")},
      delta=1e-5, title="made")
  above, below = figure.axes[:2], figure.axes[2:]
  assert [axes.get_title(loc="left") for axes in above] == ["first", "bottleneck"]
  assert [tick.get_text() for tick in below[0].get_xticklabels()] == ["1", "8", "none"]
  assert "1e-05" in below[0].get_xlabel()


def test_lines_are_the_values():
  figure = utility_and_attacks(
      {"first": [setting(1.0, accuracy=Estimate(0.11, 0.1, 0.2)), setting(8.0)]}, delta=1e-5,
      title="made")
  lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
  assert lines["on the device, no noise"] == [0.11, 0.4]
  assert lines["most that the noise allows"] == [0.6, 0.6]


def test_nothing_to_draw_is_refused():
  with pytest.raises(ValueError, match="at least one cut"):
    utility_and_attacks({"first": []}, delta=1e-5, title="made")
