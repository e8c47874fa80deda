"""How well an attack does, how sure that is, and the most that a guarantee allows.

An attack that tells two hypotheses apart has a true positive rate at each false positive rate; a
guarantee is an upper bound on it, here a function of the false positive rate. An attack that
guesses a label has an accuracy, bounded by the same guarantee.

The threshold of a test is the k-th largest score of the negatives, with k fixed in advance. Its
true false positive rate is then Beta distributed, with the upper end of Clopper and Pearson's
interval as its exact upper bound, so no scores need to be set aside to choose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import integrate, special, stats

from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.evaluation.pairwise import allowed_false_accepts

FALSE_POSITIVE_RATES = (0.01, 0.001)
LEVEL = 0.95

# False positive rate -> the largest true positive rate that a guarantee allows; concave, rising.
Bound = Callable[[float], float]


class Power(NamedTuple):
  """A test at one threshold.

  Attributes:
    target: false positive rate for which the threshold was chosen.
    false_positive_rate: with its interval.
    true_positive_rate: with its interval.
    bound: largest true positive rate at the target.
    exceeds_bound: whether the guarantee is broken: the lower end of the true positive rate lies
      above the bound at the upper end of the false positive rate.
  """

  target: float
  false_positive_rate: Estimate
  true_positive_rate: Estimate
  bound: float
  exceeds_bound: bool


class Separation(NamedTuple):
  """How far the scores of positives lie above those of negatives.

  Attributes:
    auc: probability that a positive outscores a negative, ties counting half.
    largest_auc: the most that the guarantee allows.
    points: one for each false positive rate.
  """

  auc: Estimate
  largest_auc: float
  points: tuple[Power, ...]

  @property
  def exceeds_bound(self) -> bool:
    """Whether any of the points breaks the guarantee, each at the level of its intervals."""
    return any(point.exceeds_bound for point in self.points)


class Guess(NamedTuple):
  """Share of right guesses, with its interval, between what knowing nothing and the bound give.

  Attributes:
    accuracy: share of right guesses.
    chance: accuracy of a guess that looks at nothing.
    largest: the most that the guarantee allows; 1 without one.
  """

  accuracy: Estimate
  chance: float
  largest: float

  @property
  def exceeds_bound(self) -> bool:
    """Whether even the lower end of the accuracy lies above the bound."""
    return self.accuracy.low > self.largest


# ---- guarantees ----


def gaussian_bound(mu: float) -> Bound:
  """TPR <= Phi(Phi^-1(FPR) + mu), of mu-Gaussian differential privacy (Dong, Roth, Su 2022)."""
  _check_at_least_zero("mu", mu)
  if math.isinf(mu):
    return unbounded
  return lambda rate: float(special.ndtr(special.ndtri(rate) + mu))


def epsilon_bound(epsilon: float, delta: float) -> Bound:
  """TPR <= min(e^eps FPR + delta, 1 - e^-eps (1 - delta - FPR)) (Kairouz, Oh, Viswanath 2015)."""
  _check_at_least_zero("epsilon", epsilon)
  _check_at_least_zero("delta", delta)
  if math.isinf(epsilon):
    return unbounded
  factor = float(np.exp(min(epsilon, 700.0)))
  return lambda rate: min(1.0, factor * rate + delta, 1 - (1 - delta - rate) / factor)


def unbounded(rate: float) -> float:
  """No guarantee: every true positive rate is possible."""
  return 1.0


def largest_auc(bound: Bound) -> float:
  """Area under the bound: Phi(mu / sqrt 2) for a Gaussian one."""
  # In normal quantiles the steep rise at small rates is smooth.
  density = lambda z: bound(float(special.ndtr(z))) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
  return min(1.0, float(integrate.quad(density, -12, 12, limit=200)[0]))


def largest_binary_accuracy(share: float, bound: Bound) -> float:
  """The best accuracy in guessing one bit, of which a `share` is 1, through a mechanism.

  The bit may show in the input in any way: the trade-off of mixtures is no worse than that of two
  inputs.
  """
  rates = special.ndtr(np.linspace(-8, 8, 3201))
  powers = np.array([bound(float(rate)) for rate in rates])
  as_one = max(share * powers + (1 - share) * (1 - rates))
  as_zero = max((1 - share) * powers + share * (1 - rates))
  return float(min(1.0, max(as_one, as_zero, share, 1 - share)))


def largest_label_accuracy(shares: np.ndarray, epsilon: float) -> float:
  """The best accuracy in guessing a label after an epsilon-private channel, such as randomised
  response.

  With q_y the probability of guessing y where it is right, and at least e^-eps q_y where another
  is, the guesses of each row add up to at most 1. The linear programme is solved by the m most
  frequent labels, with q = 1 / (1 - e^-eps + m e^-eps) each.

  Args:
    shares: of each label, adding up to 1, [K].
    epsilon: of the channel; infinite without one.
  """
  _check_at_least_zero("epsilon", epsilon)
  kept = math.exp(-epsilon)
  covered = np.cumsum(np.sort(shares)[::-1])
  return float(np.max(covered / (1 - kept + kept * np.arange(1, len(shares) + 1))))


def largest_identification(shares: np.ndarray, bound: Bound) -> float:
  """The best share of right guesses of an input's label through a mechanism, by its bound.

  On some fixed input label y is guessed with probability f_y, and sum f_y <= 1; on its own inputs
  with at most bound(f_y). The bound is concave, so sum p_y bound(f_y) <= bound(max p_y).

  Args:
    shares: of each label among the inputs, adding up to 1, [K].
    bound: of the mechanism, one release an input.
  """
  return min(1.0, bound(float(np.max(shares))))


# ---- measurements ----


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> Estimate:
  """A share with its exact two-sided interval (Clopper and Pearson, 1934)."""
  if not 0 <= successes <= trials or trials < 1:
    raise ValueError(f"{successes} successes of {trials} trials: expected 0 to the number of "
                     "trials, which is at least 1")
  tail = (1 - level) / 2
  low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
  high = (stats.beta.ppf(1 - tail, successes + 1, trials - successes)
          if successes < trials else 1.0)
  return Estimate(successes / trials, float(low), float(high))


def auc(positives: np.ndarray, negatives: np.ndarray, level: float = LEVEL) -> Estimate:
  """Area under the ROC curve, ties counting half, with its asymptotic interval.

  Args:
    positives: scores [P].
    negatives: scores [N].
    level: of the interval, which is nan where the two do not overlap: the variance is then 0.

  Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988.
  """
  above = _share_below(positives, negatives)
  below = 1 - _share_below(negatives, positives)
  value = float(above.mean())
  if min(len(positives), len(negatives)) < 2 or not (np.ptp(above) or np.ptp(below)):
    return Estimate(value, np.nan, np.nan)
  variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
  half = float(stats.norm.ppf((1 + level) / 2) * np.sqrt(variance))
  return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def power(positives: np.ndarray, negatives: np.ndarray, target: float, bound: Bound,
          level: float = LEVEL) -> Power:
  """True positive rate of the test that lets at most a share `target` of the negatives pass.

  Args:
    positives: scores [P].
    negatives: scores [N]; a test accepts what scores strictly more than its threshold.
    target: false positive rate, in (0, 1).
    bound: of the guarantee.
    level: of each interval, and of the verdict.
  """
  if not 0 < target < 1:
    raise ValueError(f"false positive rate {target}: expected a number in (0, 1)")
  passing = allowed_false_accepts(target, len(negatives))
  threshold = np.sort(negatives)[::-1][passing]
  false_positives = clopper_pearson(passing, len(negatives), level)
  true_positives = clopper_pearson(int(np.sum(positives > threshold)), len(positives), level)
  return Power(target, false_positives, true_positives, bound(target),
               true_positives.low > bound(false_positives.high))


def separation(positives: np.ndarray, negatives: np.ndarray, bound: Bound, *,
               false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
               level: float = LEVEL) -> Separation:
  """AUC and true positive rates of scores, beside what a guarantee allows.

  Args:
    positives: scores [P] under the hypothesis that the attack wants to confirm.
    negatives: scores [N] under the other.
    bound: `gaussian_bound`, `epsilon_bound` or `unbounded`.
    false_positive_rates: of the points.
    level: of each interval.

  Raises:
    ValueError: no scores, or scores that are not numbers.
  """
  positives, negatives = (_scores(name, scores) for name, scores in
                          (("positives", positives), ("negatives", negatives)))
  points = tuple(power(positives, negatives, rate, bound, level) for rate in false_positive_rates)
  return Separation(auc(positives, negatives, level), largest_auc(bound), points)


def guesses(right: np.ndarray, chance: float, largest: float = 1.0, level: float = LEVEL) -> Guess:
  """Share of right guesses, from bool [N], with Clopper and Pearson's interval."""
  return Guess(clopper_pearson(int(np.sum(right)), len(right), level), chance, largest)


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
  """For each score the share of the others below it, ties counting half."""
  ordered = np.sort(others)
  return (np.searchsorted(ordered, scores, "left")
          + np.searchsorted(ordered, scores, "right")) / (2 * len(others))


def _scores(name: str, scores: np.ndarray) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
    raise ValueError(f"{name}: scores of shape {list(scores.shape)}; expected at least one number "
                     "and no nan")
  return scores


def _check_at_least_zero(name: str, value: float) -> None:
  if not value >= 0:
    raise ValueError(f"{name} {value}: expected a number of at least 0")
