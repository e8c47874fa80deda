"""The protocol registry on a small made-up set."""

from __future__ import annotations

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.evaluation.evaluated import Evaluation
from fedjax_face.evaluation.metric import Metric
from fedjax_face.evaluation.protocols import (
  LOWER_IS_BETTER,
  PROTOCOLS,
  curve_of,
  evaluate,
  metrics_of,
)
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
  # templates have lists of their own, and tests (test_templates.py)
  names = [name for name in PROTOCOLS if name != "templates"]
  metrics = evaluate(names, embed, DATASET, PAIRS, **SETTINGS)
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


def noise_embed(images):
  """Knows nothing of who is shown: the lowest bits of the pixels."""
  return (images % 4).astype(jnp.float32).reshape(len(images), -1) - 1.4


NAMES = ["recall_all_pairs", "lfw_view2", "tar_at_far", "identification", "retrieval"]


def test_a_gain_over_itself_is_exactly_nothing():
  first, second = (evaluate(NAMES, embed, DATASET, PAIRS, **SETTINGS) for _ in range(2))
  gains = {name: first[name].gain_over(second[name]) for name in first}
  resampled = {name for name, metric in first.items() if not math.isnan(metric.low)}
  assert {name for name, gain in gains.items() if gain is not None} == resampled
  assert len(resampled) == 15
  assert {tuple(gains[name]) for name in resampled} == {(0, 0, 0)}


def test_a_better_embedding_gains_clearly_on_the_same_resamples():
  better, worse = (evaluate(NAMES, fn, DATASET, PAIRS, **SETTINGS) for fn in (embed, noise_embed))
  for name in ("recall_all_pairs@far=0.1", "recall_all_pairs/auc", "lfw_view2/auc",
               "tar@smallest_far", "identification/rank1", "retrieval/map_at_r"):
    gain = better[name].gain_over(worse[name])
    assert 0 < gain.low <= gain.value <= gain.high, name
    assert gain.value == better[name].value - worse[name].value
  eer = better["lfw_view2/eer"].gain_over(worse["lfw_view2/eer"])
  assert eer.high < 0 and "lfw_view2/eer" in LOWER_IS_BETTER


def test_without_resamples_there_is_no_gain_to_be_sure_of():
  bare = evaluate(["retrieval"], embed, DATASET, **{**SETTINGS, "bootstrap": 0})
  assert all(metric.gain_over(metric) is None for metric in bare.values())


def test_the_smallest_far_is_the_one_that_allows_ten_false_accepts():
  metrics = evaluate(["tar_at_far"], embed, DATASET, PAIRS, **{**SETTINGS, "fars": (0.5,)})
  assert metrics["tar@smallest_far"].note == "FAR 0.5 = 10 / 20 negative pairs"
  same = ("value", "low", "high", "chance")
  assert [getattr(metrics["tar@smallest_far"], name) for name in same] == [
    getattr(metrics["tar@far=0.5"], name) for name in same]
  few = PAIRS._replace(**{name: getattr(PAIRS, name)[:18] for name in PAIRS._fields})
  metric = evaluate(["tar_at_far"], embed, DATASET, few, **SETTINGS)["tar@smallest_far"]
  assert math.isnan(metric.value) and metric.note == "8 different pairs support no FAR"


def test_what_is_kept_of_a_metric():
  assert Metric(0.5, 0.4, 0.6, "n").as_json() == {
    "value": 0.5, "low": 0.4, "high": 0.6, "note": "n"}
  made = Metric.resampled(0.5, np.linspace(0, 1, 101), chance=0.1)
  assert made.as_json() == {
    "value": 0.5, "low": pytest.approx(0.025), "high": pytest.approx(0.975), "note": "",
    "chance": 0.1}


@pytest.mark.parametrize("protocol, negatives", [("recall_all_pairs", 4416), ("tar_at_far", 20)])
def test_the_curve_passes_through_the_metrics(protocol, negatives):
  fars = (0.06, 0.2, 0.5)
  data = Evaluation(embed, DATASET, PAIRS, fars, 32, 30, 0, False)
  metrics = list(metrics_of([protocol], data).values())
  curve = curve_of(["retrieval", protocol], data, band=True)
  assert (curve.protocol, curve.negatives) == (protocol, negatives)
  for metric, far in zip(metrics[:3], fars, strict=True):
    within = [tar for f, tar in zip(curve.far, curve.tar, strict=True) if f <= far]
    above = [tar for f, tar in zip(curve.far, curve.tar, strict=True) if f > far]
    assert within[-1] <= metric.value + 1e-5 and metric.value <= above[0] + 1e-5
  assert curve.band.far[0] == pytest.approx(10 / negatives, rel=1e-5)
  assert all(low <= high for low, high in zip(curve.band.low, curve.band.high, strict=True))
  assert curve_of([protocol], data, band=False).band is None


def test_no_curve_without_a_protocol_that_has_one_or_both_kinds_of_pair():
  data = lambda dataset: Evaluation(embed, dataset, None, (0.1,), 32, 0, 0, False)
  assert curve_of(["retrieval"], data(DATASET), band=False) is None
  alone = types.SimpleNamespace(images=DATASET.images, label=np.arange(96), person=np.arange(96))
  assert curve_of(["recall_all_pairs"], data(alone), band=False) is None
  metric = metrics_of(["recall_all_pairs"], data(alone))["recall_all_pairs/auc"]
  assert math.isnan(metric.value) and "both kinds" in metric.note


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
    ValueError, match=r"unknown protocol 'lfw', expected any of recall_all_pairs, .*templates$"
  ):
    evaluate(["lfw"], never, DATASET, **SETTINGS)
  with pytest.raises(ValueError, match="protocol templates needs the lists"):
    evaluate(["recall_all_pairs", "templates"], never, DATASET, **SETTINGS)
  with pytest.raises(ValueError, match="protocol lfw_view2 needs pairs"):
    evaluate(["recall_all_pairs", "lfw_view2"], never, DATASET, **SETTINGS)


def test_diverged_model_is_reported_not_raised():
  metrics = evaluate(
    ["recall_all_pairs"], lambda x: jnp.full((len(x), 3), jnp.nan), DATASET, **SETTINGS
  )
  assert math.isnan(metrics["embeddings"].value) and "not finite" in metrics["embeddings"].note


def broken(images):
  """Embeddings of which a black image has none: zero, or not a number if its first pixel is 1."""
  found, first = embed(images), images.reshape(len(images), -1)[:, :1]
  black = (images.reshape(len(images), -1)[:, 1:] == 0).all(1, keepdims=True)
  return jnp.where(black, jnp.where(first == 1, jnp.nan, 0), found)


def test_an_image_without_an_embedding_is_counted_and_not_the_end():
  names = [name for name in PROTOCOLS if name != "templates"]
  images = DATASET.images.copy()
  images[[3, 40]] = 0
  images[40, 0, 0] = 1
  good = np.delete(np.arange(len(images)), [3, 40])
  rest = types.SimpleNamespace(images=images[good], label=DATASET.label[good],
                               person=DATASET.person[good])
  kept = PAIRS.kept(np.isin(np.arange(len(images)), good))
  assert len(kept.same) == len(PAIRS.same) - np.isin(np.stack([PAIRS.first, PAIRS.second]),
                                                     [3, 40]).any(0).sum()
  whole = types.SimpleNamespace(images=images, label=DATASET.label, person=DATASET.person)
  found = evaluate(names, broken, whole, PAIRS, **SETTINGS)
  lost = found.pop("embeddings/left_out")
  assert lost.value == 2 and "of 96 images" in lost.note
  assert "embeddings/left_out" in LOWER_IS_BETTER
  expected = evaluate(names, broken, rest, kept, **SETTINGS)
  assert {name: m.note for name, m in found.items()} == {n: m.note for n, m in expected.items()}
  np.testing.assert_array_equal(*([[m.value, m.low, m.high] for m in of.values()]
                                  for of in (found, expected)))
  curve = curve_of(["recall_all_pairs"], Evaluation(
    broken, whole, None, (0.1,), 32, 0, 0, False), False)
  assert curve is not None and curve.protocol == "recall_all_pairs"


@pytest.mark.parametrize("name", ["recall_all_pairs", "insightface", "tar_at_far", "retrieval"])
def test_too_few_images_with_an_embedding_are_said(name):
  images = np.zeros_like(DATASET.images)
  images[5] = 90
  few = types.SimpleNamespace(images=images, label=DATASET.label, person=DATASET.person)
  assert curve_of([name], Evaluation(broken, few, PAIRS, (0.1,), 32, 0, 0, False), False) is None
  (metric,) = evaluate([name], broken, few, PAIRS, **SETTINGS).values()
  assert math.isnan(metric.value) and metric.note == (
    "embeddings of 95 of 96 images are zero or not finite")
