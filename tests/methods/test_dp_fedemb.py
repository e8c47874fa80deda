"""DP-FedEmb and its baselines: every choice runs a step; what is sent, kept and claimed is what it
says.
"""

import math
import types

import dp_accounting
import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.draws import Draws
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.method import Budget
from fedjax_face.method.algorithm import Communication
from fedjax_face.privacy.accounting import epsilon
from fedjax_face.privacy.adjacency import Adjacency
from tests.methods import tiny
from tests.methods.tiny import bound, dp_fedemb, run

CLIPPED = {"aggregate": ff.clipped(clip_norm=1.0)}
CORRELATED = {"clients": tiny.cyclic(2),
              "aggregate": ff.correlated(clip_norm=1.0, noise_multiplier=0.5)}


def adaptive(**changes):
  return ff.adaptive(**{"clip_norm": 1.0, "noise_multiplier": 0.5} | changes)


def with_sampling(sampling):
  return ff.replace(tiny.CLIENTS, sampling=sampling)


def backbone_of(state):
  return jax.tree.leaves(state.params["backbone"])


@pytest.mark.parametrize("method", [
    dp_fedemb(backbone=ff.lenet(8)),
    dp_fedemb(local=ff.replace(tiny.LOCAL, stages="head_first", optimizer="sgd")),
    dp_fedemb(start_head="per_client", classes="own",
              local=ff.replace(tiny.LOCAL, optimizer="adam")),
    dp_fedemb(head=ff.normalised(), local=ff.replace(tiny.LOCAL, flip=True)),
    dp_fedemb(aggregate=adaptive(count_stddev_per_client=0.5)),
    dp_fedemb(**CLIPPED),
    dp_fedemb(aggregate=ff.mean()),
    dp_fedemb(classes="own", clients=with_sampling(ff.samplings.poisson(capacity=4))),
    dp_fedemb(**CORRELATED),
    tiny.fedavg(),
    tiny.centralized(),
], ids=["lenet", "head_first", "per_client", "normalised", "adaptive", "clipped", "mean", "poisson",
        "correlated", "fedavg", "centralized"])
def test_every_choice_trains_and_embeds(method):
  algorithm = bound(method)
  state, metrics = run(algorithm)
  before = tiny.start(algorithm)
  assert all(np.isfinite(value) for name, value in metrics.items() if name != "signal_to_noise")
  assert any((a != b).any() for a, b in zip(backbone_of(state), backbone_of(before), strict=True))
  embedded = algorithm.embed(state, tiny.people().images[:3])
  np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
  assert algorithm.releases and algorithm.not_covered
  assert set(metrics) == set(algorithm.metrics)


def test_dp_fedemb_keeps_and_sends_no_head():
  algorithm = bound(dp_fedemb())
  state, _ = run(algorithm)
  assert set(state.params) == {"backbone"}
  size = sum(leaf.nbytes for leaf in backbone_of(state))
  assert algorithm.communication(state) == Communication.equal(size, size)


def test_fedavg_clips_noises_and_sends_the_head_too():
  algorithm = bound(tiny.fedavg())
  state, _ = run(algorithm)
  assert set(state.params) == {"backbone", "head"}
  total = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  assert algorithm.communication(state).up == total


def test_shared_frame_is_one_head_for_all_and_stays():
  algorithm = bound(dp_fedemb())
  before, (after, _) = tiny.start(algorithm), run(algorithm, rounds=2)
  jax.tree.map(np.testing.assert_array_equal, before.heads, after.heads)


def test_release_is_relative_to_the_sensitivity_of_virtual_clients():
  """z = 0.5 on a client of two users is 0.25 under replace-one."""
  release, = bound(dp_fedemb()).releases
  assert release.adjacency is Adjacency.REPLACE_ONE
  assert release.event == dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
      12, 4, dp_accounting.GaussianDpEvent(0.25))


def test_correlated_noise_is_one_event_for_the_run_and_not_amplified():
  release, = bound(dp_fedemb(**CORRELATED)).releases
  assert release.covers == 4
  assert isinstance(release.event, dp_accounting.GaussianDpEvent)


def test_target_epsilon_calibrates_the_noise():
  tried = []
  algorithm = bound(dp_fedemb(aggregate=ff.gaussian(clip_norm=1.0)), privacy=Budget(5.0, 1e-5),
                    progress=lambda z, epsilon: tried.append((z, epsilon)))
  release, = algorithm.releases
  event = dp_accounting.SelfComposedDpEvent(release.event, 4)
  reached = epsilon(event, 1e-5, release.adjacency).pld
  assert 4.9 < reached <= 5.0
  assert tried


@pytest.mark.parametrize("method, target, words", [
    (dp_fedemb(), 1.0, "exactly one of privacy.epsilon and method.aggregate.noise_multiplier"),
    (dp_fedemb(aggregate=ff.gaussian()), None, "exactly one of privacy.epsilon and method.aggr"),
    (dp_fedemb(aggregate=ff.mean()), 1.0, "privacy.epsilon=1.0 cannot be had with .*adds no noise"),
    (tiny.centralized(), 1.0, "privacy.epsilon=1.0 cannot be had with method=centralized, which"),
    (dp_fedemb(aggregate=adaptive(noise_multiplier=None)), 0.1,
     "privacy.epsilon=0.1 cannot be reached"),
    (dp_fedemb(aggregate=ff.gaussian(clip_norm=np.inf, noise_multiplier=1.0)), None,
     "clip_norm=inf: the noise is scaled to it"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_budget_that_does_not_fit_is_refused_in_one_line(method, target, words):
  with pytest.raises(ValueError, match=words) as caught:
    bound(method, privacy=Budget(target))
  assert "\n" not in str(caught.value)


def changed(**fields):
  """`gaussian` with other words about itself, as an aggregate of one's own may have."""
  whole = options.made(ff.gaussian(clip_norm=1.0))
  return Aggregate(lambda who, rounds: whole.bind(who, rounds)._replace(**fields))


@pytest.mark.parametrize("fields, words", [
    ({"sensitivity": math.inf}, "claims a guarantee and states sensitivity=inf"),
    ({"sensitivity": 4.0}, "of noise_multiplier=1 its event claims 0.5; expected at most 0.25"),
    ({"adds_noise": False}, "claims a guarantee and adds no noise"),
], ids=["no sensitivity", "another sensitivity", "no noise"])
def test_an_aggregate_that_claims_more_than_its_sensitivity_gives_is_refused(fields, words):
  with pytest.raises(ValueError, match=rf"^method.aggregate \(.*\): .*{words}"):
    bound(dp_fedemb(aggregate=changed(**fields)), privacy=Budget(8.0, 1e-5))


def test_adaptive_clipping_reaches_a_target_within_its_range_of_noise():
  algorithm = bound(dp_fedemb(aggregate=adaptive(
      noise_multiplier=None, count_stddev_per_client=0.1)), privacy=Budget(1000.0))
  assert 0 < algorithm.hparams["aggregate"]["noise_multiplier"] < 2 * 0.1 * 2


def test_a_finished_run_forgets_the_noise_that_later_noise_needed():
  algorithm = bound(dp_fedemb(**CORRELATED))
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
  algorithm = bound(dp_fedemb())
  _, metrics = run(algorithm)
  for name in metrics:
    assert any(words[name] in sentence for sentence in algorithm.not_covered)


def test_noise_stream_changes_nothing_but_the_noise():
  """Another noise key, the same clients: without noise the same state."""
  quiet, noised = bound(dp_fedemb(**CLIPPED)), bound(dp_fedemb())
  (a, _), (b, _) = run(quiet, noise=1), run(quiet, noise=2)
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
  (a, _), (b, _) = run(noised, noise=1), run(noised, noise=2)
  assert any((x != y).any() for x, y in zip(backbone_of(a), backbone_of(b), strict=True))


def test_a_centralised_batch_holds_the_same_images_on_any_number_of_devices():
  batches = {}
  for devices in (1, 2, 4):
    cohort = bound(tiny.centralized(batch_size=4, steps=3),
                   mesh=types.SimpleNamespace(size=devices)).cohort(Draws.of(3), 5)
    assert cohort.examples.shape == cohort.labels.shape == (devices, 3, 4 // devices)
    batches[devices] = [
        [(image, label) for image, label in zip(examples.ravel(), labels.ravel(), strict=True)]
        for examples, labels in zip(cohort.examples.swapaxes(0, 1), cohort.labels.swapaxes(0, 1),
                                    strict=True)]
  assert batches[1] == batches[2] == batches[4]


def test_a_head_of_one_class_is_refused_as_nothing_would_be_learned():
  alone = ff.replace(tiny.CLIENTS, users_per_client=1)
  with pytest.raises(ValueError, match="single class has no gradient, and every client's head"):
    bound(dp_fedemb(classes="own", clients=alone))
  bound(dp_fedemb(classes="all", clients=alone))
