"""From encoded image files to one uint8 array, with an account of every file left out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from fedjax_face.data.readers.file_bytes import printable
from fedjax_face.data.readers.image_decoder import decode_image

OnBad = Literal["skip", "refuse"]


@dataclasses.dataclass(frozen=True)
class ReadReport:
  """What a reader read and what it left out.

  Attributes:
    source: the file or folder.
    files: name of the file of each row of the data set (empty where rows are not files).
    skipped: (file or person, reason) of everything left out as bad, in reading order.
    remarks: sentences about what was read, such as names that differ in their case only.
  """

  source: str
  files: tuple[str, ...] = ()
  skipped: tuple[tuple[str, str], ...] = ()
  remarks: tuple[str, ...] = ()

  def __str__(self) -> str:
    told = [f"skipped {len(self.skipped)}: {name}: {reason}" if not i else f"{name}: {reason}"
            for i, (name, reason) in enumerate(self.skipped[:3])]
    told += [f"and {len(self.skipped) - 3} more"] * (len(self.skipped) > 3)
    return printable(f"{self.source}: {'; '.join([*told, *self.remarks]) or 'nothing skipped'}")


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
    raise ValueError(printable(
        f"{report.source}: {len(report.skipped)} bad file(s), first {name}: {reason}; "
        "repair them or use on_bad='skip'"))
  if report.skipped:
    warnings.warn(str(report), SkippedFiles, stacklevel=3)
  return report


def check_on_bad(on_bad: str) -> None:
  """Refuses anything but 'skip' and 'refuse'."""
  if on_bad not in ("skip", "refuse"):
    raise ValueError(f"on_bad is {on_bad!r}; expected 'skip' or 'refuse'")


def decode_images(source: str, names: Sequence[str], read: Callable[[str], bytes],
                  size: int | None = None, channels: int = 3, *, upright: bool = True,
                  ) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
  """Decodes many files in threads.

  Args:
    source: for error messages.
    names: N file names.
    read: the bytes of a file; must be safe to call from several threads.
    size, channels, upright: as in `decode_image`.

  Returns:
    (images uint8 [M, H, W, channels], rows int64 [M] of `names` that were good, [(name, reason)]).

  Raises:
    ValueError: no image is good, images differ in shape and `size` is None, or they are more than
      there is memory for.
  """
  def attempt(name: str) -> np.ndarray | str:
    try:
      return decode_image(read(name), size, channels, upright=upright)
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
        images = _room(source, len(names), result.shape)
      if result.shape != images.shape[1:]:
        raise ValueError(f"{source}: {printable(names[row])} is {list(result.shape)} but images "
                         f"before it are {list(images.shape[1:])}; give a size to scale to")
      images[len(good)] = result
      good.append(row)
  if images is None:
    detail = printable(f" ({bad[0][0]}: {bad[0][1]})") if bad else ""
    raise ValueError(f"{source}: no readable image among {len(names)} file(s){detail}")
  return images[:len(good)], np.array(good), bad


def _room(source: str, count: int, shape: tuple[int, ...]) -> np.ndarray:
  """Memory for so many images."""
  try:
    return np.empty((count, *shape), np.uint8)
  except MemoryError:
    raise ValueError(f"{source}: {count:,} images of {list(shape)} are "
                     f"{count * math.prod(shape) / 2**30:,.0f} GiB, more than there is memory for; "
                     "give a size to scale to") from None
