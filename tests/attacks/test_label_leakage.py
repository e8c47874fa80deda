"""Labels from the gradients of a linear head, by hand and by numbers."""

import math

import numpy as np
import pytest
from scipy import special

from fedjax_face.attacks import label_leakage
from fedjax_face.attacks.error_rates import largest_label_accuracy


def softmax_gradients(labels, classes, dim=12, seed=0):
  """Gradient of cross-entropy by the activations, behind a linear head."""
  rng = np.random.default_rng(seed)
  head = rng.normal(size=(dim, classes)) / math.sqrt(dim)
  probability = special.softmax(rng.normal(size=(len(labels), dim)) @ head, axis=1)
  return (probability - np.eye(classes)[labels]) @ head.T


def test_norm_attack_by_hand():
  gradients = np.array([[3.0, 4.0], [0.0, 6.0], [1.0, 0.0], [0.0, -5.5]])
  result = label_leakage.norm_attack(gradients, [True, True, False, False])
  assert result.auc.value == pytest.approx(3 / 4)


def test_cosine_attack_by_hand():
  gradients = np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 1e-9]])
  hint = np.array([5.0, 1.0])
  result = label_leakage.cosine_attack(gradients, [True, True, False, False], hint)
  assert result.auc.value == 1


def test_binary_labels_leak_from_a_logistic_head():
  """The two gradients of a two-class head point in opposite directions, whatever the activation."""
  labels = (np.arange(200) % 10 == 0).astype(int)
  gradients = softmax_gradients(labels, 2)
  result = label_leakage.cosine_attack(gradients[1:], labels[1:] == 1, gradients[0])
  assert result.auc.value == 1 and result.points[0].true_positive_rate.value == 1


def test_long_gradients_are_of_the_rarer_class_where_the_model_follows_the_shares():
  rng = np.random.default_rng(0)
  positive = rng.random(1000) < 0.1
  probability = np.clip(0.1 + 0.05 * rng.normal(size=1000), 0.01, 0.3)
  gradients = np.abs(probability - positive)[:, None] * np.array([[0.6, 0.8]])
  assert label_leakage.norm_attack(gradients, positive).auc.value == 1


def test_nothing_leaks_from_gradients_that_are_noise():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 5, 400)
  gradients = rng.normal(size=(400, 12))
  for result in (label_leakage.norm_attack(gradients, labels == 0),
                 label_leakage.cosine_attack(gradients, labels == 0, gradients[0])):
    assert 0.4 < result.auc.value < 0.6
  guess = label_leakage.cluster_attack(gradients, labels, rng.normal(size=(5, 12)), iterations=5)
  assert guess.accuracy.low < guess.chance


def test_several_classes_are_told_apart_by_clusters_better_than_by_hints_alone():
  labels = np.arange(300) % 5
  gradients = softmax_gradients(labels, 5)
  attack = lambda iterations: label_leakage.cluster_attack(
      gradients[5:], labels[5:], gradients[:5], iterations=iterations)
  hints, clusters = attack(0), attack(10)
  assert clusters.chance == pytest.approx(0.2) and clusters.largest == 1
  assert clusters.accuracy.value >= hints.accuracy.value > 0.6
  assert clusters.accuracy.low > 0.85


def test_cluster_attack_by_hand_and_its_bound():
  """The second row lies nearer to the hint of class 0; the cluster's mean pulls it over."""
  turn = lambda degrees: np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)
  gradients, labels = turn(np.array([0.0, 44.0, 60.0, 65.0, 70.0])), np.array([0, 1, 1, 1, 1])
  hints = turn(np.array([0.0, 90.0]))
  attack = lambda iterations, epsilon=math.inf: label_leakage.cluster_attack(
      gradients, labels, hints, iterations=iterations, epsilon=epsilon)
  assert attack(0).accuracy.value == pytest.approx(0.8)
  assert attack(3).accuracy.value == 1
  assert attack(0, 1.0).largest == largest_label_accuracy(np.array([0.2, 0.8]), 1.0)


def test_labels_without_a_hint_are_refused():
  with pytest.raises(ValueError, match="labels run from 0 to 2; expected 0 to 1"):
    label_leakage.cluster_attack(np.ones((3, 2)), np.arange(3), np.eye(2), iterations=1)
