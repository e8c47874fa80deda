"""Local training against numbers worked out by hand (spec: Dense(1) backbone, Dense(2) head)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.federated import client
from fedjax_face.federated.client import Batch, ClientBatches, Totals
from fedjax_face.losses.softmax import masked_cross_entropy

IMAGES = jnp.array([[0, 0], [1, 0], [2, 0], [3, 0]], jnp.float32)
LABELS = np.array([0, 0, 1, 1])


def params():
  return {
      "backbone": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)},
      "head": {"kernel": jnp.ones((1, 2)), "bias": jnp.zeros(2)},
  }


def loss(params, batch: Batch, hparams, key):
  embedding = batch.images @ params["backbone"]["kernel"] + params["backbone"]["bias"]
  logits = embedding @ params["head"]["kernel"] + params["head"]["bias"]
  mean, seen = masked_cross_entropy(logits, batch.labels, batch.mask, batch.num_classes)
  return mean, Totals(mean * seen["count"], seen["accuracy"] * seen["count"], jnp.zeros(()),
                      seen["count"])


def batches(padding=0):
  """The four examples twice, in order, in batches of three; then empty batches."""
  order = np.concatenate([np.tile(np.arange(4), 2), [0] * (1 + 3 * padding)]).reshape(-1, 3)
  mask = (np.arange(order.size) < 8).reshape(-1, 3)
  return ClientBatches(
      jnp.asarray(order), jnp.asarray(LABELS[order]), jnp.asarray(mask), jnp.int32(2))


def delta(stages, padding=0, optimizers=None):
  sgd = lambda hparams: {"backbone": optax.sgd(0.1), "head": optax.sgd(0.1)}
  training = client.local_training(loss, optimizers or sgd, stages)
  update = client.fresh_optimizer(training)
  result = jax.jit(update.run)(
      params(), (), (), IMAGES, batches(padding), {}, jax.random.key(0))
  moved = jax.tree.map(jnp.subtract, params()["backbone"], result.params["backbone"])
  return moved, result


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("stages, kernel, bias", [
    (client.JOINT, -0.012029171, -0.003847827),
    (client.head_first(1), -0.005110979, -0.001060146),
    (client.head_first(3), 0.0, 0.0),
    (client.head_first(7), 0.0, 0.0),
])
def test_delta_by_hand(stages, kernel, bias, padding):
  moved, result = delta(stages, padding)
  np.testing.assert_allclose(moved["kernel"][:, 0], [kernel, 0.0], rtol=2e-5, atol=1e-9)
  np.testing.assert_allclose(moved["bias"], [bias], rtol=2e-5, atol=1e-9)
  assert result.totals.examples == 8


def test_head_first_leaves_the_head_alone_after_its_stage():
  _, first = delta(client.head_first(1))
  one_step = client.local_training(
      loss, lambda hparams: {"backbone": optax.sgd(0.1), "head": optax.sgd(0.1)},
      (client.Stage(("head",), 1),))
  alone = client.fresh_optimizer(one_step).run(
      params(), (), (), IMAGES, batches(), {}, jax.random.key(0))
  np.testing.assert_allclose(first.params["head"]["kernel"], alone.params["head"]["kernel"])


def test_vectorised_clients_of_different_lengths_equal_a_loop():
  short = batches()._replace(mask=batches().mask.at[1:].set(False))
  update = client.fresh_optimizer(client.local_training(
      loss, client.optimizers("momentum"), client.JOINT))
  hparams = {"local": {"learning_rate": 0.1, "head_learning_rate_scale": 2.0, "momentum": 0.9}}
  run = lambda b: update.run(params(), (), (), IMAGES, b, hparams, jax.random.key(0)).params
  both = jax.vmap(run)(jax.tree.map(lambda *leaves: jnp.stack(leaves), short, batches()))
  for index, one in enumerate((short, batches())):
    jax.tree.map(lambda a, b, i=index: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-7),
                 both, run(one))


def test_head_learning_rate_is_scaled():
  rates = {"learning_rate": 0.1, "head_learning_rate_scale": 3.0}
  by_name = client.optimizers("sgd")(rates)
  grads = jnp.ones(())
  for name, expected in (("backbone", -0.1), ("head", -0.3)):
    update, _ = by_name[name].update(grads, by_name[name].init(grads))
    np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_a_normalised_step_is_the_rate_times_the_norm_of_each_array_whatever_the_gradient():
  """Norms 5, 0.5 and 0 (a new bias): steps 0.5, 0.05 and 0.1 * 1e-3 along minus the gradient."""
  rates = {"learning_rate": 0.1, "head_learning_rate_scale": 1.0, "momentum": 0.9}
  params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5, 0.0]), "bias": jnp.zeros(2)}
  optimizer = client.optimizers("normalised")(rates)["backbone"]
  for scale in (1e-3, 1.0, 1e4):
    gradient = jax.tree.map(lambda leaf, s=scale: s * jnp.array([0.0, 2.0]), params)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    for name, expected in (("a", -0.5), ("b", -0.05), ("bias", -1e-4)):
      np.testing.assert_allclose(update[name], [0, expected], rtol=1e-5)


def test_momentum_of_normalised_steps_mixes_gradients_before_their_length_is_dropped():
  """Gradients (1, 0), then (0, .1): the second step follows (.9, .1)."""
  rates = {"learning_rate": 0.1, "head_learning_rate_scale": 1.0, "momentum": 0.9}
  optimizer, params = client.optimizers("normalised")(rates)["backbone"], jnp.array([0.0, 1.0])
  state = optimizer.init(params)
  _, state = optimizer.update(jnp.array([1.0, 0.0]), state, params)
  update, _ = optimizer.update(jnp.array([0.0, 0.1]), state, params)
  np.testing.assert_allclose(update, -0.1 * np.array([0.9, 0.1]) / np.hypot(0.9, 0.1), rtol=1e-5)


def test_unknown_optimizer_lists_the_names():
  with pytest.raises(ValueError, match="adam, momentum, normalised, sgd"):
    client.optimizers("lion")


def test_head_first_needs_a_step():
  with pytest.raises(ValueError, match="head_steps must be at least 1"):
    client.head_first(0)
