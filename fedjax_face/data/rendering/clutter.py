"""Backgrounds full of things that are no faces, some of them of the colours of faces."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SUPERSAMPLED = 2
_SKIN = np.array([[236, 200, 176], [205, 155, 120], [150, 105, 75], [85, 58, 42]], float)
_Colour = tuple[int, int, int]


def clutter(size: int, rng: np.random.Generator) -> np.ndarray:
  """A gradient under 12 to 40 shapes, texture and blur.

  Args:
    size: Side in pixels.
    rng: Draws everything.

  Returns:
    float32 `[size, size, 3]`, display values 0 to 255.
  """
  side = _SUPERSAMPLED * size
  ramp = np.linspace(0, 1, side)[:, None, None]
  gradient = (1 - ramp) * np.array(_colour(rng)) + ramp * np.array(_colour(rng))
  picture = Image.fromarray(np.broadcast_to(gradient, (side, side, 3)).astype(np.uint8))
  draw = ImageDraw.Draw(picture)
  shapes = (_rectangle, _ellipse, _polygon, _stripes, _checks, _stick)
  for number in rng.integers(len(shapes), size=rng.integers(12, 41)):
    shapes[number](draw, side, rng)
  picture = picture.filter(ImageFilter.GaussianBlur(_SUPERSAMPLED * 2.5 * rng.random() ** 2))
  pixels = np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float32)
  return np.clip(pixels + _texture(size, rng), 0, 255)


def _colour(rng: np.random.Generator) -> _Colour:
  """A muted colour, or a quarter of the time one of skin."""
  if rng.random() < .25:
    position = rng.random() * (len(_SKIN) - 1)
    colour = np.array([np.interp(position, np.arange(len(_SKIN)), c) for c in _SKIN.T])
  else:
    colour = 255 * rng.random(3)
    colour = colour + rng.uniform(.2, .8) * (colour.mean() - colour)
  red, green, blue = np.clip(np.rint(colour * rng.uniform(.6, 1.1)), 0, 255)
  return int(red), int(green), int(blue)


def _area(side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
  """A random rectangle, left, top, right, bottom; may reach over the border."""
  width, height = side * np.exp(rng.uniform(np.log(.05), np.log(.6), 2))
  left, top = rng.uniform(-.15, 1, 2) * side
  return int(left), int(top), int(left + width) + 2, int(top + height) + 2


def _rectangle(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  draw.rectangle(_area(side, rng), fill=_colour(rng))


def _ellipse(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  """Like a head without features, half the time with two dots where eyes would be."""
  left, top, right, bottom = _area(side, rng)
  draw.ellipse((left, top, right, bottom), fill=_colour(rng))
  if rng.random() < .5:
    dark, width, height = _colour(rng), right - left, bottom - top
    for centre in rng.uniform(.15, .85, (2, 2)):
      x, y = left + centre[0] * width, top + centre[1] * height
      radius = .02 * (width + height) + 1
      draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)


def _polygon(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  left, top, right, bottom = _area(side, rng)
  corners = rng.random((rng.integers(3, 7), 2)) * (right - left, bottom - top) + (left, top)
  draw.polygon([tuple(corner) for corner in corners.tolist()], fill=_colour(rng))


def _stripes(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  left, top, right, bottom = _area(side, rng)
  colours, upright = (_colour(rng), _colour(rng)), rng.random() < .5
  start, end = (left, right) if upright else (top, bottom)
  step = max(2, (end - start) // int(rng.integers(3, 12)))
  for number, at in enumerate(range(start, end, step)):
    last = min(at + step, end)
    area = (at, top, last, bottom) if upright else (left, at, right, last)
    draw.rectangle(area, fill=colours[number % 2])


def _checks(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  left, top, right, bottom = _area(side, rng)
  colours, step = (_colour(rng), _colour(rng)), max(4, (right - left) // int(rng.integers(3, 9)))
  for row, y in enumerate(range(top, bottom, step)):
    for column, x in enumerate(range(left, right, step)):
      draw.rectangle((x, y, x + step, y + step), fill=colours[(row + column) % 2])


def _stick(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
  left, top, right, bottom = _area(side, rng)
  ends = (left, top, right, bottom) if rng.random() < .5 else (left, bottom, right, top)
  draw.line(ends, fill=_colour(rng), width=max(1, int(side * .04 * rng.random())))


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
  """Value noise at four scales; float32 `[size, size, 1]`."""
  total = np.zeros((size, size), np.float32)
  for cells in (4, 12, 32, size):
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    total += 10 * rng.random() ** 2 * np.asarray(fine)
  return total[..., None]
