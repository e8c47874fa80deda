"""The picture of detections: what is drawn is what was found."""

import matplotlib.colors
import numpy as np
import pytest

from fedjax_face.evaluation.detection import Detection
from fedjax_face.figures import detection_figure
from fedjax_face.figures.style import save


def face(left=20., top=30., pose=(0., 0., 0.), female=.8, visibility=(1., .2, .7)):
  points = np.array([[left + 5, top + 5], [left + 15, top + 5], [left + 10, top + 15]])
  return Detection(np.array([left, top, 20., 20.]), .9, points, np.array(visibility),
                   np.array(pose), female)


def drawn(*found, shape=(80, 60, 3)):
  return detection_figure.detections(np.zeros(shape, np.uint8), found).axes[0]


def heads(axes):
  """Where the three axes of a head point: right, up, nose; (right, up) in box sides."""
  return np.array([(note.xy[0] - note.get_position()[0], note.get_position()[1] - note.xy[1])
                   for note in axes.texts if note.get_text() == ""]) / 20


def test_boxes_landmarks_and_labels():
  axes = drawn(face(), face(left=5, top=0, female=.1))
  boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
  assert boxes == [(20, 30, 20, 20), (5, 0, 20, 20)]
  visible, hidden = axes.lines[:2]
  np.testing.assert_allclose(visible.get_xydata(), [[25, 35], [30, 45]])
  np.testing.assert_allclose(hidden.get_xydata(), [[35, 35]])
  assert hidden.get_markerfacecolor() == "none" != visible.get_markerfacecolor()
  labels = [text for text in axes.texts if text.get_text()]
  assert [text.get_text() for text in labels] == ["face 90%, female 80%", "face 90%, male 90%"]
  assert [text.get_va() for text in labels] == ["bottom", "top"]  # inside where the picture ends
  colours = {matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axes.patches}
  assert len(colours) == 2


def test_axes_of_the_head_turn_as_the_renderer_says():
  length = .4
  np.testing.assert_allclose(heads(drawn(face())), [[length, 0], [0, length], [0, 0]], atol=1e-6)
  np.testing.assert_allclose(heads(drawn(face(pose=(0, 0, np.pi / 2))))[2], [-length, 0],
                             atol=1e-6)               # yaw: nose to the image's left
  np.testing.assert_allclose(heads(drawn(face(pose=(0, np.pi / 2, 0))))[2], [0, length],
                             atol=1e-6)               # pitch: looks up
  np.testing.assert_allclose(heads(drawn(face(pose=(np.pi / 2, 0, 0))))[:2],
                             [[0, -length], [length, 0]], atol=1e-6)  # roll: clockwise


def test_no_detection_is_the_photograph_itself():
  axes = drawn(shape=(80, 60, 1))
  assert not axes.patches and not axes.lines and not axes.texts
  assert axes.images[0].get_array().shape == (80, 60, 3)
  assert axes.get_xlim() == (-.5, 59.5) and axes.get_ylim() == (79.5, -.5)


def test_a_picture_is_written(tmp_path):
  save(detection_figure.detections(np.zeros((40, 40, 3), np.uint8), [face(left=-8)]),
       tmp_path / "faces.png")
  assert (tmp_path / "faces.png").stat().st_size > 1000


def test_other_arrays_are_refused():
  with pytest.raises(ValueError, match=r"float64 \[4, 4, 3\]; expected uint8"):
    detection_figure.detections(np.zeros((4, 4, 3)), [])


def test_a_large_photograph_is_drawn_small_in_its_own_coordinates():
  axes = drawn(shape=(4800, 40, 3))
  assert axes.images[0].get_array().shape == (1200, 10, 3)
  assert axes.images[0].get_extent() == [-.5, 39.5, 4799.5, -.5]
