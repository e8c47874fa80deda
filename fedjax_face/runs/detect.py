"""`detect`: the faces on photographs, with the newest checkpoint of a run."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data.readers.file_bytes import printable, read_file, require_given
from fedjax_face.data.readers.image_decoder import FORMATS, decode_image, image_size, is_image
from fedjax_face.data.readers.layout import is_picture
from fedjax_face.data.readers.listing import walk
from fedjax_face.evaluation.detection import Detection
from fedjax_face.figures import detection_figure
from fedjax_face.figures.style import save
from fedjax_face.runs import detector as detectors
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.records import write_json

_MOST_PIXELS = 12_000_000  # in which faces are looked for; a larger photograph is made smaller
_SEED = 0  # of the proposals of every photograph


class Photo(NamedTuple):
  """A file, and where its results go, without their endings."""

  path: pathlib.Path
  result: pathlib.Path


class Upright(NamedTuple):
  """A photograph as it was taken, and how large it is.

  Attributes:
    image: uint8 [H, W, 3], made smaller where it is large.
    size: width and height of the file's own pixels, upright.
  """

  image: np.ndarray
  size: tuple[int, int]


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
  photographs = [require_given(photograph, "a photograph") for photograph in photographs]
  photos = find_photos(photographs, pathlib.Path(out or pathlib.Path(workdir) / "detections"))
  detector = detectors.load_detector(workdir)
  for photo in _with_progress(photos):
    start = time.perf_counter()
    try:
      read = read_upright(photo.path, detector.options.size)
    except (ValueError, OSError) as error:
      found.mistakes.append(printable(" ".join(str(error).split())))
      complain(f"error: {found.mistakes[-1]}")
      continue
    small = detector(read.image, np.random.default_rng(_SEED))
    seconds = time.perf_counter() - start
    found.faces[photo.path] = write_detections(read, small, photo)
    say(f"{printable(str(photo.path))}: {_count(len(small))}, {seconds:.2f} s")
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
    if not root.is_dir():
      photos.append(Photo(root, out / printable(root.name)))
      continue
    tree = walk(root)
    files = [(name, path) for name in tree.files if _is_photograph(path := tree.path(name))
             and not _real(path).is_relative_to(_real(out))]
    if not files:
      raise ValueError(f"{root}: no image in this folder; expected {FORMATS}")
    top = out / printable(root.resolve().name) if len(given) > 1 else out
    photos += [Photo(path, top / name) for name, path in files]
  _check_results(photos)
  return photos


def _real(path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(os.path.realpath(path))  # which a link that leads to itself does not end


def _is_photograph(path: pathlib.Path) -> bool:
  """Whether a file of a folder has the ending of a picture, or none and the first bytes of one.

  Those of a format that is not read are among them, so that they are named and not left out.
  """
  if is_picture(path.name) or path.suffix or not path.is_file():
    return is_picture(path.name)
  try:
    with path.open("rb") as file:
      return is_image(file.read(16))
  except OSError:
    return False


def _check_results(photos: Sequence[Photo]) -> None:
  first: dict[pathlib.Path, pathlib.Path] = {}
  for photo in photos:
    other = first.setdefault(photo.result, photo.path)
    if other is not photo.path:
      raise ValueError(f"{other} and {photo.path} would both be written to {photo.result}.json; "
                       "give one of them at a time, each with its own --out")


def read_upright(path: pathlib.Path, least_side: int) -> Upright:
  """A photograph, turned as the camera says.

  Raises:
    ValueError: no image that is read, cut off, or a side is shorter than `least_side` pixels.
    OSError: a file that cannot be read.
  """
  try:
    content = read_file(path)
    image, size = decode_image(content, most_pixels=_MOST_PIXELS), image_size(content)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  if min(size) < least_side:
    raise ValueError(f"{path}: {size[0]} x {size[1]} pixels; expected at least {least_side} x "
                     f"{least_side}, a region of the network")
  return Upright(image, size)


def write_detections(read: Upright, found: Sequence[Detection], photo: Photo) -> list[Detection]:
  """Writes the faces of a photograph (perhaps none) as JSON and as a drawn picture.

  Args:
    read: the photograph.
    found: in pixels of `read.image`.
    photo: where to.

  Returns:
    The faces as they are in the JSON, in pixels of the file.
  """
  photo.result.parent.mkdir(parents=True, exist_ok=True)
  width, height = read.size
  scale = np.array(read.size, np.float32) / read.image.shape[1::-1]
  faces = [one._replace(box=one.box * np.tile(scale, 2), landmarks=one.landmarks * scale)
           for one in found]
  write_json(f"{photo.result}.json", {"image": printable(str(photo.path)), "width": width,
                                      "height": height, "faces": [one.to_json() for one in faces]})
  save(detection_figure.detections(read.image, found), f"{photo.result}.png")
  return faces


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
