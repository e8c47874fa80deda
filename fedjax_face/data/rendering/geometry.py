"""The surface of a head as a field that is zero on it, positive outside, roughly a distance.

A skull and a jaw ellipsoid are blended and displaced along the front by compact bumps (nose,
sockets, cheeks, lips, chin); ears, hair, hat, neck and shoulders are joined by the minimum. All
functions take one person (scalars) and coordinate arrays, and the caller vmaps them over images.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering.identity import Array, Identity, Shape
from fedjax_face.data.rendering.variation import Shot

_EAR_THICKNESS = .075


class Point(NamedTuple):
  """Coordinates of points; one array of any shape per axis."""
  x: Array
  y: Array
  z: Array

  def along(self, direction: Point, distance: jax.Array | float) -> Point:
    """The points moved by `distance * direction`."""
    return Point(*(a + distance * b for a, b in zip(self, direction, strict=True)))


class Mouth(NamedTuple):
  """Coordinates around the mouth, which follow the expression."""
  across: jax.Array     # -1 and 1 at the corners
  above: jax.Array      # height above the seam of the closed lips
  below: jax.Array      # the same for the lower lip and chin, which the opening moves down
  opening: jax.Array    # height of the open mouth here
  y: jax.Array          # head height with the opening taken out


class Surfaces(NamedTuple):
  """Field of each material."""
  skin: jax.Array
  hair: jax.Array
  hat: jax.Array
  body: jax.Array


def bump(squared_distance: jax.Array) -> jax.Array:
  """Smooth hill with compact support: 1 at 0, 0 from 1 on."""
  rest = jnp.maximum(1 - squared_distance, 0)
  return rest * rest


def step(value: jax.Array, width: jax.Array | float) -> jax.Array:
  """0 below -width, 1 above width, smooth between."""
  t = jnp.clip(.5 + .5 * value / width, 0, 1)
  return t * t * (3 - 2 * t)


def wave(turns: jax.Array) -> jax.Array:
  """A sine of `turns` full turns, from two parabolas: XLA's CPU sine is not vectorised."""
  t = turns - jnp.round(turns)
  return 8 * t * (1 - 2 * jnp.abs(t))


def _ellipsoid(x, y, z, radius_x, radius_y, radius_z) -> jax.Array:
  """First-order distance to an ellipsoid at the origin."""
  u, v, w = x / radius_x, y / radius_y, z / radius_z
  slope = jnp.square(u / radius_x) + jnp.square(v / radius_y) + jnp.square(w / radius_z)
  return .5 * (u * u + v * v + w * w - 1) * jax.lax.rsqrt(slope + 1e-4)


def _blend(a: jax.Array, b: jax.Array, width: float) -> jax.Array:
  """Minimum of two fields with a rounded seam."""
  overlap = jnp.maximum(width - jnp.abs(a - b), 0)
  return jnp.minimum(a, b) - overlap * overlap / (4 * width)


def mouth_opening(shot: Shot) -> jax.Array:
  """Largest distance between the lips, head units."""
  return .16 * shot.mouth_open


def mouth_half_width(shape: Shape, shot: Shot) -> jax.Array:
  """From the middle of the mouth to a corner, head units."""
  return shape.mouth_width * (1 + .2 * shot.smile - .12 * shot.mouth_open)


def mouth_curve(shape: Shape, shot: Shot) -> jax.Array:
  """Height of the corners over the middle of the mouth, head units."""
  return shape.mouth_curve + .05 * shot.smile


def mouth_coordinates(shape: Shape, shot: Shot, x: jax.Array, y: jax.Array) -> Mouth:
  """Mouth-centred coordinates of head positions."""
  across = x / mouth_half_width(shape, shot)
  squared = jnp.minimum(across * across, 1.4)
  above = y - shape.mouth_y - mouth_curve(shape, shot) * squared
  far = step(-.25 - above, .15)
  lens = jnp.maximum(1 - squared, 0)
  gap = mouth_opening(shot)
  opening = gap * (lens + (1 - lens) * far)
  taken_out = jnp.clip(-above, 0, opening)
  return Mouth(across, above, above + taken_out, gap * lens, y + taken_out)


def _relief(shape: Shape, shot: Shot, p: Point) -> jax.Array:
  """How far the features stand out of the skull, `[...]`."""
  a = jnp.abs(p.x)
  m = mouth_coordinates(shape, shot, p.x, p.y)
  squared_across = jnp.square(m.across)
  eye, socket = a - shape.eye_x, p.y - .02
  total = (-shape.eye_depth * bump(jnp.square(eye / .23) + jnp.square(socket / .20))
           + .055 * bump(jnp.square(eye / .16) + jnp.square(p.y / .12)))
  total += shape.ridge_out * bump(jnp.square((a - .2) / .34) + jnp.square((p.y - .19) / .13))
  cheek = shape.cheek_out + .035 * jnp.maximum(shot.smile, 0)
  total += cheek * bump(jnp.square((a - .37) / .27) + jnp.square((p.y - shape.cheek_y) / .23))
  total -= shape.cheek_hollow * bump(jnp.square((a - .42) / .2) + jnp.square((p.y + .56) / .25))
  total += .055 * bump(jnp.square(p.x / .36) + jnp.square((m.y - shape.mouth_y) / .24))
  total += .03 * bump(squared_across + jnp.square((m.above - .04) / .065))
  total += .04 * bump(squared_across * 1.3 + jnp.square((m.below + .055) / .065))
  total -= .03 * bump(jnp.square(p.x / .2) + jnp.square((m.below + .165) / .07))
  total += shape.chin_out * bump(jnp.square(p.x / shape.chin_width)
                                 + jnp.square((m.y - shape.chin_y - .12) / .17))
  return total + _nose(shape, p.x, a, p.y)


def _nose(shape: Shape, x: jax.Array, a: jax.Array, y: jax.Array) -> jax.Array:
  """Ridge from the bridge to the tip, and the wings."""
  up = (y - shape.nose_y) / (.13 - shape.nose_y)
  falling = jnp.maximum(1 - jnp.maximum(up, 0), 0)
  ridge = (shape.nose_out - shape.bridge_out) * falling * jnp.sqrt(falling + .01)
  ridge += shape.bridge_out * step(1.05 - up, .3)
  ridge += shape.nose_hump * bump(jnp.square((up - .55) / .3))
  under = bump(jnp.square(jnp.minimum(up, 0) * (.13 - shape.nose_y) / .13))
  half_width = shape.bridge_width + (.62 * shape.nose_width + .03 - shape.bridge_width) * falling
  profile = ridge * under * bump(jnp.square(x / (1.45 * half_width)))
  wing = jnp.square(a - .68 * shape.nose_width) + jnp.square(y - shape.nose_y + .03)
  return profile + .055 * bump(wing / .085 ** 2)


def face_field(shape: Shape, shot: Shot, p: Point) -> jax.Array:
  """Field of skull, jaw and ears with all features, `[...]`."""
  return jnp.minimum(_bare_head(shape, shot, p) - _front_relief(shape, shot, p), _ear(shape, p))


def _front_relief(shape: Shape, shot: Shot, p: Point) -> jax.Array:
  return _relief(shape, shot, p) * jnp.clip(4 * p.z, 0, 1)


def _skull(shape: Shape, p: Point) -> jax.Array:
  """Field of the cranium alone."""
  return _ellipsoid(p.x, p.y - .21, p.z + .2, shape.head_width, shape.head_height, .82)


def _bare_head(shape: Shape, shot: Shot, p: Point) -> jax.Array:
  """Cranium and jaw without features."""
  drop = mouth_opening(shot)
  top, bottom = .26, shape.chin_y - drop
  y = p.y - .5 * (top + bottom)
  half_height = .5 * (top - bottom)
  square = 1 - .13 * shape.jaw_square * jnp.square(jnp.clip(y / half_height, -1, 0))
  jaw = _ellipsoid(p.x * square, y, p.z - .02, shape.jaw_width + .02, half_height, .6)
  return _blend(_skull(shape, p), jaw, .25)


def ear_centre(shape: Shape) -> Point:
  """Centre of the ear on the positive-x side."""
  return Point(shape.head_width - .02 + .5 * shape.ear_out, -.08, -.1)


def ear_half_width(shape: Shape) -> Array:
  """From the centre of the ear to its surface along x, head units."""
  slant = (1 + 4 * shape.ear_out) / (.62 * shape.ear_size)
  return (_EAR_THICKNESS ** -2 + slant * slant) ** -.5


def _ear(shape: Shape, p: Point) -> jax.Array:
  """A tilted disc on each side."""
  centre = ear_centre(shape)
  x, y, z = jnp.abs(p.x) - centre.x, p.y - centre.y, p.z - centre.z
  z = z + .25 * y + (1 + 4 * shape.ear_out) * x
  return _ellipsoid(x, y, z, _EAR_THICKNESS, shape.ear_size, .62 * shape.ear_size)


def hair_cover(person: Identity, shot: Shot, p: Point) -> jax.Array:
  """Positive where hair grows or hangs over the head, in head units from the hair line."""
  shape = person.shape
  line = (shape.hairline - .30 * shot.fringe - .8 * jnp.clip(.5 - p.z, 0, 1.2)
          + shape.hair_part * p.x * 1.5 + .02 * shot.hair_change[0]
          + shape.hair_recess * bump(jnp.square((jnp.abs(p.x) - .33) / .25)))
  over_ears = step(person.hair_length - .55, .1)
  front = -.10 + .14 * over_ears
  lowest = -.12 - .40 * step(-.2 - p.z, .12) - .6 * over_ears
  side = jnp.minimum(front - p.z, p.y - lowest)
  return jnp.maximum(p.y - line, side)


def surfaces(person: Identity, shot: Shot, p: Point, camera: Point, neck: Point) -> Surfaces:
  """Fields of all materials at head points `p`, which are `camera` in camera axes.

  Args:
    person: One identity.
    shot: One photograph.
    p: Points in head axes.
    camera: The same points in camera axes, which the shoulders follow.
    neck: Where the neck leaves the head, camera axes, scalars.

  Returns:
    Surfaces, each of the shape of the points.
  """
  shape = person.shape
  bare = _bare_head(shape, shot, p)
  skull = _skull(shape, p)
  skin = jnp.minimum(bare - _front_relief(shape, shot, p), _ear(shape, p))
  return Surfaces(skin, _hair(person, shot, p, bare), _hat(shot, p, skull),
                  _body(shape, camera, neck))


def _hair(person: Identity, shot: Shot, p: Point, bare: jax.Array) -> jax.Array:
  """Short hair as a layer on the head, long hair as a volume behind it."""
  shape = person.shape
  volume = (shape.hair_side + (shape.hair_top - shape.hair_side) * step(p.y - .5, .5)) * (
      1 + .12 * shot.hair_change[1]) * (1 + .9 * person.hair_curl)
  volume = volume * (1 - .8 * shot.hat * step(p.y - shot.hat_line + .1, .1))
  swirl = wave(2.3 * p.x + 1.1 * p.y) + wave(2.9 * p.y - 1.3 * p.z) + wave(2.6 * p.z + 1.7 * p.x)
  curls = .014 * person.hair_curl * (1 - shot.hat) * swirl
  thickness = jnp.clip(1.2 * hair_cover(person, shot, p), -.1, jnp.maximum(volume, .01)) + curls
  cap = .8 * (bare - thickness)
  half_height = .45 + .75 * person.hair_length
  behind = _ellipsoid(p.x, p.y - .55 + half_height, p.z + .38, shape.head_width + .10
                      + .9 * shape.hair_side * (1 + person.hair_curl), half_height, .42)
  long = jnp.where(person.hair_length > .3, 0., 10.)
  return jnp.minimum(cap, behind - curls + long) + 10 * person.bald


def _hat(shot: Shot, p: Point, skull: jax.Array) -> jax.Array:
  """A cap down to a tilted line."""
  crown = jnp.maximum(skull - .10, .8 * (shot.hat_line + .25 * (p.z - .5) - p.y))
  return crown + 10 * (1 - shot.hat)


def _body(shape: Shape, camera: Point, neck: Point) -> jax.Array:
  """Upright neck and shoulders below the head."""
  x, y, z = camera.x - neck.x, camera.y - neck.y, camera.z - neck.z
  column = jnp.sqrt(x * x + z * z + jnp.square(jnp.maximum(y, 0)) + 1e-6) - shape.neck_width
  shoulders = _ellipsoid(x, y + 1.28, z + .02, 1.15 + shape.neck_width, .58, .5)
  return _blend(column, shoulders, .2)
