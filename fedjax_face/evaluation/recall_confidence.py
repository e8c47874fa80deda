"""Bootstrap over people of the all-pairs recall at FAR; see `confidence` for how pairs are
weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse

from fedjax_face.evaluation.confidence import Interval, percentiles, resample_people
from fedjax_face.evaluation.pairwise import (
  operating_points,
  pair_similarity,
  pairs_above,
  unit_embeddings,
)

# The bootstrap of recall keeps the negative pairs above the threshold of this many times the FAR: a
# resample's own threshold lies among them unless its negatives differ by as much from the sample's.
_SLACK = 4.0


def bootstrap_recall(
  embeddings: np.ndarray | jax.Array,
  labels: np.ndarray,
  person: np.ndarray,
  fars: Sequence[float],
  resamples: int,
  rng: np.random.Generator,
  *,
  level: float = 0.95,
  max_pairs: int = 100_000,
) -> list[Interval]:
  """Percentile intervals of the all-pairs recall at each FAR, people resampled, the threshold found
  anew each time.

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N], what is recognised.
    person: integer [N], who is resampled.
    fars: false accept rates in [0, 1].
    resamples: number of bootstrap resamples.
    rng: draws the people, and the pairs that are kept.
    level: coverage.
    max_pairs: most pairs of a kind that enter the resamples.

  Returns:
    One Interval a FAR. Approximations: where there are more than `max_pairs` positive pairs, or
    negative pairs above the threshold at 4 x FAR, a uniform sample of about so many stands for
    them; and a resample whose threshold lies below that one, which takes a fourfold change of its
    FAR, uses that one.
  """
  embeddings, labels, person = unit_embeddings(embeddings), np.asarray(labels), np.asarray(person)
  dense = np.unique(person, return_inverse=True)[1]
  weights = resample_people(int(dense.max()) + 1, resamples, rng)
  slack = operating_points(embeddings, labels, [min(1.0, _SLACK * far) for far in fars])
  if not slack or not slack[0].positives:
    return [Interval(np.nan, np.nan)] * len(fars)
  left, right = _positive_pairs(labels, max_pairs, rng)
  positives = _ScoredPairs.of(embeddings, dense, left, right)
  negative_total = _negative_weight(weights, labels, dense)
  rates = [min(1.0, max_pairs / max(point.accepted_negatives, 1)) for point in slack]
  bars = []
  for far, point, rate in zip(fars, slack, rates, strict=True):
    # A margin of one rounding, since listed pairs are scored by another routine than counted ones.
    listed = pairs_above(embeddings, labels, point.threshold - 1e-6, rate, rng)
    everything = point.accepted_negatives == point.negatives
    bars.append(
      _Bar(
        _ScoredPairs.of(embeddings, dense, *listed),
        -np.inf if everything else point.threshold,
        far * negative_total * rate * (1 + 1e-9),
      )
    )
  recall = np.stack([_resampled_recall(w, positives, bars, r) for r, w in enumerate(weights)])
  return [percentiles(column, level) for column in recall.T]


class _ScoredPairs(NamedTuple):
  """Pairs in descending order of similarity, with the ids of their people, 0..U-1; `right` is U,
  whose weight is always 1, where both images show one person."""

  similarity: np.ndarray
  left: np.ndarray
  right: np.ndarray

  @classmethod
  def of(
    cls, embeddings: np.ndarray, person: np.ndarray, left: np.ndarray, right: np.ndarray
  ) -> _ScoredPairs:
    """Scores and sorts listed pairs of rows."""
    similarity = pair_similarity(embeddings, left, right)
    order = np.argsort(-similarity, kind="stable")
    left, right = person[left[order]], person[right[order]]
    return cls(similarity[order], left, np.where(left == right, person.max() + 1, right))

  def cumulative_weights(self, weights: np.ndarray) -> np.ndarray:
    """The weight of the first 1, 2, …, P pairs, float64 [P], under person weights [U]."""
    extended = np.append(weights, np.float32(1))
    return np.cumsum(extended[self.left] * extended[self.right], dtype=np.float64)


class _Bar(NamedTuple):
  """What decides a resample's threshold: the negative pairs near it, the similarity to fall back on
  below them, and how much of their weight may be accepted in each resample, [R]."""

  negatives: _ScoredPairs
  floor: float
  allowed: np.ndarray


def _resampled_recall(
  weights: np.ndarray, positives: _ScoredPairs, bars: Sequence[_Bar], resample: int
) -> list[float]:
  """Recall at each bar in one resample with person weights [U]; nan without a positive pair."""
  positive = np.append(0, positives.cumulative_weights(weights))
  recall = []
  for negatives, floor, allowed in bars:
    accepted = negatives.cumulative_weights(weights)
    first = np.searchsorted(accepted, allowed[resample], side="right")
    rejected = negatives.similarity[first] if first < len(accepted) else floor
    count = np.searchsorted(-positives.similarity, -rejected, side="left")
    recall.append(positive[count] / positive[-1] if positive[-1] else np.nan)
  return recall


def _positive_pairs(
  labels: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """All same-label pairs, or a uniform sample of `most` of them: (left, right) int64 [P]."""
  order = np.argsort(labels, kind="stable")
  ends = np.searchsorted(labels[order], labels[order], side="right")
  partners = ends - np.arange(len(order)) - 1  # Later images of the same label.
  starts = np.cumsum(partners) - partners
  total = int(partners.sum())
  chosen = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
  left = np.searchsorted(starts + partners, chosen, side="right")
  return order[left], order[left + 1 + chosen - starts[left]]


def _negative_weight(weights: np.ndarray, labels: np.ndarray, person: np.ndarray) -> np.ndarray:
  """Weight [R] of all different-label pairs, in closed form from images per person and label."""
  columns = np.unique(labels, return_inverse=True)[1]
  images = scipy.sparse.coo_array(
    (np.ones(len(person)), (person, columns)), shape=(weights.shape[1], int(columns.max()) + 1)
  ).tocsr()
  weights = weights.astype(np.float64)
  count = images.sum(axis=1)
  everything = _pair_weight(
    weights @ count, np.square(weights) @ np.square(count), weights @ (count * (count - 1))
  )
  squared, within = images.multiply(images), images.multiply(images) - images
  same = _pair_weight(weights @ images, np.square(weights) @ squared, weights @ within)
  return everything - same.sum(axis=1)


def _pair_weight(total: np.ndarray, squares: np.ndarray, within: np.ndarray) -> np.ndarray:
  """((sum w n)^2 - sum w^2 n^2) / 2 pairs of different people, sum w n (n - 1) / 2 of one."""
  return (np.square(total) - squares + within) / 2
