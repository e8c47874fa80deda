import pytest

from fedjax_face.figures.audit_figure import Claim, claimed_and_measured
from fedjax_face.figures.style import RIGHT, WRONG

GUARANTEE = {"delta": 1e-2, "unit": "person", "adjacency": "replace-one", "confidence": 0.99,
             "channel": "clusters"}


def test_every_claim_has_its_row_and_its_colour():
  fig = claimed_and_measured([Claim("real", 2.0, 1.5), Claim("broken", 2.0, 3.0)], **GUARANTEE)
  (axes,) = fig.axes
  assert [label.get_text() for label in axes.get_yticklabels()] == ["real", "broken"]
  heads = [line for line in axes.lines if line.get_marker() == ">" and len(line.get_xdata())]
  assert [(line.get_xdata()[0], line.get_color()) for line in heads] == [(1.5, RIGHT), (3.0, WRONG)]
  for word in ("0.01", "person", "replace-one", "clusters"):
    assert word in axes.get_xlabel()
  assert sum("99% confidence" in text.get_text() for text in fig.legends[0].texts) == 2


def test_all_words_lie_inside_the_figure():
  """Long names of many mechanisms leave the axes narrower than the label below them."""
  claims = [Claim(f"half the noise: exponential caps, {n} with counts", 2.0, 3.0)
            for n in range(20)]
  fig = claimed_and_measured(claims, **GUARANTEE)
  fig.canvas.draw()
  (axes,) = fig.axes
  for text in (axes.xaxis.label, *axes.get_yticklabels(), *fig.legends[0].texts):
    box = text.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= fig.bbox.width + 1
    assert box.y0 >= 0 and box.y1 <= fig.bbox.height


def test_nothing_to_draw_is_refused():
  with pytest.raises(ValueError, match="at least one claim"):
    claimed_and_measured([], **GUARANTEE)
