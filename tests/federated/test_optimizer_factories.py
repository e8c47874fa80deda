"""Server optimisers as parts: the steps that optax takes with the same scalars."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face import options
from fedjax_face.federated import optimizers
from fedjax_face.federated.optimizers import Optimizer

CASES = {
    "momentum": ({"learning_rate": 0.2, "momentum": 0.8}, optax.sgd(0.2, momentum=0.8)),
    "averaging": ({}, optax.sgd(1.0)),
    "adam": ({"learning_rate": 0.2}, optax.adam(0.2)),
}
PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}


# Algorithm 2 by hand: g = 2, then 1; b1 = 0.5, so that m = 1 in both rounds.
ADAPTIVE = {"learning_rate": 0.5, "b1": 0.5, "tau": 0.5}
SECOND = {  # v, from tau^2 = 0.25
    "fedadagrad": (ADAPTIVE, (4.25, 5.25)),
    "fedadam": (ADAPTIVE | {"b2": 0.75}, (1.1875, 1.140625)),
    "fedyogi": (ADAPTIVE | {"b2": 0.75}, (1.25, 1.0)),
}


@pytest.mark.parametrize("name", SECOND)
def test_two_rounds_of_an_adaptive_server_by_hand(name):
  scalars, seconds = SECOND[name]
  transform = getattr(optimizers, name)(**scalars).transform(scalars)
  state = transform.init({"w": jnp.zeros(1)})
  for mean, second in zip((2.0, 1.0), seconds, strict=True):
    update, state = transform.update({"w": jnp.full(1, mean)}, state)
    np.testing.assert_allclose(state.second["w"], second, rtol=1e-6)
    np.testing.assert_allclose(update["w"], -0.5 * 1 / (second ** 0.5 + 0.5), rtol=1e-6)


@pytest.mark.parametrize("name", SECOND)
def test_an_adaptive_server_has_the_defaults_of_its_paper(name):
  momenta = {"b1": 0.0} if name == "fedadagrad" else {"b1": 0.9, "b2": 0.99}
  assert options.hparams(getattr(optimizers, name)()) == momenta | {
      "learning_rate": 0.01, "tau": 1e-3}


def part(name):
  return getattr(optimizers, name)(**CASES[name][0])


def steps(optimizer):
  """Parameters after three steps along the parameters themselves, and what the optimiser keeps."""
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(3):
    update, state = optimizer.update(params, state, params)
    params = optax.apply_updates(params, update)
  return params, state


@pytest.mark.parametrize("name", CASES)
def test_a_part_takes_the_steps_of_its_scalars(name):
  scalars, by_hand = CASES[name]
  jax.tree.map(np.testing.assert_array_equal, steps(part(name).transform(scalars)), steps(by_hand))


def test_averaging_replaces_the_model_by_the_mean():
  """w - (w - mean) is the mean."""
  average, mean = part("averaging").transform({}), jax.tree.map(jnp.cos, PARAMS)
  update, _ = average.update(jax.tree.map(jnp.subtract, PARAMS, mean), average.init(PARAMS))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
               optax.apply_updates(PARAMS, update), mean)


@pytest.mark.parametrize("name", CASES)
def test_a_part_is_its_call_and_has_its_scalars(name):
  scalars, made = CASES[name][0], part(name)
  assert options.build(Optimizer, options.call(made), "server") == made
  assert options.hparams(made) == scalars


@pytest.mark.parametrize("name, changes, words", [
    ("momentum", {"learning_rate": float("nan")}, "momentum.learning_rate=nan: expected a number"),
    ("adam", {"momentum": 0.9}, "adam takes no momentum"),
    ("averaging", {"learning_rate": 1.0}, "averaging takes no learning_rate"),
    ("fedyogi", {"tau": 0.0}, "fedyogi.tau=0.0: expected a number above 0"),
])
def test_what_is_refused_names_the_option(name, changes, words):
  with pytest.raises(options.OptionError, match=words):
    getattr(optimizers, name)(**changes)
