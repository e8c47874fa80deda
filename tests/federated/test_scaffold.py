"""SCAFFOLD's control variates and FedProx's pull, on quadratics with known gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.federated import aggregators, client, heads
from fedjax_face.federated.client import JOINT, Totals, local_training
from fedjax_face.federated.round import federated_round
from fedjax_face.federated.scaffold import scaffold
from fedjax_face.method.algorithm import Communication, Data, StepKeys
from tests.federated import toys

RATE = 0.1
CENTRES = jnp.array([[1.0, 0.0], [-3.0, 2.0]])  # minimum of each client's loss |w - centre|^2 / 2
CURVATURE = jnp.array([1.0, 3.0])
HPARAMS = {"server": {"learning_rate": 1.0}, "local": {"drift": {"weight": 0.5}}}


def loss(params, batch, hparams, key):
  which = batch.labels[0]
  w = params["backbone"]
  return CURVATURE[which] * jnp.sum((w - CENTRES[which]) ** 2) / 2, Totals.zero()._replace(
      examples=jnp.ones(()))


def sgd(hparams):
  return {"backbone": optax.sgd(RATE), "head": optax.sgd(RATE)}


def cohort(steps, clients=(0, 1)):
  made = toys.cohort_of([0] * len(clients), clients)
  repeat = lambda array: np.repeat(array, steps, axis=1)
  labels = np.maximum(np.asarray(clients), 0).astype(np.int32).reshape(-1, 1, 1)
  return made._replace(
      examples=repeat(made.examples), labels=repeat(labels), mask=repeat(made.mask))


def rounds_of(update, number, steps=4, start=(0.0, 0.0), clients=(0, 1)):
  round_ = federated_round(
      client_update=update, heads=heads.fresh(lambda key: (), "shared_frame"),
      aggregator=aggregators.weighted_mean(),
      server_optimizer=lambda h: optax.sgd(h["learning_rate"]), hparams=HPARAMS,
      mesh=toys.one_device(), clients_per_chunk=1)
  state = round_.init(jax.random.key(0), jnp.array(start))
  keys = StepKeys(jax.random.key(0), jax.random.key(1))
  step, data = jax.jit(round_.step), Data(jnp.zeros((1, 1, 1, 1), jnp.uint8))
  for _ in range(number):
    state, _ = step(state, data, cohort(steps, clients), HPARAMS, keys)
  return round_, state


def plain():
  return client.fresh_optimizer(local_training(loss, sgd, JOINT))


def test_first_round_is_that_of_plain_averaging():
  _, expected = rounds_of(plain(), 1)
  _, state = rounds_of(scaffold(loss, sgd, JOINT, 2), 1)
  np.testing.assert_allclose(state.params["backbone"], expected.params["backbone"], rtol=1e-6)


def test_control_variate_is_option_two_of_the_paper():
  """c_k + = c_k - c + (x - y_k) / (steps * rate), over two rounds."""
  steps = 4
  _, first = rounds_of(scaffold(loss, sgd, JOINT, 2), 1, steps)
  _, second = rounds_of(scaffold(loss, sgd, JOINT, 2), 2, steps)
  x, own = first.params["backbone"], first.clients
  expected = []
  for k in range(2):
    y = x
    for _ in range(steps):
      gradient = CURVATURE[k] * (y - CENTRES[k])
      y = y - RATE * (gradient + own.mean(axis=0) - own[k])
    expected.append(own[k] - own.mean(axis=0) + (x - y) / (steps * RATE))
  np.testing.assert_allclose(second.clients, jnp.stack(expected), rtol=1e-5)


def test_scaffold_reaches_the_common_minimum_where_averaging_does_not():
  minimum = (CURVATURE[:, None] * CENTRES).sum(axis=0) / CURVATURE.sum()
  _, drifted = rounds_of(plain(), 60)
  _, controlled = rounds_of(scaffold(loss, sgd, JOINT, 2), 60)
  np.testing.assert_allclose(controlled.params["backbone"], minimum, atol=1e-4)
  assert np.abs(drifted.params["backbone"] - minimum).max() > 0.05


def test_a_client_that_is_absent_keeps_its_control_variate():
  update = scaffold(loss, sgd, JOINT, 3)
  _, state = rounds_of(update, 2, clients=(1, -1))
  assert state.clients[1].any() and not state.clients[0].any() and not state.clients[2].any()


def test_scaffold_sends_a_control_variate_each_way():
  round_, state = rounds_of(scaffold(loss, sgd, JOINT, 2), 1)
  assert {name: count(state) for name, count in round_.channels.items()} == {
      "backbone": Communication.equal(8, 8), "control variates": Communication.equal(8, 8)}


def test_proximal_term_pulls_towards_the_global_backbone_by_hand():
  proximal = client.fresh_optimizer(local_training(loss, client.proximal(sgd), JOINT))
  _, state = rounds_of(proximal, 1, steps=2, clients=(0,))
  w = jnp.zeros(2)
  for _ in range(2):
    w = w - RATE * ((w - CENTRES[0]) + 0.5 * w)
  np.testing.assert_allclose(state.params["backbone"], w, rtol=1e-6)


def test_without_weight_fedprox_is_plain_averaging(monkeypatch):
  monkeypatch.setitem(HPARAMS["local"]["drift"], "weight", 0.0)
  _, expected = rounds_of(plain(), 2)
  _, state = rounds_of(client.fresh_optimizer(
      local_training(loss, client.proximal(sgd), JOINT)), 2)
  np.testing.assert_allclose(state.params["backbone"], expected.params["backbone"], rtol=1e-6)
