"""How much the classes of different clients overlap in the space that they share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
  """Cosines between class embeddings of different clients.

  Attributes:
    edges: float [B + 1], bins from -1 to 1.
    pairs: int [B], number of unordered pairs of classes in each bin.
    nearest: int [B], number of classes whose nearest foreign class is in each bin.
  """

  edges: np.ndarray
  pairs: np.ndarray
  nearest: np.ndarray


def cross_client_overlap(class_embeddings: np.ndarray, owner: np.ndarray, bins: int = 80,
                         block: int = 1024) -> Overlap:
  """Histograms of the cosines between classes of different clients, in blocks of classes.

  Args:
    class_embeddings: float [R, D], any norm but zero.
    owner: int [R], client of each class; -1 is padding.
    bins: B, between -1 and 1.
    block: classes compared with all others at a time.

  Raises:
    ValueError: fewer than two clients.
  """
  real = np.asarray(owner) >= 0
  owner, vectors = np.asarray(owner)[real], np.asarray(class_embeddings, np.float32)[real]
  if len(np.unique(owner)) < 2:
    raise ValueError("the overlap of classes of different clients needs at least two clients")
  vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
  edges = np.linspace(-1, 1, bins + 1)
  pairs, nearest = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
  for start in range(0, len(vectors), block):
    cosines = np.clip(vectors[start:start + block] @ vectors.T, -1, 1)
    foreign = owner[start:start + block, None] != owner
    pairs += np.histogram(cosines[foreign], edges)[0]
    nearest += np.histogram(np.where(foreign, cosines, -1).max(axis=1), edges)[0]
  return Overlap(edges, pairs // 2, nearest)
