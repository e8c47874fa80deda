"""Light on the surface: material, diffuse and mirrored light, shadow and open sky."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering import paint
from fedjax_face.data.rendering.geometry import Point, Surfaces, step
from fedjax_face.data.rendering.identity import Identity
from fedjax_face.data.rendering.variation import Shot


def surface_light(shot: Shot, normal: Point, low: jax.Array, high: jax.Array, above: jax.Array):
  """Light that reaches the surface.

  Args:
    shot: One photograph.
    normal: Unit normals, camera axes, `[P]`.
    low: Field a short way towards the light, `[P]`; `high` further; `above` along the normal.

  Returns:
    (diffuse RGB `[3, P]`, mirrored RGB `[3, P]` for gloss 1).
  """
  light = Point(*shot.light)
  facing = normal.x * light.x + normal.y * light.y + normal.z * light.z
  shadow = jnp.minimum(low / .06, high / .14)
  open_sky = jnp.clip(.25 + .75 * above / .17, .2, 1.)
  lambert = jnp.clip((facing + .12) / 1.12, 0, 1) * (.25 + .75 * jnp.clip(shadow + .35, 0, 1))
  sky = open_sky * (.75 + .25 * normal.y)
  half_z = light.z + 1
  half_scale = jax.lax.rsqrt(light.x ** 2 + light.y ** 2 + half_z ** 2)
  towards_half = (normal.x * light.x + normal.y * light.y + normal.z * half_z) * half_scale
  mirror = jnp.clip(towards_half, 0, 1)
  sharp = jnp.square(jnp.square(jnp.square(jnp.square(mirror)))) * lambert
  key = shot.light_colour[:, None]
  return key * lambert + shot.ambient[:, None] * sky, key * sharp


def material(person: Identity, shot: Shot, s: Surfaces, p: Point, camera: Point,
             neck: Point, pixel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Colour `[3, P]` and gloss `[P]` by the nearest surface."""
  skin = paint.skin_colour(person, shot, p, pixel)
  hair = paint.hair_colour(person, shot, p)
  dressed = step(neck.y - .62 - .05 * jnp.abs(camera.x - neck.x) - camera.y, .02)
  body = person.paint.skin[:, None] * .9
  body = body + dressed * (shot.clothes[:, None] - body)
  is_hair = step(s.skin - s.hair, .5 * pixel + .01)
  is_body = (s.body < jnp.minimum(s.skin, s.hair)).astype(jnp.float32)
  is_hat = (s.hat < jnp.minimum(jnp.minimum(s.skin, s.hair), s.body)).astype(jnp.float32)
  albedo = skin + is_hair * (hair - skin)
  albedo = albedo + is_body * (body - albedo)
  albedo = albedo + is_hat * (shot.hat_colour[:, None] - albedo)
  bare = (1 - is_hair) * (1 - is_body) * (1 - is_hat)
  return albedo, .05 * bare + .05 * is_hair * (1 - is_hat)
