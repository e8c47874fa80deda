"""Similarities of all pairs of a set of embeddings, block by block, with exact counts.

The similarity of two unit embeddings is 1 - ||a - b||^2 / 4 = (1 + <a, b>) / 2, in [0, 1] (Xu et
al., CVPR 2023). No N x N matrix is ever held: one compiled program counts the pairs of one row of
blocks at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A float32 in [0, 1] is a non-negative integer below 2^30 whose order is the order of the floats;
# it is counted by its high 15 bits first, then by its low 15 bits inside the few bins that hold a
# threshold.
_LOW_BITS = 15
_BINS = 1 << _LOW_BITS
_EVEN_BINS = 1 << 18
_BLOCK = 2048


class OperatingPoint(NamedTuple):
  """Exact counts over all unordered pairs at the lowest threshold whose FAR stays within a target.

  A pair is accepted iff its similarity >= `threshold`.
  """

  far_target: float
  threshold: float
  accepted_positives: int
  positives: int
  accepted_negatives: int
  negatives: int

  @property
  def recall(self) -> float:
    """Accepted share of the same-label pairs (nan without any)."""
    return self.accepted_positives / self.positives if self.positives else float("nan")

  @property
  def far(self) -> float:
    """Accepted share of the different-label pairs (nan without any)."""
    return self.accepted_negatives / self.negatives if self.negatives else float("nan")


def unit_embeddings(embeddings: np.ndarray | jax.Array) -> np.ndarray:
  """Returns float32 [N, D] after checking that every row is finite and of unit length (to 1e-3)."""
  array = np.asarray(embeddings, np.float32)
  if array.ndim != 2:
    raise ValueError(f"embeddings must have shape [N, D], got {array.shape}")
  length = np.linalg.norm(array, axis=1)
  if not np.isfinite(length).all():
    raise ValueError(f"embeddings of {int((~np.isfinite(length)).sum())} images are not finite")
  if length.size and np.abs(length - 1).max() > 1e-3:
    raise ValueError(
      f"embeddings must have unit length, got lengths {length.min():.4g} to {length.max():.4g}"
    )
  return array


def pair_similarity(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Similarity of listed pairs: float32 [P] for rows `left` [P] and `right` [P] of embeddings [N,
  D].
  """
  dots = [
    np.einsum("pd,pd->p", embeddings[left[i : i + 65536]], embeddings[right[i : i + 65536]])
    for i in range(0, len(left), 65536)
  ]
  similarity = (1 + np.concatenate(dots)) * np.float32(0.5) if dots else np.zeros(0, np.float32)
  return np.clip(similarity, 0, 1)


def block_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
  """Similarity of every row of a [A, D] with every row of b [B, D]: float32 [A, B], full float32
  products.
  """
  return jnp.clip((1 + jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)) * 0.5, 0, 1)


def allowed_false_accepts(far: float, negatives: int) -> int:
  """The largest count whose share of `negatives` does not exceed `far`."""
  if not 0 <= far <= 1:
    raise ValueError(f"far must lie in [0, 1], got {far}")
  count = int(far * negatives)
  return count + 1 if count < negatives and (count + 1) / negatives <= far else count


def operating_points(
  embeddings: np.ndarray | jax.Array, labels: np.ndarray, fars: Sequence[float]
) -> list[OperatingPoint]:
  """Exact operating points over all unordered pairs, one for each FAR target.

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N]; a pair is positive iff its labels are equal.
    fars: targets in [0, 1].

  Returns:
    One OperatingPoint a target. Equal similarities are accepted or rejected together.

  Two passes of N^2 / 2 similarities: the first counts them by the high bits of the float, the
  second by the low bits inside the bins that hold a threshold, so the counts are exact for the
  computed similarities.
  """
  counter = _PairCounter(unit_embeddings(embeddings), np.asarray(labels), max(len(fars), 1))
  negative, positive = counter.count(None)
  negatives, positives = int(negative.sum()), int(positive.sum())
  allowed = [allowed_false_accepts(far, negatives) for far in fars]
  bins = [_bin_of_rank(negative, k) for k in allowed]
  wanted = sorted({b for b in bins if b is not None})
  if wanted:
    fine_negative, fine_positive = counter.count(wanted)
  points = []
  for far, k, high in zip(fars, allowed, bins, strict=True):
    if high is None:  # Every negative pair may be accepted.
      points.append(OperatingPoint(far, 0.0, positives, positives, negatives, negatives))
      continue
    slot = slice(wanted.index(high) * _BINS, (wanted.index(high) + 1) * _BINS)
    above = int(negative[high + 1 :].sum())
    low = _bin_of_rank(fine_negative[slot], k - above)
    assert low is not None
    rejected = np.int32((high << _LOW_BITS) | low).view(
      np.float32
    )  # The best negative pair that stays out.
    points.append(
      OperatingPoint(
        far,
        float(np.nextafter(rejected, np.float32(2))),
        int(positive[high + 1 :].sum()) + int(fine_positive[slot][low + 1 :].sum()),
        positives,
        above + int(fine_negative[slot][low + 1 :].sum()),
        negatives,
      )
    )
  return points


def similarity_histogram(
  embeddings: np.ndarray | jax.Array, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Counts of all unordered pairs by their similarity, in 2^18 even bins over [0, 1].

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N].

  Returns:
    (different-label, same-label) pairs, int64 [2^18] each, from similarity 0 upwards. One pass of
    N^2 / 2 similarities.
  """
  return _PairCounter(unit_embeddings(embeddings), np.asarray(labels), 1).count_evenly()


def pairs_above(
  embeddings: np.ndarray,
  labels: np.ndarray,
  threshold: float,
  rate: float,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Different-label pairs of similarity >= `threshold`, each kept with probability `rate`.

  Returns:
    (left, right), int64 [P] each, left < right, rows of the unit embeddings float32 [N, D].
  """
  block = min(_BLOCK, len(embeddings))
  lefts, rights = [], []
  for row in range(0, len(embeddings), block):
    for column in range(row, len(embeddings), block):
      a, b = slice(row, row + block), slice(column, column + block)
      keep = np.asarray(_block_similarity(embeddings[a], embeddings[b])) >= threshold
      keep &= labels[a, None] != labels[None, b]
      i, j = np.nonzero(np.triu(keep, 1) if row == column else keep)
      chosen = slice(None) if rate >= 1 else rng.random(len(i)) < rate
      lefts.append(i[chosen] + row)
      rights.append(j[chosen] + column)
  return np.concatenate(lefts), np.concatenate(rights)


_block_similarity = jax.jit(block_similarity)


def _bin_of_rank(counts: np.ndarray, rank: int) -> int | None:
  """The bin of the (rank + 1)-th largest element; None where there are only `rank` or fewer."""
  from_top = np.cumsum(counts[::-1])
  if not len(from_top) or from_top[-1] <= rank:
    return None
  return len(counts) - 1 - int(np.searchsorted(from_top, rank, side="right"))


class _PairCounter:
  """Histograms of the similarities of all unordered pairs, different-label and same-label."""

  def __init__(self, embeddings: np.ndarray, labels: np.ndarray, slots: int):
    if labels.shape != (len(embeddings),):
      raise ValueError(f"labels must have shape [{len(embeddings)}], got {labels.shape}")
    self._images, self._slots = len(embeddings), slots
    self._block = min(_BLOCK, 1 << max(self._images - 1, 1).bit_length())
    padding = -self._images % self._block
    self._embeddings = jnp.asarray(np.pad(embeddings, ((0, padding), (0, 0))))
    dense = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    self._labels = jnp.asarray(np.pad(dense, (0, padding)))

  def count(self, bins: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """(negative, positive) counts int64: by high bits, or by low bits inside each of `bins` in
    turn.
    """
    wanted = np.full(self._slots, -1, np.int32)
    wanted[: len(bins or ())] = bins or ()
    total = np.zeros((2, self._slots * _BINS), np.int64)
    for row in range(0, self._images, self._block):
      total += np.asarray(
        _row_histogram(
          self._embeddings, self._labels, self._images, row, bins is None, wanted, block=self._block
        )
      )
    return total[0], total[1]

  def count_evenly(self) -> tuple[np.ndarray, np.ndarray]:
    """(negative, positive) counts int64 in even bins."""
    total = np.zeros((2, _EVEN_BINS), np.int64)
    for row in range(0, self._images, self._block):
      total += np.asarray(
        _row_even_histogram(self._embeddings, self._labels, self._images, row, block=self._block)
      )
    return total[0], total[1]


@functools.partial(jax.jit, static_argnames="block")
def _row_histogram(
  embeddings: jax.Array,
  labels: jax.Array,
  images: jax.Array,
  row: jax.Array,
  coarse: jax.Array,
  wanted: jax.Array,
  *,
  block: int,
) -> jax.Array:
  """Counts int32 [2, slots * bins] of the pairs whose first image lies in rows row .. row + block.

  Both passes are this one program, so a pair has bitwise the same similarity in both.
  """
  slots = wanted.shape[0]

  def place(similarity: jax.Array) -> tuple[jax.Array, jax.Array]:
    bits = jax.lax.bitcast_convert_type(similarity, jnp.int32)
    high, low = bits >> _LOW_BITS, bits & (_BINS - 1)
    slot = sum(jnp.where(high == wanted[s], s + 1, 0) for s in range(slots)) - 1
    return jnp.where(coarse, high, slot * _BINS + low), coarse | (slot >= 0)

  return _count_row(embeddings, labels, images, row, block, slots * _BINS, place)


@functools.partial(jax.jit, static_argnames="block")
def _row_even_histogram(
  embeddings: jax.Array, labels: jax.Array, images: jax.Array, row: jax.Array, *, block: int
) -> jax.Array:
  """Counts int32 [2, even bins] of the pairs whose first image lies in rows row .. row + block."""

  def place(similarity: jax.Array) -> tuple[jax.Array, bool]:
    return jnp.minimum((similarity * _EVEN_BINS).astype(jnp.int32), _EVEN_BINS - 1), True

  return _count_row(embeddings, labels, images, row, block, _EVEN_BINS, place)


def _count_row(
  embeddings: jax.Array,
  labels: jax.Array,
  images: jax.Array,
  row: jax.Array,
  block: int,
  bins: int,
  place: Callable[[jax.Array], tuple[jax.Array, Any]],
) -> jax.Array:
  """Counts int32 [2, bins]; `place` says of similarities in which bin they lie and which count."""
  first = row + jnp.arange(block)
  a = jax.lax.dynamic_slice_in_dim(embeddings, row, block)
  a_labels = jax.lax.dynamic_slice_in_dim(labels, row, block)

  def add_block(index: jax.Array, counts: jax.Array) -> jax.Array:
    start = index * block
    second = start + jnp.arange(block)
    b_labels = jax.lax.dynamic_slice_in_dim(labels, start, block)
    similarity = block_similarity(a, jax.lax.dynamic_slice_in_dim(embeddings, start, block))
    position, wanted = place(similarity)
    counted = (first[:, None] < second) & (second < images) & wanted
    positive = a_labels[:, None] == b_labels
    position = jnp.where(counted, position + positive * bins, 2 * bins)
    return counts.at[position.ravel()].add(1, mode="drop")

  counts = jnp.zeros(2 * bins, jnp.int32)
  blocks = embeddings.shape[0] // block
  return jax.lax.fori_loop(row // block, blocks, add_block, counts).reshape(2, -1)
