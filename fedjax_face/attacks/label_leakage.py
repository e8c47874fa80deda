"""Labels from the gradients at the cut: where the loss is on the other side, they give it away.

With two classes the gradient of an example is (p - y) times a direction that changes slowly: the
rarer class has the longer gradients, and those of the two classes point in opposite directions.
With more classes, gradients of one class point the same way. A server that has computed the logits
itself needs no such likeness: p - y of the logits, taken from its own p, leaves the label.

Source: Li, Sun, Yang, Gao, Zhang, Xie, Smith and Wang, ICLR 2022 ("Label leakage and protection in
two-party split learning"), sections 3.1 and 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedjax_face.attacks.error_rates import (
    FALSE_POSITIVE_RATES,
    LEVEL,
    Bound,
    Guess,
    Separation,
    guesses,
    largest_identification,
    largest_label_accuracy,
    separation,
    unbounded,
)


def norm_attack(gradients: np.ndarray, positive: np.ndarray, bound: Bound = unbounded, *,
                false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
                level: float = LEVEL) -> Separation:
  """Takes examples with long gradients for the rarer class.

  Args:
    gradients: float [B, ...], loss by activation of each example.
    positive: bool [B], the rarer class.
    bound: between the two labels.
    false_positive_rates, level: as in `error_rates.separation`.
  """
  scores, positive = np.linalg.norm(_rows(gradients), axis=1), np.asarray(positive, bool)
  return separation(scores[positive], scores[~positive], bound,
                    false_positive_rates=false_positive_rates, level=level)


def cosine_attack(gradients: np.ndarray, positive: np.ndarray, hint: np.ndarray,
                  bound: Bound = unbounded, *,
                  false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
                  level: float = LEVEL) -> Separation:
  """Takes examples whose gradients point along a known positive's for positive.

  Args:
    gradients: float [B, ...].
    positive: bool [B].
    hint: float [...], gradient of one example that is known to be positive.
    bound, false_positive_rates, level: as in `norm_attack`.
  """
  scores = _unit(_rows(gradients)) @ _unit(np.asarray(hint, np.float64).reshape(-1))
  positive = np.asarray(positive, bool)
  return separation(scores[positive], scores[~positive], bound,
                    false_positive_rates=false_positive_rates, level=level)


def rarest_attacks(gradients: np.ndarray, labels: np.ndarray, hints: np.ndarray
                   ) -> tuple[Separation | None, Separation | None]:
  """The attacks on two classes where there are more: the rarest label against all others.

  No bound is compared with: what else the attacker sees may tell the label as well.

  Args:
    gradients: float [B, ...].
    labels: integer [B], below K; of other examples than the hints.
    hints: float [K, ...], gradient of one example of each class, whose label is known.

  Returns:
    By norm, by cosine with the rarest label's hint; None where there are not two labels.
  """
  present, counts = np.unique(labels, return_counts=True)
  if len(present) < 2:
    return None, None
  rarest = present[np.argmin(counts)]
  positive = np.asarray(labels) == rarest
  return norm_attack(gradients, positive), cosine_attack(gradients, positive, hints[rarest])


def cluster_attack(gradients: np.ndarray, labels: np.ndarray, hints: np.ndarray,
                   *, iterations: int, epsilon: float = math.inf, level: float = LEVEL) -> Guess:
  """Clusters gradients by direction, from one known example of each class on.

  Args:
    gradients: float [B, ...].
    labels: integer [B], below K; of other examples than the hints.
    hints: float [K, ...], gradient of one example of each class, whose label is known.
    iterations: of assignment and mean (k-means by cosine); 0 compares with the hints alone.
    epsilon: of the label's own channel (randomised response); infinite where it is clear.
    level: of the interval.

  Returns:
    Guess; chance is the share of the most frequent label.
  """
  rows, centres = _unit(_rows(gradients)), _unit(_rows(hints))
  labels = np.asarray(labels)
  classes = len(centres)
  if labels.min() < 0 or labels.max() >= classes:
    raise ValueError(f"labels run from {labels.min()} to {labels.max()}; expected 0 to "
                     f"{classes - 1}, one for each of the {classes} hints")
  for _ in range(iterations):
    member = np.argmax(rows @ centres.T, axis=1) == np.arange(classes)[:, None]
    centres = np.where(member.any(axis=1, keepdims=True), _unit(member @ rows), centres)
  guessed = np.argmax(rows @ centres.T, axis=1)
  shares = np.bincount(labels, minlength=classes) / len(labels)
  return guesses(guessed == labels, float(shares.max()), largest_label_accuracy(shares, epsilon),
                 level)


def residual_attack(probabilities: np.ndarray, gradients: np.ndarray, labels: np.ndarray,
                    bound: Bound = unbounded, *, level: float = LEVEL) -> Guess:
  """Guesses from gradients to the logits, p - onehot(label) + noise, by a server that knows p.

  What p lacks of them, added up over the releases, is the label's coordinate and noise. Where the
  noise is Gaussian and as large in every coordinate, its largest entry is the likeliest label; p
  itself is not looked at, so that what is measured is the leak of the gradients alone.

  Args:
    probabilities: float [R, B, K], the server's own at each of R releases.
    gradients: float [R, B, K], what it received.
    labels: integer [B], below K.
    bound: of one example's R releases together.
    level: of the interval.

  Returns:
    Guess; chance is the share of the most frequent label.

  Raises:
    ValueError: shapes do not fit.
  """
  labels = np.asarray(labels)
  if probabilities.shape != gradients.shape or probabilities.shape[1:-1] != labels.shape:
    raise ValueError(f"probabilities {list(probabilities.shape)}, gradients "
                     f"{list(gradients.shape)} and labels {list(labels.shape)}; expected "
                     "[R, B, K] twice and [B]")
  residual = np.sum(np.asarray(probabilities, np.float64) - gradients, axis=0)
  shares = np.bincount(labels, minlength=residual.shape[1]) / len(labels)
  return guesses(residual.argmax(1) == labels, float(shares.max()),
                 largest_identification(shares, bound), level)


def _rows(gradients: np.ndarray) -> np.ndarray:
  return np.asarray(gradients, np.float64).reshape(len(gradients), -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Along the last axis; a zero vector stays."""
  norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.where(norm > 0, norm, 1)
