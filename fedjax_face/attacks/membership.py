"""Was this picture among those trained on? Loss threshold, and the likelihood ratio over shadows.

Both give scores, larger for members; `error_rates.separation` turns them into rates. Scores of one
trained model are not quite independent, since its members were trained on together: intervals over
many examples of few models are a little too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedjax_face.attacks.error_rates import (
    FALSE_POSITIVE_RATES,
    LEVEL,
    Bound,
    Separation,
    separation,
    unbounded,
)

# Keeps a probability that is 0 or 1 in float32 on a finite scale.
_SMALLEST = 1e-30


def loss_scores(losses: np.ndarray) -> np.ndarray:
  """Scores [N] of the loss threshold: the lower the loss, the likelier a member.

  Source: Yeom, Giacomelli, Fredrikson and Jha, CSF 2018.
  """
  return -np.asarray(losses, np.float64)


def logit_confidence(losses: np.ndarray) -> np.ndarray:
  """log(p / (1 - p)) of the right class from cross-entropies -log p, any shape.

  Near Gaussian over models, which the likelihood ratio needs (Carlini et al. 2022, eq. 4).
  """
  losses = np.asarray(losses, np.float64)
  return -losses - np.log(np.maximum(-np.expm1(-losses), _SMALLEST))


def lira_scores(shadows: np.ndarray, member: np.ndarray, target: np.ndarray, *,
                pooled_variance: bool) -> np.ndarray:
  """Log-likelihood ratio of the target's confidences, member against non-member.

  For each example two Gaussians are fitted: over the shadow models trained on it, and over the
  others.

  Args:
    shadows: float [M, N], `logit_confidence` of N examples under M shadow models.
    member: bool [M, N], which shadow model was trained on which example.
    target: float [N], of the model under attack.
    pooled_variance: one variance for all examples, separate for members and others; better below
      some 64 shadow models.

  Returns:
    float64 [N].

  Raises:
    ValueError: shapes do not fit, or an example lacks shadow models of either kind: one, or two
      where each example has a variance of its own.

  Source: Carlini, Chien, Nasr, Song, Terzis and Tramer, IEEE S&P 2022, Algorithm 1 (online).
  """
  shadows, target = np.asarray(shadows, np.float64), np.asarray(target, np.float64)
  member = np.asarray(member, bool)
  if shadows.ndim != 2 or member.shape != shadows.shape or target.shape != shadows.shape[1:]:
    raise ValueError(f"shadows {list(shadows.shape)}, member {list(member.shape)}, target "
                     f"{list(target.shape)}; expected [M, N], [M, N] and [N]")
  inside = _log_density(shadows, member, target, pooled_variance, "with")
  return inside - _log_density(shadows, ~member, target, pooled_variance, "without")


def membership(scores: np.ndarray, member: np.ndarray, bound: Bound = unbounded, *,
               false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
               level: float = LEVEL) -> Separation:
  """How well scores [N] tell members (bool [N]) of the attacked model from others.

  Args:
    scores: of `loss_scores` or `lira_scores`.
    member: which examples the model was trained on.
    bound: of the guarantee, between a data set with the example and the neighbouring one.
    false_positive_rates: of the test.
    level: of each interval.
  """
  scores, member = np.asarray(scores), np.asarray(member, bool)
  return separation(scores[member], scores[~member], bound,
                    false_positive_rates=false_positive_rates, level=level)


def _log_density(shadows: np.ndarray, chosen: np.ndarray, target: np.ndarray,
                 pooled_variance: bool, kind: str) -> np.ndarray:
  """Of the target under each example's Gaussian, fitted to the chosen shadow models."""
  count, least = chosen.sum(axis=0), 1 if pooled_variance else 2
  if (count < least).any():
    example = int(np.argmax(count < least))
    raise ValueError(f"example {example} has {count[example]} shadow models {kind} it; expected "
                     f"at least {least}")
  mean = (shadows * chosen).sum(axis=0) / count
  squares = ((shadows - mean) ** 2 * chosen).sum(axis=0)
  if pooled_variance:
    freedom = count.sum() - len(count)
    if freedom < 1:
      raise ValueError(f"one shadow model {kind} each example gives no variance; expected more")
    variance = np.full_like(mean, squares.sum() / freedom)
  else:
    variance = squares / (count - 1)
  variance = np.maximum(variance, _SMALLEST)
  return -0.5 * (np.log(2 * np.pi * variance) + (target - mean) ** 2 / variance)
