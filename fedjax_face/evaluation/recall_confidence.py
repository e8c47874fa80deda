"""Bootstrap over people of the all-pairs recall at FAR and AUC; see `confidence` for how pairs are
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
  OperatingPoint,
  operating_points,
  pair_similarity,
  pairs_above,
  unit_embeddings,
)

# The bootstrap of recall keeps the negative pairs above the threshold of this many times the FAR: a
# resample's own threshold lies among them unless its negatives differ by as much from the sample's.
_SLACK = 4.0
# One rounding of a similarity, since listed pairs are scored by another routine than counted ones.
_ROUNDING = 1e-6


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
    negative pairs above the threshold at 4 x FAR, or that tie with it, a uniform sample of about so
    many stands for them; and a resample whose threshold lies below that one, which takes a fourfold
    change of its FAR, uses that one.
  """
  draws = resampled_recall(embeddings, labels, person, fars, resamples, rng, max_pairs=max_pairs)
  return [percentiles(column, level) for column in draws.T]


def resampled_recall(
  embeddings: np.ndarray | jax.Array,
  labels: np.ndarray,
  person: np.ndarray,
  fars: Sequence[float],
  resamples: int,
  rng: np.random.Generator,
  *,
  max_pairs: int = 100_000,
) -> np.ndarray:
  """The recall at each FAR in every resample of `bootstrap_recall`: float64 [resamples, F].

  The people are drawn first: two embeddings of one set, with generators of one seed, meet the same
  resamples in the same rows.
  """
  embeddings, labels, person = unit_embeddings(embeddings), np.asarray(labels), np.asarray(person)
  dense = np.unique(person, return_inverse=True)[1]
  weights = resample_people(int(dense.max()) + 1, resamples, rng)
  slack = operating_points(embeddings, labels, [min(1.0, _SLACK * far) for far in fars])
  if not slack or not slack[0].positives:
    return np.full((resamples, len(fars)), np.nan)
  left, right = _positive_pairs(labels, max_pairs, rng)
  positives = _ScoredPairs.of(embeddings, dense, left, right)
  negative_total = _negative_weight(weights, labels, dense)
  bars = []
  for far, point in zip(fars, slack, strict=True):
    negatives, rate = _negatives_near(embeddings, labels, dense, point, max_pairs, rng)
    everything = point.accepted_negatives == point.negatives
    floor = -np.inf if everything else point.threshold
    bars.append(_Bar(negatives, floor, far * negative_total * rate * (1 + 1e-9)))
  return np.stack([_recall_of_resample(w, positives, bars, r) for r, w in enumerate(weights)])


def resampled_auc(
  embeddings: np.ndarray | jax.Array,
  labels: np.ndarray,
  person: np.ndarray,
  resamples: int,
  rng: np.random.Generator,
  *,
  max_pairs: int = 30_000,
) -> np.ndarray:
  """Deviation of the all-pairs AUC from that of the sample in every resample of people.

  Add the AUC of all pairs. Where there are more than `max_pairs` pairs of a kind, a uniform sample
  of so many stands for them, in the resamples and in what these deviate from; it makes them spread
  a little more, never less.

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N], what is recognised.
    person: integer [N], who is resampled.
    resamples: number of bootstrap resamples.
    rng: draws the people, then the pairs that are kept.
    max_pairs: most pairs of a kind.

  Returns:
    float64 [resamples]; nan in a resample without both kinds of pair.
  """
  embeddings, labels, person = unit_embeddings(embeddings), np.asarray(labels), np.asarray(person)
  dense = np.unique(person, return_inverse=True)[1]
  weights = resample_people(int(dense.max()) + 1, resamples, rng)
  positives = _ScoredPairs.of(embeddings, dense, *_positive_pairs(labels, max_pairs, rng))
  negatives = _ScoredPairs.of(embeddings, dense, *_negative_pairs(labels, max_pairs, rng))
  first, last = (
    np.searchsorted(-negatives.similarity, -positives.similarity, side=side)
    for side in ("left", "right")
  )

  def auc(people: np.ndarray) -> float:
    above, weight = np.append(0, negatives.cumulative_weights(people)), positives.weight(people)
    worse = above[-1] - (above[first] + above[last]) / 2  # equal similarities count half
    whole = above[-1] * weight.sum(dtype=np.float64)
    return float(worse @ weight / whole) if whole else np.nan

  of_sample = auc(np.ones(weights.shape[1], np.float32))
  return np.array([auc(people) for people in weights]) - of_sample


class _ScoredPairs(NamedTuple):
  """Pairs in descending order of similarity, with the ids of their people, 0..U-1; `right` is U,
  whose weight is always 1, where both images show one person. Each stands for `copies` [P] pairs.
  """

  similarity: np.ndarray
  left: np.ndarray
  right: np.ndarray
  copies: np.ndarray

  @classmethod
  def of(
    cls, embeddings: np.ndarray, person: np.ndarray, left: np.ndarray, right: np.ndarray
  ) -> _ScoredPairs:
    """Scores and sorts listed pairs of rows."""
    similarity = pair_similarity(embeddings, left, right)
    order = np.argsort(-similarity, kind="stable")
    left, right = person[left[order]], person[right[order]]
    right = np.where(left == right, person.max() + 1, right)
    return cls(similarity[order], left, right, np.ones(len(order), np.float32))

  def where(self, keep: np.ndarray) -> _ScoredPairs:
    """The pairs of a mask bool [P]."""
    return _ScoredPairs(*(column[keep] for column in self))

  def above(self, lower: _ScoredPairs) -> _ScoredPairs:
    """These pairs, then `lower`, none of which is more similar."""
    return _ScoredPairs(*map(np.concatenate, zip(self, lower, strict=True)))

  def weight(self, weights: np.ndarray) -> np.ndarray:
    """The weight of every pair, float32 [P], under person weights [U]."""
    extended = np.append(weights, np.float32(1))
    return extended[self.left] * extended[self.right] * self.copies

  def cumulative_weights(self, weights: np.ndarray) -> np.ndarray:
    """The weight of the first 1, 2, …, P pairs, float64 [P], under person weights [U]."""
    return np.cumsum(self.weight(weights), dtype=np.float64)


class _Bar(NamedTuple):
  """What decides a resample's threshold: the negative pairs near it, the similarity to fall back on
  below them, and how much of their weight may be accepted in each resample, [R]."""

  negatives: _ScoredPairs
  floor: float
  allowed: np.ndarray


def _recall_of_resample(
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


def _negatives_near(
  embeddings: np.ndarray,
  labels: np.ndarray,
  person: np.ndarray,
  point: OperatingPoint,
  most: int,
  rng: np.random.Generator,
) -> tuple[_ScoredPairs, float]:
  """About `most` of the negative pairs accepted at `point`, and the share of them that was kept.

  Those within a rounding of the threshold, usually few, are listed too. Where embeddings collapse
  that is nearly all N^2 / 2 pairs: they are then thinned by themselves, to `most` at most.
  """
  rate = min(1.0, most / max(point.accepted_negatives, 1))
  lowest, above_ties = point.threshold - _ROUNDING, point.threshold + _ROUNDING
  score = lambda pairs: _ScoredPairs.of(embeddings, person, *pairs)
  listed = _estimated_count(embeddings, labels, lowest, most, point, rng)
  if rate * listed <= 2 * most:
    return score(pairs_above(embeddings, labels, lowest, rate, rng)), rate
  clear = score(pairs_above(embeddings, labels, point.threshold + _ROUNDING / 2, rate, rng))
  tie_rate = most / listed
  tied = score(pairs_above(embeddings, labels, lowest, tie_rate, rng))
  tied = tied._replace(copies=tied.copies * np.float32(rate / tie_rate))
  return clear.where(clear.similarity >= above_ties).above(
    tied.where(tied.similarity < above_ties)
  ), rate


def _estimated_count(
  embeddings: np.ndarray,
  labels: np.ndarray,
  threshold: float,
  most: int,
  point: OperatingPoint,
  rng: np.random.Generator,
) -> float:
  """How many negative pairs are as similar as `threshold`, from a sample of about `most` of all;
  `rng` is left as it was. At most `point.negatives` where these are few.
  """
  if point.negatives <= most:
    return point.negatives
  share = most / point.negatives
  return len(pairs_above(embeddings, labels, threshold, share, rng.spawn(1)[0])[0]) / share


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


def _negative_pairs(
  labels: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """All different-label pairs of a small set, or about `most` drawn at random with replacement."""
  images = len(labels)
  if images * (images - 1) // 2 <= most:
    left, right = np.triu_indices(images, 1)
  else:
    left, right = rng.integers(0, images, (2, 2 * most))
  chosen = np.flatnonzero(labels[left] != labels[right])[:most]
  return left[chosen], right[chosen]


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
