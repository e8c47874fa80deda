"""Every method: what its channels move is released or said, and what it measures is declared."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import fedjax_face as ff
from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Data
from fedjax_face.runs import streams
from tests.methods import tiny, tiny_clusters, tiny_methods
from tests.methods.tiny_methods import bound, dp_activations

METHODS = {
    "dp_fedemb": tiny.dp_fedemb(),
    "adaptive": tiny.dp_fedemb(aggregate=ff.adaptive(
        clip_norm=1.0, noise_multiplier=0.5, count_stddev_per_client=0.5)),
    "fedavg": tiny.fedavg(),
    "centralized": tiny.centralized(),
    "fedpe": tiny.fedpe(),
    "fedgc": tiny.fedgc(),
    "fedaws": tiny.fedaws(),
    "scaffold": tiny.fedpe(local=ff.replace(tiny.SILO_LOCAL, drift=ff.drifts.scaffold())),
    "privacyface": tiny_clusters.privacyface(),
    "composed": tiny_clusters.composed(),
    "dp_hyperface": tiny_methods.dp_hyperface(),
    "hyperface": tiny_methods.hyperface(),
}


@pytest.fixture(params=METHODS)
def method(request):
  return bound(METHODS[request.param])


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


@pytest.mark.parametrize("changes, uncovered", [
    ({}, {"labels"}),
    ({"labels": ff.labels.u_shaped(noise_multiplier=0.0, acknowledged=True)},
     {"logits", "logit_gradients"}),
    ({"labels": ff.labels.u_shaped(noise_multiplier=1.0)}, {"logits"}),
    ({"labels": ff.labels.randomized_response(epsilon=1.0)}, set()),
    ({"device": ff.devices.trained_published()}, {"labels", "activation_gradients"}),
], ids=["pseudonym", "u_shaped", "u_shaped and noise", "randomized_response", "published"])
def test_what_crosses_the_cut_is_released_or_said(changes, uncovered):
  algorithm, _ = bound(dp_activations(**changes))
  assert set(algorithm.uncovered) == uncovered
  assert set(algorithm.channels) - uncovered <= {r.channel for r in algorithm.releases}
  for sentence in algorithm.uncovered.values():
    assert sentence in algorithm.not_covered
