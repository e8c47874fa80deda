"""No norm that bounds a sensitivity is rounded as an accelerator rounds products."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_privacy.matrix_factorization import toeplitz

from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense
from fedjax_face.models.normalisation import GroupNorm
from fedjax_face.privacy import cluster_tables, clustering, ghost_norm, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.privacy.gradient_clip import grouped, joint, per_task
from fedjax_face.privacy.per_example import clipped_gradient_sum
from fedjax_face.split.mechanism import ActivationClip
from tests.privacy import rounding
from tests.privacy.test_per_example import FORMS, loss_of, params_of

ADD = Adjacency.ADD_OR_REMOVE_ONE
CLIP_NORM = 0.25
# One unit, so that the sum is its clipped gradient.
MASK = jnp.ones((1, 3), bool)
CLIPS = {"joint": joint(ADD), "grouped": grouped({"": 1.0, "network": 0.5}, ADD),
         "per_task": per_task(2, ADD), "stacked": per_task(2, ADD, stacked=True)}


class Network(nn.Module):
  """A convolution and a dense layer measured by Gram matrices, others by their own gradients."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(GroupNorm(2, name="norm")(Conv(32, (3, 3), (2, 2), name="convolution")(x)))
    x = nn.tanh(Dense(40, name="wide")(x.reshape(x.shape[0], -1)))
    return Dense(2, name="outputs")(x)


@pytest.fixture(scope="module")
def network():
  rng = np.random.default_rng(1)
  image = jnp.asarray(rng.normal(size=(1, 3, 8, 8, 2)), jnp.float32)
  target = jnp.asarray(30 * rng.normal(size=(1, 3, 2)), jnp.float32)
  model = Network()
  return loss_of(model), params_of(model), {"image": image, "target": target}


def excess(form, clip, given) -> float:
  """How far a clipped gradient lies beyond its bound, relatively."""
  loss, params, batch = given
  total = jax.jit(clipped_gradient_sum(loss, clip, form))(params, batch, MASK, CLIP_NORM)
  bound = CLIP_NORM * clip.sensitivity
  return float(optax.tree.norm(total.gradient)) / bound - 1


def test_the_emulation_rounds_products_and_only_those_not_asked_for_in_full():
  x = jnp.full((4, 4), 1 + 2.0**-9)
  with rounding.rounded_products(rounding.BFLOAT16):
    assert float(jax.jit(jnp.matmul)(x, x)[0, 0]) == 4
    exact = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))(x, x)
    gradient = jax.jit(jax.grad(lambda a: (a @ x).sum()))(x)
    assert float(exact[0, 0]) == 4 * (1 + 2.0**-9) ** 2
    assert float(gradient[0, 0]) == 4
  assert float(jax.jit(jnp.matmul)(x, x)[0, 0]) == 4 * (1 + 2.0**-9) ** 2


@pytest.mark.parametrize("bits", [rounding.BFLOAT16, rounding.TF32])
@pytest.mark.parametrize("form", FORMS)
def test_a_clipped_gradient_keeps_its_bound_where_products_are_rounded(form, bits, network):
  with rounding.rounded_products(bits):
    beyond = excess(form, joint(ADD), network)
  assert -1e-4 < beyond < 2e-6


@pytest.mark.parametrize("name", CLIPS)
def test_every_product_on_the_way_to_a_ghost_norm_is_taken_in_full(name, network):
  loss, params, batch = network
  total = clipped_gradient_sum(loss, CLIPS[name], "ghost")
  assert rounding.products(total, params, batch, MASK, CLIP_NORM)
  assert rounding.inexact_products(total, params, batch, MASK, CLIP_NORM) == []


@pytest.mark.parametrize("form", ["vmapped", "scanned"])
def test_clipping_a_gradient_multiplies_no_matrices(form, network):
  """Products round the gradient itself, never its norm or its scale: those come after."""
  loss, params, batch = network
  clip = CLIPS["per_task"]
  total = clipped_gradient_sum(loss, clip, form)
  plain = jax.vmap(jax.jacrev(lambda p, unit: loss(p, unit).sum(0)), (None, 0))
  assert len(rounding.inexact_products(total, params, batch, MASK, CLIP_NORM)) <= len(
      rounding.inexact_products(plain, params, batch))


def test_ghost_norms_at_default_precision_would_break_the_bound(network, monkeypatch):
  """What the tests above are for: with rounded factors the norm is not that of the gradient."""
  monkeypatch.setattr(ghost_norm, "_full_precision", contextlib.nullcontext)
  with rounding.rounded_products(rounding.BFLOAT16):
    beyond = excess("ghost", joint(ADD), network)
  assert abs(beyond) > 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_norms_are_those_of_32_bit_numbers(dtype):
  """Summed in 16 bits, the squares of many small numbers would stop adding up."""
  update = {"a": jnp.full((300, 100), 0.02, dtype), "b": jnp.full(7, 0.5, dtype)}
  clipped, norm = UpdateClip(1, ADD)(update, 0.7)
  exact = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in update.values()))
  assert float(norm) == pytest.approx(exact, rel=1e-6)
  assert float(optax.tree.norm(clipped)) == pytest.approx(0.7, rel=2e-6)
  rows = jnp.full((2, 30_000), 0.02, dtype)
  activations = ActivationClip(True)(rows, 0.7)
  bounded, _ = cluster_tables.bounded(rows[None], jnp.ones((1, 2), bool))
  for result, bound in ((activations, 0.7), (bounded[0], 1.0)):
    np.testing.assert_allclose(jnp.linalg.norm(result, axis=-1), bound, rtol=2e-6)


AXES = np.eye(4, dtype=np.float32)
MECHANISMS = [
    clustering.client_mean(count_weight=1.0),
    clustering.anchor_table(AXES, pooled=True),
    clustering.dp_lloyd(AXES, iterations=2),
    clustering.exponential_caps(AXES, clusters=2, angle=0.5, selection_share=0.5),
    clustering.projected(clustering.client_mean(), AXES[:, :2]),
]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_tables_move_by_no_more_than_their_sensitivity_where_products_are_rounded(mechanism):
  rng = np.random.default_rng(0)
  rows = jnp.asarray(rng.normal(size=(2, 6, 4)) * 10, jnp.float32)
  present = jnp.ones((2, 6), bool)
  without = present.at[0, 0].set(False)

  def first_tables(real):
    return mechanism.publish(rows, real, 0.0, jax.random.key(0))[1].tables[0]

  with rounding.rounded_products(rounding.BFLOAT16):
    first, second = jax.jit(first_tables)(present), jax.jit(first_tables)(without)
  moved = (first - second)[0]
  assert float(jnp.linalg.norm(moved.reshape(-1))) <= mechanism.sensitivity * (1 + 2e-6)


def test_correlated_noise_is_mixed_in_full():
  """Its sensitivity is that of the matrix; rounded, another one would be applied."""
  matrix = toeplitz.inverse_as_streaming_matrix(jnp.array([1.0, 0.5, 0.2]))
  made = noise._from_streaming_matrix(matrix, 1.0, 4, "")
  total = jnp.zeros(3)
  arguments = total, made.init(total), 1.0, jax.random.key(0)
  assert rounding.products(made.add, *arguments)
  assert rounding.inexact_products(made.add, *arguments) == []
