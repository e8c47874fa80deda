"""A photograph and the faces found on it: box, landmarks, axes of the head, score and gender."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fedjax_face.data.rendering.renderer import rotation
from fedjax_face.evaluation.detection import Detection
from fedjax_face.figures.style import INK, PALETTE, new_figure, style

_LONGER_SIDE = 6.                                  # inches
_LONGER_SIDE_PIXELS = 1200                         # of the photograph as it is drawn
_AXIS_LENGTH = .4                                  # of a box's side
_AXES = {"right": "#D55E00", "up": "#009E73", "nose": "#56B4E9"}
_BOX_COLOURS = tuple(colour for colour in PALETTE[:6] if colour not in _AXES.values())
_TEXT_HEIGHT = .045                                # of the picture's longer side


@style()
def detections(image: np.ndarray, found: Sequence[Detection]) -> Figure:
  """Draws detections on their photograph.

  Landmarks are filled where visible and rings where hidden (visibility below one half). From the
  middle of a box go the axes of the head: orange to the image's right of a frontal face, green up,
  blue where the nose points. Above it: probability of a face, and the likelier gender with its.

  Args:
    image: uint8 [H, W, C], C 1 or 3.
    found: any number of detections.

  Raises:
    ValueError: the image is not uint8 [H, W, 1 or 3].
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise ValueError(f"image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 1 or 3]")
  height, width = image.shape[:2]
  scale = _LONGER_SIDE / max(height, width)
  fig = new_figure(width * scale, height * scale, w_pad=0, h_pad=0)
  axes = fig.add_subplot()
  axes.imshow(_small(np.broadcast_to(image, (height, width, 3))), interpolation="bilinear",
              extent=(-.5, width - .5, height - .5, -.5))
  axes.set(xlim=(-.5, width - .5), ylim=(height - .5, -.5))
  axes.set_axis_off()
  for number, detection in enumerate(found):
    colour = _BOX_COLOURS[number % len(_BOX_COLOURS)]
    left, top, *sides = detection.box.tolist()
    axes.add_patch(Rectangle((left, top), *sides, fill=False, ec=colour, lw=1.8))
    _draw_landmarks(axes, detection, colour)
    _draw_head(axes, detection)
    _write(axes, detection, colour, _TEXT_HEIGHT * max(height, width))
  return fig


def _small(image: np.ndarray) -> np.ndarray:
  """A photograph with no more pixels than its drawing has use for."""
  factor = max(image.shape) // _LONGER_SIDE_PIXELS
  return np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image


def _draw_landmarks(axes: Axes, detection: Detection, colour: str) -> None:
  visible = detection.visibility >= .5
  for points, face in ((detection.landmarks[visible], colour),
                       (detection.landmarks[~visible], "none")):
    axes.plot(*points.T, ls="none", marker="o", ms=4.5, mfc=face, mew=1,
              mec="white" if face == colour else colour)


def _draw_head(axes: Axes, detection: Detection) -> None:
  """The head's axes, as the camera sees them."""
  left, top, width, height = detection.box
  length = _AXIS_LENGTH * min(width, height)
  start = (left + .5 * width, top + .5 * height)
  directions = np.asarray(rotation(jnp.asarray(detection.pose)))[:2]
  for (x, y), colour in zip(length * directions.T, _AXES.values(), strict=True):
    axes.annotate("", (start[0] + x, start[1] - y), start, annotation_clip=False,
                  arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0,
                              "shrinkB": 0})


def _write(axes: Axes, detection: Detection, colour: str, room: float) -> None:
  """Score and gender above the box, or inside where the picture ends."""
  gender, share = (("female", detection.female) if detection.female >= .5
                   else ("male", 1 - detection.female))
  left, top = np.maximum(detection.box[:2], 0)
  above = top >= room
  axes.text(left, top, f"face {detection.score:.0%}, {gender} {share:.0%}", fontsize=8.5,
            color=INK, va="bottom" if above else "top",
            bbox={"boxstyle": "square,pad=0.2", "fc": "white", "ec": colour, "lw": 1.2})
