"""Boxes (left, top, width, height) in pixels, and the points inside them."""

from __future__ import annotations

from typing import Literal

import numpy as np

Frame = Literal["corner", "centre"]
"""Region coordinates: 'corner' is 0 to 1 from the upper-left corner, 'centre' is -.5 to .5."""

_EYE_DISTANCES_PER_SIDE = 2.56


def paired_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Intersection over union of boxes with boxes.

  Args:
    first: `[..., 4]`.
    second: `[..., 4]`, broadcast against `first`.

  Returns:
    float32 `[...]` in 0 to 1; 0 where both boxes are empty.
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  near = np.maximum(first[..., :2], second[..., :2])
  far = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
  shared = np.maximum(far - near, 0).prod(-1)
  union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared
  return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0).astype(np.float32)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Intersection over union of every box of `first` `[N, 4]` with every one of `second` `[M, 4]`.

  Returns:
    float32 `[N, M]`.
  """
  first, second = (np.asarray(boxes).reshape(-1, 4) for boxes in (first, second))
  return paired_iou(first[:, None], second[None])


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
  """The parts of boxes `[N, 4]` inside an image; float32, of no size where nothing is inside."""
  boxes = np.asarray(boxes, np.float32)
  limit = np.array([width, height], np.float32)
  near = np.clip(boxes[:, :2], 0, limit)
  far = np.clip(boxes[:, :2] + boxes[:, 2:], 0, limit)
  return np.concatenate([near, far - near], -1)


def to_region(points: np.ndarray, boxes: np.ndarray, frame: Frame) -> np.ndarray:
  """Points of an image in the coordinates of a region.

  Args:
    points: `[N, L, 2]` (x, y) in pixels of the image.
    boxes: `[N, 4]`, the regions.
    frame: 'corner': a = (x - c) / w, b = (y - d) / h (DPLH, section 3); 'centre': the same less
      one half (HyperFace, section 3.2).

  Returns:
    float32 `[N, L, 2]`.

  Raises:
    ValueError: `frame` is neither.
  """
  offset = _frame_offset(frame)
  return ((points - boxes[:, None, :2]) / boxes[:, None, 2:] - offset).astype(np.float32)


def to_image(points: np.ndarray, boxes: np.ndarray, frame: Frame) -> np.ndarray:
  """The inverse of `to_region`: region coordinates `[N, L, 2]` to pixels of the image."""
  offset = _frame_offset(frame)
  return ((points + offset) * boxes[:, None, 2:] + boxes[:, None, :2]).astype(np.float32)


def box_from_eyes(left_eye: np.ndarray, right_eye: np.ndarray) -> np.ndarray:
  """AFLW's box of a frontal face from the centres of its eyes.

  A square with a side of 2.56 eye distances, its centre half an eye distance below the middle of
  the eyes (towards the mouth, also where the head is rolled).

  Args:
    left_eye: `[..., 2]` (x, y) in pixels, the eye at the left of an upright image.
    right_eye: `[..., 2]`, the other.

  Returns:
    float32 `[..., 4]`.
  """
  left_eye, right_eye = np.asarray(left_eye, np.float32), np.asarray(right_eye, np.float32)
  across = right_eye - left_eye
  down = np.stack([-across[..., 1], across[..., 0]], -1)
  centre = .5 * (left_eye + right_eye) + .5 * down
  side = _EYE_DISTANCES_PER_SIDE * np.linalg.norm(across, axis=-1, keepdims=True)
  return np.concatenate([centre - .5 * side, side, side], -1).astype(np.float32)


def _frame_offset(frame: str) -> float:
  """What 'centre' subtracts from 'corner'."""
  if frame not in ("corner", "centre"):
    raise ValueError(f"frame is {frame!r}; expected 'corner' or 'centre'")
  return .5 if frame == "centre" else 0.
