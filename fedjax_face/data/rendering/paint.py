"""Colour of the head's surface, painted in head coordinates so that it turns with the head."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering.geometry import (
  Point,
  bump,
  ear_centre,
  hair_cover,
  mouth_coordinates,
  step,
  wave,
)
from fedjax_face.data.rendering.identity import Identity, Shape
from fedjax_face.data.rendering.variation import Shot


def _over(colour: jax.Array, paint: jax.Array, amount: jax.Array) -> jax.Array:
  """`[3, ...]` colours with `paint` (`[3]` or `[3, ...]`) laid over by `amount` `[...]`."""
  paint = paint.reshape(paint.shape + (1,) * (colour.ndim - paint.ndim))
  return colour + amount * (paint - colour)


def skin_colour(person: Identity, shot: Shot, p: Point, pixel: jax.Array) -> jax.Array:
  """Linear RGB of the skin with everything that is painted on it.

  Args:
    person: One identity.
    shot: One photograph.
    p: Points on the face, head axes, `[P]`.
    pixel: Side of a pixel in head units; edges are softened to it.

  Returns:
    float32 `[3, P]`.
  """
  colour = _complexion(person, p)
  front = step(p.z - .1, .1)
  colour = _beard(person, shot, colour, p)
  colour = _mouth(person, shot, colour, p, pixel, front)
  colour = _brows(person, shot, colour, p, pixel, front)
  colour = _eyes(person, shot, colour, p, pixel, front)
  return _nostrils(person, shot, colour, p, pixel, front)


def _complexion(person: Identity, p: Point) -> jax.Array:
  """Skin with blush, freckles, moles, mottling and shaded ears."""
  paint, shape = person.paint, person.shape
  a = jnp.abs(p.x)
  t = paint.texture
  coarse = wave(1.4 * p.x + t[0]) * wave(1.3 * p.y + t[1]) + wave(2.4 * p.y + p.x + t[2])
  colour = paint.skin[:, None] * (1 + .025 * coarse)
  red = paint.blush * (bump(jnp.square((a - .33) / .25) + jnp.square((p.y + .27) / .2))
                       + .7 * bump(jnp.square(p.x / .13) + jnp.square((p.y - shape.nose_y) / .12)))
  colour = colour * (1 - red * jnp.array([[.02], [.20], [.18]]))
  spots = wave(11.3 * p.x + t[3]) * wave(10.7 * p.y + t[4]) * wave(6.8 * p.x - 8.1 * p.y + t[5])
  freckles = step(jnp.abs(spots) - .38, .15) * bump(jnp.square(p.x / .6)
                                                    + jnp.square((p.y + .2) / .4))
  dark = .4 * paint.freckles * freckles
  for x, y, strength in paint.moles:
    dark = dark + strength * bump((jnp.square(p.x - x) + jnp.square(p.y - y)) / .0013)
  ear = ear_centre(shape)
  concha = bump(jnp.square((p.y - ear.y) / (.6 * shape.ear_size))
                + jnp.square((p.z - ear.z - .02) / (.35 * shape.ear_size)))
  dark = dark + .4 * concha * step(a - ear.x + .03, .03)
  return colour * (1 - jnp.clip(dark, 0, .8) * jnp.array([[.6], [.8], [.9]]))


def _beard(person: Identity, shot: Shot, colour: jax.Array, p: Point) -> jax.Array:
  """Beard and moustache, with the streaks of hair."""
  paint, shape = person.paint, person.shape
  m = mouth_coordinates(shape, shot, p.x, p.y)
  a = jnp.abs(p.x)
  edge = -.30 - .45 * jnp.square(jnp.minimum((.56 - a) / .42, 1)) * step(.56 - a, .1)
  jaw = step(edge - m.y, .07) * step(p.z + .05, .1)
  moustache = bump(jnp.square(m.across / 1.35) + jnp.square(
      (m.above - .11 + .06 * jnp.square(m.across)) / .085))
  streaks = .85 + .15 * wave(9.5 * p.x + 2 * p.y) * wave(7.2 * p.y + 1.4 * p.x)
  amount = jnp.clip(paint.beard * jaw + 1.3 * paint.moustache * moustache, 0, 1)
  return _over(colour, .8 * paint.hair[:, None] + .08 * paint.skin[:, None], .88 * amount * streaks)


def _mouth(person: Identity, shot: Shot, colour: jax.Array, p: Point, pixel: jax.Array,
           front: jax.Array) -> jax.Array:
  """Lips, the seam or the open mouth with teeth, and folds beside it."""
  shape, paint = person.shape, person.paint
  m = mouth_coordinates(shape, shot, p.x, p.y)
  squared = jnp.square(m.across)
  taper = jnp.maximum(1 - squared, 0)
  bow = 1 - .28 * bump(squared / .09) + .12 * bump(jnp.square((jnp.abs(m.across) - .3) / .25))
  upper = shape.lip_upper * jnp.sqrt(taper + 1e-4) * bow
  lower = -shape.lip_lower * jnp.sqrt(taper + 1e-4)
  soft = .5 * pixel + .008
  inside = step(1 - squared, .08) * front
  lip = step(upper - m.above, soft) * step(m.below - lower, soft) * inside
  shade = jnp.where(m.above > 0, .80, 1.0)
  colour = _over(colour, paint.lip[:, None] * shade, lip * .9)
  hole = step(-m.above, soft) * step(m.above + m.opening, soft)
  hole = hole * inside * step(m.opening - .012, .01)
  teeth = step(m.above + jnp.minimum(.62 * m.opening, .075), soft) * step(.85 - squared, .2)
  dark = jnp.array([.05, .012, .012])
  colour = _over(colour, dark, hole)
  colour = _over(colour, jnp.array([.62, .57, .50]), hole * teeth * .9)
  seam = bump(jnp.square(m.above / (.012 + .5 * pixel))) * step(1.08 - squared, .12) * front
  colour = _over(colour, .25 * paint.lip, .75 * seam * step(.02 - m.opening, .02))
  fold_x = .21 + .28 * (shape.nose_y + .05 - p.y) + .04 * shot.smile
  fold = bump(jnp.square((jnp.abs(p.x) - fold_x) / .045)) * bump(
      jnp.square((p.y - .5 * (shape.nose_y + shape.mouth_y)) / .2)) * front
  return colour * (1 - (.12 + .16 * paint.wrinkles + .14 * jnp.maximum(shot.smile, 0)) * fold)


def _brows(person: Identity, shot: Shot, colour: jax.Array, p: Point, pixel: jax.Array,
           front: jax.Array) -> jax.Array:
  """Two tapering arcs of hair."""
  shape = person.shape
  along = (jnp.abs(p.x) - shape.eye_x - .015) / shape.brow_length
  centre = brow_height(shape, shot, along)
  half = shape.brow_thickness * (1 - .45 * jnp.maximum(along, -.3))
  soft = .012 + .5 * pixel
  hairs = .9 + .1 * wave(14 * along + 10 * p.y)
  amount = step(half - jnp.abs(p.y - centre), soft) * step(1 - jnp.abs(along), .14) * hairs * front
  return _over(colour, person.paint.brow, .88 * amount)


def brow_height(shape: Shape, shot: Shot, along: jax.Array | float) -> jax.Array:
  """Height of the brow's middle line; `along` is -1 at the inner and 1 at the outer end."""
  arch = shape.brow_arch * (1 - (along - .25) ** 2)
  return shape.brow_y + arch + shape.brow_tilt * along + .035 * shot.brow_raise


def _eyes(person: Identity, shot: Shot, colour: jax.Array, p: Point, pixel: jax.Array,
          front: jax.Array) -> jax.Array:
  """Lids, white, iris, pupil, lashes and the fold over the lid; the unit is half an eye's width."""
  shape, paint = person.shape, person.paint
  side = jnp.sign(p.x)
  u = (jnp.abs(p.x) - shape.eye_x) / shape.eye_width
  v = p.y / shape.eye_width - shape.eye_tilt * u
  soft = (.5 * pixel + .003) / shape.eye_width
  open_now = shape.eye_open * (1 - shot.eyes_closed) + .03
  squared = jnp.minimum(u * u, 1)
  upper = .72 * open_now * (1 - squared) * (1.08 - .2 * u) - .10 * shot.eyes_closed * (1 - squared)
  lower = -.36 * shape.eye_open * (1 - squared)
  upper = jnp.maximum(upper, lower)
  socket = bump(jnp.square(u / 1.7) + jnp.square((v - .15) / 1.15))
  colour = colour * (1 - .22 * socket * front)
  fold = bump(jnp.square((v - upper - .26 - .06 * u) / (.12 + soft))) * bump(jnp.square(u / 1.15))
  colour = colour * (1 - .5 * jnp.minimum(shape.lid_fold, 1) * fold * front)
  opening = step(upper - v, soft) * step(v - lower, soft) * step(1 - u * u, .1) * front
  white = jnp.array([.62, .58, .55])[:, None] * (1 - .45 * bump((upper - v) / .3))
  ball = _over(white * (1 - .3 * squared), jnp.array([.55, .25, .2]), .5 * step(-u - .85, .12))
  centre_u, centre_v = side * .16 * shot.gaze[0], .05 + .08 * shot.gaze[1]
  radius = jnp.sqrt(jnp.square(u - centre_u) + jnp.square(v - centre_v) + 1e-6)
  ball = _over(ball, paint.iris[:, None] * (.55 + .75 * bump(jnp.square((radius - .2) / .2))),
               step(.42 - radius, soft))
  ball = _over(ball, jnp.array([.006, .006, .006]), step(.19 - radius, soft))
  glint_u = centre_u + side * .12 * jnp.sign(shot.light[0])
  glint = jnp.sqrt(jnp.square(u - glint_u) + jnp.square(v - centre_v - .15))
  ball = _over(ball, jnp.array([.9, .9, .9]), .8 * step(.10 - glint, soft))
  colour = _over(colour, ball, opening)
  lash = bump(jnp.square((v - upper) / (.085 + soft))) * step(1.12 - u * u, .12)
  lower_lash = bump(jnp.square((v - lower) / (.06 + soft))) * step(1.05 - u * u, .15)
  dark = .35 * paint.brow
  female = person.gender.astype(jnp.float32)
  colour = _over(colour, dark, (.7 + .25 * female) * lash * front)
  return _over(colour, dark, .30 * lower_lash * front)


def _nostrils(person: Identity, shot: Shot, colour: jax.Array, p: Point, pixel: jax.Array,
              front: jax.Array) -> jax.Array:
  """Nostrils, the crease round the wings, and lines of the forehead."""
  shape = person.shape
  a = jnp.abs(p.x)
  y = p.y - shape.nose_y
  hole = bump(jnp.square((a - .42 * shape.nose_width) / .055)
              + jnp.square((y + .085) / (.024 + .4 * pixel)))
  radius = jnp.sqrt(jnp.square(a - .5 * shape.nose_width) + jnp.square(1.2 * (y + .02)) + 1e-6)
  crease = bump(jnp.square((radius - .58 * shape.nose_width) / .035))
  crease = crease * step(a - .75 * shape.nose_width, .03)
  colour = _over(colour, .06 * person.paint.skin, .85 * hole * front)
  lines = bump(jnp.square(wave(4.1 * p.y + .2 * jnp.square(p.x)) / .3)) * bump(
      jnp.square(p.x / .45) + jnp.square((p.y - .45) / .17))
  furrows = (.10 + .15 * jnp.maximum(shot.brow_raise, 0)) * person.paint.wrinkles * lines
  return colour * (1 - (.28 * crease + furrows) * front)


def hair_colour(person: Identity, shot: Shot, p: Point) -> jax.Array:
  """Linear RGB of the hair with strands, `[3, P]`."""
  t = person.paint.texture
  spread = p.x * jax.lax.rsqrt(p.x * p.x + (p.z + .2) ** 2 + .05)
  sway = .25 * wave(.7 * p.y + t[0]) + .15 * wave(1.3 * p.y + .5 * p.z + t[1])
  strands = (wave(9 * spread + sway + t[2]) + wave(17 * spread + 2 * sway + t[3])
             + wave(31 * spread - 3 * sway + .7 * p.z)) / 3
  roots = step(hair_cover(person, shot, p) - .02, .1)
  return person.paint.hair[:, None] * (1 + .3 * strands) * (.75 + .25 * roots)
