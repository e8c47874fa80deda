"""Clusters of class embeddings in a run: who gets which, what it costs, and what is refused."""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.draws import Draws
from fedjax_face.federated import aggregators, exchange
from fedjax_face.federated.prototypes import prototypes
from fedjax_face.federated.round import federated_round
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.models import registry as models
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import loop, streams
from tests.algorithms import tiny
from tests.federated import toys
from tests.flat import composed, parts, privacyface, registry

TINY = {"rounds": 4, "model.embedding_dim": 8, "model.backbone": "one_layer",
        "silos.num_silos": 3, "silos.by": "random",
        "cohort.batch_size": 4, "cohort.max_examples": 0, "exchange.clusters": 2,
        "exchange.candidates": 5, "exchange.epsilon": None, "exchange.significance": 0.0,
        "hparams.cluster_noise_multiplier": 1.0}
MECHANISMS = ("client_mean", "anchor_table", "dp_lloyd", "exponential_caps", "dplc_published",
              "kmeans", "all_rows")
PRIVATE = MECHANISMS[:4]


@pytest.fixture(autouse=True)
def one_layer(monkeypatch):
  monkeypatch.setitem(models.BACKBONES, "one_layer", tiny.OneLayer)


@functools.cache
def backbone():
  config = privacyface.base()
  config.update_from_flattened_dict(TINY)
  return parts.model(config, tiny.people(), 2).init_backbone(jax.random.key(5))


def sources(train=None):
  return tiny.sources()._replace(train=train or tiny.people(), public=tiny.people(6, seed=2))


def build(module=privacyface, train=None, start="public", **overrides):
  config = module.get_config("synthetic")
  config.update_from_flattened_dict(TINY | overrides)
  return registry.build(config, sources(train), tiny.one_device(),
                        backbone() if start == "public" else None)


def with_mechanism(name, **overrides):
  noise = 1.0 if name in PRIVATE else None
  epsilon = 2.0 if name == "dplc_published" else None
  return build(**{"exchange.mechanism": name, "hparams.cluster_noise_multiplier": noise,
                  "exchange.epsilon": epsilon} | overrides)


def started(algorithm, images=None):
  """The state before the first round."""
  looked = () if algorithm.look is None else (
      algorithm.look(tiny.people().images if images is None else images),)
  return algorithm.init(jax.random.key(0), *looked)


def run(algorithm, rounds=2, images=None, noise=100):
  step, state = jax.jit(algorithm.step), started(algorithm, images)
  data = Data(tiny.people().images if images is None else images)
  states = []
  for number in range(rounds):
    cohort = algorithm.cohort(Draws.of(number), number)
    keys = StepKeys(jax.random.key(number), jax.random.key(noise + number))
    state, metrics = step(state, data, cohort, algorithm.hparams, keys)
    states.append(state)
  return states, metrics


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b),
                                                  strict=True))


@functools.cache
def fedpe_states():
  return run(build(algorithm="fedpe"))[0]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_first_round_is_fedpe_and_later_ones_are_not(mechanism):
  plain = fedpe_states()
  states, metrics = run(with_mechanism(mechanism, **{"exchange.smallest": 1}))
  assert same(plain[0].params, states[0].params)
  np.testing.assert_array_equal(plain[0].heads.class_embeddings, states[0].heads.class_embeddings)
  assert metrics["clusters_in_force"] > 0
  assert not same(plain[1].params, states[1].params)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(states[1]))


def test_published_once_or_every_two_rounds():
  published = lambda every: [s.heads.exchanged.clusters.centres
                            for s in run(build(**{"exchange.every": every}), rounds=3)[0]]
  once = published(0)
  assert np.abs(once[0]).max() > 0 and all(np.array_equal(once[0], later) for later in once)
  second = published(2)
  assert np.array_equal(second[0], second[1]) and not np.array_equal(second[0], second[2])


def foreign_points(monkeypatch, **overrides):
  """What every silo is given after a round."""
  kept = []

  def keep(*given, **options):
    kept.append(real(*given, **options))
    return kept[-1]

  real = exchange.cluster_exchange
  monkeypatch.setattr(exchange, "cluster_exchange", keep)
  states, _ = run(build(**overrides), rounds=1)
  return [kept[0].select(states[0].heads.exchanged, jnp.int32(k))["foreign"] for k in range(3)]


def test_a_silo_is_given_all_clusters_but_its_own(monkeypatch):
  for silo, foreign in enumerate(foreign_points(monkeypatch)):
    assert foreign.vectors.shape == (6, 8)
    given = np.asarray(foreign.people).reshape(3, 2) > 0
    assert not given[silo].any() and np.delete(given, silo, axis=0).any()


def test_pooled_clusters_of_a_silo_do_not_hold_its_own_people(monkeypatch):
  """Noise tiny and one cell: the direction is that of the mean of the other silos' people."""
  pooled = {"exchange.pooled": True, "exchange.mechanism": "client_mean", "exchange.clusters": 1,
            "hparams.cluster_noise_multiplier": 1e-6}
  rows = person_rows()
  config = privacyface.get_config("synthetic")
  config.update_from_flattened_dict(TINY)
  silo = parts.clients(config).silos(tiny.people(), config.seed).silo
  of_person = np.array([silo[tiny.people().person == p][0] for p in range(12)])
  for k, foreign in enumerate(foreign_points(monkeypatch, **pooled)):
    expected = l2_normalise(jnp.asarray(rows[of_person != k].sum(axis=0)))
    np.testing.assert_allclose(foreign.vectors[0], expected, atol=1e-4)
    np.testing.assert_allclose(foreign.people, [(of_person != k).sum()], rtol=1e-3)


def embed():
  config = privacyface.base()
  config.update_from_flattened_dict(TINY)
  return parts.model(config, tiny.people(), 2).embed


def person_rows(params=None):
  """Mean unit embedding of each of the 12 people less the public mean, by a second way."""
  params = backbone() if params is None else params
  own = np.asarray(embed()(params, tiny.people().images)).reshape(12, 4, 8).mean(axis=1)
  rows = own - np.asarray(embed()(params, sources().public.images)).mean(axis=0)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def all_rows_of(**overrides):
  algorithm = with_mechanism("all_rows", **overrides)
  states, _ = run(algorithm, rounds=1)
  published = states[0].heads.exchanged.clusters.centres.reshape(-1, 8)
  return states[0], published


def test_what_is_clustered_is_one_mean_embedding_for_each_person():
  _, published = all_rows_of()
  cosines = np.asarray(published) @ person_rows().T
  np.testing.assert_allclose(np.sort(cosines.max(axis=0)), np.ones(12), atol=1e-5)
  assert len(set(cosines.argmax(axis=1))) == 12


def test_a_person_moves_its_own_row_only_given_the_backbone():
  """What makes one row one person: under the backbone of the round, rows are independent."""
  images, changed = tiny.people().images, tiny.people().images.copy()
  changed[tiny.people().person == 7] = 255 - changed[tiny.people().person == 7]
  of_people = prototypes(embed(), sources().public.images, 12)
  rows = [of_people(backbone(), x, jnp.asarray(tiny.people().person)) for x in (images, changed)]
  different = np.abs(rows[0] - rows[1]).max(axis=1) > 1e-5
  assert np.flatnonzero(different).tolist() == [7]


def test_clusters_published_later_follow_the_backbone_that_the_server_has_arrived_at():
  state, published = all_rows_of(**{"exchange.every": 1})
  cosines = np.asarray(published) @ person_rows(state.params["backbone"]).T
  np.testing.assert_allclose(cosines.max(axis=0), np.ones(12), atol=1e-5)


def test_class_embeddings_can_start_as_prototypes():
  state = started(build(algorithm="fedpe", **{"model.head_init": "prototypes"}))
  cosines = l2_normalise(state.heads.class_embeddings) @ person_rows().T
  np.testing.assert_allclose(cosines[:12].max(axis=0), np.ones(12), atol=1e-5)


def ledger_of(algorithm, rounds):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger


@pytest.mark.parametrize("every, events", [(0, 1), (1, 4), (2, 2), (3, 2)])
def test_the_ledger_counts_publications(every, events):
  algorithm = build(**{"exchange.every": every, "hparams.cluster_noise_multiplier": 3.731})
  (release,) = [r for r in algorithm.releases if r.channel == "clusters"]
  assert (release.unit, release.adjacency) == ("person", Adjacency.ADD_OR_REMOVE_ONE)
  ledger = ledger_of(algorithm, 4)
  alone = ledger.per_channel(1e-5, "person")["clusters"].pld
  composed_once = dp_accounting.GaussianDpEvent(3.731 / np.sqrt(events))
  expected = accounting.epsilon_by("pld", composed_once, 1e-5, Adjacency.ADD_OR_REMOVE_ONE)
  np.testing.assert_allclose(alone, expected, rtol=1e-3)
  if events == 1:
    np.testing.assert_allclose(alone, 1.0, atol=0.001)  # known answer
  assert np.isinf(ledger.epsilon(1e-5, "person").best)  # the backbone is averaged without noise


@pytest.mark.parametrize("every, publications", [(0, 1), (1, 4)])
@pytest.mark.parametrize("mechanism", PRIVATE)
def test_a_target_epsilon_is_met_over_all_publications(mechanism, every, publications):
  algorithm = build(**{"exchange.mechanism": mechanism, "exchange.every": every,
                       "exchange.epsilon": 1.0, "hparams.cluster_noise_multiplier": None})
  alone = ledger_of(algorithm, 4).per_channel(1e-5, "person")["clusters"]
  assert 0.98 < alone.best <= 1.0, (alone, algorithm.hparams)


@pytest.mark.parametrize("mechanism", ["dplc_published", "kmeans", "all_rows"])
def test_what_promises_nothing_is_infinite_on_the_ledger_with_the_reason(mechanism):
  (release,) = [r for r in with_mechanism(mechanism).releases if r.channel == "clusters"]
  assert is_non_private(release.event) and "no guarantee" in release.note


def test_class_embeddings_that_were_trained_together_have_no_guarantee():
  algorithm = build(**{"exchange.rows": "class_embeddings", "exchange.every": 1,
                       "hparams.cluster_noise_multiplier": None})
  (release,) = [r for r in algorithm.releases if r.channel == "clusters"]
  assert is_non_private(release.event) and "trained together" in release.note
  run(algorithm)


def test_bytes_of_a_cluster():
  """Once in four rounds: 2 clusters of 8 + 1 numbers of 4 bytes up, those of 2 silos down."""
  plain, with_clusters = build(algorithm="fedpe"), build()
  shapes = jax.eval_shape(plain.init, jax.random.key(0))
  base = plain.communication(shapes)
  more = with_clusters.communication(jax.eval_shape(with_clusters.init, jax.random.key(0)))
  assert (more.up - base.up, more.down - base.down) == (2 * 9 * 4 // 4, 2 * 2 * 9 * 4 // 4)
  pooled = build(**{"exchange.pooled": True})
  down = pooled.communication(jax.eval_shape(pooled.init, jax.random.key(0))).down
  assert down - base.down == 2 * 9 * 4 // 4


@pytest.mark.parametrize("mechanism", ["anchor_table", "exponential_caps"])
def test_the_composed_run_has_one_total_over_all_its_channels(mechanism):
  algorithm = build(composed, **{"exchange.mechanism": mechanism,
                                 "privacy.epsilon": 8.0, "exchange.epsilon": 2.0,
                                 "hparams.cluster_noise_multiplier": None})
  assert sorted(r.channel for r in algorithm.releases) == ["backbone", "clusters"]
  ledger = ledger_of(algorithm, 4)
  channels = ledger.per_channel(1e-5, "person")
  total = ledger.epsilon(1e-5, "person").best
  assert 7.8 < total <= 8.0
  assert 1.98 < channels["clusters"].best <= 2.0 and channels["backbone"].best < 8.0
  (backbone_release,) = [r for r in algorithm.releases if r.channel == "backbone"]
  z = algorithm.hparams["aggregate"]["noise_multiplier"]
  np.testing.assert_allclose(backbone_release.event.noise_multiplier, z / 2)  # 2C: several people
  forgotten = Ledger()
  forgotten.record(backbone_release, 4)
  assert forgotten.epsilon(1e-5, "person").best < total - 0.1


def test_the_composed_correction_waits_for_the_first_clusters():
  algorithm = build(composed, **{"privacy.epsilon": None, "hparams.noise_multiplier": 1.0})
  assert run(algorithm)[1]["correction_norm"] > 0
  # Nothing is published before the end of the first round.
  assert run(algorithm, rounds=1)[1]["correction_norm"] == 0


def rows_of_silo(algorithm, state, silo):
  rows = algorithm.class_embeddings(state)
  return np.asarray(rows.class_embeddings)[np.asarray(rows.owner) == silo]


def one_more_round(algorithm, state, images, seed=7):
  step = jax.jit(algorithm.step)
  cohort = algorithm.cohort(Draws.of(seed), seed)
  keys = StepKeys(jax.random.key(seed), jax.random.key(seed + 1))
  return step(state, Data(images), cohort, algorithm.hparams, keys)[0]


def test_given_what_was_released_a_silo_moves_the_backbone_by_its_own_update_alone():
  """Two worlds with the same releases and other people in silo 1: 2C / K at most, and class
  embeddings of the other silos the same, bit for bit.
  """
  algorithm = build(composed, **{"privacy.epsilon": None, "hparams.noise_multiplier": 1.0,
                                 "hparams.server_learning_rate": 1.0, "exchange.significance": 0.0,
                                 "hparams.correction_strength": 1e3})
  before = run(algorithm, rounds=1)[0][0]
  owner = np.asarray(algorithm.class_embeddings(before).owner)
  table = before.heads.class_embeddings
  other = before._replace(heads=before.heads._replace(class_embeddings=jnp.where(
      (owner == 1)[:, None], -3 * table[::-1], table)))
  people = tiny.people()
  config = composed.get_config()
  config.update_from_flattened_dict(TINY)
  silo = parts.clients(config).silos(people, config.seed).silo
  images = np.where((silo == 1)[:, None, None, None], 255 - people.images, people.images)
  a = one_more_round(algorithm, before, people.images)
  b = one_more_round(algorithm, other, images)
  moved = optax.tree.norm(jax.tree.map(jnp.subtract, a.params, b.params))
  most = 2 * algorithm.hparams["aggregate"]["clip_norm"] / 3
  assert 0.2 * most < moved <= most * (1 + 1e-4)
  for k in (0, 2):
    np.testing.assert_array_equal(rows_of_silo(algorithm, a, k), rows_of_silo(algorithm, b, k))
  assert not np.allclose(rows_of_silo(algorithm, a, 1), rows_of_silo(algorithm, b, 1))


def test_a_silo_of_one_person_may_be_joined_by_another():
  algorithm = build(composed, **{
      "silos.num_silos": 12, "exchange.mechanism": "client_mean", "exchange.clusters": 1,
      "privacy.epsilon": None, "hparams.noise_multiplier": 1.0})
  assert algorithm.releases[0].event.noise_multiplier == 0.5


def test_every_use_of_a_round_has_its_own_noise_key():
  def release(sums, state, hparams, key):
    return sums.update, state, {"aggregator_key": jax.random.key_data(key)}

  def finish(name):
    return lambda kept, entries, clients, ending: (
        kept, {f"{name}_key": jax.random.key_data(ending.key)})

  clip = UpdateClip(2, Adjacency.ADD_OR_REMOVE_ONE)
  aggregator = aggregators.clipped_mean(clip, 1)._replace(release=release)
  head = toys.no_head()
  update = toys.given_updates([[0.0]])
  round_ = federated_round(
      client_update=update._replace(memory=update.memory._replace(finish=finish("clients"))),
      heads=head._replace(memory=head.memory._replace(finish=finish("heads"))),
      aggregator=aggregator, server_optimizer=lambda hparams: optax.sgd(1.0),
      hparams={"aggregate": {"clip_norm": 1.0}}, mesh=tiny.one_device(), clients_per_chunk=1)
  state = round_.init(jax.random.key(0), jnp.zeros(1))
  root = jax.random.key(3)
  _, metrics = round_.step(state, Data(jnp.zeros((1, 1, 1, 1), jnp.uint8)), toys.cohort_of([0]),
                           {"aggregate": {"clip_norm": 1.0}}, StepKeys(jax.random.key(1), root))
  keys = {tuple(np.asarray(metrics[f"{name}_key"])) for name in ("aggregator", "heads", "clients")}
  assert len(keys | {tuple(np.asarray(jax.random.key_data(root)))}) == 4


@pytest.mark.parametrize("overrides, words", [
    ({"exchange.mechanism": "lloyd"}, "exchange.mechanism 'lloyd' is not one of all_rows"),
    ({"exchange.loss": "v4"}, "exchange.loss='v4': expected one of v0, v1, v2, v3"),
    ({"exchange.rows": "images"}, "exchange.rows='images': expected one of"),
    ({"exchange.every": -1}, "exchange.every=-1: expected"),
    ({"exchange.clusters": 6}, "exchange.clusters=6: expected 1 to 5 .people of the largest"),
    ({"exchange.epsilon": 0.0, "hparams.cluster_noise_multiplier": None},
     "exchange.epsilon=0.0: expected a number above 0"),
    ({"exchange.epsilon": -1.0, "hparams.cluster_noise_multiplier": None},
     "exchange.epsilon=-1.0: expected a number above 0"),
    ({"exchange.epsilon": 1.0}, "exactly one of exchange.epsilon"),
    ({"hparams.cluster_noise_multiplier": None}, "exactly one of exchange.epsilon"),
    ({"hparams.cluster_noise_multiplier": 0.0}, "cluster_noise_multiplier=0.0: expected"),
    ({"exchange.mechanism": "kmeans"}, "cluster_noise_multiplier=1.0 cannot be had with"),
    ({"exchange.rows": "class_embeddings"}, "exchange.rows=class_embeddings with every=0"),
    ({"exchange.pooled": True, "exchange.mechanism": "exponential_caps"}, "not a sum over people"),
    ({"exchange.mechanism": "exponential_caps", "exchange.angle": 1.6}, "exchange.angle=1.6: exp"),
    ({"exchange.mechanism": "exponential_caps", "exchange.angle": 0.0}, "exchange.angle=0.0: exp"),
    ({"hparams.cap_angle": 0.0}, "hparams.cap_angle=0.0: expected a number in"),
    ({"hparams.cap_angle": 1.6}, "hparams.cap_angle=1.6: expected a number in"),
    ({"hparams.hinge_weight": -1.0}, "hparams.hinge_weight=-1.0: expected"),
    ({"hparams.foreign_weight": 0.0}, "hparams.foreign_weight=0.0: expected"),
    ({"hparams.anchor_cosine": float("nan")}, "hparams.anchor_cosine=nan: expected a number in"),
    ({"exchange.every": True}, "exchange.every=True: expected"),
    ({"exchange.iterations": 0, "exchange.mechanism": "dp_lloyd"},
     "exchange.iterations=0: expected"),
    ({"exchange.public_iterations": -1}, "exchange.public_iterations=-1: expected"),
    ({"exchange.count_weight": 0.0, "exchange.loss": "v3"}, "exchange.loss=v3 weighs clusters"),
    ({"exchange.mechanism": "dplc_published", "hparams.cluster_noise_multiplier": None,
      "exchange.loss": "v0"}, "exchange.epsilon=None: dplc_published sets its noise"),
    ({"model.head": "linear"}, "model.head: the consensus-aware loss"),
    ({"pretrain.public": False}, "fedjax_face.pretrain"),
    ({"exchange.projection": 9}, "dims must be in 1..6"),
    ({"privacy.epsilon": 8.0}, "privacy.epsilon=8.0 cannot be had with"),
])
def test_what_is_refused(overrides, words):
  with pytest.raises(ValueError, match=words):
    build(**overrides)


def test_without_a_public_backbone_nothing_can_be_published():
  with pytest.raises(ValueError, match="fedjax_face.pretrain"):
    build(start="random")


def test_a_total_epsilon_over_a_channel_without_guarantee_is_refused():
  with pytest.raises(ValueError, match="channel 'clusters' has no guarantee"):
    build(composed, **{"exchange.mechanism": "kmeans", "hparams.cluster_noise_multiplier": None})


def test_clusters_that_take_the_whole_total_are_refused():
  with pytest.raises(ValueError, match="channel 'clusters' alone takes"):
    build(composed, **{"privacy.epsilon": 2.0, "exchange.epsilon": 3.0,
                       "hparams.cluster_noise_multiplier": None})


def test_pooled_clusters_cannot_be_anchors_of_the_correction():
  with pytest.raises(ValueError, match="exchange.pooled"):
    build(composed, **{"exchange.pooled": True, "privacy.epsilon": None,
                       "hparams.noise_multiplier": 1.0})


def test_publishing_from_the_current_backbone_needs_all_images_on_the_device():
  algorithm = build(**{"exchange.every": 1})
  with pytest.raises(ValueError, match="compute.resident=true"):
    next(loop.train(algorithm, tiny.people().images, rounds=1, seed=0, resident=False,
                    noise_root=streams.public_root(0),
                    cohort_root=streams.public_root(0), mesh=tiny.one_device()))


def test_a_run_that_is_interrupted_between_publications_ends_the_same():
  algorithm = build(composed, **{"exchange.every": 2, "privacy.epsilon": None,
                                 "hparams.noise_multiplier": 1.0})
  images, keys = tiny.people().images, streams.public_root(1)

  def trained(rounds, start=0, state=None):
    *_, last = loop.train(algorithm, images, rounds=rounds, start=start, state=state, seed=0,
                          noise_root=keys, cohort_root=keys, mesh=tiny.one_device(),
                          rounds_per_dispatch=4)
    return jax.tree.map(np.asarray, last.state)

  whole, part = trained(4), trained(2)
  jax.tree.map(np.testing.assert_array_equal, whole, trained(4, start=2, state=part))
  assert whole.heads.exchanged.round == 4
