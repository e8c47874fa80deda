"""Synthetic people: photographs of ray-cast 3-D heads with exact annotation, no download."""

from __future__ import annotations

import concurrent.futures
import math
import os

import jax
import numpy as np
from PIL import Image

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.image_source import ImageSource
from fedjax_face.data.rendering.identity import sample_identities
from fedjax_face.data.rendering.renderer import Picture, render
from fedjax_face.data.rendering.variation import STREET, Variation, sample_shots
from fedjax_face.draws import processor

MIN_SIZE, MAX_SIZE = 28, 227
_PIXELS_PER_CHUNK = 2 ** 18
_LUMINANCE = np.array([.2126, .7152, .0722], np.float32)    # of linear RGB


def synthetic_faces(num_people: int, images_per_person: int, size: int, seed: int, *,
                    first_person: int = 0, grayscale: bool = False, workers: int | None = None,
                    variation: Variation = STREET) -> FaceDataset:
  """Renders a data set of people who do not exist.

  Each person is a head geometry, colours and a hair cut; each image varies pose, light, expression,
  spectacles, hat, hair, background, exposure, noise and crop.

  Args:
    num_people: Number of people.
    images_per_person: Images of each.
    size: Side of the images in pixels, 28 to 227.
    seed: Non-negative integer; the world. Person p's image j depends on (seed, first_person + p, j)
      and on `size`, not on the other arguments.
    first_person: Number of the first person; disjoint ranges are different people.
    grayscale: One channel (Rec. 601 luma) instead of RGB.
    workers: Threads; by default one per core.
    variation: Ranges of photographs and people.

  Returns:
    FaceDataset of N = num_people * images_per_person images sorted by person: images uint8
    `[N, size, size, 3 or 1]`; label = person = 0 .. num_people - 1; landmarks `[N, 21, 2]` (x, y)
    in pixels from the upper-left corner of the image, in the order of
    `fedjax_face.data.rendering.landmarks.LANDMARK_NAMES` (AFLW: brows, eyes, left ear, nose, right
    ear, mouth, chin; left is the image's left); visible `[N, 21]` (not hidden by the head, hair,
    hat or dark lenses, and inside the image); pose `[N, 3]` roll, pitch, yaw in radians (signs in
    `rendering.renderer.rotation`); gender 0 masculine, 1 feminine; box (x, y, w, h) in pixels, a
    square round the face; attributes['skin_tone'] `[N]`, one minus the luminance (Rec. 709) of
    the person's skin, 0 to 1, larger = darker.

  Raises:
    ValueError: on a count or `workers` below 1, a size outside 28 to 227, or a negative seed or
      first person.
  """
  _check(num_people, images_per_person, size, seed, first_person)
  if workers is not None and workers < 1:
    raise ValueError(f"workers must be at least 1, got {workers}")
  label = np.repeat(np.arange(num_people, dtype=np.int32), images_per_person)
  image_number = np.tile(np.arange(images_per_person), num_people)
  pictures, people, shots = _photograph(
      first_person + label, image_number, size, seed, grayscale, workers, variation)
  return FaceDataset(
      name=f"synthetic_faces_{size}", images=pictures.image, label=label, person=label.copy(),
      landmarks=pictures.landmarks, visible=pictures.visible, pose=shots.pose, gender=people.gender,
      box=pictures.box, attributes={"skin_tone": 1 - people.paint.skin @ _LUMINANCE})


def _check(num_people: int, images_per_person: int, size: int, seed: int,
           first_person: int) -> None:
  for name, value, least in (("num_people", num_people, 1), ("seed", seed, 0),
                             ("images_per_person", images_per_person, 1),
                             ("first_person", first_person, 0)):
    if value < least:
      raise ValueError(f"{name} must be at least {least}, got {value}")
  if not MIN_SIZE <= size <= MAX_SIZE:
    raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")


def _photograph(person: np.ndarray, image_number: np.ndarray, size: int, seed: int,
                grayscale: bool, workers: int | None, variation: Variation):
  """(Picture, Identity, Shot) of image `image_number` [N] of each person [N], who may recur."""
  numbers, place = np.unique(person, return_inverse=True)
  people = jax.tree.map(lambda a: a[place], sample_identities(
      seed, numbers, variation.skin_tone, variation.age))
  shots = sample_shots(seed, person, image_number, variation)
  return _render_all(people, shots, size, grayscale, workers), people, shots


def _render_all(people, shots, size: int, grayscale: bool, workers: int | None) -> Picture:
  """Renders in chunks of one fixed shape, so that each image is computed alike in every batch."""
  count = len(people.gender)
  chunk = max(1, _PIXELS_PER_CHUNK // (size * size))
  out = Picture(np.empty((count, size, size, 1 if grayscale else 3), np.uint8),
                np.empty((count, 21, 2), np.float32), np.empty((count, 21), bool),
                np.empty((count, 4), np.float32))
  cpu = processor()  # whatever accelerator there is: it may be at work on what was rendered before

  def work(start: int) -> None:
    rows = np.minimum(np.arange(start, start + chunk), count - 1)
    with jax.default_device(cpu):
      person, shot = jax.tree.map(lambda a: a[rows], (people, shots))
      picture = render(person, shot, size)
    keep = min(chunk, count - start)
    picture = Picture(*(np.asarray(field)[:keep] for field in picture))
    image = coarse(picture.image, np.asarray(shot.resolution)[:keep])
    picture = picture._replace(image=image)
    if grayscale:
      luma = picture.image @ np.array([[.299], [.587], [.114]], np.float32)
      picture = picture._replace(image=np.round(luma).astype(np.uint8))
    for target, field in zip(out, picture, strict=True):
      target[start:start + keep] = field

  with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
    list(pool.map(work, range(0, count, chunk)))
  return out


def coarse(images: np.ndarray, resolution: np.ndarray) -> np.ndarray:
  """Images as a camera of fewer pixels sees them, enlarged again.

  Args:
    images: uint8 `[N, size, size, 3]`.
    resolution: `[N]`, pixels of the camera, of the image side; 1 changes nothing.
  """
  size, out = images.shape[1], images
  for row in np.flatnonzero(np.rint(resolution * size) < size):
    out = out.copy() if out is images else out
    side = max(2, round(float(resolution[row]) * size))
    small = Image.fromarray(images[row]).resize((side, side), Image.Resampling.BOX)
    out[row] = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
  return out


class RenderedImages(ImageSource):
  """Photographs of synthetic people that are rendered when they are asked for.

  Rows are those of `synthetic_faces(...).images`.

  Args:
    num_people, images_per_person, size, seed, first_person, grayscale, variation: as of
      `synthetic_faces`.
  """

  def __init__(self, num_people: int, images_per_person: int, size: int, seed: int, *,
               first_person: int = 0, grayscale: bool = False, variation: Variation = STREET):
    _check(num_people, images_per_person, size, seed, first_person)
    self.shape = (num_people * images_per_person, size, size, 1 if grayscale else 3)
    self._per_person, self._seed, self._first = images_per_person, seed, first_person
    self._size, self._grayscale, self._variation = size, grayscale, variation

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    pictures, _, _ = _photograph(self._first + index // self._per_person,
                                 index % self._per_person, self._size, self._seed,
                                 self._grayscale, None, self._variation)
    return pictures.image


def rendered_faces(num_people: int, images_per_person: int, size: int, seed: int, *,
                   first_person: int = 0, grayscale: bool = False,
                   variation: Variation = STREET) -> FaceDataset:
  """The people of `synthetic_faces`, their images rendered when asked for and without annotation.

  Args:
    num_people, images_per_person, size, seed, first_person, grayscale, variation: as of
      `synthetic_faces`.
  """
  images = RenderedImages(num_people, images_per_person, size, seed, variation=variation,
                               first_person=first_person, grayscale=grayscale)
  label = np.repeat(np.arange(num_people, dtype=np.int32), images_per_person)
  return FaceDataset(name=f"synthetic_faces_{size}", images=images, label=label,
                     person=label.copy())


def contact_sheet(images: np.ndarray, columns: int) -> np.ndarray:
  """Lays images out in rows.

  Args:
    images: uint8 `[N, H, W, C]`.
    columns: Images in a row; missing ones in the last row are black.

  Returns:
    uint8 `[ceil(N / columns) * H, columns * W, C]`.

  Raises:
    ValueError: if `columns` is below 1 or the images are not `[N, H, W, C]`.
  """
  if columns < 1:
    raise ValueError(f"columns must be at least 1, got {columns}")
  if images.ndim != 4:
    raise ValueError(f"images must be [N, H, W, C], got shape {images.shape}")
  n, h, w, c = images.shape
  rows = math.ceil(n / columns)
  sheet = np.zeros((rows * columns, h, w, c), np.uint8)
  sheet[:n] = images
  return sheet.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4).reshape(
      rows * h, columns * w, c)
