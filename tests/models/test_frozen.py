"""Frozen layers come back as they were, and nothing is learned of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.frozen import freeze

PARAMS = {"conv": {"kernel": jnp.ones(2), "bias": jnp.zeros(1)},
          "tasks": {"pose": {"kernel": jnp.full(3, 2.0)}, "poses": {"kernel": jnp.full(1, 3.0)}}}


def test_what_is_frozen_is_parted_by_layer_and_put_back():
  trains, whole = freeze(PARAMS, ("conv", "tasks/pose"))
  assert trains == {"tasks": {"poses": {"kernel": PARAMS["tasks"]["poses"]["kernel"]}}}
  moved = jax.tree.map(lambda leaf: leaf + 1, trains)
  full = whole(moved)
  assert jax.tree.structure(full) == jax.tree.structure(PARAMS)
  np.testing.assert_array_equal(full["tasks"]["poses"]["kernel"], [4])
  np.testing.assert_array_equal(full["tasks"]["pose"]["kernel"], [2, 2, 2])
  assert isinstance(full["conv"]["kernel"], np.ndarray)


def test_nothing_frozen_changes_nothing():
  trains, whole = freeze(PARAMS, ())
  jax.tree.map(np.testing.assert_array_equal, whole(trains), PARAMS)
  assert jax.tree.structure(trains) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("layers, message", [
    (("conv", "dense"), "frozen layer 'dense' is not one of conv, tasks/pose, tasks/poses"),
    (("conv/kernel",), "frozen layer 'conv/kernel' is not one of"),
    (("conv", "tasks"), "all layers are frozen"),
])
def test_layers_that_are_not_there_are_refused(layers, message):
  with pytest.raises(ValueError, match=message):
    freeze(PARAMS, layers)
