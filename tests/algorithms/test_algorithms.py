"""Every choice that a config offers runs a step; what is sent, kept and claimed is what it says."""

import types

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Communication, Data, StepKeys
from fedjax_face.privacy.adjacency import Adjacency
from tests.algorithms import tiny
from tests.flat import registry


def build(**overrides):
  return registry.build(tiny.config(**overrides), tiny.sources(), tiny.one_device())


def run(algorithm, rounds=1, noise_seed=7):
  state = algorithm.init(jax.random.key(0))
  data, step = Data(jnp.asarray(tiny.people().images)), jax.jit(algorithm.step)
  for index in range(rounds):
    cohort = algorithm.cohort(Draws.of(index), index)
    fold = lambda seed, index=index: jax.random.fold_in(jax.random.key(seed), index)
    keys = StepKeys(fold(1), fold(noise_seed))
    state, metrics = step(state, data, cohort, algorithm.hparams, keys)
  return state, metrics


def backbone_of(state):
  return jax.tree.leaves(state.params["backbone"])


@pytest.mark.parametrize("overrides", [
    {},
    {"local.stages": "head_first", "local.optimizer": "sgd"},
    {"model.head_init": "per_client", "cohort.classes": "own", "local.optimizer": "adam"},
    {"model.head": "normalised", "model.flip": True},
    {"privacy.aggregator": "adaptive", "privacy.count_stddev_per_client": 0.5},
    {"privacy.aggregator": "clipped", "hparams.noise_multiplier": None},
    {"privacy.aggregator": "mean", "hparams.noise_multiplier": None},
    {"cohort.sampling": "poisson", "cohort.classes": "own"},
    {"cohort.sampling": "cyclic_fixed", "cohort.min_separation": 2,
     "privacy.aggregator": "correlated"},
    {"algorithm": "fedavg"},
    {"algorithm": "centralized", "hparams.noise_multiplier": None},
], ids=lambda overrides: "-".join(str(v) for v in overrides.values()) or "default")
def test_every_choice_trains_and_embeds(overrides):
  algorithm = build(**overrides)
  state, metrics = run(algorithm)
  before = algorithm.init(jax.random.key(0))
  assert all(np.isfinite(value) for name, value in metrics.items() if name != "signal_to_noise")
  assert any((a != b).any() for a, b in zip(backbone_of(state), backbone_of(before), strict=True))
  embedded = algorithm.embed(state, tiny.people().images[:3])
  np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
  assert algorithm.releases and algorithm.not_covered
  assert set(metrics) == set(algorithm.metrics)


def test_dp_fedemb_keeps_and_sends_no_head():
  algorithm = build()
  state, _ = run(algorithm)
  assert set(state.params) == {"backbone"}
  size = sum(leaf.nbytes for leaf in backbone_of(state))
  assert algorithm.communication(state) == Communication.equal(size, size)


def test_fedavg_clips_noises_and_sends_the_head_too():
  algorithm = build(algorithm="fedavg")
  state, _ = run(algorithm)
  assert set(state.params) == {"backbone", "head"}
  total = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  assert algorithm.communication(state).up == total


def test_shared_frame_is_one_head_for_all_and_stays():
  algorithm = build()
  before, (after, _) = algorithm.init(jax.random.key(0)), run(algorithm, rounds=2)
  jax.tree.map(np.testing.assert_array_equal, before.heads, after.heads)


def test_release_is_relative_to_the_sensitivity_of_virtual_clients():
  """z = 0.5 on a client of two users is 0.25 under replace-one."""
  release, = build().releases
  assert release.adjacency is Adjacency.REPLACE_ONE
  assert release.event == dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
      12, 4, dp_accounting.GaussianDpEvent(0.25))


def test_correlated_noise_is_one_event_for_the_run_and_not_amplified():
  release, = build(**{"cohort.sampling": "cyclic_fixed", "cohort.min_separation": 2,
                      "privacy.aggregator": "correlated"}).releases
  assert release.covers == 4
  assert isinstance(release.event, dp_accounting.GaussianDpEvent)


def test_target_epsilon_calibrates_the_noise():
  tried = []
  config = tiny.config(**{"hparams.noise_multiplier": None, "privacy.epsilon": 5.0})
  algorithm = registry.build(config, tiny.sources(), tiny.one_device(),
                             progress=lambda z, epsilon: tried.append((z, epsilon)))
  from fedjax_face.privacy.accounting import epsilon
  release, = algorithm.releases
  event = dp_accounting.SelfComposedDpEvent(release.event, 4)
  reached = epsilon(event, config.privacy.delta, release.adjacency).pld
  assert 4.9 < reached <= 5.0
  assert tried


@pytest.mark.parametrize("overrides, message", [
    ({"privacy.epsilon": 1.0}, "exactly one of privacy.epsilon and hparams"),
    ({"hparams.noise_multiplier": None}, "exactly one of privacy.epsilon and hparams"),
    ({"privacy.epsilon": 1.0, "privacy.aggregator": "mean"}, "adds no noise"),
    ({"algorithm": "centralized"}, "noise_multiplier=0.5 cannot be had with algorithm=centralized"),
    ({"algorithm": "fedavg", "cohort.classes": "own"}, "only 'all' is accepted"),
    ({"cohort.sampling": "poisson"}, "use cohort.classes=own"),
    ({"hparams.clip_norm": -1.0}, "clip_norm=-1.0: expected a number above 0"),
    ({"hparams.noise_multiplier": -1.0}, "noise_multiplier=-1.0: expected"),
    ({"hparams.noise_multiplier": float("nan")}, "noise_multiplier=nan: expected"),
    ({"cohort.sampling": "poisson", "cohort.classes": "own", "cohort.capacity": 0},
     "cohort.capacity=0: expected a whole number, at least 1"),
    ({"cohort.sampling": "cyclic_fixed", "cohort.min_separation": 0}, "min_separation=0"),
    ({"cohort.sampling": "poisson", "cohort.classes": "own", "cohort.sampling_probability": 0.0},
     "sampling_probability=0.0"),
    ({"cohort.sampling_probability": 0.5}, "sampling_probability=0.5 has no meaning with"),
    ({"privacy.aggregator": "adaptive", "hparams.noise_multiplier": None, "privacy.epsilon": 0.1},
     "privacy.epsilon=0.1 cannot be reached"),
    ({"privacy.aggregator": "secret"}, "adaptive, clipped, correlated, gaussian, mean"),
    ({"privacy.aggregator": "correlated"}, "cohort.sampling=cyclic_fixed"),
    ({"local.stages": "alternating"}, "joint, head_first"),
    ({"model.head_init": "zeros"}, "shared_frame, per_client"),
    ({"algorithm": "fedsgd"}, "centralized, composed, dp_activations, dp_fedemb"),
    ({"model.backbone": "vit"}, "lenet"),
    ({"cohort.users_per_client": 100}, "users a round, but the training set has 12"),
])
def test_inconsistent_configs_are_refused_in_one_line(overrides, message):
  with pytest.raises(ValueError, match=message) as caught:
    build(**overrides)
  assert "\n" not in str(caught.value)


def test_adaptive_clipping_reaches_a_target_within_its_range_of_noise():
  algorithm = build(**{"privacy.aggregator": "adaptive", "privacy.count_stddev_per_client": 0.1,
                       "hparams.noise_multiplier": None, "privacy.epsilon": 1000.0})
  assert 0 < algorithm.hparams["aggregate"]["noise_multiplier"] < 2 * 0.1 * 2


def test_a_finished_run_forgets_the_noise_that_later_noise_needed():
  algorithm = build(**{"cohort.sampling": "cyclic_fixed", "cohort.min_separation": 2,
                       "privacy.aggregator": "correlated"})
  state, _ = run(algorithm)
  assert any(leaf.any() for leaf in jax.tree.leaves(state.aggregator))
  forgotten = algorithm.forget(state)
  assert not any(leaf.any() for leaf in jax.tree.leaves(forgotten.aggregator))
  jax.tree.map(np.testing.assert_array_equal, forgotten.params, state.params)


def test_every_metric_is_named_as_not_covered():
  words = {"loss": "loss", "chance_loss": "chance", "accuracy": "accuracy", "examples": "examples",
           "clients": "clients", "cosine": "cosines", "clients_not_finite": "not finite",
           "update_norm": "update norms",
           "clipped_fraction": "clipped fraction", "signal_to_noise": "signal-to-noise"}
  algorithm = build()
  _, metrics = run(algorithm)
  for name in metrics:
    assert any(words[name] in sentence for sentence in algorithm.not_covered)


def test_noise_stream_changes_nothing_but_the_noise():
  """Another noise key, the same clients: without noise the same state."""
  quiet = {"privacy.aggregator": "clipped", "hparams.noise_multiplier": None}
  (a, _), (b, _) = run(build(**quiet), noise_seed=1), run(build(**quiet), noise_seed=2)
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
  (a, _), (b, _) = run(build(), noise_seed=1), run(build(), noise_seed=2)
  assert any((x != y).any() for x, y in zip(backbone_of(a), backbone_of(b), strict=True))


def test_a_centralised_batch_holds_the_same_images_on_any_number_of_devices():
  config = tiny.config(**{"algorithm": "centralized", "hparams.noise_multiplier": None,
                          "cohort.batch_size": 4, "cohort.steps": 3})
  batches = {}
  for devices in (1, 2, 4):
    cohort = registry.build(config, tiny.sources(), types.SimpleNamespace(size=devices)).cohort(
        Draws.of(3), 5)
    assert cohort.examples.shape == cohort.labels.shape == (devices, 3, 4 // devices)
    batches[devices] = [
        [(image, label) for image, label in zip(examples.ravel(), labels.ravel(), strict=True)]
        for examples, labels in zip(cohort.examples.swapaxes(0, 1), cohort.labels.swapaxes(0, 1),
                                    strict=True)]
  assert batches[1] == batches[2] == batches[4]
