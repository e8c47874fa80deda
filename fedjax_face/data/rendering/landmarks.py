"""The 21 AFLW points on the head: where they are, and whether the camera sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.rendering.geometry import (
  Point,
  ear_centre,
  ear_half_width,
  face_field,
  mouth_curve,
  mouth_half_width,
  mouth_opening,
)
from fedjax_face.data.rendering.identity import Shape
from fedjax_face.data.rendering.paint import brow_height
from fedjax_face.data.rendering.variation import Shot

LANDMARK_NAMES = (
    "left_brow_left_corner", "left_brow_centre", "left_brow_right_corner",
    "right_brow_left_corner", "right_brow_centre", "right_brow_right_corner",
    "left_eye_left_corner", "left_eye_centre", "left_eye_right_corner",
    "right_eye_left_corner", "right_eye_centre", "right_eye_right_corner",
    "left_ear", "nose_left", "nose_centre", "nose_right", "right_ear",
    "mouth_left_corner", "mouth_centre", "mouth_right_corner", "chin_centre")
"""AFLW's order; left and right are those of the IMAGE of a frontal face, not of the person."""

EYES = (6, 7, 8, 9, 10, 11)
_EARS = (12, 16)


def outline(shape: Shape, shot: Shot) -> tuple[np.ndarray, np.ndarray]:
  """Head x and y of the 21 points, each float32 `[N, 21]`; on the host."""
  def side(centre, half_length, height):
    return [(centre + s * half_length, height(s)) for s in (1., 0., -1.)]

  brow = side(shape.eye_x + .015, shape.brow_length, lambda s: brow_height(shape, shot, s))
  eye = side(shape.eye_x, shape.eye_width, lambda s: s * shape.eye_tilt * shape.eye_width)
  ear = [(ear_centre(shape).x + ear_half_width(shape), ear_centre(shape).y)]
  wing = [(.68 * shape.nose_width + .055, shape.nose_y - .03)]
  corner = [(mouth_half_width(shape, shot), shape.mouth_y + mouth_curve(shape, shot))]
  middle = [(0., shape.mouth_y - .5 * mouth_opening(shot))]
  chin = [(0., shape.chin_y + .07 - mouth_opening(shot))]

  def left(points):
    return [(-x, y) for x, y in points]

  points = (left(brow) + brow[::-1] + left(eye) + eye[::-1] + left(ear) + left(wing)
            + [(0., shape.nose_y)] + wing + ear + left(corner) + middle + corner + chin)
  x, y = (np.stack([np.broadcast_to(v, shape.eye_x.shape) for v in axis], -1).astype(np.float32)
          for axis in zip(*points, strict=True))
  return x, y


@jax.jit
@jax.vmap
def landmark_points(shape: Shape, shot: Shot, x: jax.Array, y: jax.Array) -> Point:
  """The points of `outline` on the surface of the head, head axes, `[N, 21]` per axis."""
  def closer(_, z):
    return z - face_field(shape, shot, Point(x, y, z))

  z = jax.lax.fori_loop(0, 16, closer, jnp.full_like(x, 1.2))
  ears = jnp.isin(jnp.arange(x.shape[0]), jnp.array(_EARS))
  return Point(x, y, jnp.where(ears, ear_centre(shape).z, z))
