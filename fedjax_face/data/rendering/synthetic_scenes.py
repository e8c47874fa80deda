"""Synthetic photographs of several people on cluttered backgrounds, with exact annotation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from fedjax_face.data.photographs import Photographs
from fedjax_face.data.rendering.clutter import clutter
from fedjax_face.data.rendering.cutout import Cutouts, cut_out
from fedjax_face.data.rendering.identity import sample_identities
from fedjax_face.data.rendering.variation import STREET, Variation, sample_shots

MIN_SIZE = 48
_LARGEST_RENDERED = 128  # pixels; larger people are enlarged
_SCALE = .63             # of the people in their pictures: heads with hair and shoulders
_BOX_SHARE = .5          # a face's box in its picture, roughly
_OVER_BORDER = .1        # of a face's side
_HIDDEN = .3             # share of a face that people in front may cover
_TRIES = 20
_NOISE = 2.5             # standard deviation, of 255


class _Place(NamedTuple):
  """Where a cutout is in its scene, pixels."""
  row: int
  left: int
  top: int
  side: int


def synthetic_scenes(num_scenes: int, size: int, seed: int, *, num_people: int,
                     first_person: int = 0, faces: tuple[int, int] = (1, 3),
                     face_side: tuple[float, float] = (.2, .5), circle: int = 4,
                     variation: Variation = STREET) -> Photographs:
  """Renders scenes of people who do not exist.

  Nearer people are larger and may hide others: a landmark behind somebody is not visible, and a
  person who would be hidden too much is left out. A face may reach over the border a little.

  Args:
    num_scenes: M.
    size: Side of the photographs in pixels, at least 48.
    seed: Non-negative integer; the world. Scene i depends on (seed, i, size) and on the arguments
      about people and faces, not on `num_scenes`.
    num_people: Number of people who appear, the same as in `synthetic_faces` of that seed.
    first_person: Number of the first person; disjoint ranges are different people.
    faces: Fewest and most people in a scene (uniform); those without room are left out, but not
      the first.
    face_side: Range of the side of a face's box, as a share of `size`, log-uniform.
    circle: People are photographed only with others of their circle of about so many, so that
      scenes can be split by person.
    variation: Ranges of the variation of pose, light, expression and things worn.

  Returns:
    Photographs with images uint8 `[M, size, size, 3]`, 21 landmarks as in `synthetic_faces`,
    person 0 .. num_people - 1, and every task known.

  Raises:
    ValueError: a number or range is out of range.
  """
  _check(num_scenes, size, seed, num_people, first_person, faces, face_side, circle)
  generators = [np.random.default_rng([seed, 2, scene]) for scene in range(num_scenes)]
  guests = [_guests(rng, num_people, faces, circle) for rng in generators]
  scene = np.repeat(np.arange(num_scenes, dtype=np.int32), [len(g) for g in guests])
  person = np.concatenate(guests).astype(np.int32)
  identities = sample_identities(seed, first_person + np.arange(num_people), variation.skin_tone,
                                 variation.age)
  shots = sample_shots(seed, first_person + person, scene, variation)
  shots = shots._replace(scale=np.float32(_SCALE) * shots.scale)
  rendered = min(_LARGEST_RENDERED, round(face_side[1] * size / _BOX_SHARE))
  cutouts = cut_out(jax.tree.map(lambda a: a[person], identities), shots, rendered)
  images = np.empty((num_scenes, size, size, 3), np.uint8)
  kept, box, landmarks, visible = [], [], [], []
  start = np.cumsum([0, *map(len, guests)])
  for number, rng in enumerate(generators):
    rows = np.arange(start[number], start[number + 1])
    images[number], places, seen = _compose(cutouts, rows, size, face_side, rng)
    for place in places:
      kept.append(place.row)
      box.append(_box(cutouts, place))
      landmarks.append(_landmarks(cutouts, place))
    visible += seen
  return Photographs(
      name=f"synthetic_scenes_{size}", images=images, image=scene[kept], person=person[kept],
      box=np.stack(box), landmarks=np.stack(landmarks), visible=np.stack(visible),
      pose=shots.pose[kept], gender=identities.gender[person[kept]].astype(np.int32),
      known=np.ones((len(kept), 5), bool))


def _guests(rng: np.random.Generator, num_people: int, faces: tuple[int, int],
            circle: int) -> np.ndarray:
  """Different people of one circle."""
  circles = np.array_split(np.arange(num_people), max(1, num_people // circle))
  members = circles[rng.integers(len(circles))]
  return rng.choice(members, rng.integers(faces[0], faces[1] + 1), replace=False)


def _compose(cutouts: Cutouts, rows: np.ndarray, size: int, face_side: tuple[float, float],
             rng: np.random.Generator) -> tuple[np.ndarray, list[_Place], list[np.ndarray]]:
  """A scene, who is where from the front to the back, and which landmarks of each are seen."""
  in_front = np.zeros((size, size), np.float32)
  places, layers, seen = [], [], []
  logs = rng.uniform(np.log(face_side[0]), np.log(face_side[1]), len(rows))
  share = np.sort(np.exp(logs))[::-1]
  for row, part in zip(rows, share, strict=True):
    place = _find_place(cutouts, row, part * size, in_front, rng)
    if place is None:
      continue
    layers.append(_layer(cutouts, place, size))
    places.append(place)
    seen.append(_seen(cutouts, place, in_front))
    in_front = np.maximum(in_front, layers[-1][1])
  scene = clutter(size, rng)
  for colour, opacity in reversed(layers):
    scene = colour + (1 - opacity[..., None]) * scene
  scene = scene + rng.normal(0, _NOISE * rng.random(), scene.shape)
  return np.rint(np.clip(scene, 0, 255)).astype(np.uint8), places, seen


def _find_place(cutouts: Cutouts, row: int, face: float, in_front: np.ndarray,
                rng: np.random.Generator) -> _Place | None:
  """A place where a face of side `face` is not hidden, or None after some tries."""
  size, rendered = len(in_front), cutouts.opacity.shape[1]
  side = round(face * rendered / float(cutouts.box[row, 2]))
  for _ in range(_TRIES):
    corner = rng.uniform(-_OVER_BORDER * face, size - (1 - _OVER_BORDER) * face, 2)
    left, top = np.rint(corner - cutouts.box[row, :2] * side / rendered).astype(int)
    place = _Place(int(row), int(left), int(top), side)
    box = _box(cutouts, place)
    near, far = np.clip(box[:2], 0, size).astype(int), np.clip(box[:2] + box[2:], 1, size)
    covered = in_front[near[1]:int(far[1]) + 1, near[0]:int(far[0]) + 1]
    if covered.mean() <= _HIDDEN:
      return place
  return None


def _layer(cutouts: Cutouts, place: _Place, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Colour float32 [size, size, 3] and opacity 0 to 1 [size, size] of one person in the scene.

  Below its picture a body goes on like the last row.
  """
  shape = (place.side, place.side)
  colour, opacity = (np.asarray(Image.fromarray(field[place.row]).resize(
      shape, Image.Resampling.BILINEAR), np.float32) for field in (cutouts.colour, cutouts.opacity))
  down, right = np.arange(size) - place.top, np.arange(size) - place.left
  inside = (down >= 0)[:, None] & (right >= 0) & (right < place.side)
  at = np.ix_(np.clip(down, 0, place.side - 1), np.clip(right, 0, place.side - 1))
  return colour[at] * inside[..., None], opacity[at] * inside / 255


def _seen(cutouts: Cutouts, place: _Place, in_front: np.ndarray) -> np.ndarray:
  """bool [21]: visible in the picture, inside the scene and behind nobody."""
  points = _landmarks(cutouts, place)
  inside = ((points >= 0) & (points < len(in_front))).all(-1)
  column, row = np.clip(points, 0, len(in_front) - 1).astype(int).T
  return cutouts.visible[place.row] & inside & (in_front[row, column] < .5)


def _landmarks(cutouts: Cutouts, place: _Place) -> np.ndarray:
  """float32 [21, 2] in pixels of the scene."""
  scale = place.side / cutouts.opacity.shape[1]
  return (cutouts.landmarks[place.row] * scale + (place.left, place.top)).astype(np.float32)


def _box(cutouts: Cutouts, place: _Place) -> np.ndarray:
  """float32 [4] in pixels of the scene."""
  scale = place.side / cutouts.opacity.shape[1]
  return (cutouts.box[place.row] * scale + (place.left, place.top, 0, 0)).astype(np.float32)


def _check(num_scenes, size, seed, num_people, first_person, faces, face_side, circle) -> None:
  """Refuses numbers and ranges that make no scene."""
  for name, value, least in (("num_scenes", num_scenes, 1), ("size", size, MIN_SIZE),
                             ("seed", seed, 0), ("first_person", first_person, 0),
                             ("circle", circle, 1)):
    if value < least:
      raise ValueError(f"{name} must be at least {least}, got {value}")
  if not 1 <= faces[0] <= faces[1] <= circle:
    raise ValueError(f"faces must be 1 <= fewest <= most <= circle ({circle}), got {faces}")
  if num_people < circle:
    raise ValueError(f"num_people must be at least circle ({circle}), got {num_people}")
  if not .05 <= face_side[0] <= face_side[1] <= 1:
    raise ValueError(f"face_side must be 0.05 <= least <= largest <= 1, got {face_side}")
