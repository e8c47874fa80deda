"""The verification protocol of the InsightFace project, to compare with the numbers it publishes.

Source: `recognition/arcface_mxnet/verification.py` (MIT). Embedding = normalise(f(x) + f(mirror
  x)); squared
distance of unit vectors; ten folds in file order; input 112x112, (x / 255 - .5) / .5.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation.pairwise import unit_embeddings


class InsightFaceScores(NamedTuple):
  """Mean and population standard deviation over the folds, as that project prints them.

  `far` is the FAR that the thresholds chosen on the training folds in fact reach on the test folds.
  """

  accuracy: float
  accuracy_std: float
  tar: float
  tar_std: float
  far: float


def insightface_scores(
  embeddings: np.ndarray | jax.Array, pairs: Pairs, *, far_target: float = 1e-3, folds: int = 10
) -> InsightFaceScores:
  """Accuracy with thresholds 0 to 4 in steps of .01 and TAR at `far_target` in steps of .001.

  Args:
    embeddings: unit embeddings of the flip test (`embed_dataset(..., flip="sum")`), float [N, D].
    pairs: the protocol in file order; its `fold` is not used: folds are consecutive parts of equal
      size.
    far_target: TAR's false accept rate; its threshold is interpolated linearly on the nine training
      folds.
    folds: number of folds.

  Returns:
    InsightFaceScores. A pair is accepted iff its squared distance < threshold.
  """
  embeddings = unit_embeddings(embeddings)
  if len(pairs.same) < folds:
    raise ValueError(f"insightface needs at least {folds} pairs, one a fold, got {len(pairs.same)}")
  difference = embeddings[pairs.first] - embeddings[pairs.second]
  distance, same = np.sum(np.square(difference), axis=1), np.asarray(pairs.same)
  accuracy, tar, far = np.zeros(folds), np.zeros(folds), np.zeros(folds)
  for i, test in enumerate(np.array_split(np.arange(len(same)), folds)):
    train = np.ones(len(same), bool)
    train[test] = False
    accuracy[i] = _fold_accuracy(distance, same, train)
    tar[i], far[i] = _fold_tar(distance, same, train, far_target)
  return InsightFaceScores(
    float(accuracy.mean()),
    float(accuracy.std()),
    float(tar.mean()),
    float(tar.std()),
    float(far.mean()),
  )


def _fold_accuracy(distance: np.ndarray, same: np.ndarray, train: np.ndarray) -> float:
  """Test accuracy at the first threshold that is best on the training folds."""
  thresholds = np.arange(0, 4, 0.01)
  genuine, impostor = _accepted(distance[train], same[train], thresholds)
  best = thresholds[np.argmax(genuine - impostor)]
  return float(np.mean((distance[~train] < best) == same[~train]))


def _fold_tar(
  distance: np.ndarray, same: np.ndarray, train: np.ndarray, far_target: float
) -> tuple[float, float]:
  """(TAR, FAR) on the test fold at the threshold where the training FAR meets the target; 0 if it
  never does.
  """
  thresholds = np.arange(0, 4, 0.001)
  far_train = _accepted(distance[train], same[train], thresholds)[1] / max(np.sum(~same[train]), 1)
  reached = far_train.max() >= far_target
  threshold = np.interp(far_target, far_train, thresholds) if reached else 0.0
  accepted, genuine = distance[~train] < threshold, same[~train]
  return (
    float(np.sum(accepted & genuine) / max(np.sum(genuine), 1)),
    float(np.sum(accepted & ~genuine) / max(np.sum(~genuine), 1)),
  )


def _accepted(
  distance: np.ndarray, same: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Same and different pairs accepted at each threshold."""
  counts = [
    np.searchsorted(np.sort(distance[part]), thresholds, side="left") for part in (same, ~same)
  ]
  return counts[0], counts[1]
