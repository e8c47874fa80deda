"""From people and photographs to pixels.

The stages are jitted one by one and driven from the host: in one program XLA's CPU backend would
compute the surface again for each of its users, at a hundred times the cost.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering import sensor, shading
from fedjax_face.data.rendering.geometry import Point, Surfaces, surfaces
from fedjax_face.data.rendering.identity import Array, Identity
from fedjax_face.data.rendering.landmarks import landmark_points, outline
from fedjax_face.data.rendering.spectacles import behind_lenses, lay_spectacles
from fedjax_face.data.rendering.variation import Shot

VIEW = 2.3            # head units across an image at scale 1
_FAR_STEPS, _NEAR_STEPS = 12, 6
_SLACK = .06           # a landmark this close behind the first surface is visible
_PROBE = .012          # offset of the finite differences, head units


class Scene(NamedTuple):
  """A head and its photograph with what follows from the pose; rows are images."""
  person: Identity
  shot: Shot
  turn: jax.Array        # [3, 3] head axes to camera axes
  neck: Point            # where the neck leaves the head, camera axes
  centre: jax.Array      # [2] camera x and y at the middle of the image
  pixel: jax.Array       # side of a pixel, head units


class Picture(NamedTuple):
  """Rendered images and their annotation; leading axis `[N]`."""
  image: Array       # uint8 [size, size, 3]
  landmarks: Array   # f32 [21, 2] pixels
  visible: Array     # bool [21]
  box: Array         # f32 [4] x, y, w, h pixels


def rotation(pose: jax.Array) -> jax.Array:
  """Head axes to camera axes for (roll, pitch, yaw) in radians; `[3, 3]`.

  Pitch is applied first, then yaw, then roll. Positive roll turns the face clockwise in the
  image, positive pitch makes it look up, positive yaw turns the nose to the left of the image (the
  signs of AFLW2000-3D).
  """
  (sr, sp, sy), (cr, cp, cy) = jnp.sin(pose), jnp.cos(pose)
  pitch = jnp.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
  yaw = jnp.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
  roll = jnp.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
  return roll @ yaw @ pitch


def _turn(matrix: jax.Array, p: Point) -> Point:
  """`matrix @ p`, written out so that it stays elementwise."""
  return Point(*(row[0] * p.x + row[1] * p.y + row[2] * p.z for row in matrix))


def _stage(function):
  """Compiles a function of one image for rows of images."""
  return jax.jit(jax.vmap(function))


def render(person: Identity, shot: Shot, size: int) -> Picture:
  """Renders photographs.

  Args:
    person: Identity whose arrays have a row per image.
    shot: Shot with as many rows.
    size: Side of the images in pixels.

  Returns:
    Picture with leading axis `[N]`.
  """
  on_head = landmark_points(person.shape, shot, *outline(person.shape, shot))
  scene, grid, far, points = _arrange(person, shot, on_head, size)
  half = (size + 1) // 2
  far_depth, far_miss = _trace(scene, far, _FAR_STEPS)
  start, surrounded = _near_start(far_depth, far_miss, half, size)
  depth, miss = _trace(scene, grid._replace(z=start), _NEAR_STEPS)
  here = grid._replace(z=depth)
  at_surface = _all_fields(scene, here)
  shifted = [_all_fields(scene, here._replace(**{axis: getattr(here, axis) + _PROBE}))
             for axis in Point._fields]
  normal, probes = _normals(scene, here, at_surface, *shifted)
  diffuse, mirrored = _lights(scene.shot, normal, *(_all_fields(scene, p) for p in probes))
  albedo, gloss = _materials(scene, at_surface, here)
  tone = _composite(scene, here, jnp.where(surrounded, 0, miss), albedo, gloss, diffuse, mirrored,
                    _backdrop(shot, size))
  image = _develop(shot, tone, size)
  landmarks, visible, box = _annotate(scene, points, far_depth, size)
  return Picture(image, landmarks, visible, box)


@functools.partial(jax.jit, static_argnames="size")
def _arrange(person: Identity, shot: Shot, on_head: Point,
             size: int) -> tuple[Scene, Point, Point, Point]:
  """The scene, rays `[N, size * size]`, far rays `[N, quarter + 21]`, landmarks in camera axes."""
  return jax.vmap(functools.partial(_arrange_one, size=size))(person, shot, on_head)


def _arrange_one(person: Identity, shot: Shot, on_head: Point,
                 size: int) -> tuple[Scene, Point, Point, Point]:
  turn = rotation(shot.pose)
  pixel = VIEW / (size * shot.scale)
  middle = _turn(turn, Point(0., -.12, .35))
  centre = jnp.stack([.75 * middle.x - shot.shift[0] * VIEW, .75 * middle.y + shot.shift[1] * VIEW])
  scene = Scene(person, shot, turn, _turn(turn, Point(0., -.62, -.2)), centre, pixel)
  points = _turn(turn, on_head)
  at = (jnp.arange(size) + .5 - .5 * size) * pixel
  x, y = jnp.meshgrid(at + centre[0], centre[1] - at)
  far_x, far_y = _with_landmarks(x[::2, ::2], points.x), _with_landmarks(y[::2, ::2], points.y)
  start = jnp.sqrt(jnp.maximum(1.69 - far_x * far_x - far_y * far_y, .25))
  return scene, Point(x.ravel(), y.ravel(), x.ravel()), Point(far_x, far_y, start), points


def _with_landmarks(grid: jax.Array, values: jax.Array) -> jax.Array:
  """Rays of a grid, of the landmarks, and zeros up to a multiple of 16."""
  count = grid.size + values.size
  return jnp.concatenate([grid.ravel(), values, jnp.zeros(-count % 16)])


def _fields(scene: Scene, camera: Point) -> Surfaces:
  """Fields of all materials at points in camera axes."""
  return surfaces(scene.person, scene.shot, _turn(scene.turn.T, camera), camera, scene.neck)


_all_fields = _stage(_fields)


def _nearest(s: Surfaces) -> jax.Array:
  return jnp.minimum(jnp.minimum(s.skin, s.hair), jnp.minimum(s.hat, s.body))


@jax.jit
def _advance(s: Surfaces, z: jax.Array, best_z: jax.Array, best: jax.Array):
  distance = _nearest(s)
  closer = distance < best
  return z - .95 * distance, jnp.where(closer, z, best_z), jnp.where(closer, distance, best)


def _trace(scene: Scene, rays: Point, steps: int) -> tuple[jax.Array, jax.Array]:
  """Sphere tracing along -z; depth of the closest approach and the distance there."""
  z, best_z, best = rays.z, rays.z, jnp.full_like(rays.z, 9.)
  for _ in range(steps):
    z, best_z, best = _advance(_all_fields(scene, rays._replace(z=z)), z, best_z, best)
  return best_z, best


@functools.partial(jax.jit, static_argnames=("half", "size"))
def _near_start(depth: jax.Array, miss: jax.Array, half: int, size: int):
  """Depth to start each pixel from, the nearest of the far rays around; whether all those hit."""
  def pooled(values):
    grid = sensor.pad(values[:, :half * half].reshape(-1, half, half))
    grid = jnp.maximum(grid[:, 1:-1], jnp.maximum(grid[:, 2:], grid[:, :-2]))
    grid = jnp.maximum(grid[..., 1:-1], jnp.maximum(grid[..., 2:], grid[..., :-2]))
    return grid.repeat(2, 1).repeat(2, 2)[:, :size, :size].reshape(-1, size * size)

  return pooled(depth) + .02, pooled(miss) < .03


@_stage
def _normals(scene: Scene, here: Point, at: Surfaces, *shifted: Surfaces) -> tuple[Point, tuple]:
  """Unit normals, and points towards the light and above the surface."""
  distance = _nearest(at)
  gradient = Point(*(_nearest(s) - distance for s in shifted))
  scale = jax.lax.rsqrt(gradient.x ** 2 + gradient.y ** 2 + gradient.z ** 2 + 1e-12)
  normal = Point(*(axis * scale for axis in gradient))
  light, outside = Point(*scene.shot.light), here.along(normal, .03)
  return normal, (outside.along(light, .12), outside.along(light, .35), here.along(normal, .2))


@_stage
def _lights(shot: Shot, normal: Point, low: Surfaces, high: Surfaces, above: Surfaces):
  return shading.surface_light(shot, normal, _nearest(low), _nearest(high), _nearest(above))


@_stage
def _materials(scene: Scene, at: Surfaces, here: Point):
  head = _turn(scene.turn.T, here)
  return shading.material(scene.person, scene.shot, at, head, here, scene.neck, scene.pixel)


@_stage
def _composite(scene: Scene, here: Point, miss, albedo, gloss, diffuse, mirrored, backdrop):
  """Tone values `[3, size * size]` of surface, spectacles and background, before the sensor."""
  colour = albedo * diffuse + gloss * mirrored
  head = _turn(scene.turn.T, here)
  colour = lay_spectacles(scene.person, scene.shot, head, scene.turn[2], colour, scene.pixel)
  cover = jnp.clip(1.4 - (miss - .015) / scene.pixel, 0, 1)
  return sensor.tone(scene.shot, cover * colour + (1 - cover) * backdrop)


@functools.partial(jax.jit, static_argnames="size")
def _backdrop(shot: Shot, size: int) -> jax.Array:
  return jax.vmap(functools.partial(sensor.background, size=size))(shot)


@functools.partial(jax.jit, static_argnames="size")
def _develop(shot: Shot, tone: jax.Array, size: int) -> jax.Array:
  return jax.vmap(sensor.develop)(shot, tone.reshape(-1, 3, size, size))


@functools.partial(jax.jit, static_argnames="size")
def _annotate(scene: Scene, points: Point, far_depth: jax.Array, size: int):
  """Landmarks in pixels, whether each is seen, and the box."""
  half = (size + 1) // 2
  first = far_depth[:, half * half:half * half + 21]

  def one(scene, points, first):
    x = (points.x - scene.centre[0]) / scene.pixel + .5 * size
    y = (scene.centre[1] - points.y) / scene.pixel + .5 * size
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    visible = inside & (points.z > first - _SLACK) & ~behind_lenses(scene.shot)
    return jnp.stack([x, y], -1), visible, _box(scene, size)

  return jax.vmap(one)(scene, points, first)


def _box(scene: Scene, size: int) -> jax.Array:
  """Square round the face from the forehead to the chin, in pixels."""
  shape = scene.person.shape
  side = 1.1 * (shape.hairline - shape.chin_y) / scene.pixel
  middle = _turn(scene.turn, Point(0., .5 * (shape.hairline + shape.chin_y), .3))
  x = (middle.x - scene.centre[0]) / scene.pixel + .5 * size
  y = (scene.centre[1] - middle.y) / scene.pixel + .5 * size
  return jnp.stack([x - .5 * side, y - .5 * side, side, side])
