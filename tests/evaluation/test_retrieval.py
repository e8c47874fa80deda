"""Retrieval metrics by hand and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.evaluation import retrieval
from fedjax_face.evaluation.retrieval import retrieval_scores


def at(*degrees):
  angle = np.deg2rad(degrees)
  return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_by_hand():
  # Query 0 at 0 degrees, R = 2; neighbours in order: 10 (A), 21 (B), 35 (A): hits at 1 of the first
  # 2.
  scores = retrieval_scores(at(0, 10, 21, 35), np.array([0, 0, 1, 0]))
  assert scores.query.tolist() == [0, 1, 3]  # The only B has nothing to find.
  # Query 10: 0 (A), 21 (B). Query 35: 21 (B), 10 (A).
  np.testing.assert_allclose(scores.precision_at_1, [1, 1, 0])
  np.testing.assert_allclose(scores.r_precision, [0.5, 0.5, 0.5])
  np.testing.assert_allclose(scores.map_at_r, [0.5, 0.5, 0.25])


def test_blocks_equal_a_plain_loop(monkeypatch):
  monkeypatch.setattr(retrieval, "_BLOCK", 16)
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 12, size=75)
  x = (rng.normal(size=(12, 6))[labels] + rng.normal(size=(75, 6))).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  scores = retrieval_scores(x, labels)
  for place, i in enumerate(scores.query):
    order = [j for j in np.argsort(-(x @ x[i]), kind="stable") if j != i]
    relevant = int(np.sum(labels == labels[i])) - 1
    hit = labels[order][:relevant] == labels[i]
    precision = np.cumsum(hit) / np.arange(1, relevant + 1)
    assert scores.precision_at_1[place] == hit[0]
    assert scores.r_precision[place] == pytest.approx(hit.mean(), rel=1e-5)
    assert scores.map_at_r[place] == pytest.approx(np.sum(precision * hit) / relevant, rel=1e-5)
  assert len(scores.query) == 75


def test_nothing_to_find():
  assert not len(retrieval_scores(at(0, 90), np.array([0, 1])).query)
