"""Spectacles: a frame in a plane in front of the eyes, two lenses, and arms along the temples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering.geometry import Point, step
from fedjax_face.data.rendering.identity import Identity
from fedjax_face.data.rendering.landmarks import EYES
from fedjax_face.data.rendering.variation import Shot

_PLANE_Z = .68


def _lens_plane(person: Identity, shot: Shot, x: jax.Array, y: jax.Array) -> jax.Array:
  """Signed distance to the outline of the lenses in the plane of the spectacles, head units."""
  half_width = .165 + .05 * shot.frame[0]
  half_height = half_width * (.62 + .3 * shot.frame[2])
  corner = half_height * (.35 + .6 * shot.frame[2])
  u = jnp.abs(jnp.abs(x) - person.shape.eye_x - .01) - half_width + corner
  v = jnp.abs(y + .015) - half_height + corner
  outside = jnp.sqrt(jnp.square(jnp.maximum(u, 0)) + jnp.square(jnp.maximum(v, 0)) + 1e-8)
  return outside + jnp.minimum(jnp.maximum(u, v), 0) - corner


def lay_spectacles(person: Identity, shot: Shot, p: Point, view: jax.Array,
                   colour: jax.Array, pixel: jax.Array) -> jax.Array:
  """Lays frame, lenses, bridge and side arms over the colours `[3, P]` of head points `p`.

  `view` is the direction towards the camera in head axes, `[3]`.
  """
  ahead = (_PLANE_Z - p.z) / view[2]
  x, y = p.x + ahead * view[0], p.y + ahead * view[1]
  in_front = step(ahead + .02, .02) * shot.glasses
  outline = _lens_plane(person, shot, x, y)
  thick = .010 + .016 * shot.frame[1]
  soft = .5 * pixel + .004
  rim = step(thick - jnp.abs(outline), soft)
  bridge = step(.07 - jnp.abs(x), .02) * step(thick - jnp.abs(y - .045), soft)
  reach = person.shape.eye_x + .01 + .165 + .05 * shot.frame[0]
  arm = (step(thick - jnp.abs(p.y - .03), soft) * step(jnp.abs(p.x) - .52, .03)
         * step(p.z + .12, .03) * step(_PLANE_Z - p.z, .03) * shot.glasses)
  hinge = step(thick - jnp.abs(y - .03), soft) * step(jnp.abs(x) - reach, .01) * step(
      .57 - jnp.abs(x), .03)
  lens = step(-outline, soft) * in_front * shot.lens
  frame = jnp.maximum(jnp.clip(rim + bridge + hinge, 0, 1) * in_front, arm)
  colour = colour + lens * (.25 * shot.frame_colour[:, None] + .03 - colour)
  return colour + frame * (.6 * shot.frame_colour[:, None] - colour)


def behind_lenses(shot: Shot) -> jax.Array:
  """Which landmarks a dark lens hides, `[21]`."""
  eye = jnp.isin(jnp.arange(21), jnp.array(EYES))
  return eye & (shot.glasses * shot.lens > .5)
