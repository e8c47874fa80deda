import sys
import types

import numpy as np
import pytest

from fedjax_face.data.regions.boxes import paired_iou
from fedjax_face.data.regions.proposals import (
  grid_proposer,
  jittered_boxes,
  parts_of_boxes,
  random_proposer,
  selective_search_proposer,
)

IMAGE = np.zeros((40, 100, 3), np.uint8)


def inside(boxes, width=100, height=40):
  return ((boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
          and (boxes[:, :2] + boxes[:, 2:] <= np.array([width, height]) + 1e-3).all())


def test_random_boxes_are_inside_and_of_the_asked_scale_and_aspect():
  boxes = random_proposer(500, (.2, .6), (.5, 2.))(IMAGE, np.random.default_rng(0))
  assert boxes.shape == (500, 4) and boxes.dtype == np.float32 and inside(boxes)
  scale = np.sqrt(boxes[:, 2:].prod(-1)) / 40
  aspect = boxes[:, 2] / boxes[:, 3]
  assert scale.min() > .199 and scale.max() < .601 and scale.max() - scale.min() > .35
  assert aspect.min() > .499 and aspect.max() < 2.001 and np.log(aspect).std() > .3
  again = random_proposer(500, (.2, .6), (.5, 2.))(IMAGE, np.random.default_rng(0))
  np.testing.assert_array_equal(boxes, again)


def test_random_boxes_are_cut_to_the_image():
  assert inside(random_proposer(200, (.9, 1.), (.2, 5.))(IMAGE, np.random.default_rng(0)))


def test_grid_by_hand():
  boxes = grid_proposer([.5], stride=.5)(IMAGE, np.random.default_rng(0))
  assert boxes.shape == (9 * 3, 4)
  np.testing.assert_allclose(np.unique(boxes[:, 0]), np.arange(0, 81, 10))
  np.testing.assert_allclose(np.unique(boxes[:, 1]), [0, 10, 20])
  both = grid_proposer([.5, 1.], [1., 4.])(IMAGE, np.random.default_rng(0))
  assert inside(both) and np.unique(both[:, 2:], axis=0).tolist() == [
      [20, 20], [40, 10], [40, 40], [80, 20]]


def test_jittered_boxes_stay_near_and_inside():
  faces = np.array([[10, 5, 20, 20], [80, 20, 20, 20], [0, 0, 100, 40]], np.float32)
  boxes = jittered_boxes(faces, 50, 100, 40, .5, np.random.default_rng(0))
  overlap = paired_iou(boxes, np.repeat(faces, 50, 0))
  assert boxes.shape == (150, 4) and inside(boxes)
  assert overlap.min() > .5 and overlap.max() < 1.01 and overlap[:50].std() > .05
  strict = jittered_boxes(faces, 50, 100, 40, .9, np.random.default_rng(0))
  assert paired_iou(strict, np.repeat(faces, 50, 0)).min() > .9
  assert jittered_boxes(np.empty((0, 4)), 5, 9, 9, .5, np.random.default_rng(0)).shape == (0, 4)


def test_parts_lie_on_their_face_and_are_smaller():
  faces = np.array([[10, 5, 20, 20], [80, 20, 20, 20]], np.float32)
  boxes = parts_of_boxes(faces, 200, 100, 40, np.random.default_rng(0))
  owners = np.repeat(faces, 200, 0)
  assert boxes.shape == (400, 4) and inside(boxes)
  centre = boxes[:200, :2] + .5 * boxes[:200, 2:]  # of the face that no border cuts
  assert (centre >= owners[:200, :2] - 1e-3).all()
  assert (centre <= (owners[:, :2] + owners[:, 2:])[:200] + 1e-3).all()
  assert .25 < boxes[:200, 2].min() / 20 < .3 and .65 < boxes[:200, 2].max() / 20 < .701
  assert parts_of_boxes(np.empty((0, 4)), 5, 9, 9, np.random.default_rng(0)).shape == (0, 4)


@pytest.mark.parametrize("make, message", [
    (lambda: random_proposer(0), "count is 0"),
    (lambda: random_proposer(5, (.5, .2)), r"range is \(0.5, 0.2\)"),
    (lambda: grid_proposer([]), "expected some"),
    (lambda: grid_proposer([.5], stride=0.), "stride is 0"),
    (lambda: selective_search_proposer(0), "limit is 0"),
    (lambda: jittered_boxes(np.ones((1, 4)), 1, 9, 9, 1., np.random.default_rng(0)), "least_iou"),
])
def test_bad_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize("module", [None, types.ModuleType("cv2")])
def test_selective_search_without_opencv_says_what_to_install(monkeypatch, module):
  monkeypatch.setitem(sys.modules, "cv2", module)
  with pytest.raises(ImportError, match=r"ximgproc.*fedjax_face\[vision\]"):
    selective_search_proposer()


def test_selective_search_is_sorted_before_it_is_subsampled(monkeypatch):
  found = np.array([[x, 0, side, 20] for x in range(30) for side in (4, 20, 30)])
  order = np.random.default_rng(1)

  class Search:
    def setBaseImage(self, image):
      assert image.shape == (40, 100, 3) and image.flags.c_contiguous

    def switchToSelectiveSearchFast(self):
      pass

    def process(self):
      return order.permutation(np.concatenate([found, found[:5]]))

  module = types.SimpleNamespace(ximgproc=types.SimpleNamespace(
      segmentation=types.SimpleNamespace(createSelectiveSearchSegmentation=Search)))
  monkeypatch.setitem(sys.modules, "cv2", module)
  some = selective_search_proposer(7)
  first, second = (some(IMAGE[..., :1], np.random.default_rng(0)) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  assert first.shape == (7, 4) and (first[:, 2] >= 16).all()
  assert len(selective_search_proposer()(IMAGE, np.random.default_rng(0))) == 60


def test_selective_search_of_opencv():
  cv2 = pytest.importorskip("cv2", reason="OpenCV (extra vision) is not installed")
  if not hasattr(cv2, "ximgproc"):
    pytest.skip("OpenCV has no ximgproc")
  image = IMAGE.copy()
  image[10:30, 20:50] = (250, 40, 40)
  boxes = selective_search_proposer()(image, np.random.default_rng(0))
  assert inside(boxes)
  assert paired_iou(boxes, np.array([20, 10, 30, 20])).max() > .8
