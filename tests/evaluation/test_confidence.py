"""Intervals against closed forms, brute force and each other."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from fedjax_face.evaluation import confidence, pairwise, recall_confidence
from fedjax_face.evaluation.recall_confidence import bootstrap_recall

VALUES = [1.0, 2.0, 3.0, 4.0]


def test_mean_interval_by_hand():
  estimate = confidence.mean_interval(VALUES)
  half = 3.182446 * np.sqrt(5 / 3) / 2  # t(.975, 3) s / sqrt(n)
  np.testing.assert_allclose(estimate, (2.5, 2.5 - half, 2.5 + half), rtol=1e-6)
  assert np.isnan(confidence.mean_interval([3.0]).low)
  with pytest.raises(ValueError, match="at least one"):
    confidence.mean_interval([])


def test_paired_difference_equals_scipy():
  a, b = np.array([0.71, 0.73, 0.70, 0.76]), np.array([0.70, 0.69, 0.71, 0.72])
  result = confidence.paired_difference(a, b)
  assert result.difference == pytest.approx(0.02)
  assert result.p_value == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
  assert result.low < 0.02 < result.high
  assert confidence.paired_difference(VALUES, VALUES).p_value == 1
  assert confidence.paired_difference([2.0, 3.0], [1.0, 2.0]).p_value == 0


def test_tost_is_the_interval_inside_the_margin():
  rng = np.random.default_rng(0)
  for _ in range(20):
    a, b = rng.normal(size=6), rng.normal(size=6)
    result = confidence.tost(a, b, margin=1.0)
    assert result.equivalent == (-1 < result.low and result.high < 1)
    upper = scipy.stats.ttest_1samp(a - b, 1.0, alternative="less").pvalue
    lower = scipy.stats.ttest_1samp(a - b, -1.0, alternative="greater").pvalue
    assert result.p_value == pytest.approx(max(upper, lower))


def test_absence_of_evidence_is_not_equivalence():
  a, b = [0.0, 1.0, -1.0], [0.1, -0.8, 1.2]
  assert confidence.paired_difference(a, b).p_value > 0.05
  assert not confidence.tost(a, b, margin=0.1).equivalent


def test_unpaired_seeds_and_bad_margin_are_refused():
  with pytest.raises(ValueError, match="same two or more seeds"):
    confidence.paired_difference([1.0, 2.0], [1.0])
  with pytest.raises(ValueError, match="margin must be positive"):
    confidence.tost(VALUES, VALUES, margin=0.0)


def test_bootstrap_mean_matches_the_normal_interval():
  rng = np.random.default_rng(0)
  values, person = rng.normal(size=400), np.arange(400)
  low, high = confidence.bootstrap_mean(values, person, 2000, np.random.default_rng(1))
  half = 1.96 * values.std() / 20
  assert low == pytest.approx(values.mean() - half, abs=0.25 * half)
  assert high == pytest.approx(values.mean() + half, abs=0.25 * half)


def test_people_not_images_are_resampled():
  # 20 people, 50 identical images each: the interval is that of 20 values, about sqrt(50) wider
  # than of 1,000.
  values, person = (
    np.repeat(np.random.default_rng(0).normal(size=20), 50),
    np.repeat(np.arange(20), 50),
  )
  people = confidence.bootstrap_mean(values, person, 500, np.random.default_rng(1))
  images = confidence.bootstrap_mean(values, np.arange(1000), 500, np.random.default_rng(1))
  assert (people.high - people.low) > 5 * (images.high - images.low)


def test_bootstrap_pairs_weights():
  seen = []
  confidence.bootstrap_pairs(
    lambda w: seen.append(w) or [w.sum()],
    np.array([4, 4, 9]),
    np.array([4, 9, 9]),
    50,
    np.random.default_rng(0),
  )
  for within_4, across, within_9 in np.array(seen):
    assert across == within_4 * within_9 and within_4 + within_9 == 2


def test_bootstrap_pairs_skips_resamples_without_both_kinds():
  def statistic(weights):
    if weights[0] == 0:
      raise ValueError
    return [weights[0]]

  (interval,) = confidence.bootstrap_pairs(
    statistic, np.array([0, 0]), np.array([0, 1]), 50, np.random.default_rng(0)
  )
  assert interval.low >= 1
  with pytest.raises(ValueError, match="no bootstrap resample"):
    confidence.bootstrap_pairs(
      lambda w: statistic(0 * w), np.array([0]), np.array([1]), 5, np.random.default_rng(0)
    )


def test_a_resample_without_both_kinds_keeps_its_row():
  """So that rows of two models are the same resample of people."""

  def statistic(weights):
    if weights[0] == 0:
      raise ValueError
    return [weights[0], weights[1]]

  draws = confidence.resampled_pairs(
    statistic, np.array([0, 0]), np.array([0, 1]), 50, np.random.default_rng(0)
  )
  drawn = confidence.resample_people(2, 50, np.random.default_rng(0))
  expected = np.stack([drawn[:, 0], drawn[:, 0] * drawn[:, 1]], 1)
  expected[drawn[:, 0] == 0] = np.nan
  np.testing.assert_array_equal(draws, expected)


def test_paired_interval_is_of_the_differences():
  before = np.array([0.1, 0.5, 0.9, np.nan])
  assert confidence.paired_interval(before, before) == (0, 0)
  assert confidence.paired_interval(before + 0.25, before) == pytest.approx((0.25, 0.25))
  low, high = confidence.paired_interval(before + [0.0, 0.1, 0.2, 1.0], before)
  assert (low, high) == pytest.approx((0.005, 0.195))
  with pytest.raises(ValueError, match="not the same number"):
    confidence.paired_interval(before, before[:2])


def test_bootstrap_folds_brackets_the_mean():
  low, high = confidence.bootstrap_folds(VALUES, 2000, np.random.default_rng(0))
  assert 1 <= low < 2.5 < high <= 4


def people_set(images=90, people=15, seed=0, classes=None):
  rng = np.random.default_rng(seed)
  person = rng.integers(0, people, size=images)
  label = person if classes is None else rng.integers(0, classes, size=images)
  x = (rng.normal(size=(label.max() + 1, 6))[label] + 0.8 * rng.normal(size=(images, 6))).astype(
    np.float32
  )
  return x / np.linalg.norm(x, axis=1, keepdims=True), label, person


def brute_force_recall(x, label, person, far, weights):
  """Recall of every resample from the dense matrix."""
  i, j = np.triu_indices(len(x), 1)
  similarity, same = (
    ((1 + np.einsum("pd,pd->p", x[i], x[j])) * np.float32(0.5)),
    label[i] == label[j],
  )
  recalls = []
  for w in weights:
    pair = np.where(person[i] == person[j], w[person[i]], w[person[i]] * w[person[j]]).astype(float)
    best = 0.0
    for threshold in np.unique(similarity[same]):
      accepted = similarity >= threshold
      if pair[accepted & ~same].sum() <= far * pair[~same].sum() * (1 + 1e-9):
        best = max(best, pair[accepted & same].sum() / pair[same].sum())
    recalls.append(best)
  return np.array(recalls)


def brute_force_auc(x, label, person, weights):
  """AUC of every resample from all couples of a same and a different pair."""
  i, j = np.triu_indices(len(x), 1)
  similarity, same = pairwise.pair_similarity(x, i, j), label[i] == label[j]
  right = similarity[same][:, None] - similarity[~same]
  right = (right > 0) + 0.5 * (right == 0)
  areas = []
  for w in weights:
    pair = np.where(person[i] == person[j], w[person[i]], w[person[i]] * w[person[j]]).astype(float)
    areas.append(pair[same] @ right @ pair[~same] / (pair[same].sum() * pair[~same].sum()))
  return np.array(areas)


@pytest.mark.parametrize("classes", [None, 5])
def test_resampled_auc_equals_brute_force(classes):
  x, label, person = people_set(images=60, people=10, classes=classes)
  person = np.unique(person, return_inverse=True)[1]
  found = recall_confidence.resampled_auc(x, label, person, 25, np.random.default_rng(5))
  weights = confidence.resample_people(person.max() + 1, 25, np.random.default_rng(5))
  whole = brute_force_auc(x, label, person, np.ones((1, person.max() + 1)))
  np.testing.assert_allclose(found + whole, brute_force_auc(x, label, person, weights), atol=1e-6)


def test_resampled_auc_of_thinned_pairs_has_nearly_the_same_spread():
  x, label, person = people_set(images=400, people=60)
  full, thin = (recall_confidence.resampled_auc(
    x, label, person, 200, np.random.default_rng(5), max_pairs=most) for most in (10**6, 1200))
  assert 0.9 < thin.std() / full.std() < 1.25 and not np.array_equal(thin, full)
  assert abs(np.median(thin)) < full.std() / 2  # what is thinned does not shift it


def test_resampled_auc_is_nan_without_both_kinds_of_pair():
  x, _, person = people_set(images=10)
  draws = recall_confidence.resampled_auc(x, np.arange(10), person, 5, np.random.default_rng(0))
  assert np.isnan(draws).all()


@pytest.mark.parametrize("classes", [None, 5])
def test_bootstrap_recall_equals_brute_force(classes):
  x, label, person = people_set(classes=classes)
  person = np.unique(person, return_inverse=True)[1]
  fars = [0.01, 0.1, 0.4]
  intervals = bootstrap_recall(x, label, person, fars, 25, np.random.default_rng(5))
  weights = confidence.resample_people(person.max() + 1, 25, np.random.default_rng(5))
  for far, interval in zip(fars, intervals, strict=True):
    expected = np.quantile(brute_force_recall(x, label, person, far, weights), [0.025, 0.975])
    np.testing.assert_allclose(interval, expected, atol=1e-6)


def test_thinned_pairs_give_nearly_the_same_interval():
  x, label, person = people_set(images=400, people=60)
  full = bootstrap_recall(x, label, person, [0.02], 200, np.random.default_rng(5))[0]
  thin = bootstrap_recall(x, label, person, [0.02], 200, np.random.default_rng(5), max_pairs=900)[0]
  assert thin != full
  np.testing.assert_allclose(thin, full, atol=0.06)


def tied_set(distinct):
  """400 images of 40 people: all embeddings are equal, but for the first `distinct`, which are
  random.
  """
  x, label, person = people_set(images=400, people=40, seed=2)
  x[distinct:] = np.eye(6, dtype=np.float32)[0]
  return x, label, person


@pytest.mark.parametrize("distinct", [0, 40])
def test_heavy_ties_list_few_pairs_and_give_the_right_interval(distinct, monkeypatch):
  x, label, person = tied_set(distinct)
  listed, scored = [], recall_confidence._ScoredPairs.of.__func__

  def counted(cls, embeddings, people, left, right):
    listed.append(len(left))
    return scored(cls, embeddings, people, left, right)

  monkeypatch.setattr(recall_confidence._ScoredPairs, "of", classmethod(counted))
  fars = [0.01, 0.2]
  intervals = bootstrap_recall(x, label, person, fars, 25, np.random.default_rng(5), max_pairs=3000)
  assert max(listed) < 3300  # of 78,000 negative pairs, of which up to all tie
  weights = confidence.resample_people(40, 25, np.random.default_rng(5))
  for far, interval in zip(fars, intervals, strict=True):
    expected = np.quantile(brute_force_recall(x, label, person, far, weights), [0.025, 0.975])
    np.testing.assert_allclose(interval, expected, atol=0.03)


def test_ties_up_to_rounding_accept_as_many_positives_as_negatives():
  """Collapsed embeddings whose similarities differ in their last bits only, at random."""
  x, label, person = people_set(images=400, people=40, seed=2)
  noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
  x = np.ones_like(x) + 1e-4 * noise
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  (interval,) = bootstrap_recall(x, label, person, [0.2], 50, np.random.default_rng(5),
                                 max_pairs=3000)
  assert interval.high < 0.3


def test_ordinary_data_are_thinned_as_without_ties():
  """The count of ties takes nothing from the generator that thins."""
  x, label, person = people_set(images=400, people=60)
  labels, rng = label, np.random.default_rng(3)
  (point,) = pairwise.operating_points(x, labels, [0.08])
  negatives, rate = recall_confidence._negatives_near(x, labels, person, point, 900, rng)
  left, right = pairwise.pairs_above(
    x, labels, point.threshold - 1e-6, 900 / point.accepted_negatives, np.random.default_rng(3))
  assert rate == 900 / point.accepted_negatives
  np.testing.assert_array_equal(
    np.sort(negatives.similarity), np.sort(pairwise.pair_similarity(x, left, right)))
  assert (negatives.copies == 1).all()


def test_interval_shrinks_with_people():
  few, many = (people_set(images=n, people=n // 6, seed=3) for n in (120, 1200))
  width = lambda data: np.ptp(bootstrap_recall(*data, [0.05], 200, np.random.default_rng(0))[0])
  assert width(many) < 0.6 * width(few)


def test_negative_weight_closed_form():
  _, label, person = people_set(classes=5)
  person = np.unique(person, return_inverse=True)[1]
  weights = confidence.resample_people(person.max() + 1, 4, np.random.default_rng(0))
  i, j = np.triu_indices(len(label), 1)
  different = label[i] != label[j]
  expected = [confidence.pair_weights(w, person[i], person[j])[different].sum() for w in weights]
  np.testing.assert_allclose(recall_confidence._negative_weight(weights, label, person), expected)


def test_no_positive_pair_has_no_interval():
  x, _, person = people_set(images=10)
  assert np.isnan(
    bootstrap_recall(x, np.arange(10), person, [0.1], 5, np.random.default_rng(0))[0].low
  )
