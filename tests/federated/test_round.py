"""One round: clip and mean by hand, NaN, empty slots, chunks, noise on an empty round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_face.federated import aggregators
from fedjax_face.federated.client import ClientResult, Totals, forgetful
from fedjax_face.federated.round import check_divides, federated_round
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.privacy import noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from tests.federated import toys

UPDATES = [(3, 4), (0.3, 0.4), (0, 0), (-6, 8)]
HPARAMS = {"aggregate": {"clip_norm": 1.0, "noise_multiplier": 0.0},
           "server": {"learning_rate": 1.0}}


def with_aggregate(**values):
  return HPARAMS | {"aggregate": HPARAMS["aggregate"] | values}


def make_round(updates, aggregator, hparams=HPARAMS, chunk=1, mesh=None):
  return federated_round(
      client_update=toys.given_updates(updates), heads=toys.no_head(), aggregator=aggregator,
      server_optimizer=lambda h: optax.sgd(h["learning_rate"]), hparams=hparams,
      mesh=mesh or toys.one_device(), clients_per_chunk=chunk)


def gaussian_mean(clients, users_per_client=1):
  clip = UpdateClip(users_per_client, Adjacency.ADD_OR_REMOVE_ONE)
  return aggregators.noised_mean(clip, clients, noise.gaussian())


def run(round_, cohort, hparams=HPARAMS, seed=0, size=2):
  state = round_.init(jax.random.key(0), jnp.zeros(size))
  data = Data(jnp.zeros((8, 1, 1, 1), jnp.uint8))
  keys = StepKeys(jax.random.key(seed), jax.random.key(seed + 1))
  return jax.jit(round_.step)(state, data, cohort, hparams, keys)


@pytest.mark.parametrize("clients, expected", [(4, (0.075, 0.5)), (8, (0.0375, 0.25))])
def test_clip_and_mean_by_hand(clients, expected):
  state, metrics = run(make_round(UPDATES, gaussian_mean(clients)), toys.cohort_of([0, 1, 2, 3]))
  np.testing.assert_allclose(-state.params["backbone"], expected, rtol=1e-6)
  np.testing.assert_allclose(metrics["clipped_fraction"], 0.5)
  np.testing.assert_allclose(metrics["update_norm"], (5 + 0.5 + 0 + 10) / 4, rtol=1e-6)


@pytest.mark.parametrize("chunk", [2, 4])
def test_vectorised_chunks_equal_one_after_another(chunk):
  one, _ = run(make_round(UPDATES, gaussian_mean(4)), toys.cohort_of([0, 1, 2, 3]))
  many, _ = run(make_round(UPDATES, gaussian_mean(4), chunk=chunk), toys.cohort_of([0, 1, 2, 3]))
  chex.assert_trees_all_close(one, many, rtol=1e-6)


def test_chunk_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="clients_per_chunk=3 must divide the 4 clients"):
    run(make_round(UPDATES, gaussian_mean(4), chunk=3), toys.cohort_of([0, 1, 2, 3]))


def test_order_of_clients_does_not_matter():
  forward, _ = run(make_round(UPDATES, gaussian_mean(4)), toys.cohort_of([0, 1, 2, 3]))
  shuffled, _ = run(make_round(UPDATES, gaussian_mean(4)), toys.cohort_of([2, 0, 3, 1]))
  chex.assert_trees_all_close(forward.params, shuffled.params, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_update_that_is_not_finite_counts_as_zero_and_is_reported(bad):
  updates = [(3, 4), (bad, 1.0), (0.3, 0.4), (0, 0)]
  state, metrics = run(make_round(updates, gaussian_mean(4)), toys.cohort_of([0, 1, 2, 3]))
  np.testing.assert_allclose(-state.params["backbone"], [0.9 / 4, 1.2 / 4], rtol=1e-6)
  assert metrics["clients_not_finite"] == 1
  np.testing.assert_allclose(metrics["clipped_fraction"], 1 / 3, rtol=1e-6)
  np.testing.assert_allclose(metrics["update_norm"], (5 + 0.5 + 0) / 3, rtol=1e-6)


def test_loss_of_a_round_without_a_finite_update_is_not_a_number():
  _, metrics = run(make_round([(np.nan, 1.0)] * 2, gaussian_mean(2)), toys.cohort_of([0, 1]))
  assert np.isnan(metrics.pop("loss")) and metrics["clients_not_finite"] == metrics["clients"] == 2
  assert all(np.isfinite(value) for value in metrics.values())
  assert metrics["clipped_fraction"] == metrics["update_norm"] == metrics["signal_to_noise"] == 0


@pytest.mark.parametrize("aggregator", [gaussian_mean(2), aggregators.weighted_mean()])
def test_an_empty_round_measures_nothing(aggregator):
  _, metrics = run(make_round(UPDATES, aggregator), toys.cohort_of([0, 1], clients=[-1, -1]))
  assert all(value == 0 for value in metrics.values())


def test_an_aggregator_that_never_clips_has_clipped_nothing():
  updates = [(3, 4), (np.inf, 1.0)]
  _, metrics = run(make_round(updates, aggregators.weighted_mean()), toys.cohort_of([0, 1]))
  assert metrics["clipped_fraction"] == 0 and metrics["update_norm"] == 5


def test_chance_is_the_logarithm_of_the_classes_weighed_like_the_loss():
  """One example in a head of 2 classes, three in one of 8."""
  def count(params, images, batches, hparams, key):
    examples = 1.0 * batches.mask.sum()
    return ClientResult(params, Totals(examples, examples, examples, examples))

  cohort = toys.cohort_of([0, 1])
  longer = np.ones((2, 3, 1), np.int32)
  cohort = cohort._replace(
      examples=longer, labels=longer, num_classes=np.array([2, 8], np.int32),
      mask=np.array([[[True], [False], [False]], [[True]] * 3]))
  round_ = federated_round(
      client_update=forgetful(count), heads=toys.no_head(), aggregator=gaussian_mean(2),
      server_optimizer=lambda h: optax.sgd(h["learning_rate"]), hparams=HPARAMS,
      mesh=toys.one_device(), clients_per_chunk=1)
  _, metrics = run(round_, cohort)
  np.testing.assert_allclose(metrics["chance_loss"], (np.log(2) + 3 * np.log(8)) / 4, rtol=1e-6)
  assert metrics["loss"] == 1


def test_empty_slot_adds_nothing():
  state, metrics = run(make_round(UPDATES, gaussian_mean(4)),
                       toys.cohort_of([0, 1, 3, 3], clients=[0, 1, -1, -1]))
  np.testing.assert_allclose(-state.params["backbone"], [0.9 / 4, 1.2 / 4], rtol=1e-6)
  assert metrics["clients"] == 2


def test_weighted_mean_weighs_by_examples():
  cohort = toys.cohort_of([0, 1])
  heavier = cohort._replace(
      examples=np.repeat(cohort.examples, 3, axis=1), labels=np.zeros((2, 3, 1), np.int32),
      mask=np.array([[[True]] * 3, [[True], [False], [False]]]))
  state, _ = run(make_round(UPDATES, aggregators.weighted_mean()), heavier)
  expected = (3 * np.array(UPDATES[0]) + np.array(UPDATES[1])) / 4
  np.testing.assert_allclose(-state.params["backbone"], expected, rtol=1e-6)


def test_no_clip_no_noise_is_plain_sgd():
  hparams = with_aggregate(clip_norm=np.inf)
  state, _ = run(make_round(UPDATES, gaussian_mean(1), hparams), toys.cohort_of([3]), hparams)
  np.testing.assert_allclose(-state.params["backbone"], UPDATES[3], rtol=1e-6)


def test_noise_of_an_empty_round_has_the_stated_deviation():
  """Std z C / K per coordinate, by chi-square; independent over rounds and coordinates."""
  hparams, size, clients = with_aggregate(clip_norm=0.5, noise_multiplier=3.0), 20_000, 4
  round_ = make_round(np.zeros((4, size)), gaussian_mean(clients), hparams)
  empty = toys.cohort_of([2] * clients, clients=[-1] * clients)
  draws = [np.asarray(run(round_, empty, hparams, seed, size)[0].params["backbone"])
           for seed in (0, 5)]
  stddev = 3.0 * 0.5 / clients
  for draw in draws:
    chi_square = (draw / stddev) ** 2
    assert abs(chi_square.sum() - size) < 5 * np.sqrt(2 * size)
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 5 / np.sqrt(size)
  assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 5 / np.sqrt(size)


def test_new_hyperparameters_do_not_recompile():
  round_ = make_round(UPDATES, gaussian_mean(4))
  traced = jax.jit(chex.assert_max_traces(round_.step, n=1))
  everywhere = NamedSharding(toys.one_device(), PartitionSpec())
  state = jax.device_put(round_.init(jax.random.key(0), jnp.zeros(2)), everywhere)
  data, cohort = Data(jnp.zeros((8, 1, 1, 1), jnp.uint8)), toys.cohort_of([0, 1, 2, 3])
  for clip_norm in (1.0, 0.5):
    hparams = jax.tree.map(jnp.float32, with_aggregate(clip_norm=clip_norm))
    state, _ = traced(state, data, cohort, hparams, StepKeys(jax.random.key(1), jax.random.key(2)))


def test_a_sweep_over_hyperparameters_is_a_vmap():
  round_ = make_round(UPDATES, gaussian_mean(4))
  state = round_.init(jax.random.key(0), jnp.zeros(2))
  data, cohort = Data(jnp.zeros((8, 1, 1, 1), jnp.uint8)), toys.cohort_of([0, 1, 2, 3])
  keys = StepKeys(jax.random.key(1), jax.random.key(2))
  sweep = lambda clip: round_.step(
      state, data, cohort, with_aggregate(clip_norm=clip), keys)
  states, _ = jax.vmap(sweep)(jnp.array([1.0, 0.5]))
  np.testing.assert_allclose(-states.params["backbone"][0], (0.075, 0.5), rtol=1e-6)
  np.testing.assert_allclose(-states.params["backbone"][1], (0.075, 0.3), rtol=1e-5)


def test_clients_that_devices_cannot_share_are_refused():
  class FourDevices:
    devices = np.zeros(4)

  with pytest.raises(ValueError, match="clients.per_round=6 must be a multiple of the 4 devices"):
    check_divides(6, FourDevices(), 1)
  with pytest.raises(ValueError, match=r"clients_per_chunk=3 must .* \(accepted: 1, 2\)"):
    check_divides(8, FourDevices(), 3)


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
      hparams={"aggregate": {"clip_norm": 1.0}}, mesh=toys.one_device(), clients_per_chunk=1)
  state = round_.init(jax.random.key(0), jnp.zeros(1))
  root = jax.random.key(3)
  _, metrics = round_.step(state, Data(jnp.zeros((1, 1, 1, 1), jnp.uint8)), toys.cohort_of([0]),
                           {"aggregate": {"clip_norm": 1.0}}, StepKeys(jax.random.key(1), root))
  keys = {tuple(np.asarray(metrics[f"{name}_key"])) for name in ("aggregator", "heads", "clients")}
  assert len(keys | {tuple(np.asarray(jax.random.key_data(root)))}) == 4
