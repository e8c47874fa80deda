"""What a run is compared with, and the sentence that it says."""

import numpy as np
import pytest

from fedjax_face.evaluation.metric import Metric
from fedjax_face.evaluation.pixels import pixel_embedding
from fedjax_face.evaluation.protocols import evaluate
from fedjax_face.runs import comparison, loop, references
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.evaluator import Outcome
from tests.experiments.tiny_call import get_config


@pytest.fixture(scope="module")
def built():
  return Asked.of_config(get_config("pretrain")).experiment()


def values(metrics):
  return {name: metric.value for name, metric in metrics.items()}


def test_start_untrained_and_pixels_are_evaluated_like_the_model(built):
  found = references.references(built)
  assert {name: of.words for name, of in found.items()} == {
      "start": "public start", "untrained": "untrained", "pixels": "raw pixels"}
  start = loop.initial_state(built.algorithm, 0, built.mesh)
  again = built.evaluator.outcome(start)
  assert repr(again.metrics) == repr(found["start"].outcome.metrics)
  assert again.roc.tar == found["start"].outcome.roc.tar
  assert again.roc.band and found["start"].outcome.roc.band is None
  pixels = evaluate(["recall_all_pairs"], pixel_embedding, built.sources.evaluation, fars=(0.1,),
                    batch_size=8, bootstrap=0, seed=0)
  assert values(pixels) == pytest.approx(values(found["pixels"].outcome.metrics))


def test_the_untrained_backbone_is_the_one_of_a_run_without_pretraining(built):
  plain = get_config("pretrain")
  del plain["start"]
  alone = Asked.of_config(plain).experiment()
  found = references.references(alone)
  assert list(found) == ["start", "pixels"] and found["start"].words == "untrained start"
  untrained = references.references(built)["untrained"].outcome
  assert values(untrained.metrics) == pytest.approx(values(found["start"].outcome.metrics))
  start = values(references.references(built)["start"].outcome.metrics)
  assert values(untrained.metrics) != start


def test_a_start_on_a_set_that_is_not_public_is_not_called_public(built):
  alone = Asked.of_config(changed(get_config("pretrain"), {"start.public": False})).experiment()
  assert built.start_words == "public start" and alone.start_words == "pre-trained start"


def test_gains_are_of_the_metrics_that_have_an_interval():
  draws = np.array([0.2, 0.4])
  start = Outcome({"a": Metric.resampled(0.3, draws), "b": Metric(0.1)})
  end = Outcome({"a": Metric.resampled(0.5, draws + 0.2), "b": Metric(0.2), "c": Metric(0.3)})
  found = references.gains(end, start)
  assert list(found) == ["a"]
  assert found["a"] == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})


def summary(low, pixels=True):
  metrics = lambda value: {name: {"value": value, "low": 0.0, "high": 1.0, "note": ""}
                           for name in ("rank1", "recall@far=0.1")}
  compared = {"start": ("public start", 0.59), "untrained": ("untrained", 0.301)}
  compared |= {"pixels": ("raw pixels", 0.293)} if pixels else {}
  trained = metrics(0.622)
  trained["recall@far=0.1"]["chance"] = 0.1
  return {"metrics": trained,
          "references": {name: {"words": words, "metrics": metrics(value)}
                         for name, (words, value) in compared.items()},
          "gains": {"recall@far=0.1": {"value": 0.032, "low": low, "high": 0.044}}}


def privacy(best):
  return {"units": [{"unit": "person", "population": 100_000, "epsilon": {"best": best}}]}


def test_one_line_says_what_was_gained_at_which_epsilon():
  assert comparison.line(summary(0.021), privacy(0.2496), ["recall@far=0.1", "rank1"]) == (
      "recall@far=0.1: public start 0.590, trained 0.622 (+0.032 [+0.021, +0.044]) at epsilon 0.25 "
      "for each of 100,000 persons; raw pixels 0.293, untrained 0.301")


def test_a_gain_that_is_not_clear_is_said_plainly():
  said = comparison.line(summary(-0.001), privacy("infinite"))
  assert said.endswith("; no clear gain over its start") and " without privacy; " in said
  assert said.startswith("recall@far=0.1: ")  # the first that has an interval of its gain
  assert "no clear gain" not in comparison.line(summary(0.001), privacy("infinite"))


def test_a_metric_without_an_interval_is_not_judged():
  said = comparison.line(summary(0.021), privacy(None), ["rank1"])
  assert "(+0.032, no interval) epsilon not computed for each person; " in said
  assert "no clear gain" not in said


def test_an_error_rate_gains_by_falling():
  falls, rises = {"value": -0.1, "low": -0.2, "high": -0.05}, {"value": 0, "low": 0.1, "high": 0.2}
  assert comparison._gain("lfw_view2/eer", -0.1, falls)[1]
  assert not comparison._gain("lfw_view2/eer", 0.1, rises)[1]


def test_no_line_for_a_method_that_trains_no_embeddings():
  assert comparison.line(summary(0.021, pixels=False), privacy(1.0)) is None


def test_levels_are_the_references_and_chance():
  assert comparison.levels(summary(0)) == {
      "rank1": {"public start": 0.59, "untrained": 0.301, "raw pixels": 0.293},
      "recall@far=0.1": {"public start": 0.59, "untrained": 0.301, "raw pixels": 0.293,
                         "chance": 0.1}}
