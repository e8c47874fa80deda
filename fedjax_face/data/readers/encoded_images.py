"""Images that are decoded when they are asked for, the last ones kept."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedjax_face.data.image_source import ImageSource
from fedjax_face.data.readers.image_decoder import check_whole, decode_image

KEPT_BYTES = 256 << 20
"""Decoded images that a source keeps, those that were asked for last."""

IN_MEMORY_BYTES = 1 << 30
"""A set of more is decoded on demand, unless it is said."""


class EncodedImages(ImageSource):
  """N encoded images, decoded in threads when they are asked for.

  Rows are asked for a dispatch ahead of the step that needs them (`runs.batches.prefetch`), so
  decoding runs beside training.

  Args:
    shape: (N, H, W, C) of the decoded images.
    decode: row -> uint8 [H, W, C]; called from several threads.
    name: row -> what it is called, for messages.
    kept_bytes: most bytes of decoded images that are kept.

  Attributes:
    holds: what must stay open for as long as images are decoded, such as an archive.
  """

  holds: Any = None

  def __init__(self, shape: tuple[int, int, int, int], decode: Callable[[int], np.ndarray],
               name: Callable[[int], str], kept_bytes: int = KEPT_BYTES):
    self.shape, self._decode, self._name = shape, decode, name
    self._kept = _LastRows(shape, kept_bytes)

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`.

    Raises:
      ValueError: an image that cannot be decoded, with its name.
    """
    out = np.empty((len(index), *self.shape[1:]), np.uint8)
    missing = self._kept.take(index, out)

    def work(places: np.ndarray) -> None:
      for place in places:
        out[place] = self._decoded(int(index[place]))

    workers = os.cpu_count() or 1
    if len(missing) < 2 * workers:
      work(missing)
    else:
      with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, np.array_split(missing, 4 * workers)))
    self._kept.put(index[missing], out[missing])
    return out

  def _decoded(self, row: int) -> np.ndarray:
    try:
      return self._decode(row)
    except (OSError, ValueError) as error:
      raise ValueError(f"{self._name(row)}: {error}; it looked whole when the set was opened; "
                       "repair or remove it") from None


def is_on_demand(asked: bool | None, count: int, size: int | None, channels: int) -> bool:
  """Whether a set is decoded on demand: as asked for, else by the bytes of its images.

  Args:
    asked: None leaves it to the bytes.
    count: images.
    size: height and width; None: as stored, which needs decoding.
    channels: of the decoded images.
  """
  if asked is None:
    return size is not None and count * size * size * channels > IN_MEMORY_BYTES
  return asked


def decode_later(source: str, names: Sequence[str], read: Callable[[str], bytes],
                 size: int | None, channels: int = 3,
                 ) -> tuple[EncodedImages, np.ndarray, list[tuple[str, str]]]:
  """What `decode_images` gives, but that nothing is decoded yet: files are read once, and checked.

  Args:
    source: for messages.
    names: N names of files.
    read: the bytes of a file; from several threads, for as long as the images are used.
    size, channels: as of `decode_image`; the size must be given.

  Returns:
    (M images, rows int64 [M] of `names` that look whole, [(name, reason)] of the others).

  Raises:
    ValueError: no size, or no image looks whole.
  """
  if size is None:
    raise ValueError(f"{source}: images that are decoded on demand need a size to scale to")

  def attempt(name: str) -> str | bytes:
    try:
      check_whole(content := read(name))
      return hashlib.blake2b(content, digest_size=16).digest()
    except FileNotFoundError:
      return "missing"
    except (OSError, ValueError) as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    found = list(pool.map(attempt, names))
  contents = [digest for digest in found if isinstance(digest, bytes)]
  rows = np.flatnonzero([isinstance(digest, bytes) for digest in found])
  bad = [(name, why) for name, why in zip(names, found, strict=True) if isinstance(why, str)]
  if not len(rows):
    detail = f" ({bad[0][0]}: {bad[0][1]})" if bad else ""
    raise ValueError(f"{source}: no readable image among {len(names)} file(s){detail}")
  name = lambda row: names[int(rows[row])]
  images = EncodedImages((len(rows), size, size, channels),
                         lambda row: decode_image(read(name(row)), size, channels),
                         lambda row: f"{source}: {name(row)}")
  images.contents = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 16)
  return images, rows, bad


class _LastRows:
  """The rows that were put or taken last, up to a number of bytes; for any thread."""

  def __init__(self, shape: tuple[int, ...], most_bytes: int):
    size = math.prod(shape[1:])
    self._slots = np.empty((min(shape[0], most_bytes // max(size, 1)), *shape[1:]), np.uint8)
    self._slot: collections.OrderedDict[int, int] = collections.OrderedDict()
    self._lock = threading.Lock()

  def take(self, index: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Copies the rows that are there into `out`; int64, places in `index` of the others."""
    missing = []
    with self._lock:
      for place, row in enumerate(index.tolist()):
        slot = self._slot.get(row)
        if slot is None:
          missing.append(place)
        else:
          out[place] = self._slots[slot]
          self._slot.move_to_end(row)
    return np.array(missing, np.int64)

  def put(self, index: np.ndarray, images: np.ndarray) -> None:
    """Keeps rows, in place of those that nobody asked for longest."""
    with self._lock:
      for row, image in zip(index.tolist(), images, strict=True):
        if row in self._slot or not len(self._slots):
          continue
        full = len(self._slot) == len(self._slots)
        slot = self._slot.popitem(last=False)[1] if full else len(self._slot)
        self._slots[slot], self._slot[row] = image, slot

