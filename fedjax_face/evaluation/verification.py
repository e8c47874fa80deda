"""Verification of listed pairs: ROC, AUC, EER, TAR at FAR, LFW View 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation.pairwise import pair_similarity, unit_embeddings


class Roc(NamedTuple):
  """Operating points at every distinct similarity, strictest first; accept iff similarity >=
  threshold.

  Starts at the point that accepts nothing (threshold infinite). All float64 [T].
  """

  far: np.ndarray
  tar: np.ndarray
  threshold: np.ndarray


class TarAtFar(NamedTuple):
  """`tar` float64 [F], one a target; `reliable` bool [F]; `note` names the targets that are not."""

  tar: np.ndarray
  reliable: np.ndarray
  note: str


class FoldAccuracy(NamedTuple):
  """Cross-validated accuracy: mean over folds, its standard error, and per fold accuracy and
  threshold.
  """

  mean: float
  standard_error: float
  per_fold: np.ndarray
  threshold: np.ndarray


def similarity_of_pairs(embeddings: np.ndarray | jax.Array, pairs: Pairs) -> np.ndarray:
  """1 - ||a - b||^2 / 4 for every pair, float32 [P], from unit embeddings [N, D]."""
  embeddings = unit_embeddings(embeddings)
  last = max(int(pairs.first.max(initial=-1)), int(pairs.second.max(initial=-1)))
  if last >= len(embeddings):
    raise ValueError(f"pairs name image {last}, but there are only {len(embeddings)} embeddings")
  return pair_similarity(embeddings, pairs.first, pairs.second)


def roc(similarity: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
  """Receiver operating characteristic of scored pairs; pairs of equal similarity move together.

  Args:
    similarity: float [P].
    same: bool [P]; both kinds of pair must be present.
    weights: optional non-negative multiplicity of each pair, [P].
  """
  order = np.argsort(-similarity, kind="stable")
  values, genuine = similarity[order], same[order]
  weight = np.ones(len(values)) if weights is None else weights[order].astype(np.float64)
  last = np.append(values[1:] != values[:-1], True)  # The last of every run of equal similarities.
  tar = np.cumsum(weight * genuine)[last]
  far = np.cumsum(weight * ~genuine)[last]
  if not (tar[-1] > 0 and far[-1] > 0):
    raise ValueError("verification needs at least one same pair and one different pair")
  return Roc(
    np.append(0, far / far[-1]), np.append(0, tar / tar[-1]), np.append(np.inf, values[last])
  )


def tar_within(curve: Roc, fars: Sequence[float] | np.ndarray) -> np.ndarray:
  """Largest TAR whose FAR does not exceed each target, without interpolation: float64 [F]."""
  return curve.tar[np.searchsorted(curve.far, np.asarray(fars) * (1 + 1e-12), side="right") - 1]


def auc(curve: Roc) -> float:
  """Area under the curve: P(a same pair outscores a different pair), ties counting half."""
  return float(np.trapezoid(curve.tar, curve.far))


def eer(curve: Roc) -> float:
  """Equal error rate: where FAR = 1 - TAR, linear between neighbouring operating points."""
  gap = curve.far - (1 - curve.tar)
  after = int(np.argmax(gap >= 0))
  share = -gap[after - 1] / (gap[after] - gap[after - 1])
  return float(curve.far[after - 1] + share * (curve.far[after] - curve.far[after - 1]))


def smallest_reliable_far(negatives: int) -> float:
  """10 / (number of different pairs): below this a FAR rests on fewer than ten false accepts."""
  return 10 / negatives if negatives else float("inf")


def tar_at_far(
  similarity: np.ndarray, same: np.ndarray, fars: Sequence[float], weights: np.ndarray | None = None
) -> TarAtFar:
  """Largest true accept rate whose FAR does not exceed each target, without interpolation.

  Args:
    similarity: float [P].
    same: bool [P].
    fars: targets in [0, 1].
    weights: optional multiplicity of each pair, [P].

  Returns:
    TarAtFar; a target below 10 / (number of different pairs) is not reliable and the note says so.
  """
  curve = roc(similarity, same, weights)
  negatives = int(np.sum(~same))
  limit = smallest_reliable_far(negatives)
  reliable = np.asarray(fars) >= limit * (1 - 1e-12)
  low = ", ".join(f"{far:g}" for far, fine in zip(fars, reliable, strict=True) if not fine)
  note = f"FAR {low} is below 10 / {negatives} different pairs = {limit:.2g}" if low else ""
  return TarAtFar(tar_within(curve, fars), reliable, note)


def cross_validated_accuracy(
  similarity: np.ndarray, same: np.ndarray, fold: np.ndarray, weights: np.ndarray | None = None
) -> FoldAccuracy:
  """LFW View 2: each fold is tested at the threshold that is best on all the other folds given.

  With all ten folds this is the official protocol (Huang et al., 2007). With fewer, say folds 1 and
  2 of a person-disjoint study, each fold's threshold comes from the other folds that are given, and
  no more.

  Args:
    similarity: float [P].
    same: bool [P].
    fold: integer [P], at least two distinct values.
    weights: optional multiplicity of each pair, [P].

  Returns:
    FoldAccuracy; the standard error is std / sqrt(folds). Among equally good thresholds the middle
    one is taken, half-way between the two neighbouring similarities.
  """
  folds = np.unique(fold)
  if len(folds) < 2:
    raise ValueError(f"cross-validated accuracy needs at least 2 folds, got {len(folds)}")
  weight = np.ones(len(same)) if weights is None else weights.astype(np.float64)
  order = np.argsort(-similarity, kind="stable")
  values, genuine, fold, weight = similarity[order], same[order], fold[order], weight[order]
  accuracy, threshold = np.zeros(len(folds)), np.zeros(len(folds))
  for i, name in enumerate(folds):
    test = fold == name
    threshold[i] = _best_threshold(values[~test], genuine[~test], weight[~test])
    right = (values[test] >= threshold[i]) == genuine[test]
    total = weight[test].sum()
    accuracy[i] = np.sum(weight[test] * right) / total if total else np.nan
  error = np.nanstd(accuracy, ddof=1) / np.sqrt(len(folds))
  return FoldAccuracy(float(np.nanmean(accuracy)), float(error), accuracy, threshold)


def _best_threshold(values: np.ndarray, genuine: np.ndarray, weight: np.ndarray) -> float:
  """The threshold that classifies the largest weight rightly; `values` descend."""
  signed = np.where(genuine, weight, -weight)
  right = np.append(0, np.cumsum(signed))  # Accepting the first c pairs, up to a constant.
  cut = np.append(np.append(True, values[1:] < values[:-1]), True)
  best = np.flatnonzero(cut & (right == right[cut].max()))
  c = int(best[len(best) // 2])
  if c == 0:
    return float(np.nextafter(values[0], np.inf))
  return (
    float(values[-1]) if c == len(values) else float((float(values[c - 1]) + float(values[c])) / 2)
  )
