"""People without their background: rendered in front of black and of white, compared."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.data.rendering.identity import Identity
from fedjax_face.data.rendering.renderer import Picture, render
from fedjax_face.data.rendering.variation import Shot
from fedjax_face.draws import processor

_PIXELS_PER_CHUNK = 2 ** 17
_WHITE = 1.25 ** -.5          # display value of a background of 1 / exposure, see sensor.tone


class Cutouts(NamedTuple):
  """N people in square pictures.

  Attributes:
    colour: uint8 [N, S, S, 3], as in front of black: already multiplied by the opacity.
    opacity: uint8 [N, S, S], 255 = the person, 0 = background.
    landmarks: float32 [N, 21, 2], (x, y) in pixels of the picture.
    visible: bool [N, 21].
    box: float32 [N, 4], left, top, width, height of the face.
  """

  colour: np.ndarray
  opacity: np.ndarray
  landmarks: np.ndarray
  visible: np.ndarray
  box: np.ndarray


def cut_out(people: Identity, shots: Shot, size: int) -> Cutouts:
  """Renders people and finds where they cover the background.

  Args:
    people: Identity with N rows.
    shots: Shot with N rows; its background is not used.
    size: S, side of the pictures in pixels.

  Returns:
    Cutouts; a row does not depend on the other rows.
  """
  black = _render(people, _before(shots, np.zeros(len(shots.exposure), np.float32)), size)
  white = _render(people, _before(shots, 1 / shots.exposure), size)
  contrast = (white.image.astype(np.float32) - black.image).mean(-1)
  opacity = np.clip(255 - contrast / _WHITE, 0, 255)
  return Cutouts(black.image, np.rint(opacity).astype(np.uint8), black.landmarks, black.visible,
                 black.box)


def _before(shots: Shot, light: np.ndarray) -> Shot:
  """The photographs in front of an even background of linear light [N]."""
  background = np.broadcast_to(light[:, None, None], shots.background.shape).astype(np.float32)
  return shots._replace(background=background, waves=np.zeros_like(shots.waves))


def _render(people: Identity, shots: Shot, size: int) -> Picture:
  """Renders on the CPU in chunks of one fixed shape."""
  count = len(shots.exposure)
  chunk = max(1, _PIXELS_PER_CHUNK // (size * size))
  parts = []
  with jax.default_device(processor()):
    for start in range(0, count, chunk):
      rows = np.minimum(np.arange(start, start + chunk), count - 1)
      person, shot = jax.tree.map(lambda a, rows=rows: a[rows], (people, shots))
      picture = render(person, shot, size)
      parts.append([np.asarray(field)[:count - start] for field in picture])
  return Picture(*map(np.concatenate, zip(*parts, strict=True)))
