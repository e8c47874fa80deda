"""From encoded image files to one uint8 array, with an account of every file left out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image

OnBad = Literal["skip", "refuse"]

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
                  Image.DecompressionBombError)
_MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class ReadReport:
  """What a reader read and what it left out.

  Attributes:
    source: the file or folder.
    files: name of the file of each row of the data set (empty where rows are not files).
    skipped: (file or person, reason) of everything left out as bad, in reading order.
  """

  source: str
  files: tuple[str, ...] = ()
  skipped: tuple[tuple[str, str], ...] = ()

  def __str__(self) -> str:
    if not self.skipped:
      return f"{self.source}: nothing skipped"
    shown = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:3])
    more = f"; and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
    return f"{self.source}: skipped {len(self.skipped)}: {shown}{more}"


class SkippedFiles(UserWarning):
  """Files of a source were left out; the report says which."""


def settle(report: ReadReport, on_bad: OnBad) -> ReadReport:
  """Warns about skipped files, or refuses the source because of them.

  Raises:
    ValueError: something was skipped and `on_bad` is 'refuse', or `on_bad` is unknown.
  """
  check_on_bad(on_bad)
  if report.skipped and on_bad == "refuse":
    name, reason = report.skipped[0]
    raise ValueError(f"{report.source}: {len(report.skipped)} bad file(s), first {name}: {reason}; "
                     "repair them or use on_bad='skip'")
  if report.skipped:
    warnings.warn(str(report), SkippedFiles, stacklevel=3)
  return report


def check_on_bad(on_bad: str) -> None:
  """Refuses anything but 'skip' and 'refuse'."""
  if on_bad not in ("skip", "refuse"):
    raise ValueError(f"on_bad is {on_bad!r}; expected 'skip' or 'refuse'")


def decode_image(content: bytes, size: int | None = None, channels: int = 3) -> np.ndarray:
  """Decodes one image of any format that Pillow reads.

  Args:
    content: the bytes of the file.
    size: height and width to scale to (the aspect ratio is not kept); None = as stored.
    channels: 1 (grey) or 3 (RGB).

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: the bytes are not an image or are cut off.
  """
  if channels not in _MODES:
    raise ValueError(f"channels is {channels}; expected 1 or 3")
  if not content:
    raise ValueError("empty file")
  try:
    with Image.open(io.BytesIO(content)) as image:
      if size is not None:
        image.draft(_MODES[channels], (size, size))
      pixels = image.convert(_MODES[channels])
  except Image.UnidentifiedImageError:
    raise ValueError("not an image") from None
  except _DECODE_ERRORS as error:
    raise ValueError(f"broken image ({error})") from None
  if size is not None and pixels.size != (size, size):
    pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(pixels, np.uint8).reshape(pixels.height, pixels.width, channels)


def decode_images(source: str, names: Sequence[str], read: Callable[[str], bytes],
                  size: int | None = None, channels: int = 3,
                  ) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
  """Decodes many files in threads.

  Args:
    source: for error messages.
    names: N file names.
    read: the bytes of a file; must be safe to call from several threads.
    size, channels: as in `decode_image`.

  Returns:
    (images uint8 [M, H, W, channels], rows int64 [M] of `names` that were good, [(name, reason)]).

  Raises:
    ValueError: no image is good, or images differ in shape and `size` is None.
  """
  def attempt(name: str) -> np.ndarray | str:
    try:
      return decode_image(read(name), size, channels)
    except FileNotFoundError:
      return "missing"
    except (OSError, ValueError) as error:
      return str(error)

  images: np.ndarray | None = None
  good: list[int] = []
  bad: list[tuple[str, str]] = []
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for row, result in enumerate(pool.map(attempt, names)):
      if isinstance(result, str):
        bad.append((names[row], result))
        continue
      if images is None:
        images = np.empty((len(names), *result.shape), np.uint8)
      if result.shape != images.shape[1:]:
        raise ValueError(f"{source}: {names[row]} is {list(result.shape)} but images before it are "
                         f"{list(images.shape[1:])}; give a size to scale to")
      images[len(good)] = result
      good.append(row)
  if images is None:
    detail = f" ({bad[0][0]}: {bad[0][1]})" if bad else ""
    raise ValueError(f"{source}: no readable image among {len(names)} file(s){detail}")
  return images[:len(good)], np.array(good), bad
