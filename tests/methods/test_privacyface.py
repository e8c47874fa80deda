"""Clusters of class embeddings in a run: who gets which, what it costs, and what is refused."""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.federated import exchange
from fedjax_face.federated.mechanisms import Surroundings
from fedjax_face.federated.prototypes import prototypes
from fedjax_face.method import Budget
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import loop, streams
from tests.methods import tiny
from tests.methods.tiny_clusters import (
  MECHANISMS,
  PRIVATE,
  backbone,
  bound,
  bound_anew,
  clusters,
  embed,
  fedpe,
  pooled,
  privacyface,
  public,
)


def with_clusters(mechanism="anchor_table", **changes):
  return bound(privacyface(exchange=clusters(mechanism, **changes)))


def run(algorithm, rounds=2, **given):
  """The states after each round, and the metrics of the last."""
  states, metrics = zip(*tiny.steps(algorithm, rounds, **given), strict=True)
  return states, metrics[-1]


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b),
                                                  strict=True))


@functools.cache
def fedpe_states():
  return run(bound(fedpe()))[0]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_first_round_is_fedpe_and_later_ones_are_not(mechanism):
  plain = fedpe_states()
  states, metrics = run(with_clusters(mechanism))
  assert same(plain[0].params, states[0].params)
  np.testing.assert_array_equal(plain[0].heads.class_embeddings, states[0].heads.class_embeddings)
  assert metrics["clusters_in_force"] > 0
  assert not same(plain[1].params, states[1].params)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(states[1]))


def test_published_once_or_every_two_rounds():
  published = lambda every: [state.heads.exchanged.clusters.centres
                             for state in run(with_clusters(every=every), rounds=3)[0]]
  once = published(0)
  assert np.abs(once[0]).max() > 0 and all(np.array_equal(once[0], later) for later in once)
  second = published(2)
  assert np.array_equal(second[0], second[1]) and not np.array_equal(second[0], second[2])


def foreign_points(monkeypatch, asked):
  """What every silo is given after a round."""
  kept = []

  def keep(*given, **options):
    kept.append(real(*given, **options))
    return kept[-1]

  real = exchange.cluster_exchange
  monkeypatch.setattr(exchange, "cluster_exchange", keep)
  (state,), _ = run(bound_anew(privacyface(exchange=asked)), rounds=1)
  return [kept[0].select(state.heads.exchanged, jnp.int32(k))["foreign"] for k in range(3)]


def test_a_silo_is_given_all_clusters_but_its_own(monkeypatch):
  for silo, foreign in enumerate(foreign_points(monkeypatch, clusters())):
    assert foreign.vectors.shape == (6, 8)
    given = np.asarray(foreign.people).reshape(3, 2) > 0
    assert not given[silo].any() and np.delete(given, silo, axis=0).any()


def test_pooled_clusters_of_a_silo_do_not_hold_its_own_people(monkeypatch):
  """Noise tiny and one cell: the direction is that of the mean of the other silos' people."""
  asked = clusters("client_mean", noise_multiplier=1e-6)
  asked = ff.replace(asked, mechanism=pooled("client_mean"))
  rows, silo = person_rows(), tiny.silos().silos(tiny.people(), 0).silo
  of_person = np.array([silo[tiny.people().person == p][0] for p in range(12)])
  for k, foreign in enumerate(foreign_points(monkeypatch, asked)):
    expected = l2_normalise(jnp.asarray(rows[of_person != k].sum(axis=0)))
    np.testing.assert_allclose(foreign.vectors[0], expected, atol=1e-4)
    np.testing.assert_allclose(foreign.people, [(of_person != k).sum()], rtol=1e-3)


def person_rows(params=None):
  """Mean unit embedding of each of the 12 people less the public mean, by a second way."""
  params = backbone() if params is None else params
  own = np.asarray(embed(params, tiny.people().images)).reshape(12, 4, 8).mean(axis=1)
  rows = own - np.asarray(embed(params, public().images)).mean(axis=0)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def all_rows_of(**changes):
  (state,), _ = run(with_clusters("all_rows", **changes), rounds=1)
  return state, state.heads.exchanged.clusters.centres.reshape(-1, 8)


def test_what_is_clustered_is_one_mean_embedding_for_each_person():
  _, published = all_rows_of()
  cosines = np.asarray(published) @ person_rows().T
  np.testing.assert_allclose(np.sort(cosines.max(axis=0)), np.ones(12), atol=1e-5)
  assert len(set(cosines.argmax(axis=1))) == 12


def test_a_person_moves_its_own_row_only_given_the_backbone():
  """What makes one row one person: under the backbone of the round, rows are independent."""
  images, changed = tiny.people().images, tiny.people().images.copy()
  changed[tiny.people().person == 7] = 255 - changed[tiny.people().person == 7]
  of_people = prototypes(embed, public().images, 12)
  rows = [of_people(backbone(), x, jnp.asarray(tiny.people().person)) for x in (images, changed)]
  different = np.abs(rows[0] - rows[1]).max(axis=1) > 1e-5
  assert np.flatnonzero(different).tolist() == [7]


def test_clusters_published_later_follow_the_backbone_that_the_server_has_arrived_at():
  state, published = all_rows_of(every=1)
  cosines = np.asarray(published) @ person_rows(state.params["backbone"]).T
  np.testing.assert_allclose(cosines.max(axis=0), np.ones(12), atol=1e-5)


def test_class_embeddings_can_start_as_prototypes():
  state = tiny.start(bound(fedpe()))
  cosines = l2_normalise(state.heads.class_embeddings) @ person_rows().T
  np.testing.assert_allclose(cosines[:12].max(axis=0), np.ones(12), atol=1e-5)


def ledger_of(algorithm, rounds):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger


def cluster_release(algorithm):
  (release,) = [r for r in algorithm.releases if r.channel == "clusters"]
  return release


@pytest.mark.parametrize("every, events", [(0, 1), (1, 4), (2, 2), (3, 2)])
def test_the_ledger_counts_publications(every, events):
  algorithm = with_clusters(every=every, noise_multiplier=3.731)
  release = cluster_release(algorithm)
  assert (release.unit, release.adjacency) == ("person", Adjacency.ADD_OR_REMOVE_ONE)
  ledger = ledger_of(algorithm, 4)
  alone = ledger.per_channel(1e-5, "person")["clusters"].pld
  composed_once = dp_accounting.GaussianDpEvent(3.731 / np.sqrt(events))
  expected = accounting.epsilon_by("pld", composed_once, 1e-5, Adjacency.ADD_OR_REMOVE_ONE)
  np.testing.assert_allclose(alone, expected, rtol=1e-3)
  if events == 1:
    np.testing.assert_allclose(alone, 1.0, atol=0.001)  # known answer
  assert np.isinf(ledger.epsilon(1e-5, "person").best)  # the backbone is averaged without noise


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("mechanism", PRIVATE)
def test_a_target_epsilon_is_met_over_all_publications(mechanism, every):
  algorithm = with_clusters(mechanism, every=every, epsilon=1.0, noise_multiplier=None)
  alone = ledger_of(algorithm, 4).per_channel(1e-5, "person")["clusters"]
  assert 0.98 < alone.best <= 1.0, (alone, algorithm.hparams)


@pytest.mark.parametrize("mechanism", ["dplc_published", "kmeans", "all_rows"])
def test_what_promises_nothing_is_infinite_on_the_ledger_with_the_reason(mechanism):
  release = cluster_release(with_clusters(mechanism))
  assert is_non_private(release.event) and "no guarantee" in release.note


def test_class_embeddings_that_were_trained_together_have_no_guarantee():
  algorithm = with_clusters(rows="class_embeddings", every=1, noise_multiplier=None)
  release = cluster_release(algorithm)
  assert is_non_private(release.event) and "trained together" in release.note
  run(algorithm)


def test_bytes_of_a_cluster():
  """Once in four rounds: 2 clusters of 8 + 1 numbers of 4 bytes up, those of 2 silos down."""
  moved = lambda algorithm: algorithm.communication(
      jax.eval_shape(algorithm.init, jax.random.key(0)))
  base, more = moved(bound(fedpe())), moved(with_clusters())
  assert (more.up - base.up, more.down - base.down) == (2 * 9 * 4 // 4, 2 * 2 * 9 * 4 // 4)
  down = moved(bound(privacyface(exchange=clusters(mechanism=pooled())))).down
  assert down - base.down == 2 * 9 * 4 // 4


@pytest.mark.parametrize("make, words", [
    (lambda: ff.consensus_aware(form="v4"), "form='v4': expected one of v0, v1, v2, v3"),
    (lambda: ff.consensus_aware(cap_angle=0.0), "cap_angle=0.0: expected a number in"),
    (lambda: ff.consensus_aware(cap_angle=1.6), "cap_angle=1.6: expected a number in"),
    (lambda: ff.consensus_aware(hinge_weight=-1.0), "hinge_weight=-1.0: expected a number, at le"),
    (lambda: ff.consensus_aware(weight=0.0), "weight=0.0: expected a number above 0"),
    (lambda: clusters(rows="images"), "rows='images': expected one of"),
    (lambda: clusters(every=-1), "every=-1: expected a whole number, at least 0"),
    (lambda: clusters(every=True), "every=True: expected a whole number"),
    (lambda: clusters(epsilon=0.0, noise_multiplier=None), "epsilon=0.0: expected a number above"),
    (lambda: clusters(epsilon=-1.0, noise_multiplier=None), "epsilon=-1.0: expected a number ab"),
    (lambda: clusters(epsilon=1.0), "epsilon=1.0 beside noise_multiplier=1.0: give one"),
    (lambda: clusters(noise_multiplier=0.0), "noise_multiplier=0.0: expected a number above 0"),
    (lambda: clusters(anchor_cosine=float("nan")), "anchor_cosine=nan: expected a number in"),
    (lambda: clusters(public_iterations=-1), "public_iterations=-1: expected"),
    (lambda: pooled("exponential_caps"), "exponential_caps takes no pooled"),
    (lambda: ff.mechanisms.exponential_caps(angle=1.6), "angle=1.6: expected a number in"),
    (lambda: ff.mechanisms.exponential_caps(angle=0.0), "angle=0.0: expected a number in"),
    (lambda: ff.mechanisms.dp_lloyd(iterations=0), "iterations=0: expected a whole number in"),
])
def test_what_is_refused_when_it_is_made(make, words):
  with pytest.raises(ff.OptionError, match=words):
    make()


@pytest.mark.parametrize("asked, words", [
    (clusters(mechanism=ff.mechanisms.anchor_table(clusters=6)),
     "mechanism.clusters=6: expected 1 to 5 .people of the largest"),
    (clusters(noise_multiplier=None), "exactly one of method.exchange.epsilon"),
    (clusters("kmeans", noise_multiplier=1.0),
     "exchange.noise_multiplier=1.0: this mechanism, on rows=prototypes, does not take"),
    (clusters(rows="class_embeddings", every=1),
     "exchange.noise_multiplier=1.0: this mechanism, on rows=class_embeddings, does not take"),
    (clusters("dplc_published", epsilon=None), "exactly one of method.exchange.epsilon"),
    (clusters(projection=9), "exchange.projection: 9 public directions, expected at most 8"),
    (clusters(mechanism=ff.mechanisms.exponential_caps(candidates=7, clusters=2)),
     "exchange.mechanism: 7 public directions, expected at most 6 .public people"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_clusters_that_cannot_be_had_of_these_people_are_refused_before_the_start_trains(
    asked, words):
  shapes = jax.eval_shape(lambda params: params, backbone())
  with pytest.raises(ValueError, match=words):
    bound_anew(privacyface(exchange=asked), start=shapes)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_takes_a_noise_multiplier_where_its_noise_follows_one(name):
  made = options.made(MECHANISMS[name])
  bound = made.bind(Surroundings(lambda number: np.eye(number, 6), 2.0, 1e-5, 1))
  assert (len(made.noise) == 2) == bound.adds_noise == (name in PRIVATE)


@pytest.mark.parametrize("setting", [{"start": None}, {"start_is_public": False}], ids=str)
def test_without_a_public_backbone_nothing_can_be_published(setting):
  with pytest.raises(ValueError, match="fedjax_face.pretrain"):
    bound_anew(privacyface(), **setting)


def test_a_total_epsilon_is_refused_where_the_backbone_is_averaged_without_noise():
  with pytest.raises(ValueError, match="privacy.epsilon=8.0 cannot be had with"):
    bound_anew(privacyface(), privacy=Budget(8.0, 1e-5))


def test_publishing_from_the_current_backbone_needs_all_images_on_the_device():
  with pytest.raises(ValueError, match="compute.resident=true"):
    next(loop.train(with_clusters(every=1), tiny.people().images, rounds=1, seed=0, resident=False,
                    noise_root=streams.public_root(0),
                    cohort_root=streams.public_root(0), mesh=tiny.one_device()))
