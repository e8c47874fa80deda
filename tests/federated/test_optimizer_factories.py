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
])
def test_what_is_refused_names_the_option(name, changes, words):
  with pytest.raises(options.OptionError, match=words):
    getattr(optimizers, name)(**changes)
