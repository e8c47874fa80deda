"""Curves over all thresholds against the dense definition."""

import numpy as np
import pytest
import scipy.special

from fedjax_face.evaluation import pairwise, roc_curve, verification


def unit(rows):
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dense_roc(embeddings, labels):
  i, j = np.triu_indices(len(labels), 1)
  return verification.roc(pairwise.pair_similarity(embeddings, i, j), labels[i] == labels[j])


def faces(images=150, people=12, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, people, images)
  return unit(rng.normal(size=(people, 8))[labels] + rng.normal(size=(images, 8))), labels


def test_bins_hold_every_pair_once_where_its_similarity_lies(monkeypatch):
  monkeypatch.setattr(pairwise, "_BLOCK", 64)
  embeddings, labels = faces()
  negative, positive = pairwise.similarity_histogram(embeddings, labels)
  i, j = np.triu_indices(len(labels), 1)
  for counts, kind in ((negative, False), (positive, True)):
    wanted = (labels[i] == labels[j]) == kind
    similarity = np.sort(pairwise.pair_similarity(embeddings, i, j)[wanted])
    found = np.repeat(np.arange(len(counts)), counts) / len(counts)
    assert counts.dtype == np.int64 and len(found) == len(similarity)
    np.testing.assert_allclose(found, similarity, atol=1.1 / len(counts))


def test_equal_embeddings_lie_in_the_last_bin():
  embeddings = np.tile(np.eye(4, dtype=np.float32)[0], (6, 1))
  negative, positive = pairwise.similarity_histogram(embeddings, np.arange(6) // 3)
  assert (negative[-1], positive[-1]) == (9, 6)
  assert verification.auc(roc_curve.histogram_roc(negative, positive)) == 0.5
  assert roc_curve.auc_error(negative, positive) == 0.5


def test_the_area_is_that_of_all_pairs_up_to_the_error_that_is_said():
  embeddings, labels = faces()
  counts = pairwise.similarity_histogram(embeddings, labels)
  error = roc_curve.auc_error(*counts)
  exact = verification.auc(dense_roc(embeddings, labels))
  assert 0 < error < 1e-4 and 0.6 < exact < 0.95
  assert verification.auc(roc_curve.histogram_roc(*counts)) == pytest.approx(
      exact, abs=error + 1e-9)


def test_area_and_error_by_hand():
  """Bins from 0 up: different 1, 1, 0; same 0, 1, 2. Of 2 x 3 couples 5 are right and 1 ties."""
  negative, positive = np.array([1, 1, 0]), np.array([0, 1, 2])
  curve = roc_curve.histogram_roc(negative, positive)
  np.testing.assert_allclose(curve.far, [0, 0, 0.5, 1])
  np.testing.assert_allclose(curve.tar, [0, 2 / 3, 1, 1])
  assert verification.auc(curve) == pytest.approx(5.5 / 6)
  assert roc_curve.auc_error(negative, positive) == pytest.approx(0.5 / 6)


def test_a_curve_has_few_points_each_the_largest_tar_within_its_far():
  embeddings, labels = faces()
  whole = dense_roc(embeddings, labels)
  negatives = int((labels[:, None] != labels).sum()) // 2
  thin = roc_curve.thinned(whole, "recall_all_pairs", negatives)
  assert len(thin.far) == len(thin.tar) == roc_curve.CURVE_POINTS <= 200
  assert thin.far[0] == pytest.approx(1 / negatives, rel=1e-5) and thin.far[-1] < 1
  assert thin.smallest_reliable_far == 10 / negatives
  steps = np.diff(scipy.special.logit(thin.far))
  np.testing.assert_allclose(steps, steps[0], rtol=1e-2)
  for far, tar in zip(thin.far[10::20], thin.tar[10::20], strict=True):
    assert tar == pytest.approx(whole.tar[whole.far <= far].max(), abs=1e-5)


def test_one_kind_of_pair_has_no_curve():
  with pytest.raises(ValueError, match="one same pair and one different"):
    roc_curve.histogram_roc(np.array([0, 0]), np.array([1, 2]))
  with pytest.raises(ValueError, match="at least two different pairs, got 1"):
    roc_curve.far_grid(1, 10)
