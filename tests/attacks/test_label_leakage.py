"""Labels from the gradients of a linear head, by hand and by numbers."""

import math

import numpy as np
import pytest
from scipy import special

from fedjax_face.attacks import label_leakage
from fedjax_face.attacks.error_rates import gaussian_bound, largest_label_accuracy


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


def test_the_rarest_of_three_labels_is_told_from_the_others():
  """Label 2 has one example, the longest, along its hint; the length of another's would mislead."""
  labels = np.array([0, 0, 1, 1, 2])
  gradients = np.array([[3, 0], [2, 1], [-1, 2], [-2, 2], [0, -4]])
  hints = np.array([[1, 0], [-1, 1], [0.1, -1]])
  norm, cosine = label_leakage.rarest_attacks(gradients, labels, hints)
  assert norm.auc.value == cosine.auc.value == 1
  norm, cosine = label_leakage.rarest_attacks(gradients / [[1], [1], [1], [1], [2]], labels, hints)
  assert norm.auc.value < 1 == cosine.auc.value
  assert label_leakage.rarest_attacks(gradients[:2], labels[:2], hints) == (None, None)


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


def test_residual_attack_by_hand():
  """Two releases: the first misleads about the second example, their sum does not."""
  probabilities = np.array([[[.5, .5], [.2, .8]], [[.4, .6], [.2, .8]]])
  noise = np.array([[[0., 0.], [0., 2.]], [[.3, 0.], [0., -4.]]])
  gradients = probabilities - np.eye(2)[[0, 1]] + noise
  attack = lambda rows: label_leakage.residual_attack(
      probabilities[rows], gradients[rows], np.array([0, 1]), gaussian_bound(1.0))
  assert attack(slice(0, 1)).accuracy.value == 0.5 and attack(slice(None)).accuracy.value == 1
  assert attack(slice(None)).largest == pytest.approx(special.ndtr(1.0))
  assert attack(slice(None)).chance == 0.5


def test_the_residual_of_all_releases_tells_more_than_clusters_of_one_and_less_than_its_bound():
  rng, classes, releases, sigma = np.random.default_rng(0), 20, 30, 1.0
  labels = np.arange(600) % classes
  probabilities = np.broadcast_to(special.softmax(rng.normal(size=(600, classes)), axis=1),
                                  (releases, 600, classes))
  clean = probabilities - np.eye(classes)[labels]
  gradients = clean + 2 * math.sqrt(2) * sigma * rng.normal(size=clean.shape)
  guess = label_leakage.residual_attack(
      probabilities, gradients, labels, gaussian_bound(math.sqrt(releases) / sigma))
  clusters = label_leakage.cluster_attack(
      gradients[0, classes:], labels[classes:], gradients[0, :classes], iterations=10)
  assert guess.accuracy.low > 4 * clusters.accuracy.high > 0 and not guess.exceeds_bound
  half = label_leakage.residual_attack(
      probabilities, clean, labels, gaussian_bound(math.sqrt(releases) / (10 * sigma)))
  assert half.exceeds_bound  # no noise where a tenth of the guarantee is claimed


def test_residuals_of_other_shapes_are_refused():
  with pytest.raises(ValueError, match=r"gradients \[1, 3, 2\] and labels \[2\]"):
    label_leakage.residual_attack(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), np.zeros(2, int))
