import numpy as np
import pytest

from fedjax_face.data.regions.boxes import (
  box_from_eyes,
  clip_boxes,
  iou,
  paired_iou,
  to_image,
  to_region,
)


def test_known_overlaps():
  boxes = [[0, 0, 10, 10]]
  others = [[5, 0, 10, 10], [5, 5, 10, 10], [0, 0, 10, 10], [10, 0, 5, 5], [2, 2, 5, 5],
            [0, 0, 0, 0]]
  np.testing.assert_allclose(iou(boxes, others)[0], [1 / 3, 1 / 7, 1, 0, .25, 0], rtol=1e-6)


def test_overlap_is_symmetric_and_does_not_change_with_place_or_scale():
  rng = np.random.default_rng(0)
  first, second = rng.uniform(1, 9, (2, 30, 4))
  np.testing.assert_allclose(iou(first, second), iou(second, first).T)
  moved = iou(3 * first + [7, -4, 0, 0], 3 * second + [7, -4, 0, 0])
  np.testing.assert_allclose(moved, iou(first, second), atol=1e-6)
  np.testing.assert_allclose(paired_iou(first, second), np.diag(iou(first, second)))


def test_no_boxes_and_empty_boxes():
  assert iou(np.empty((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
  assert paired_iou([1, 1, 0, 0], [1, 1, 0, 0]) == 0


def test_clipping_leaves_the_part_inside():
  boxes = clip_boxes([[-2, 3, 5, 4], [8, 8, 5, 5], [20, 0, 5, 5], [1, 1, 2, 2]], 10, 9)
  np.testing.assert_array_equal(boxes, [[0, 3, 3, 4], [8, 8, 2, 1], [10, 0, 0, 5], [1, 1, 2, 2]])


def test_region_coordinates():
  points, boxes = np.array([[[30., 20.], [10., 40.], [50., 25.]]]), np.array([[10., 20., 40., 10.]])
  np.testing.assert_allclose(to_region(points, boxes, "corner"), [[[.5, 0], [0, 2], [1, .5]]])
  np.testing.assert_allclose(to_region(points, boxes, "centre"), [[[0, -.5], [-.5, 1.5], [.5, 0]]])
  for frame in ("corner", "centre"):
    back = to_image(to_region(points, boxes, frame), boxes, frame)
    np.testing.assert_allclose(back, points, rtol=1e-6)
  with pytest.raises(ValueError, match="'middle'; expected 'corner' or 'centre'"):
    to_region(points, boxes, "middle")


def test_box_from_eyes_upright_and_rolled():
  np.testing.assert_allclose(box_from_eyes([40, 50], [60, 50]), [24.4, 34.4, 51.2, 51.2], rtol=1e-6)
  # head on its side: eyes one above the other, mouth to the left
  np.testing.assert_allclose(box_from_eyes([50, 40], [50, 60]), [14.4, 24.4, 51.2, 51.2], rtol=1e-6)
