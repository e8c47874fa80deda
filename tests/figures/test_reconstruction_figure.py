"""The grid of reconstructions: what is drawn is what was rebuilt."""

import math

import numpy as np
import pytest

from fedjax_face.figures.reconstruction_figure import reconstructions
from fedjax_face.figures.style import save

WORDS = {"mechanism": "Gaussian, C = 1", "cut": "conv1", "delta": 1e-5}


def pictures(seed, channels=1, people=2):
  shape = (people, 12, 14, channels)
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_columns_run_from_the_original_to_the_smallest_epsilon(tmp_path):
  originals = pictures(0)
  rebuilt = {4.0: pictures(1), math.inf: originals, 50.0: pictures(2)}
  fig = reconstructions(originals, rebuilt, **WORDS)
  titles = [axes.get_title() for axes in fig.axes[:4]]
  assert titles[:2] == ["original", "no noise\nSSIM 1.00"]
  assert titles[2].startswith("$\\epsilon$ = 50\nSSIM") and "= 4\nSSIM" in titles[3]
  assert [axes.get_title() for axes in fig.axes[4:]] == [""] * 4
  for axes, picture in zip(fig.axes, (originals[0], originals[0], rebuilt[50.0][0],
                                      rebuilt[4.0][0], originals[1]), strict=False):
    np.testing.assert_array_equal(axes.images[0].get_array(), np.broadcast_to(picture, (12, 14, 3)))
  words = fig.get_suptitle()
  assert "Gaussian, C = 1" in words and "conv1" in words and "1e-05" in words
  save(fig, tmp_path / "grid.png")
  assert (tmp_path / "grid.png").stat().st_size > 1000


def test_colour_pictures_are_drawn_as_they_are():
  originals = pictures(0, channels=3, people=1)
  fig = reconstructions(originals, {1.0: originals}, **WORDS)
  np.testing.assert_array_equal(fig.axes[0].images[0].get_array(), originals[0])


@pytest.mark.parametrize("rebuilt, message", [
    ({}, "at least one epsilon"),
    ({8.0: pictures(1, people=3)}, r"epsilon 8: pictures are uint8 \[3, 12, 14, 1\]; expected"),
    ({8.0: pictures(1) / 255}, "epsilon 8: pictures are float64"),
])
def test_other_arrays_are_refused(rebuilt, message):
  with pytest.raises(ValueError, match=message):
    reconstructions(pictures(0), rebuilt, **WORDS)


def test_the_title_fits_where_there_are_few_columns():
  fig = reconstructions(pictures(0), {8.0: pictures(1)}, **WORDS | {
      "mechanism": "decoder with noise", "cut": "bottleneck"})
  fig.canvas.draw()
  title = fig._suptitle.get_window_extent()
  assert title.x1 < fig.bbox.x1 and title.y1 < fig.bbox.y1
