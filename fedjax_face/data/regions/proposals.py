"""Candidate regions of a photograph: where a face might be.

A proposer maps (image uint8 [H, W, C], rng) to boxes float32 [P, 4] (left, top, width, height)
inside the image, P as it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedjax_face.data.regions.boxes import clip_boxes, paired_iou

Proposer = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_LEAST_SIDE = 2.                  # pixels
_SHIFT, _STRETCH = .25, .35       # reach of the jitter: of a side, and of the log of a side
_PART = (.25, .7)                 # side of a part of a face over the face's
_HALVINGS = 10


def random_proposer(count: int, scales: tuple[float, float] = (.1, .9),
                    aspects: tuple[float, float] = (.7, 1.4)) -> Proposer:
  """Boxes of random size, aspect and place.

  Args:
    count: P.
    scales: range of sqrt(width * height) as a share of the image's shorter side, log-uniform.
    aspects: range of width / height, log-uniform; sides longer than the image are cut.

  Raises:
    ValueError: a count below 1, or a range that is empty or not positive.
  """
  _check_ranges(count, scales, aspects)

  def propose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    limit = np.array(image.shape[1::-1], float)
    scale = _log_uniform(scales, count, rng) * limit.min()
    root = np.sqrt(_log_uniform(aspects, count, rng))
    side = np.clip(np.stack([scale * root, scale / root], -1), _LEAST_SIDE, limit)
    corner = rng.random((count, 2)) * (limit - side)
    return np.concatenate([corner, side], -1).astype(np.float32)

  return propose


def grid_proposer(scales: Sequence[float], aspects: Sequence[float] = (1.,),
                  stride: float = .25) -> Proposer:
  """Every place on a grid, for each scale and aspect; draws nothing.

  Args:
    scales: sqrt(width * height) as shares of the image's shorter side.
    aspects: width / height.
    stride: largest step between neighbours, as a share of the box.

  Raises:
    ValueError: no scale or aspect, one that is not positive, or a stride outside 0 to 1.
  """
  if not scales or not aspects or min(*scales, *aspects) <= 0:
    raise ValueError(f"scales are {scales}, aspects {aspects}; expected some, each above 0")
  if not 0 < stride <= 1:
    raise ValueError(f"stride is {stride}; expected above 0, at most 1")

  def propose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    limit = np.array(image.shape[1::-1], float)
    boxes = []
    for scale in scales:
      for aspect in aspects:
        side = np.clip(scale * limit.min() * np.array([aspect ** .5, aspect ** -.5]),
                       _LEAST_SIDE, limit)
        steps = np.ceil((limit - side) / (stride * side) - 1e-9).astype(int) + 1
        left, top = (np.linspace(0, *end) for end in zip(limit - side, steps, strict=True))
        corner = np.stack(np.meshgrid(left, top), -1).reshape(-1, 2)
        boxes.append(np.concatenate([corner, np.broadcast_to(side, corner.shape)], -1))
    return np.concatenate(boxes).astype(np.float32)

  return propose


def selective_search_proposer(limit: int | None = None, least_side: float = 16.) -> Proposer:
  """Selective search, fast mode, of OpenCV's contributed modules (extra `vision`).

  OpenCV returns the boxes in an order that differs from call to call; they are sorted before a
  subset is drawn.

  Args:
    limit: at most so many boxes, drawn at random; None = all.
    least_side: boxes with a shorter side (pixels) are left out.

  Raises:
    ImportError: OpenCV is absent or has no `ximgproc`.
    ValueError: a limit below 1.

  Source: Uijlings, van de Sande, Gevers, Smeulders, IJCV 2013.
  """
  if limit is not None and limit < 1:
    raise ValueError(f"limit is {limit}; expected at least 1 or None")
  segmentation = _opencv_segmentation()

  def propose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    search = segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(np.broadcast_to(image[..., ::-1],
                                                             (*image.shape[:2], 3))))
    search.switchToSelectiveSearchFast()
    boxes = np.unique(np.asarray(search.process(), np.float32).reshape(-1, 4), axis=0)
    boxes = boxes[(boxes[:, 2:] >= least_side).all(-1)]
    if limit is not None and len(boxes) > limit:
      boxes = boxes[np.sort(rng.choice(len(boxes), limit, replace=False))]
    return boxes

  return propose


def jittered_boxes(boxes: np.ndarray, count: int, width: float, height: float, least_iou: float,
                   rng: np.random.Generator) -> np.ndarray:
  """Boxes near given ones: shifted and stretched at random, inside the image.

  Args:
    boxes: float32 [F, 4], inside the image.
    count: how many of each.
    width: of the image, pixels.
    height: of the image, pixels.
    least_iou: every result overlaps the box it comes from by more than this; a jitter that goes
      too far is halved until it does.
    rng: draws the jitter.

  Returns:
    float32 [F * count, 4], those of one box together.

  Raises:
    ValueError: `least_iou` is not in [0, .95].
  """
  if not 0 <= least_iou <= .95:
    raise ValueError(f"least_iou is {least_iou}; expected 0 to 0.95")
  given = np.repeat(np.asarray(boxes, np.float32).reshape(-1, 4), count, axis=0)
  draw = rng.uniform(-1, 1, given.shape)
  reach = np.ones((len(given), 1))
  for _ in range(_HALVINGS):
    jittered = clip_boxes(_moved(given, reach * draw), width, height)
    far = paired_iou(jittered, given) <= least_iou
    if not far.any():
      break
    reach[far] *= .5
  return jittered


def parts_of_boxes(boxes: np.ndarray, count: int, width: float, height: float,
                   rng: np.random.Generator) -> np.ndarray:
  """Boxes on parts of given ones: centred inside, with sides of a quarter to seven tenths.

  Args:
    boxes: float32 [F, 4], inside the image.
    count: how many of each.
    width: of the image, pixels.
    height: of the image, pixels.
    rng: draws them.

  Returns:
    float32 [F * count, 4] cut to the image, those of one box together.
  """
  given = np.repeat(np.asarray(boxes, np.float32).reshape(-1, 4), count, axis=0)
  side = given[:, 2:] * _log_uniform(_PART, len(given), rng)[:, None]
  centre = given[:, :2] + rng.uniform(0, 1, (len(given), 2)) * given[:, 2:]
  return clip_boxes(np.concatenate([centre - .5 * side, side], -1), width, height)


def _moved(boxes: np.ndarray, jitter: np.ndarray) -> np.ndarray:
  """Boxes with their centres shifted and sides stretched by a jitter [N, 4] in -1 to 1."""
  side = boxes[:, 2:] * np.exp(_STRETCH * jitter[:, 2:])
  centre = boxes[:, :2] + .5 * boxes[:, 2:] + _SHIFT * jitter[:, :2] * boxes[:, 2:]
  return np.concatenate([centre - .5 * side, side], -1)


def _log_uniform(limits: tuple[float, float], count: int, rng: np.random.Generator) -> np.ndarray:
  return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), count))


def _check_ranges(count: int, *ranges: tuple[float, float]) -> None:
  if count < 1:
    raise ValueError(f"count is {count}; expected at least 1")
  for low, high in ranges:
    if not 0 < low <= high:
      raise ValueError(f"range is ({low}, {high}); expected 0 < low <= high")


def _opencv_segmentation():
  """OpenCV's module of selective search, or an error that says what to install."""
  try:
    import cv2
    return cv2.ximgproc.segmentation
  except (ImportError, AttributeError):
    raise ImportError("selective search needs OpenCV with its contributed modules (ximgproc): "
                      "pip install 'fedjax_face[vision]', or use random_proposer or grid_proposer"
                      ) from None
