"""Membership scores by hand, and against models that remember and models that do not."""

import math

import numpy as np
import pytest
from scipy import stats

from fedjax_face.attacks import membership
from fedjax_face.attacks.error_rates import epsilon_bound, gaussian_bound


def test_loss_scores_and_logit_confidence_by_hand():
  np.testing.assert_array_equal(membership.loss_scores([0.5, 2.0]), [-0.5, -2.0])
  losses = -np.log([0.5, 0.9, 0.01])
  np.testing.assert_allclose(membership.logit_confidence(losses),
                             [0, math.log(9), math.log(0.01 / 0.99)], atol=1e-12)
  assert np.isfinite(membership.logit_confidence([0.0, 1e3])).all()


MEMBER = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)


def test_lira_by_hand_with_a_variance_for_each_example():
  shadows = np.array([[4.0, 1.0], [6.0, 3.0], [0.0, 5.0], [2.0, 9.0]])
  scores = membership.lira_scores(shadows, MEMBER, np.array([5.0, 2.0]), pooled_variance=False)
  density = stats.norm.logpdf
  np.testing.assert_allclose(scores, [
      density(5, 5, math.sqrt(2)) - density(5, 1, math.sqrt(2)),
      density(2, 7, math.sqrt(8)) - density(2, 2, math.sqrt(2))])


def test_lira_by_hand_with_pooled_variances():
  shadows = np.array([[4.0, 1.0], [6.0, 3.0], [0.0, 5.0], [2.0, 9.0]])
  scores = membership.lira_scores(shadows, MEMBER, np.array([5.0, 2.0]), pooled_variance=True)
  density = lambda x, mean, variance: stats.norm.logpdf(x, mean, math.sqrt(variance))
  np.testing.assert_allclose(scores, [density(5, 5, 5) - density(5, 1, 2),
                                      density(2, 7, 5) - density(2, 2, 2)])


def confidences(shift, models=40, examples=4000):
  """Examples of very different difficulty, whose confidence rises by `shift` where trained on."""
  rng = np.random.default_rng(0)
  member = rng.random((models, examples)) < 0.5
  difficulty = 5 * rng.normal(size=examples)
  return difficulty + shift * member + rng.normal(size=member.shape), member


def test_lira_finds_what_the_loss_threshold_misses():
  """Within an example the shift is 3 standard deviations, over all of them 0.6."""
  seen, member = confidences(3.0)
  scores = membership.lira_scores(seen[1:], member[1:], seen[0], pooled_variance=True)
  ratio = membership.membership(scores, member[0])
  losses = np.logaddexp(0, -seen[0])
  threshold = membership.membership(membership.loss_scores(losses), member[0])
  assert ratio.auc.low > 0.95 and ratio.points[0].true_positive_rate.low > 0.5
  assert threshold.auc.high < 0.75 and threshold.points[0].true_positive_rate.high < 0.1
  np.testing.assert_allclose(membership.logit_confidence(losses), seen[0], atol=1e-6)


def test_the_bound_stands_beside_and_is_broken_by_a_model_that_remembers():
  seen, member = confidences(3.0)
  scores = membership.lira_scores(seen[1:], member[1:], seen[0], pooled_variance=True)
  assert membership.membership(scores, member[0], gaussian_bound(1.0)).exceeds_bound
  assert membership.membership(scores, member[0], epsilon_bound(1.0, 1e-5)).exceeds_bound
  assert not membership.membership(scores, member[0], gaussian_bound(4.0)).exceeds_bound


def test_nothing_is_found_where_nothing_is_remembered():
  seen, member = confidences(0.0)
  scores = membership.lira_scores(seen[1:], member[1:], seen[0], pooled_variance=True)
  found = membership.membership(scores, member[0], epsilon_bound(0.0, 0.0), level=0.99)
  assert found.auc.low < 0.5 < found.auc.high and not found.exceeds_bound


@pytest.mark.parametrize("member, pooled, message", [
    (np.ones((4, 2), bool), True, "example 0 has 0 shadow models without it; expected at least 1"),
    (MEMBER[:3], False, r"expected \[M, N\], \[M, N\] and \[N\]"),
    (np.eye(4, 2, dtype=bool), False, "example 0 has 1 shadow models with it; expected at least 2"),
    (np.eye(4, 2, dtype=bool), True, "one shadow model with each example gives no variance"),
])
def test_what_makes_no_sense_is_refused(member, pooled, message):
  with pytest.raises(ValueError, match=message):
    membership.lira_scores(np.zeros((4, 2)), member, np.zeros(2), pooled_variance=pooled)
