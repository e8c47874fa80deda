"""Every method: what its channels move is released or said, and what it measures is declared."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import fedjax_face as ff
from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Data
from fedjax_face.models import registry as models
from fedjax_face.runs import streams
from tests.algorithms import test_algorithms, test_privacyface, test_silos, tiny
from tests.edge import tiny_runs
from tests.flat import composed
from tests.methods import tiny_faces


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
  monkeypatch.setitem(models.BACKBONES, "one_layer", tiny.OneLayer)


def _faces(make):
  sources = tiny_faces.sources()
  return tiny_faces.bound(tiny_faces.method(make), sources), sources.train


def _silos(**overrides):
  return test_silos.build(**overrides), tiny.people()


METHODS = {
    "dp_fedemb": lambda: (test_algorithms.build(), tiny.people()),
    "adaptive": lambda: (test_algorithms.build(**{
        "privacy.aggregator": "adaptive", "privacy.count_stddev_per_client": 0.5}), tiny.people()),
    "fedavg": lambda: (test_algorithms.build(algorithm="fedavg"), tiny.people()),
    "centralized": lambda: (test_algorithms.build(
        algorithm="centralized", **{"hparams.noise_multiplier": None}), tiny.people()),
    "fedpe": lambda: _silos(algorithm="fedpe"),
    "fedgc": _silos,
    "fedaws": lambda: _silos(**{"algorithm": "fedaws", "correction.form": "hinge"}),
    "scaffold": lambda: _silos(**{"algorithm": "fedpe", "local.drift": "scaffold"}),
    "privacyface": lambda: (test_privacyface.build(), tiny.people()),
    "composed": lambda: (test_privacyface.build(composed), tiny.people()),
    "dp_hyperface": lambda: _faces(ff.dp_hyperface),
    "hyperface": lambda: _faces(ff.hyperface),
}


@pytest.fixture(params=METHODS)
def method(request):
  return METHODS[request.param]()


def test_a_forgotten_release_is_refused_by_the_name_of_its_channel(method):
  algorithm, _ = method
  moved = [release for release in algorithm.releases if release.channel in algorithm.channels]
  assert moved
  for forgotten in moved:
    rest = tuple(release for release in algorithm.releases if release is not forgotten)
    with pytest.raises(ValueError, match=f"channel '{forgotten.channel}'"):
      dataclasses.replace(algorithm, releases=rest)


def test_a_step_measures_what_is_declared(method):
  algorithm, train = method
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  cohort = algorithm.cohort(Draws.of(0), 0)
  data = Data(jnp.asarray(train.images), jax.tree.map(jnp.asarray, getattr(train, "targets", ())))
  keys = streams.step_keys(0, streams.public_root(0), 0)
  _, metrics = jax.eval_shape(algorithm.step, state, data, cohort, algorithm.hparams, keys)
  algorithm.require_declared(metrics)
  assert set(metrics) == set(algorithm.metrics)
  for name, measure in algorithm.metrics.items():
    named = any(measure.words in sentence for sentence in algorithm.not_covered)
    assert named == (measure.covered_by is None), name


@pytest.mark.parametrize("parts, uncovered", [
    ({}, {"labels"}),
    ({"labels": ff.labels.u_shaped(noise_multiplier=0.0, acknowledged=True)},
     {"logits", "logit_gradients"}),
    ({"labels": ff.labels.u_shaped(noise_multiplier=1.0)}, {"logits"}),
    ({"labels": ff.labels.randomized_response(epsilon=1.0)}, set()),
    ({"device": ff.devices.trained_published()}, {"labels", "activation_gradients"}),
], ids=lambda value: str(value) if isinstance(value, dict) else "-".join(sorted(value)))
def test_what_crosses_the_cut_is_released_or_said(parts, uncovered):
  algorithm = tiny_runs.bound(tiny_runs.method(**parts), tiny_runs.sources())
  assert set(algorithm.uncovered) == uncovered
  assert set(algorithm.channels) - uncovered <= {r.channel for r in algorithm.releases}
  for sentence in algorithm.uncovered.values():
    assert sentence in algorithm.not_covered
