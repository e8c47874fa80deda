"""Recall at a false accept rate over the pairs of a test set (Xu et al., CVPR 2023, arXiv
2211.10844).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.evaluation.pairwise import block_similarity, operating_points, unit_embeddings


def recall_at_far_all_pairs(
  embeddings: np.ndarray | jax.Array, labels: np.ndarray, fars: Sequence[float]
) -> np.ndarray:
  """Largest recall over all thresholds whose FAR over all unordered pairs is within the target,
  exactly.

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N].
    fars: false accept rates in [0, 1].

  Returns:
    float64 [len(fars)], nan where no pair shares a label.
  """
  return np.array([point.recall for point in operating_points(embeddings, labels, fars)])


def recall_at_far_approx(
  embeddings: np.ndarray | jax.Array,
  labels: np.ndarray,
  fars: Sequence[float],
  *,
  batch_size: int,
  num_thresholds: int = 200,
) -> np.ndarray:
  """The authors' quick estimate: pairs within each batch only, fixed thresholds, counts summed over
  batches.

  Batches are consecutive rows, so shuffle a set that is sorted by person. A pair is accepted iff
  its similarity exceeds one of `num_thresholds` thresholds spread evenly over [0, 1].

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N].
    fars: false accept rates in [0, 1].
    batch_size: images in one batch; the last batch may be smaller.
    num_thresholds: thresholds, both ends included.

  Returns:
    float64 [len(fars)], nan where no batch holds two images of one label.
  """
  embeddings, labels = unit_embeddings(embeddings), np.asarray(labels)
  if batch_size < 2:
    raise ValueError(f"batch_size must be at least 2, got {batch_size}")
  accepted = np.zeros((2, num_thresholds), np.int64)
  thresholds = np.linspace(0, 1, num_thresholds, dtype=np.float32)
  total = np.zeros(2, np.int64)
  for start in range(0, len(embeddings), batch_size):
    batch = embeddings[start : start + batch_size]
    same = labels[start : start + batch_size, None] == labels[None, start : start + batch_size]
    upper = np.triu_indices(len(batch), 1)
    similarity = np.asarray(_similarity(batch, batch))[upper]
    for kind in (0, 1):
      values = np.sort(similarity[same[upper] == bool(kind)])
      total[kind] += len(values)
      accepted[kind] += len(values) - np.searchsorted(values, thresholds, side="right")
  if not total[1]:
    return np.full(len(fars), np.nan)
  far = accepted[0] / max(total[0], 1)
  return np.array([accepted[1][far <= target].max(initial=0) / total[1] for target in fars])


_similarity = jax.jit(lambda a, b: block_similarity(jnp.asarray(a), jnp.asarray(b)))
