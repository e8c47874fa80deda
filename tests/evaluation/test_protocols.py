"""The protocol registry on a small made-up set."""

from __future__ import annotations

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.evaluation.protocols import PROTOCOLS, Metric, evaluate
from fedjax_face.evaluation.random_pairs import pairs_from_labels


def bright_patch_set(images=96, people=24, seed=0):
  """Images whose pixels are a person's pattern plus noise."""
  rng = np.random.default_rng(seed)
  label = np.arange(images, dtype=np.int32) % people
  pattern = rng.normal(size=(people, 4, 4, 1))[label]
  pixels = np.clip(128 + 30 * pattern + 20 * rng.normal(size=pattern.shape), 0, 255).astype(
    np.uint8
  )
  return types.SimpleNamespace(images=pixels, label=label, person=label)


def embed(images):
  return (images.astype(jnp.float32) / 128 - 1).reshape(len(images), -1)


DATASET = bright_patch_set()
PAIRS = pairs_from_labels(DATASET.label, 40, np.random.default_rng(1), folds=10)
SETTINGS = dict(fars=(0.01, 0.1), batch_size=32, bootstrap=50, seed=0)


def test_every_protocol_gives_bounded_metrics_with_ordered_intervals():
  metrics = evaluate(list(PROTOCOLS), embed, DATASET, PAIRS, **SETTINGS)
  assert {name.split("/")[0].split("@")[0] for name in metrics} == {
    "recall_all_pairs",
    "recall_approx",
    "lfw_view2",
    "insightface",
    "tar",
    "identification",
    "retrieval",
  }
  for name, metric in metrics.items():
    assert isinstance(metric, Metric) and 0 <= metric.value <= 1, name
    assert math.isnan(metric.low) or metric.low <= metric.high, name
  for name in (
    "recall_all_pairs@far=0.1",
    "lfw_view2/accuracy",
    "tar@far=0.1",
    "identification/rank1",
    "retrieval/map_at_r",
  ):
    assert metrics[name].low <= metrics[name].value <= metrics[name].high, name
  assert metrics["lfw_view2/auc"].value > 0.9


def test_same_seed_same_numbers_and_no_bootstrap_no_interval():
  names = ["recall_all_pairs", "identification"]
  first, again = (evaluate(names, embed, DATASET, **SETTINGS) for _ in range(2))
  assert repr(first) == repr(again)
  bare = evaluate(names, embed, DATASET, **{**SETTINGS, "bootstrap": 0})
  assert all(math.isnan(metric.low) for metric in bare.values())
  assert bare["identification/rank1"].value == first["identification/rank1"].value


def test_too_low_far_is_said():
  metrics = evaluate(["tar_at_far"], embed, DATASET, PAIRS, **SETTINGS)
  assert "below 10 / 20 negative pairs" in metrics["tar@far=0.1"].note
  recall = evaluate(["recall_all_pairs"], embed, DATASET, **SETTINGS)
  assert recall["recall_all_pairs@far=0.1"].note == ""


def test_insightface_needs_both_kinds_in_every_tenth():
  mixed = np.argsort(np.arange(40) % 20, kind="stable")
  sorted_pairs, mixed_pairs = (
    PAIRS,
    PAIRS._replace(
      **{
        name: getattr(PAIRS, name)[np.argsort(PAIRS.same, kind="stable")[mixed]]
        for name in PAIRS._fields
      }
    ),
  )
  by_kind = sorted_pairs._replace(same=np.sort(sorted_pairs.same))
  for pairs, expected in ((mixed_pairs, False), (by_kind, True)):
    metrics = evaluate(["insightface"], embed, DATASET, pairs, **SETTINGS)
    assert ("one kind of pair" in metrics["insightface/accuracy"].note) == expected


def test_errors_come_before_any_work():
  def never(images):
    raise AssertionError

  with pytest.raises(
    ValueError, match=r"unknown protocol 'lfw', expected any of recall_all_pairs, .*retrieval$"
  ):
    evaluate(["lfw"], never, DATASET, **SETTINGS)
  with pytest.raises(ValueError, match="protocol lfw_view2 needs pairs"):
    evaluate(["recall_all_pairs", "lfw_view2"], never, DATASET, **SETTINGS)


def test_diverged_model_is_reported_not_raised():
  metrics = evaluate(
    ["recall_all_pairs"], lambda x: jnp.full((len(x), 3), jnp.nan), DATASET, **SETTINGS
  )
  assert math.isnan(metrics["embeddings"].value) and "not finite" in metrics["embeddings"].note
