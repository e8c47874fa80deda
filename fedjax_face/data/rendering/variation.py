"""What changes from one photograph of a person to the next, drawn from (seed, person, image)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from fedjax_face.data.rendering.identity import Array


@dataclasses.dataclass(frozen=True)
class Variation:
  """Ranges of photographs, and of the people on them; angles in degrees, the rest as fractions."""
  yaw: float = 45.
  pitch: float = 20.
  roll: float = 15.
  shift: float = .05            # of the image side
  scale: float = .08
  glasses: float = .18          # probability of an image with spectacles, a fifth of them dark
  hat: float = .10
  fringe: float = .15           # probability that the hair falls over the forehead
  light_turn: float = 75.       # azimuth of the main light
  exposure: float = .45         # in stops, standard deviation
  noise: float = .02            # of full scale, the largest standard deviation
  blur: float = .22             # largest weight that a pixel lends its neighbours
  resolution: float = 1.        # fewest pixels of the camera, of the image side
  skin_tone: tuple[float, ...] = (0., 1.)   # of the people: lightest and darkest
  age: tuple[float, ...] = (0., 1.)         # of what shows it: wrinkles, grey hair


STREET = Variation()
STUDIO = Variation(yaw=15., pitch=8., roll=5., shift=.03, scale=.05, glasses=.10, hat=0.,
                   fringe=.10, light_turn=30., exposure=.2, noise=.01)


class Shot(NamedTuple):
  """One photograph; arrays over images `[N]`, `[N, 3]` for vectors and linear RGB."""
  pose: Array              # roll, pitch, yaw in radians
  scale: Array
  shift: Array             # `[N, 2]` of the image side, right and down
  light: Array             # unit vector towards the light, camera axes
  light_colour: Array
  ambient: Array
  smile: Array
  mouth_open: Array
  brow_raise: Array
  eyes_closed: Array       # 0 open .. 1 shut
  gaze: Array              # `[N, 2]`
  glasses: Array           # 0 or 1
  lens: Array              # opacity of the lenses
  frame: Array             # `[N, 3]` size, thickness, roundness
  frame_colour: Array
  hat: Array
  hat_line: Array
  hat_colour: Array
  fringe: Array
  hair_change: Array       # `[N, 2]`
  background: Array        # `[N, 2, 3]`
  waves: Array             # `[N, 4, 3]` turns across, turns down, phase
  clothes: Array
  exposure: Array
  blur: Array
  noise: Array
  resolution: Array        # pixels of the camera, of the image side
  noise_seed: Array        # uint32


_NORMALS, _UNIFORMS = 20, 60


def sample_shots(seed: int, people: np.ndarray, images: np.ndarray, variation: Variation) -> Shot:
  """Draws the conditions of each photograph.

  Args:
    seed: Non-negative integer.
    people: Person number of each photograph, int `[N]`.
    images: Number of the photograph within its person, int `[N]`.
    variation: Ranges.

  Returns:
    Shot with `N` rows; row i depends on (seed, people[i], images[i]) and the ranges only.
  """
  normal = np.empty((len(people), _NORMALS), np.float32)
  uniform = np.empty((len(people), _UNIFORMS), np.float32)
  noise_seed = np.empty(len(people), np.uint32)
  for row, (person, image) in enumerate(zip(people, images, strict=True)):
    rng = np.random.default_rng([seed, 1, int(person), int(image)])
    normal[row] = np.clip(rng.standard_normal(_NORMALS), -2.5, 2.5)
    uniform[row] = rng.random(_UNIFORMS)
    noise_seed[row] = rng.integers(2**32, dtype=np.uint32)
  fields = (_camera(normal, uniform, variation) | _expression(normal, uniform)
            | _occluders(normal, uniform, variation) | _surroundings(uniform))
  return Shot(noise_seed=noise_seed, **{k: np.asarray(v, np.float32) for k, v in fields.items()})


def _camera(normal: np.ndarray, uniform: np.ndarray, v: Variation) -> dict[str, np.ndarray]:
  """Pose, crop, light and sensor."""
  signed = 2 * uniform[:, :10] - 1
  roll = np.clip(.45 * normal[:, 0], -1, 1) * v.roll
  pitch = np.clip(.55 * normal[:, 1], -1, 1) * v.pitch
  pose = np.deg2rad(np.stack([roll, pitch, signed[:, 0] * v.yaw], -1))
  azimuth, height = np.deg2rad(v.light_turn) * signed[:, 1], np.deg2rad(20 + 40 * signed[:, 2])
  light = np.stack([np.sin(azimuth) * np.cos(height), np.sin(height),
                    np.cos(azimuth) * np.cos(height)], -1)
  warm = np.stack([1 + .22 * signed[:, 3], np.ones_like(azimuth), 1 - .28 * signed[:, 3]], -1)
  cool = np.stack([1 + .15 * signed[:, 4], np.ones_like(azimuth), 1 - .2 * signed[:, 4]], -1)
  key = .45 + .55 * uniform[:, 10:11]
  return dict(pose=pose, scale=1 + v.scale * signed[:, 5], shift=v.shift * signed[:, 6:8],
              light=light, light_colour=1.15 * key * warm, ambient=(.62 - .42 * key) * cool,
              exposure=2 ** (v.exposure * normal[:, 2]), blur=v.blur * uniform[:, 11],
              noise=v.noise * uniform[:, 12],
              resolution=v.resolution + (1 - v.resolution) * uniform[:, 57])


def _expression(normal: np.ndarray, uniform: np.ndarray) -> dict[str, np.ndarray]:
  """Mouth, brows, lids and gaze."""
  smile = np.where(uniform[:, 13] < .5, uniform[:, 14], .25 * normal[:, 3])
  mouth_open = np.where(uniform[:, 15] < .35, uniform[:, 16], 0)
  closed = np.where(uniform[:, 17] < .06, 1, .25 * uniform[:, 18])
  return dict(smile=np.clip(smile, -.5, 1), mouth_open=mouth_open, brow_raise=.5 * normal[:, 4],
              eyes_closed=closed, gaze=.5 * normal[:, 5:7])


def _occluders(normal: np.ndarray, uniform: np.ndarray, v: Variation) -> dict[str, np.ndarray]:
  """Spectacles, hats, and what the hair does today."""
  glasses = uniform[:, 19] < v.glasses
  dark = uniform[:, 20] < .2
  hat = uniform[:, 21] < v.hat
  return dict(
      glasses=glasses, lens=np.where(dark, .93, .06), frame=uniform[:, 22:25],
      frame_colour=uniform[:, 25:26] ** 3 * (.2 + .8 * uniform[:, 26:29]), hat=hat,
      hat_line=.34 + .12 * uniform[:, 30],
      hat_colour=.02 + .6 * uniform[:, 31:34] ** 2,
      fringe=np.where(uniform[:, 34] < v.fringe, .5 + .5 * uniform[:, 35], 0),
      hair_change=normal[:, 7:9])


def _surroundings(uniform: np.ndarray) -> dict[str, np.ndarray]:
  """Background and clothes."""
  waves = np.stack([2.6 * uniform[:, 36:40] - 1.3, 2.6 * uniform[:, 40:44] - 1.3,
                    uniform[:, 44:48]], -1)
  return dict(background=_muted(uniform[:, 48:54].reshape(-1, 2, 3) ** 2), waves=waves,
              clothes=_muted(.02 + .7 * uniform[:, 54:57] ** 2))


def _muted(colour: np.ndarray) -> np.ndarray:
  """Colours half way to grey; `[..., 3]`."""
  return .5 * colour + .5 * colour.mean(-1, keepdims=True)
