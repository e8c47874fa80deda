"""The same photograph twice: in one set, in two, under two names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedjax_face.data.image_source import Images

SAME_PICTURE = 0.97
"""Correlation of thumbnails above which pictures are one; other people of LFW reach 0.946."""

_SIDE, _AT_ONCE = 28, 1024
_TABLES, _BITS = 16, 14  # of pairs at a correlation of .97 one in 400 meets in no table
_ROUNDING = 1e-3  # grey levels by which a picture of a single shade may seem to vary
_BLOCK = 2048  # rows of a bucket that are compared at a time


def thumbnails(images: Images, rows: np.ndarray | None = None) -> np.ndarray:
  """Grey pictures of 28x28 or fewer pixels, f32 [n, pixels], each with mean 0 and norm 1 (or 0).

  Args:
    images: uint8 [N, H, W, C].
    rows: int [n], of the images; None: all.
  """
  rows = np.arange(len(images)) if rows is None else rows
  parts = [_thumbnails(np.asarray(images[rows[start:start + _AT_ONCE]]))
           for start in range(0, len(rows), _AT_ONCE)]
  return np.concatenate(parts) if parts else np.zeros((0, _SIDE * _SIDE), np.float32)


def _thumbnails(images: np.ndarray) -> np.ndarray:
  grey = images.mean(-1, dtype=np.float32)
  for axis in (1, 2):
    count = min(_SIDE, grey.shape[axis])
    starts = np.arange(count + 1) * grey.shape[axis] // count
    of_each = np.diff(starts).astype(np.float32)  # pixels; not the same everywhere
    grey = np.add.reduceat(grey, starts[:-1], axis) / of_each.reshape((-1, 1)[:3 - axis])
  flat = grey.reshape(len(grey), -1)
  flat = flat - flat.mean(1, keepdims=True)
  flat[np.abs(flat).max(1) < _ROUNDING] = 0
  return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def same_pictures(rows: np.ndarray, least: float = SAME_PICTURE) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of pictures that are nearly one, found without comparing all with all.

  Signs of random projections put pictures into buckets, several times over, and those of a bucket
  are compared: of pairs at a correlation of 0.97 about one in 400 is missed, of nearer ones
  fewer. Pictures of a single shade are like no other.

  Args:
    rows: f32 [N, pixels] of `thumbnails`.
    least: correlation in (0, 1].

  Returns:
    int64 [P, 2], first < second, ascending, and their correlations f32 [P]. Of many copies of one
    picture each is paired with the first alone.

  Source: random hyperplanes, Charikar, STOC 2002.
  """
  planes = np.random.default_rng(0).standard_normal((_TABLES, rows.shape[1], _BITS))
  weight = 1 << np.arange(_BITS)
  alive = np.flatnonzero(np.abs(rows).sum(1) > 0)
  found: dict[tuple[int, int], float] = {}
  for table in planes.astype(np.float32):
    bucket = (rows[alive] @ table > 0) @ weight
    for members in _groups(bucket):
      for first, second, correlation in _within(rows, alive[members], least):
        found[first, second] = correlation
  pairs = _to_the_first(found)
  return (np.array(pairs, np.int64).reshape(-1, 2),
          np.array([found[pair] for pair in pairs], np.float32))


def _groups(bucket: np.ndarray) -> Iterator[np.ndarray]:
  """Places of each value that occurs twice or more."""
  order = np.argsort(bucket, kind="stable")
  cuts = np.flatnonzero(np.diff(bucket[order])) + 1
  return (members for members in np.split(order, cuts) if len(members) > 1)


def _within(rows: np.ndarray, members: np.ndarray, least: float
            ) -> Iterator[tuple[int, int, float]]:
  """Near pairs of one bucket; where a row is like an earlier one, it is compared no further."""
  members = np.sort(members)
  for start in range(0, len(members), _BLOCK):
    block = members[start:start + _BLOCK]
    near = rows[block] @ rows[members[:start + len(block)]].T
    near[np.arange(len(block))[:, None] + start <= np.arange(near.shape[1])] = 0
    like = near > least
    for place in np.flatnonzero(like.any(1)):
      first = int(like[place].argmax())
      yield int(members[first]), int(block[place]), float(near[place, first])


def _to_the_first(found: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
  """Of each second picture the pair with the earliest first one, ascending."""
  earliest: dict[int, int] = {}
  for first, second in found:
    earliest[second] = min(first, earliest.get(second, first))
  return sorted((first, second) for second, first in earliest.items())
