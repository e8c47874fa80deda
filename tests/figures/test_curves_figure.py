import numpy as np
import pytest

from fedjax_face.figures.curves_figure import course, curves

NAN = float("nan")


def seed(values, rounds=(1, 2, 4), name="accuracy"):
  return {"round": np.array(rounds, float), name: np.array(values, float)}


def test_a_course_is_over_the_rounds_that_all_seeds_have():
  found = course([seed([NAN, .2, .4]), seed([.1, .4, .8])], "accuracy")
  assert found.rounds.tolist() == [2, 4]
  np.testing.assert_allclose(found.mean, [.3, .6])
  np.testing.assert_allclose(found.low, [.2, .4])
  np.testing.assert_allclose(found.high, [.4, .8])
  assert not len(course([seed([1, 2, 3])], "loss").rounds)


def test_lines_end_together_and_one_value_is_a_level():
  figure = curves({"short": [seed([.1, .2, .3])], "long": [seed([.1, .5, .9], (10, 20, 40))],
                   "still": [seed([.25], (1,))]}, ["accuracy", "loss"])
  (axes,) = (a for a in figure.axes if a.get_visible())
  lines = {line.get_label(): line for line in axes.get_lines()}
  np.testing.assert_allclose(lines["short"].get_xdata(), [.25, .5, 1])
  np.testing.assert_allclose(lines["long"].get_ydata(), [.1, .5, .9])
  assert set(lines["still"].get_ydata()) == {.25} and axes.get_title(loc="left") == "accuracy"


def test_nothing_to_draw_is_refused():
  with pytest.raises(ValueError, match="no setting has a value"):
    curves({"empty": [seed([NAN, NAN, NAN])]}, ["accuracy"])
