"""Images that need not lie in memory: rows that are made, mapped or decoded when asked for."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_AT_ONCE = 1024  # images that are changed together


class ImageSource(abc.ABC):
  """N images uint8 [H, W, C]; the same rows for the same index, from any thread or process.

  It is indexed like the array uint8 [N, H, W, C] that it stands for, `np.asarray` makes that array,
  and rows that are asked for twice are made once. A subclass gives `shape` and `rows`.

  Attributes:
    shape: (N, H, W, C).
    contents: uint8 [N, 16], a digest of what each image is made from, where that is known without
      making it, such as the bytes of its file; else None.
  """

  contents: np.ndarray | None = None
  dtype = np.dtype(np.uint8)
  ndim = 4
  shape: tuple[int, int, int, int]

  @abc.abstractmethod
  def rows(self, index: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] of different row numbers int64 [n], ascending, each in 0..N-1."""

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: Any) -> np.ndarray:
    """uint8 [*index.shape, H, W, C]; what is after a comma is of pixels, channels or a single row.

    Raises:
      IndexError: a row that is not there.
    """
    of_rows, *of_pixels = index if isinstance(index, tuple) else (index,)
    if of_rows is Ellipsis:
      of_rows, of_pixels = slice(None), [Ellipsis, *of_pixels] if of_pixels else []
    wanted = self._numbers(of_rows)
    different, place = np.unique(wanted, return_inverse=True)
    made = self.rows(different)
    if len(different) != wanted.size or wanted.ndim != 1 or (np.diff(wanted) < 0).any():
      made = made[place.reshape(wanted.shape)]
    return made[(slice(None),) * wanted.ndim + tuple(of_pixels)] if of_pixels else made

  def _numbers(self, index: Any) -> np.ndarray:
    """Row numbers int64 of whatever indexes an axis of N."""
    if isinstance(index, list):
      index = np.asarray(index) if index else np.empty(0, np.int64)
    if isinstance(index, np.ndarray) and index.dtype.kind in "iu":
      outside = index[(index < -len(self)) | (index >= len(self))]
      if outside.size:
        raise IndexError(f"image {outside[0]} of {len(self)}")
      index = index.astype(np.int64)  # of eight bits, say, N would be too large
      return np.where(index < 0, index + len(self), index)
    return np.arange(len(self))[index]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return self[:] if dtype is None else self[:].astype(dtype)

  @property
  def nbytes(self) -> int:
    """Bytes of all images, were they all in memory."""
    return math.prod(self.shape)


class MappedImages(ImageSource):
  """An array on a disk, of which the rows that are asked for are read.

  Args:
    array: uint8 [N, H, W, C], memory-mapped (`np.load(path, mmap_mode="r")`).
  """

  def __init__(self, array: np.ndarray):
    self._array, self.shape = array, array.shape

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    return np.asarray(self._array[index])


class SomeRows(ImageSource):
  """Rows of another source, in any order, none of them made before it is asked for.

  Args:
    source: N images.
    index: int64 [M], rows of it.
  """

  _source: ImageSource
  _index: np.ndarray

  def __init__(self, source: ImageSource, index: np.ndarray):
    nested = source if isinstance(source, SomeRows) else None
    self._source = nested._source if nested else source
    self._index = nested._index[index] if nested else np.asarray(index, np.int64)
    self.shape = (len(index), *source.shape[1:])
    if self._source.contents is not None:
      self.contents = self._source.contents[self._index]

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    return self._source[self._index[index]]


class Joined(ImageSource):
  """The rows of several sets of images, one after another.

  Args:
    parts: sources or arrays, of one shape of image.
  """

  def __init__(self, parts: Sequence[ImageSource | np.ndarray]):
    self._parts = parts
    self._first = np.cumsum([0, *map(len, parts)])
    self.shape = (int(self._first[-1]), *parts[0].shape[1:])
    known = [part.contents for part in parts
             if isinstance(part, ImageSource) and part.contents is not None]
    self.contents = np.concatenate(known) if len(known) == len(parts) else None

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    cuts = np.searchsorted(index, self._first)
    pieces = [part[index[low:high] - first] for part, first, low, high in
              zip(self._parts, self._first[:-1], cuts[:-1], cuts[1:], strict=True) if high > low]
    return np.concatenate(pieces) if pieces else np.zeros((0, *self.shape[1:]), np.uint8)


class Changed(ImageSource):
  """Rows of another source, with something done to each when it is asked for.

  Args:
    source: N images.
    shape: (H, W, C) of what `change` makes of them.
    change: uint8 [n, ...] -> uint8 [n, H, W, C], each image by itself.
  """

  def __init__(self, source: ImageSource | np.ndarray, shape: tuple[int, int, int],
               change: Callable[[np.ndarray], np.ndarray]):
    self._source, self._change = source, change
    self.shape = (len(source), *shape)
    self.contents = source.contents if isinstance(source, ImageSource) else None

  def rows(self, index: np.ndarray) -> np.ndarray:
    """See `ImageSource`."""
    return self._change(self._source[index])


Images = np.ndarray | ImageSource


def in_memory(images: Any) -> bool:
  """Whether all images lie in memory, rather than on a disk or nowhere."""
  return isinstance(images, np.ndarray) and not isinstance(images, np.memmap)


def select(images: Any, index: np.ndarray) -> Any:
  """Some rows: copied where all are in memory, else left where they are."""
  if in_memory(images):
    return images[index]
  return SomeRows(MappedImages(images) if isinstance(images, np.ndarray) else images, index)


def join(parts: Sequence[Any]) -> Any:
  """All rows of several sets: copied where all are in memory, else left where they are."""
  return np.concatenate(parts) if all(map(in_memory, parts)) else Joined(parts)


def changed(images: Any, shape: tuple[int, int, int],
            change: Callable[[np.ndarray], np.ndarray]) -> Any:
  """Something done to each image: at once where all are in memory, else when it is asked for."""
  later = Changed(images, shape, change)
  if not in_memory(images):
    return later
  out = np.empty(later.shape, np.uint8)
  for start in range(0, len(images), _AT_ONCE):
    out[start:start + _AT_ONCE] = change(images[start:start + _AT_ONCE])
  return out
