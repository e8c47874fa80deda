from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.losses import gradient_correction, spreadout
from fedjax_face.losses.class_pairs import Anchors, own_anchors
from fedjax_face.models.margins import cosface_margin, geometry

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWNER = jnp.array([0, 0, 1, 2, 1, 2, 2, 0, 3, 3, 1])
ROWS, DIM = len(OWNER), 3
COSINE = jnp.array([0.5, 0.6, 0.7, 0.8])
HPARAMS = {"correction": {"margin": 0.6}, "head": {"scale": 16.0, "margin": 0.2}}

KINDS = {
    "linear": (gradient_correction, "gradient_correction", ("as_written", False)),
    "as written": (gradient_correction, "gradient_correction", ("as_written", True)),
    "calibrated": (gradient_correction, "gradient_correction", ("calibrated", True)),
    "hinge": (spreadout, "spreadout", ("hinge",)),
    "cosine": (spreadout, "spreadout", ("cosine",)),
}


def lending(function):
  """The function of the hparams of correction and head, traced, in place of the head's geometry."""

  def lent(rows, owner, anchors, hparams):
    head = hparams["head"]
    return function(rows, owner, anchors, hparams["correction"],
                    geometry(head["scale"], head["margin"], cosface_margin))

  return lent


def both(name, block=4, axis_name=None):
  """The value and its gradient, as one function."""
  module, factory, form = KINDS[name]
  value = lending(module.regulariser(*form, block=block, axis_name=axis_name))
  gradient = lending(getattr(module, factory)(*form, block=block, axis_name=axis_name))
  return lambda *arguments: (value(*arguments), gradient(*arguments))


def with_self_term(block=4, axis_name=None):
  """Both, of the linear head with its self term."""
  value = lending(gradient_correction.regulariser("as_written", False, block, axis_name))
  gradient = lending(gradient_correction.gradient_correction(
      "as_written", False, block, axis_name, self_term=True))
  return lambda *arguments: (value(*arguments), gradient(*arguments))


@functools.cache
def compiled(name):
  return jax.jit(both(name))


@functools.cache
def autodiff(name):
  """The value in one block, and what differentiating it gives."""
  return jax.jit(jax.value_and_grad(lambda *arguments: both(name, ROWS)(*arguments)[0]))


def classes(rows=ROWS, dim=DIM, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, dim)), jnp.float32)


def some_anchors():
  """As many anchors as there are rows, that are no class embeddings, of several weights."""
  owner = jnp.array([0, 1, 2, 3, 3, 2, 0, 1, 1, 2, 0])
  weight = jnp.array([1.0, 4.0, 2.5, 1.0, 0.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.5])
  return Anchors(classes(seed=1), owner, weight, COSINE[owner])


def pad(anchors, size):
  """Padding that holds what it should not."""
  more = size - len(anchors.owner)
  return Anchors(*(jnp.concatenate([part, jnp.full((more, *part.shape[1:]), fill, part.dtype)])
                   for part, fill in zip(anchors, (jnp.nan, -1, 5.0, jnp.nan), strict=True)))


def test_own_anchors_by_hand():
  rows = jnp.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
  anchors = own_anchors(rows, jnp.array([1, 0, -1]), jnp.array([0.25, 0.75]))
  np.testing.assert_array_equal(anchors.vectors, rows)
  np.testing.assert_array_equal(anchors.owner, [1, 0, -1])
  np.testing.assert_array_equal(anchors.weight, [1, 1, 0])
  np.testing.assert_array_equal(anchors.cosine, [0.75, 0.25, 0])


def test_own_anchors_are_frozen():
  moved = jax.grad(lambda w: jnp.sum(own_anchors(w, OWNER, COSINE).vectors ** 2))(classes())
  np.testing.assert_array_equal(moved, 0)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_equals_autodiff_of_the_value_in_one_block(name):
  arguments = (classes(), OWNER, some_anchors(), HPARAMS)
  expected_value, expected = autodiff(name)(*arguments)
  assert jnp.abs(expected).max() > 1e-3
  value, gradient = compiled(name)(*arguments)
  np.testing.assert_allclose(value, expected_value, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [with_self_term, functools.partial(both, "cosine")])
def test_blocks_of_every_size_agree(make):
  arguments = (classes(), OWNER, own_anchors(classes(), OWNER, COSINE), HPARAMS)
  value, gradient = jax.jit(make(block=100))(*arguments)
  for block in (1, 4):
    got_value, got = jax.jit(make(block=block))(*arguments)
    np.testing.assert_allclose(got_value, value, rtol=1e-5)
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_padding_changes_nothing_whatever_it_holds(name):
  rows, anchors = classes(), some_anchors()
  expected = compiled(name)(rows, OWNER, anchors, HPARAMS)
  padded_rows = jnp.concatenate([rows, jnp.full((2, DIM), jnp.nan)])
  padded_owner = jnp.concatenate([OWNER, jnp.array([-1, -1])])
  value, gradient = compiled(name)(padded_rows, padded_owner, pad(anchors, 14), HPARAMS)
  np.testing.assert_allclose(value, expected[0], rtol=1e-6)
  np.testing.assert_array_equal(gradient[ROWS:], 0)
  np.testing.assert_allclose(gradient[:ROWS], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_one_client_is_left_alone(name):
  alone = jnp.zeros(ROWS, jnp.int32)
  anchors = own_anchors(classes(), alone, COSINE)
  value, gradient = compiled(name)(classes(), alone, anchors, HPARAMS)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_one_client_has_no_self_term():
  alone = jnp.zeros(ROWS, jnp.int32)
  _, gradient = jax.jit(with_self_term())(
      classes(), alone, own_anchors(classes(), alone, COSINE), HPARAMS)
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", KINDS)
def test_a_row_feels_no_anchor_of_its_own_client(name):
  rows, anchors = classes(), some_anchors()
  fewer = anchors._replace(weight=jnp.where(anchors.owner == 2, 0, anchors.weight))
  before, after = (compiled(name)(rows, OWNER, a, HPARAMS)[1] for a in (anchors, fewer))
  ratio = 1.0
  if name == "cosine":  # a mean over pairs, which are fewer
    pairs = [np.sum(np.asarray(a.weight)[:, None] * (a.owner[:, None] != OWNER))
             for a in (anchors, fewer)]
    ratio = pairs[0] / pairs[1]
  own = np.asarray(OWNER) == 2
  np.testing.assert_allclose(after[own], ratio * before[own], rtol=1e-5, atol=1e-7)
  assert np.abs(after - ratio * before)[~own].max() > 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_weight_counts_copies_of_an_anchor(name):
  twins = jax.tree.map(lambda part: part.at[0].set(part[1]), some_anchors())
  once = twins._replace(weight=twins.weight.at[:2].set(jnp.array([0.0, 5.0])))
  twice = twins._replace(weight=twins.weight.at[:2].set(jnp.array([2.0, 3.0])))
  got, expected = (compiled(name)(classes(), OWNER, a, HPARAMS) for a in (once, twice))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "linear"])
def test_normalised_gradients_are_tangent_and_read_only_directions_of_anchors(name):
  rows, anchors = classes(), some_anchors()
  gradient = compiled(name)(rows, OWNER, anchors, HPARAMS)[1]
  np.testing.assert_allclose(np.sum(gradient * rows, axis=1), 0, atol=2e-5)
  longer = anchors._replace(vectors=3 * anchors.vectors)
  np.testing.assert_allclose(compiled(name)(rows, OWNER, longer, HPARAMS)[1], gradient,
                             rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(2 * compiled(name)(2 * rows, OWNER, anchors, HPARAMS)[1], gradient,
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("length", [0.0, 1e-20, 1.0, 1e3])
def test_extremes_stay_finite(name, length):
  rows = jnp.asarray(np.concatenate([length * classes()[:-2], np.full((2, DIM), length)]))
  anchors = own_anchors(rows, OWNER, jnp.array([0.0, 0.3, 0.9, 1.0]))
  hparams = {"correction": {"margin": 1.0}, "head": {"scale": 64.0, "margin": 0.4}}
  for run in (compiled, autodiff):
    value, gradient = run(name)(rows, OWNER, anchors, hparams)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["calibrated", "hinge"])
def test_no_matrix_of_all_pairs_is_kept(name):
  size, block = 4096, 16
  arguments = (classes(size), jnp.arange(size) % 4)
  anchors = own_anchors(*arguments, COSINE)
  run = jax.jit(both(name, block)).lower(*arguments, anchors, HPARAMS).compile()
  assert run.memory_analysis().temp_size_in_bytes < 4 * 10 * size * (block + DIM)


def test_hparams_are_traced():
  traces = []

  @jax.jit
  def run(hparams):
    traces.append(1)
    return both("calibrated")(classes(), OWNER, some_anchors(), hparams)[0]

  assert not np.allclose(run(HPARAMS), run(
      HPARAMS | {"head": HPARAMS["head"] | {"scale": 8.0}}))
  assert len(traces) == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_block_holds_an_anchor(name):
  with pytest.raises(ValueError, match="block 0: expected at least 1"):
    both(name, block=0)


def test_anchors_of_another_dimension_are_refused():
  anchors = own_anchors(classes(dim=5), OWNER, COSINE)
  with pytest.raises(ValueError, match="anchors have 5 dimensions: expected 3"):
    both("hinge")(classes(), OWNER, anchors, HPARAMS)


PROGRAM = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from fedjax_face.losses.class_pairs import own_anchors
from tests.losses import test_class_pairs as t

assert jax.device_count() == 4
mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("classes",))
rows = jnp.concatenate([t.classes(), jnp.full((1, t.DIM), jnp.nan)])
owner = jnp.concatenate([t.OWNER, jnp.array([-1])])
makes = {name: functools.partial(t.both, name) for name in ("calibrated", "cosine")}
makes["self"] = t.with_self_term
for name, make in makes.items():
  anchors = own_anchors(rows, owner, t.COSINE) if name == "self" else t.pad(t.some_anchors(), 16)
  one = jax.jit(make(block=5))(rows, owner, anchors, t.HPARAMS)
  local = make(block=3, axis_name="classes")
  sharded = jax.jit(jax.shard_map(
      lambda *arguments: local(*arguments, t.HPARAMS), mesh=mesh,
      in_specs=P("classes"), out_specs=(P(), P("classes")), check_vma=False))
  for got, expected in zip(sharded(rows, owner, anchors), one, strict=True):
    assert np.abs(expected).max() > 1e-3, name
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6, err_msg=name)
"""


def test_rows_and_anchors_shared_between_four_devices_equal_one_device():
  environment = os.environ | {
      "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
  done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200, check=False)
  assert done.returncode == 0, done.stdout
