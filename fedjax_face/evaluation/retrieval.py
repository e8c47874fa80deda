"""Image retrieval, every image a query against all others: precision@1, R-precision and mAP@R."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.evaluation.pairwise import block_similarity, unit_embeddings

_BLOCK = 256


class RetrievalScores(NamedTuple):
  """Per query with at least one other image of its label: `query` int64 [Q] rows, and float64 [Q]
  scores.

  The metric is the mean of each array.
  """

  query: np.ndarray
  precision_at_1: np.ndarray
  r_precision: np.ndarray
  map_at_r: np.ndarray


def retrieval_scores(embeddings: np.ndarray | jax.Array, labels: np.ndarray) -> RetrievalScores:
  """Scores the R nearest neighbours of every query, R = number of other images of its label.

  R-precision is the share of them with the query's label; mAP@R = 1/R sum over i <= R of
  precision(i) where the i-th has that label (Musgrave et al., A metric learning reality check, ECCV
  2020). Equal similarities keep row order.

  Args:
    embeddings: unit embeddings, float [N, D].
    labels: integer [N].
  """
  embeddings, labels = unit_embeddings(embeddings), np.asarray(labels)
  _, dense, counts = np.unique(labels, return_inverse=True, return_counts=True)
  relevant = counts[dense] - 1
  query = np.flatnonzero(relevant)
  if not len(query):
    return RetrievalScores(query, *np.zeros((3, 0)))
  neighbours = int(relevant.max())
  on_device, classes = jnp.asarray(embeddings), jnp.asarray(dense, jnp.int32)
  scores = np.zeros((3, len(query)))
  for start in range(0, len(query), _BLOCK):
    rows = query[start : start + _BLOCK]
    padded = np.pad(rows, (0, _BLOCK - len(rows)), mode="edge")
    part = _score_block(
      on_device,
      classes,
      padded,
      relevant[padded].astype(np.float32),
      neighbours=neighbours,
    )
    scores[:, start : start + _BLOCK] = np.asarray(part)[:, : len(rows)]
  return RetrievalScores(query, *scores)


@functools.partial(jax.jit, static_argnames="neighbours")
def _score_block(
  embeddings: jax.Array, labels: jax.Array, rows: jax.Array, relevant: jax.Array, *, neighbours: int
) -> jax.Array:
  """(precision@1, R-precision, mAP@R) of a block of queries, float32 [3, B]."""
  similarity = block_similarity(embeddings[rows], embeddings)
  similarity = similarity.at[jnp.arange(len(rows)), rows].set(-1.0)
  nearest = jax.lax.top_k(similarity, neighbours)[1]
  position = 1 + jnp.arange(neighbours)
  hit = (labels[nearest] == labels[rows][:, None]) & (position <= relevant[:, None])
  precision = jnp.cumsum(hit, axis=1) / position
  return jnp.stack(
    [
      hit[:, 0].astype(jnp.float32),
      hit.sum(axis=1) / relevant,
      (precision * hit).sum(axis=1) / relevant,
    ]
  )
