"""`detect`: the faces on photographs, with the newest checkpoint of a run."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from fedjax_face.data.readers.decode import decode_image
from fedjax_face.evaluation.detection import Detection
from fedjax_face.figures import detection_figure
from fedjax_face.figures.style import save
from fedjax_face.runs import detector as detectors
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.records import write_json

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SEED = 0  # of the proposals of every photograph
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}


class Photo(NamedTuple):
  """A file, and where its results go, without their endings."""

  path: pathlib.Path
  result: pathlib.Path


class Found(NamedTuple):
  """What `detect` found.

  Attributes:
    faces: photograph -> its faces, best first.
    mistakes: what was wrong with photographs that could not be used, a line each.
  """

  faces: dict[pathlib.Path, list[Detection]]
  mistakes: list[str]


def detect(workdir: Any, photographs: str | os.PathLike | Sequence[str | os.PathLike],
           out: str | os.PathLike | None = None, *, say: Say = print,
           complain: Say = lambda line: print(line, file=sys.stderr)) -> Found:
  """Finds the faces on photographs; writes NAME.json and a drawn NAME.png for each.

  What is found on a photograph does not depend on the photographs before it. One that cannot be
  used does not stop the others.

  Args:
    workdir: of a run of `dp_hyperface`, or the run.
    photographs: files, and folders that are searched at any depth.
    out: folder of the results; None: detections in `workdir`.
    say: told a line for each photograph.
    complain: told "error: ..." of one that cannot be used.

  Raises:
    FileNotFoundError: nothing at a path, no run, or no checkpoint yet.
    ValueError: no photograph, two whose results would have one name, a run that finds no faces.
  """
  workdir, found = getattr(workdir, "workdir", workdir), Found({}, [])
  if workdir is None:
    raise ValueError("workdir: this run is in memory; expected one in a folder")
  photographs = [photographs] if isinstance(photographs, str | os.PathLike) else photographs
  photos = find_photos(photographs, pathlib.Path(out or pathlib.Path(workdir) / "detections"))
  detector = detectors.load_detector(workdir)
  for photo in _with_progress(photos):
    start = time.perf_counter()
    try:
      image = read_upright(photo.path, detector.options.size)
    except (ValueError, OSError) as error:
      found.mistakes.append(" ".join(str(error).split()))
      complain(f"error: {found.mistakes[-1]}")
      continue
    faces = detector(image, np.random.default_rng(_SEED))
    seconds = time.perf_counter() - start
    write_detections(image, faces, photo)
    found.faces[photo.path] = faces
    say(f"{photo.path}: {_count(len(faces))}, {seconds:.2f} s")
  return found


def find_photos(given: Sequence[str | os.PathLike], out: pathlib.Path) -> list[Photo]:
  """The images among files and folders, in the given order, those of a folder sorted.

  Results keep the folders inside a given folder; where several things are given, a folder's results
  go to a folder of its name. Files inside `out` are left out.

  Raises:
    FileNotFoundError: nothing at a path.
    ValueError: nothing is given, a folder has no image, or results of two would have one name.
  """
  if not given:
    raise ValueError("no photograph given; expected files or folders")
  photos = []
  for root in map(pathlib.Path, given):
    if not root.exists():
      raise FileNotFoundError(f"{root}: no such file or folder")
    if root.is_file():
      photos.append(Photo(root, out / root.name))
      continue
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in _SUFFIXES
             and path.is_file() and not path.resolve().is_relative_to(out.resolve())]
    if not files:
      raise ValueError(f"{root}: no image in this folder; expected {', '.join(_SUFFIXES)}")
    top = out / root.resolve().name if len(given) > 1 else out
    photos += [Photo(path, top / path.relative_to(root)) for path in files]
  _check_results(photos)
  return photos


def _check_results(photos: Sequence[Photo]) -> None:
  first: dict[pathlib.Path, pathlib.Path] = {}
  for photo in photos:
    other = first.setdefault(photo.result, photo.path)
    if other is not photo.path:
      raise ValueError(f"{other} and {photo.path} would both be written to {photo.result}.json; "
                       "give one of them at a time, each with its own --out")


def read_upright(path: pathlib.Path, least_side: int) -> np.ndarray:
  """The photograph, uint8 [H, W, 3], turned as the camera says.

  Raises:
    ValueError: not an image, cut off, or a side is shorter than `least_side` pixels.
  """
  content = path.read_bytes()
  try:
    image = decode_image(content)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  turn = _UPRIGHT.get(_orientation(content))
  if turn is not None:
    image = np.asarray(Image.fromarray(image).transpose(turn))
  height, width = image.shape[:2]
  if min(height, width) < least_side:
    raise ValueError(f"{path}: {width} x {height} pixels; expected at least {least_side} x "
                     f"{least_side}, a region of the network")
  return image


def _orientation(content: bytes) -> int:
  """How the camera was held, as EXIF numbers it; 1, upright, where that cannot be read."""
  try:
    with Image.open(io.BytesIO(content)) as encoded:
      return encoded.getexif().get(ExifTags.Base.Orientation, 1)
  except (OSError, SyntaxError, ValueError, struct.error):
    return 1


def write_detections(image: np.ndarray, found: Sequence[Detection], photo: Photo) -> None:
  """Writes the faces of a photograph (perhaps none) as JSON and as a drawn picture."""
  photo.result.parent.mkdir(parents=True, exist_ok=True)
  height, width = image.shape[:2]
  write_json(f"{photo.result}.json", {"image": str(photo.path), "width": width, "height": height,
                                      "faces": [one.to_json() for one in found]})
  save(detection_figure.detections(image, found), f"{photo.result}.png")


def _count(faces: int) -> str:
  return "no face found" if not faces else f"{faces} face{'s' if faces > 1 else ''}"


def _with_progress(photos: Sequence[Photo]) -> Iterator[Photo]:
  """The photographs, with a bar on a terminal where there are several."""
  if len(photos) == 1 or not sys.stderr.isatty():
    yield from photos
    return
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
  with Progress(TextColumn("photographs"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=Console(stderr=True),
                redirect_stdout=sys.stdout.isatty()) as bar:
    yield from bar.track(photos)
