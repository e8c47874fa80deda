"""A verification protocol for any labelled data set."""

from __future__ import annotations

import numpy as np

from fedjax_face.data.pairs import Pairs


def pairs_from_labels(
  labels: np.ndarray,
  num: int,
  rng: np.random.Generator,
  *,
  folds: int = 10,
  images_per_label: int = 10,
  or_fewer: bool = False,
) -> Pairs:
  """Draws `num` distinct pairs, half same and half different, in folds that share no label.

  Args:
    labels: integer [N].
    num: number of pairs, a multiple of 2 * folds.
    rng: draws folds, images and pairs.
    folds: number of folds; labels are dealt to them at random.
    or_fewer: draws as many as every fold has, where that is less; `num` need not divide.
    images_per_label: at most so many random images of a label are used, so that no label dominates.

  Returns:
    Pairs ordered by fold, same pairs first within each.

  Raises:
    ValueError: `num` does not divide, or a fold has too few pairs.
  """
  labels = np.asarray(labels)
  if num <= 0 or (num % (2 * folds) and not or_fewer):
    raise ValueError(f"num must be a positive multiple of 2 * folds = {2 * folds}, got {num}")
  dealt = np.array_split(rng.permutation(np.unique(labels)), folds)
  each = -(-num // (2 * folds))
  if or_fewer:
    each = max(min(each, *(_possible(labels, names, images_per_label) for names in dealt)), 1)
  parts = []
  for fold, names in enumerate(dealt, 1):
    rows = _capped(labels, names, images_per_label, rng)
    ends = np.searchsorted(labels[rows], labels[rows], side="right")
    later = np.arange(1, len(rows) + 1)
    kinds = {"same": (later, ends - later), "different": (ends, len(rows) - ends)}
    for kind, (start, partners) in kinds.items():
      left, right = _draw(start, partners, each, rng, f"fold {fold} ({kind} pairs)")
      parts.append((rows[left], rows[right], np.full(each, kind == "same"), np.full(each, fold)))
  first, second, same, number = (np.concatenate(column) for column in zip(*parts, strict=True))
  return Pairs(first.astype(np.int32), second.astype(np.int32), same, number.astype(np.int32))


def _possible(labels: np.ndarray, names: np.ndarray, most: int) -> int:
  """Pairs of a fold of its scarcer kind."""
  counts = np.minimum(np.unique(labels[np.isin(labels, names)], return_counts=True)[1], most)
  same = int((counts * (counts - 1)).sum()) // 2
  return min(same, (int(counts.sum()) ** 2 - int((counts**2).sum())) // 2)


def _capped(
  labels: np.ndarray, names: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
  """Rows of the labels `names`, at most `most` random ones of each, grouped by label."""
  rows = rng.permutation(np.flatnonzero(np.isin(labels, names)))
  rows = rows[np.argsort(labels[rows], kind="stable")]
  within = np.arange(len(rows)) - np.searchsorted(labels[rows], labels[rows], side="left")
  return rows[within < most]


def _draw(
  start: np.ndarray, partners: np.ndarray, num: int, rng: np.random.Generator, what: str
) -> tuple[np.ndarray, np.ndarray]:
  """`num` distinct pairs (i, j), uniform over start[i] <= j < start[i] + partners[i]."""
  ends = np.cumsum(partners)
  total = int(ends[-1]) if len(ends) else 0
  if total < num:
    raise ValueError(
      f"{what} has {total} possible pairs, {num} asked for; ask for fewer pairs or folds"
    )
  chosen = rng.choice(total, num, replace=False)
  left = np.searchsorted(ends, chosen, side="right")
  return left, start[left] + chosen - (ends[left] - partners[left])
