"""Identification with hand-made galleries and against a dense reference."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.evaluation import identification
from fedjax_face.evaluation.identification import (
  detection_and_identification_rate,
  enrol,
  rank_accuracy,
  score_probes,
)


def at(*degrees):
  angle = np.deg2rad(degrees)
  return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_ranks_by_hand():
  gallery, names = at(0, 40, 90), np.array([7, 3, 5])
  scores = score_probes(gallery, names, at(10, 10, 10), np.array([7, 3, 5]))
  assert scores.rank.tolist() == [1, 2, 3]
  np.testing.assert_allclose(rank_accuracy(scores, (1, 2, 3)), [1 / 3, 2 / 3, 1])
  np.testing.assert_allclose(scores.best, (1 + np.cos(np.deg2rad(10))) / 2, rtol=1e-6)


def test_label_scores_by_its_nearest_image_and_ties_count_against():
  gallery, names = at(0, 120, 30), np.array([0, 0, 1])
  assert score_probes(gallery, names, at(115), np.array([0])).rank.tolist() == [1]
  twin = score_probes(np.repeat(at(0), 2, axis=0), np.array([0, 1]), at(0), np.array([0]))
  assert twin.rank.tolist() == [2]


def test_open_set_by_hand():
  gallery, names = at(0, 90), np.array([0, 1])
  probes = score_probes(gallery, names, at(5, 30, 50, 85), np.array([0, 0, 0, 1]))
  strangers = score_probes(gallery, names, at(10, 45, 225, 180), np.array([9, 9, 9, 9]))
  # Strangers' best angles: 10, 45, 135, 90. FAR 0 needs an angle under 10: probes 5 and 85 (5 off).
  rate = detection_and_identification_rate(probes, strangers, [0.0, 0.25, 1.0])
  np.testing.assert_allclose(
    rate, [0.5, 0.75, 0.75]
  )  # The probe at 50 is nearer to the wrong person.


def test_blocks_equal_dense(monkeypatch):
  monkeypatch.setattr(identification, "_BLOCK", 16)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(90, 5)).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  names, wanted = rng.permutation(40), rng.integers(0, 40, size=50)
  scores = score_probes(x[:40], names, x[40:], wanted)
  dense = x[40:] @ x[:40].T
  own = dense[np.arange(50), np.argsort(names)[wanted]]
  np.testing.assert_array_equal(scores.rank, (dense >= own[:, None] - 1e-7).sum(axis=1))


def test_enrolment_covers_everyone_once():
  labels = np.array([0, 0, 0, 1, 2, 2])
  closed = enrol(labels, 1.0, np.random.default_rng(0))
  assert sorted(labels[closed.gallery].tolist()) == [0, 1, 2] and not len(closed.strangers)
  assert sorted([*closed.gallery, *closed.probes]) == list(range(6))
  opened = enrol(labels, 0.5, np.random.default_rng(0))
  assert len(opened.gallery) == 2
  assert not np.intersect1d(labels[opened.strangers], labels[opened.gallery]).size
  assert sorted([*opened.gallery, *opened.probes, *opened.strangers]) == list(range(6))


def test_bad_input_is_refused():
  gallery = at(0, 90)
  strangers = score_probes(gallery, np.array([0, 1]), at(3), np.array([9]))
  with pytest.raises(ValueError, match="closed-set"):
    rank_accuracy(strangers)
  with pytest.raises(ValueError, match="open-set"):
    known = score_probes(gallery, np.array([0, 1]), at(3), np.array([0]))
    detection_and_identification_rate(known, known, [0.1])
  with pytest.raises(ValueError, match="enrolled_share"):
    enrol(np.zeros(3, int), 0.0, np.random.default_rng(0))
