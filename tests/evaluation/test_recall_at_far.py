"""Recall at FAR against the published example and a dense reference."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.evaluation import pairwise
from fedjax_face.evaluation.recall_at_far import recall_at_far_all_pairs, recall_at_far_approx

EXAMPLE = np.array([(0.8, 0.6), (-0.6, 0.8), (0.6, 0.8), (-0.8, 0.6), (-0.8, -0.6)], np.float32)
EXAMPLE_LABELS = np.array([0, 1, 0, 1, 0])


def dense_recall(similarity: np.ndarray, labels: np.ndarray, far: float) -> float:
  """The definition, with every observed similarity tried as a threshold."""
  upper = np.triu_indices(len(labels), 1)
  values, same = similarity[upper], (labels[:, None] == labels)[upper]
  thresholds = np.unique(values)
  recall, reached = (
    1 - np.searchsorted(np.sort(part), thresholds) / len(part)
    for part in (values[same], values[~same])
  )
  accepted = np.round(reached * np.sum(~same)) / np.sum(~same)
  return max(recall[accepted <= far], default=0.0)


def sign_embeddings(rng: np.random.Generator, images: int) -> np.ndarray:
  """Rows with entries +-1/4 in 16 dimensions: unit length, and dot products that float32 holds
  exactly.
  """
  return rng.choice(np.float32([-0.25, 0.25]), size=(images, 16))


def random_embeddings(
  rng: np.random.Generator, labels: np.ndarray, noise: float = 1.0
) -> np.ndarray:
  centres = rng.normal(size=(labels.max() + 1, 8))
  x = centres[labels] + noise * rng.normal(size=(len(labels), 8))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_published_example_is_exactly_one_half():
  assert recall_at_far_all_pairs(EXAMPLE, EXAMPLE_LABELS, [0.2]).tolist() == [0.5]


def test_published_example_at_every_far_by_hand():
  # Positives .98 .98 .02 0, negatives .64 .64 .5 .5 .5 .36: six steps of FAR, recall .5 until all
  # are accepted.
  recall = recall_at_far_all_pairs(EXAMPLE, EXAMPLE_LABELS, [0.0, 1 / 3, 5 / 6, 1.0])
  assert recall.tolist() == [0.5, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("images", [7, 64, 301])
@pytest.mark.parametrize("make", ["ties", "random"])
def test_blocked_equals_dense(monkeypatch, images, make):
  monkeypatch.setattr(pairwise, "_BLOCK", 64)
  rng = np.random.default_rng(images)
  labels = rng.integers(0, 3 if images < 10 else 40, size=images)
  embeddings = sign_embeddings(rng, images) if make == "ties" else random_embeddings(rng, labels)
  similarity = np.clip((1 + embeddings @ embeddings.T) * np.float32(0.5), 0, 1)
  fars = [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.999, 1.0]
  expected = [dense_recall(similarity, labels, far) for far in fars]
  np.testing.assert_allclose(
    recall_at_far_all_pairs(embeddings, labels, fars), expected, atol=1e-12
  )


def test_operating_point_counts_are_those_at_its_threshold():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 20, size=200)
  embeddings = sign_embeddings(rng, 200)
  similarity = (1 + embeddings @ embeddings.T)[np.triu_indices(200, 1)] * np.float32(0.5)
  same = (labels[:, None] == labels)[np.triu_indices(200, 1)]
  for point in pairwise.operating_points(embeddings, labels, [0.003, 0.03, 0.3]):
    accepted = similarity >= point.threshold
    assert point.accepted_positives == np.sum(accepted & same)
    assert point.accepted_negatives == np.sum(accepted & ~same)
    assert point.positives + point.negatives == len(same)
    assert point.far <= point.far_target


def test_duplicate_of_another_person_caps_recall():
  embeddings = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
  labels = np.array(
    [0, 0, 1, 1, 1, 0]
  )  # Each direction holds both people: similarity 1 for both kinds of pair.
  assert recall_at_far_all_pairs(embeddings, labels, [0.1]).tolist() == [0.0]


def test_count_allowed_is_not_lost_to_rounding():
  assert pairwise.allowed_false_accepts(0.29, 100) == 29  # .29 * 100 is 28.999999999999996.
  assert pairwise.allowed_false_accepts(0.1, 15) == 1
  assert pairwise.allowed_false_accepts(1.0, 15) == 15


def test_pairs_above_lists_exactly_the_pairs(monkeypatch):
  monkeypatch.setattr(pairwise, "_BLOCK", 16)
  rng = np.random.default_rng(1)
  embeddings, labels = sign_embeddings(rng, 50), rng.integers(0, 5, size=50)
  left, right = pairwise.pairs_above(embeddings, labels, 0.75, 1.0, rng)
  dense = np.triu((1 + embeddings @ embeddings.T) / 2 >= 0.75, 1) & (labels[:, None] != labels)
  assert set(zip(left.tolist(), right.tolist(), strict=True)) == set(
    map(tuple, np.argwhere(dense).tolist())
  )
  assert len(left) == dense.sum()


def test_no_positive_pair_is_nan():
  assert np.isnan(recall_at_far_all_pairs(EXAMPLE, np.arange(5), [0.1])).all()
  assert np.isnan(recall_at_far_approx(EXAMPLE, np.arange(5), [0.1], batch_size=5)).all()


def test_approx_on_one_batch_by_hand():
  # Thresholds 0, .5, 1 and strict comparison: at .5 positives .98 .98 of four, negatives .64 .64 of
  # six.
  recall = recall_at_far_approx(
    EXAMPLE, EXAMPLE_LABELS, [0.2, 0.4, 1.0], batch_size=5, num_thresholds=3
  )
  assert recall[0] == 0 and recall[1] == 0.5
  assert recall[2] in (0.75, 1.0)  # The opposite pair's similarity is 0 up to one rounding.


def test_approx_sees_pairs_within_batches_only():
  embeddings = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
  apart, together = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
  assert np.isnan(recall_at_far_approx(embeddings, apart, [0.5], batch_size=2)).all()
  # Similarity 1 exceeds every threshold but the last; the rejected pairs lie in other batches.
  assert recall_at_far_approx(embeddings, together, [0.0], batch_size=2)[0] == 1


@pytest.mark.parametrize(
  "bad, message",
  [
    (np.ones((3, 2), np.float32), "unit length"),
    (np.full((3, 2), np.nan, np.float32), "not finite"),
    (np.ones(3, np.float32), r"\[N, D\]"),
  ],
)
def test_bad_embeddings_are_refused(bad, message):
  with pytest.raises(ValueError, match=message):
    recall_at_far_all_pairs(bad, np.zeros(3, int), [0.1])


def test_bad_labels_and_far_are_refused():
  with pytest.raises(ValueError, match="labels must have shape"):
    recall_at_far_all_pairs(EXAMPLE, np.zeros(3, int), [0.1])
  with pytest.raises(ValueError, match="far must lie"):
    recall_at_far_all_pairs(EXAMPLE, EXAMPLE_LABELS, [2.0])
