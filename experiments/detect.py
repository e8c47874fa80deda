r"""Finds the faces on photographs with the newest checkpoint of a run.

python -m experiments.detect --workdir=RUN PHOTO.jpg FOLDER
python -m experiments.detect --workdir=RUN FOLDER --out=FOUND

Folders are searched for images at any depth. For each image NAME.json and a drawn NAME.png go to
--out (default RUN/detections), NAME being that of the file with its ending. The JSON holds `image`,
its `width` and `height`, and `faces`, best first: `box` (left, top, width, height) and `landmarks`
in pixels, `visibility`, `pose` (roll, pitch, yaw in radians), `score` and `female` (probabilities).
Photographs that a camera marked as turned are turned upright first.
"""

from __future__ import annotations

import io
import pathlib
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags
from PIL import ExifTags, Image

from experiments import command_line

if TYPE_CHECKING:
  from fedjax_face.data.proposals import Proposer
  from fedjax_face.evaluation.detection import BoxRule, Detection, DetectionOptions, Predict

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


def find_photos(given: Sequence[str], out: pathlib.Path) -> list[Photo]:
  """The images among files and folders, in the given order, those of a folder sorted.

  Results keep the folders inside a given folder; where several things are given, a folder's results
  go to a folder of its name. Files inside `out` are left out.

  Raises:
    FileNotFoundError: nothing at a path.
    ValueError: nothing is given, a folder has no image, or results of two would have one name.
  """
  if not given:
    raise ValueError("no photograph given; expected files or folders after the flags")
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
  from fedjax_face.data.decode import decode_image
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


def detect_photos(photos: Sequence[Photo], predict: Predict, proposer: Proposer,
                  box_rule: BoxRule, options: DetectionOptions) -> list[str]:
  """Finds, writes and draws the faces of each photograph, and prints a line for it.

  A photograph that cannot be used gets one line, `error: ...`, and does not stop the others.

  Args:
    photos: of `find_photos`.
    predict, proposer, box_rule, options: as in `evaluation.detection.detect`. The proposals of a
      photograph do not depend on the photographs before it.

  Returns:
    What was wrong with photographs that could not be used, a line each.
  """
  from fedjax_face.evaluation.detection import detect
  mistakes = []
  for photo in _with_progress(photos):
    start = time.perf_counter()
    try:
      image = read_upright(photo.path, options.size)
    except (ValueError, OSError) as error:
      mistakes.append(" ".join(str(error).split()))
      print(f"error: {mistakes[-1]}", file=sys.stderr)
      continue
    found = detect(image, predict, proposer, box_rule, options, np.random.default_rng(_SEED))
    seconds = time.perf_counter() - start
    write_detections(image, found, photo)
    print(f"{photo.path}: {_count(len(found))}, {seconds:.2f} s", flush=True)
  return mistakes


def write_detections(image: np.ndarray, found: Sequence[Detection], photo: Photo) -> None:
  """Writes the faces of a photograph (perhaps none) as JSON and as a drawn picture."""
  from fedjax_face.figures import detection_figure
  from fedjax_face.figures.style import save
  from fedjax_face.training.records import write_json
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


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  command_line.define_shared(values)
  flags.DEFINE_string("out", "", "folder of the results; default RUN/detections",
                      flag_values=values)
  return values


def _detect(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
  command_line.answer_help(values, arguments, __doc__)
  given = values(list(arguments))[1:]
  if values.workdir is None:
    raise ValueError("--workdir is required: the folder of a run")
  workdir = pathlib.Path(values.workdir)
  photos = find_photos(given, pathlib.Path(values.out or workdir / "detections"))
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.training.face_tasks import load_detector
  detector = load_detector(workdir)
  return detect_photos(photos, detector.predict, detector.proposer, detector.box_rule,
                       detector.options)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status: 2 also if only some photographs were bad."""
  given = sys.argv if arguments is None else ["detect", *arguments]
  mistakes: list[str] = []
  status = command_line.one_line_errors(
    lambda: mistakes.extend(_detect(_flags(), given)), lambda: "--debug" in given)
  return status or (2 if mistakes else 0)


if __name__ == "__main__":
  sys.exit(main())
