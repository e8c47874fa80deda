"""Verification metrics with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation import verification
from fedjax_face.evaluation.random_pairs import pairs_from_labels

SIMILARITY = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
SAME = np.array([True, True, False, True, False, False])


def test_roc_by_hand():
  curve = verification.roc(SIMILARITY, SAME)
  np.testing.assert_allclose(curve.far, [0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
  np.testing.assert_allclose(curve.tar, [0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
  assert curve.threshold[0] == np.inf and curve.threshold[1] == 0.9
  assert verification.auc(curve) == pytest.approx(
    8 / 9
  )  # 8 of 9 same-different comparisons are right.
  assert verification.eer(curve) == pytest.approx(1 / 3)


def test_ties_move_together():
  curve = verification.roc(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, True, False]))
  assert curve.far.tolist() == [0, 1] and curve.tar.tolist() == [0, 1]
  assert verification.auc(curve) == 0.5 and verification.eer(curve) == 0.5


def test_auc_is_the_rank_statistic():
  rng = np.random.default_rng(0)
  similarity, same = rng.integers(0, 9, 80) / 8, rng.random(80) < 0.4
  right = similarity[same][:, None] - similarity[~same][None]
  expected = np.mean((right > 0) + 0.5 * (right == 0))
  assert verification.auc(verification.roc(similarity, same)) == pytest.approx(expected)


def test_weights_are_multiplicities():
  rng = np.random.default_rng(1)
  similarity, same = rng.integers(0, 20, 60) / 20, rng.random(60) < 0.5
  fold, weights = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
  repeat = np.repeat(np.arange(60), weights)
  weighted = verification.roc(similarity, same, weights)
  plain = verification.roc(similarity[repeat], same[repeat])
  assert verification.auc(weighted) == pytest.approx(verification.auc(plain))
  assert verification.eer(weighted) == pytest.approx(verification.eer(plain))
  fars = [0.1, 0.3]
  np.testing.assert_allclose(
    verification.tar_at_far(similarity, same, fars, weights).tar,
    verification.tar_at_far(similarity[repeat], same[repeat], fars).tar,
  )
  ones = verification.cross_validated_accuracy(similarity, same, fold, np.ones(60))
  assert ones.mean == verification.cross_validated_accuracy(similarity, same, fold).mean


def test_tar_at_far_and_its_warning():
  result = verification.tar_at_far(SIMILARITY, SAME, [0.0, 0.33, 1 / 3, 1.0])
  np.testing.assert_allclose(result.tar, [2 / 3, 2 / 3, 1, 1])
  assert not result.reliable.any()  # Three different pairs: not even FAR 1 rests on ten.
  assert "below 10 / 3 different pairs" in result.note
  many = verification.tar_at_far(np.arange(1001), np.arange(1001) == 1000, [0.01, 0.009])
  assert many.reliable.tolist() == [True, False] and "FAR 0.009 is" in many.note


def test_accuracy_takes_each_threshold_from_the_other_folds():
  # Fold 1 separates at .5, fold 2 at .7: each is tested at the other's threshold.
  similarity = np.array([0.9, 0.6, 0.4, 0.1, 0.9, 0.8, 0.65, 0.6])
  same = np.array([True, True, False, False, True, True, False, False])
  result = verification.cross_validated_accuracy(similarity, same, np.repeat([1, 2], 4))
  np.testing.assert_allclose(result.threshold, [0.725, 0.5])
  np.testing.assert_allclose(result.per_fold, [0.75, 0.5])
  assert result.mean == 0.625
  assert result.standard_error == pytest.approx(0.125)  # std(.75, .5) / sqrt(2)


def test_threshold_can_accept_all_or_none():
  similarity = np.array([0.2, 0.4, 0.6, 0.8])
  fold = np.array([1, 1, 2, 2])
  all_same = verification.cross_validated_accuracy(similarity, np.array([True] * 4), fold)
  assert all_same.per_fold.tolist() == [0.0, 1.0]  # Fold 1 lies below everything fold 2 accepts.
  none_same = verification.cross_validated_accuracy(similarity, np.array([False] * 4), fold)
  assert none_same.per_fold.tolist() == [1.0, 0.0]


def test_one_fold_and_one_kind_are_refused():
  with pytest.raises(ValueError, match="at least 2 folds"):
    verification.cross_validated_accuracy(SIMILARITY, SAME, np.ones(6))
  with pytest.raises(ValueError, match="one same pair and one different"):
    verification.roc(SIMILARITY, np.ones(6, bool))


def test_similarity_of_pairs_and_bad_rows():
  embeddings = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
  pairs = Pairs(np.array([0, 0, 0]), np.array([0, 1, 2]), np.ones(3, bool), np.ones(3))
  assert verification.similarity_of_pairs(embeddings, pairs).tolist() == [1, 0.5, 0]
  with pytest.raises(ValueError, match="pairs name image 2"):
    verification.similarity_of_pairs(embeddings[:2], pairs)


def test_random_pairs_are_distinct_balanced_and_disjoint_by_fold():
  labels = np.random.default_rng(2).integers(0, 30, size=300)
  pairs = pairs_from_labels(labels, 200, np.random.default_rng(3), folds=5)
  assert (
    len({frozenset(p) for p in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)})
    == 200
  )
  assert np.all(pairs.first != pairs.second)
  np.testing.assert_array_equal(pairs.same, labels[pairs.first] == labels[pairs.second])
  for fold in range(1, 6):
    inside = pairs.fold == fold
    assert pairs.same[inside].sum() == 20 and (~pairs.same[inside]).sum() == 20
    used = np.concatenate([labels[pairs.first[inside]], labels[pairs.second[inside]]])
    other = np.concatenate([labels[pairs.first[~inside]], labels[pairs.second[~inside]]])
    assert not np.intersect1d(used, other).size


def test_random_pairs_exhaust_a_small_set_and_cap_a_label():
  labels = np.array([0, 0, 1, 1])
  pairs = pairs_from_labels(labels, 4, np.random.default_rng(0), folds=1)
  assert {
    frozenset(p) for p in zip(pairs.first[:2].tolist(), pairs.second[:2].tolist(), strict=True)
  } == {frozenset((0, 1)), frozenset((2, 3))}
  crowd = np.repeat([0, 1], [50, 2])
  pairs = pairs_from_labels(crowd, 4, np.random.default_rng(0), folds=1, images_per_label=2)
  assert len(np.unique(np.concatenate([pairs.first, pairs.second]))) <= 4


def test_random_pairs_refuse_what_they_cannot_draw():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="multiple of"):
    pairs_from_labels(np.zeros(5, int), 7, rng)
  with pytest.raises(ValueError, match="possible pairs"):
    pairs_from_labels(np.arange(10), 20, rng, folds=1)
