"""Signs and dependences of small programs whose answer is plain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models.pooling import max_pool
from fedjax_face.split.dataflow import Dataflow, mark, without_relu

X = jax.ShapeDtypeStruct((2, 4, 4, 3), np.float32)

PROGRAMS = {
    "relu": (jax.nn.relu, True),
    "relu6": (jax.nn.relu6, True),
    "pooled": (lambda x: max_pool(jax.nn.relu(x), (2, 2), (2, 2)), True),
    "mean": (lambda x: jax.nn.relu(x).mean((1, 2)), True),
    "padded": (lambda x: jnp.pad(jax.nn.relu(x), ((0, 0), (1, 1), (1, 1), (0, 0))), True),
    "sum": (lambda x: jax.nn.relu(x) + jax.nn.relu(-x), True),
    "input": (lambda x: 1 * x, False),
    "leaky": (lambda x: jax.nn.leaky_relu(x), False),
    "difference": (lambda x: jax.nn.relu(x) - 1, False),
    "padded below": (lambda x: jnp.pad(jax.nn.relu(x), 1, constant_values=-1), False),
    "residual": (lambda x: jax.nn.relu(x) + x, False),
    "product": (lambda x: jax.nn.relu(x) * x, False),
    "loop": (lambda x: jax.lax.scan(lambda c, y: (c - y, None), jax.nn.relu(x[0]), x)[0], False),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_signs(name):
  function, expected = PROGRAMS[name]
  assert Dataflow(lambda x: mark(function(x), "end"), X).non_negative("end") is expected


@pytest.mark.parametrize(("rest", "expected"), [
    (lambda value, x: value, False),
    (lambda value, x: value * x.shape[0], False),
    (lambda value, x: value + x, True),
    (lambda value, x: (value, x.sum()), True),
])
def test_what_passes_by_a_value(rest, expected):
  program = Dataflow(lambda x: rest(mark(2 * x, "value"), x), X)
  assert program.bypassed("value") is expected


def test_without_relu_leaves_the_rest_as_it_is():
  function = lambda scale, x: scale["a"] * jax.nn.relu(x) + scale["b"]
  scale = {"a": jnp.float32(3), "b": jnp.float32(1)}
  result = without_relu(function, scale, jnp.array([-2.0, 2.0]))
  np.testing.assert_array_equal(result, [-5, 7])
  assert jax.jit(jax.grad(lambda x: without_relu(function, scale, x)))(jnp.float32(-2)) == 3


@pytest.mark.parametrize("function", [
    lambda _, x: jax.nn.relu(x) + x, lambda _, x: jax.nn.relu(2 * x), lambda _, x: jax.nn.relu6(x)])
def test_without_relu_wants_a_relu_first(function):
  with pytest.raises(ValueError, match="does not begin with the ReLU"):
    without_relu(function, (), jnp.ones(2))
