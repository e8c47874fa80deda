"""The InsightFace protocol against a line-by-line slow version and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation.insightface import insightface_scores


def slow_accuracy(distance, same, folds):
  accuracies = []
  for test in np.array_split(np.arange(len(same)), folds):
    train = np.setdiff1d(np.arange(len(same)), test)
    thresholds = np.arange(0, 4, 0.01)
    correct = [np.mean((distance[train] < t) == same[train]) for t in thresholds]
    accuracies.append(np.mean((distance[test] < thresholds[np.argmax(correct)]) == same[test]))
  return np.mean(accuracies), np.std(accuracies)


def slow_tar(distance, same, folds, far_target):
  tars = []
  for test in np.array_split(np.arange(len(same)), folds):
    train = np.setdiff1d(np.arange(len(same)), test)
    thresholds = np.arange(0, 4, 0.001)
    far = [np.mean(distance[train][~same[train]] < t) for t in thresholds]
    bound = np.interp(far_target, far, thresholds) if max(far) >= far_target else 0
    tars.append(np.mean(distance[test][same[test]] < bound))
  return np.mean(tars), np.std(tars)


def random_case(pairs=120):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2 * pairs, 6))
  same = np.arange(pairs) % 2 == 0
  x[pairs:][same] = x[:pairs][same] + 0.8 * rng.normal(size=(same.sum(), 6))
  x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  return x, Pairs(np.arange(pairs), pairs + np.arange(pairs), same, np.zeros(pairs, int))


def test_equals_the_slow_version():
  x, pairs = random_case()
  distance = np.sum((x[pairs.first] - x[pairs.second]) ** 2, axis=1)
  scores = insightface_scores(x, pairs, far_target=0.05)
  np.testing.assert_allclose(
    (scores.accuracy, scores.accuracy_std), slow_accuracy(distance, pairs.same, 10)
  )
  np.testing.assert_allclose((scores.tar, scores.tar_std), slow_tar(distance, pairs.same, 10, 0.05))
  assert 0.5 < scores.accuracy < 1


def test_separable_pairs_are_perfect():
  x = np.array([[1, 0], [1, 0], [-1, 0]], np.float32)
  same = np.arange(20) % 2 == 0
  pairs = Pairs(np.zeros(20, int), np.where(same, 1, 2), same, np.zeros(20, int))
  scores = insightface_scores(x, pairs)
  # Distance 4 is never below a threshold under 4, so the FAR target is never reached: TAR 0.
  assert scores.accuracy == 1 and scores.accuracy_std == 0 and scores.tar == 0 and scores.far == 0


def test_too_few_pairs_are_refused():
  x, pairs = random_case(4)
  with pytest.raises(ValueError, match="at least 10 pairs"):
    insightface_scores(x, pairs)
