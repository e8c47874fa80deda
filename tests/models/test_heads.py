from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.losses.softmax import masked_cross_entropy
from fedjax_face.models import heads
from fedjax_face.models.heads import geometry_of
from fedjax_face.models.margins import cosine
from fedjax_face.models.registry import head

CLASSES, DIM = 5, 4
MARGIN_OPTIONS = {"margin": 0.3, "scale": 8.0}
ALL = [("linear", {}), ("normalised", {}), ("cosface", MARGIN_OPTIONS), ("arcface", MARGIN_OPTIONS)]
MARGIN_HEADS = [heads.CosFace, heads.ArcFace]


def batch():
  """Embeddings of one client and labels."""
  embeddings = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
  return embeddings, np.array([0, 1, 2, 3, 4, 2])


def drawn(name: str) -> dict:
  """Parameters drawn on the host."""
  rows = np.random.default_rng(1).normal(size=(CLASSES, DIM)).astype(np.float32)
  params = {"class_embeddings": jnp.asarray(rows)}
  return {"params": params | ({"scale": jnp.float32(3.0)} if name == "normalised" else {})}


def weights(*cosines: float) -> dict:
  """Class embeddings, of assorted lengths, whose cosine with (1, 0) is given."""
  rows = [[length * c, length * np.sqrt(1 - c * c)] for length, c in enumerate(cosines, 1)]
  return {"params": {"class_embeddings": jnp.array(rows, jnp.float32)}}


@pytest.mark.parametrize(("name", "options"), ALL)
def test_parameters_logits_and_gradients(name, options):
  module, params = head(name, CLASSES, DIM, **options), drawn(name)
  embeddings, labels = batch()
  initial = jax.eval_shape(module.init, jax.random.key(0), embeddings, labels)
  assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)

  @jax.jit
  def logits_and_grads(params, embeddings):
    logits, pullback = jax.vjp(lambda *args: module.apply(*args, labels), params, embeddings)
    return logits, pullback(jnp.ones_like(logits))

  logits, grads = logits_and_grads(params, embeddings)
  assert logits.shape == (6, CLASSES)
  assert logits.dtype == jnp.float32
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  np.testing.assert_allclose(logits, module.apply(params, embeddings, labels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_vmap_over_clients_equals_a_loop(name, options):
  module = head(name, CLASSES, DIM, **options)
  embeddings, labels = batch()
  clients = [(jax.tree.map(lambda p, k=k: p + k, drawn(name)), embeddings - k,
              (labels + k) % CLASSES) for k in range(3)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *clients)
  loop = jnp.stack([module.apply(*client) for client in clients])
  np.testing.assert_allclose(jax.jit(jax.vmap(module.apply))(*stacked), loop, rtol=1e-5, atol=1e-5)


def test_linear_multiplies_raw_embeddings_without_bias():
  params = {"params": {"class_embeddings": jnp.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])}}
  logits = heads.Linear(3, 2).apply(params, jnp.array([[2.0, 4.0]]), jnp.array([0]))
  np.testing.assert_array_equal(logits, [[10.0, -4.0, 8.0]])


def test_normalised_scales_the_cosine_by_a_trainable_scale():
  module = heads.Normalised(2, 2)
  embeddings, labels = jnp.array([[6.0, 8.0]]), jnp.array([0])
  assert module.init(jax.random.key(0), embeddings, labels)["params"]["scale"] == 1.0
  params = {"params": {"class_embeddings": jnp.array([[3.0, 0.0], [0.0, -0.1]]),
                       "scale": jnp.float32(5.0)}}
  np.testing.assert_allclose(module.apply(params, embeddings, labels), [[3.0, -4.0]], rtol=1e-6)
  grad = jax.jit(jax.grad(lambda p: module.apply(p, embeddings, labels)[0, 0]))(params)
  np.testing.assert_allclose(grad["params"]["scale"], 0.6, rtol=1e-6)


def test_cosface_cross_entropy_by_hand():
  logits = heads.CosFace(4, 2, margin=0.4, scale=30.0).apply(
      weights(0.7, 0.1, -0.05, 0.3), jnp.array([[2.5, 0.0]]), jnp.array([0]))
  np.testing.assert_allclose(logits, [[9.0, 3.0, -1.5, 9.0]], rtol=1e-5)
  loss, _ = masked_cross_entropy(logits, jnp.array([0]), jnp.array([True]))
  np.testing.assert_allclose(loss, 0.6943995403, rtol=1e-5)


def test_arcface_by_hand():
  logits = heads.ArcFace(3, 2, margin=0.5, scale=64.0).apply(
      weights(0.1, 0.7, -0.3), jnp.array([[2.5, 0.0]]), jnp.array([1]))
  expected = 64 * np.array([[0.1, np.cos(np.arccos(0.7) + 0.5), -0.3]])
  np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", MARGIN_HEADS)
def test_no_margin_is_the_scaled_cosine(kind):
  embeddings, labels = batch()
  module = kind(CLASSES, DIM, margin=0.0, scale=16.0)
  params = drawn("margin")
  np.testing.assert_array_equal(module.apply(params, embeddings, labels),
                                16 * cosine(embeddings, params["params"]["class_embeddings"]))


@pytest.mark.parametrize("kind", MARGIN_HEADS)
def test_margin_and_scale_sweep_in_one_vmap(kind):
  embeddings, labels = batch()
  module = kind(CLASSES, DIM, margin=0.9, scale=3.0)
  params = drawn("margin")
  sweep = jnp.array([0.1, 0.4]), jnp.array([16.0, 64.0])
  apply = jax.vmap(lambda m, s: module.apply(params, embeddings, labels, margin=m, scale=s))
  swept = jax.jit(apply)(*sweep)
  for logits, margin, scale in zip(swept, *sweep, strict=True):
    fixed = kind(CLASSES, DIM, margin=float(margin), scale=float(scale))
    expected = fixed.apply(params, embeddings, labels)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MARGIN_HEADS)
def test_gradient_is_finite_at_the_poles_and_at_zero(kind):
  module = kind(3, 2, margin=0.5, scale=64.0)
  params = {"params": {"class_embeddings": jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])}}
  embeddings = jnp.array([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
  labels = jnp.array([0, 1, 0, 2])

  def loss(params, embeddings):
    logits = module.apply(params, embeddings, labels)
    return masked_cross_entropy(logits, labels, jnp.ones(4, bool))[0]

  value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, embeddings)
  assert jnp.isfinite(value)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_label_outside_the_classes_gets_no_margin():
  module = heads.ArcFace(CLASSES, DIM, margin=0.5, scale=1.0)
  embeddings, labels = batch()
  params = drawn("margin")
  outside = module.apply(params, embeddings, jnp.full(6, CLASSES))
  np.testing.assert_array_equal(outside, cosine(embeddings, params["params"]["class_embeddings"]))


@pytest.mark.parametrize(("name", "options", "std"), [
    ("linear", {}, np.sqrt(2 / (300 + 64))), ("normalised", {}, 0.01),
    ("cosface", MARGIN_OPTIONS, 0.01), ("arcface", MARGIN_OPTIONS, 0.01)])
def test_class_embeddings_start_with_the_stated_spread(name, options, std):
  module = head(name, 300, 64, **options)
  params = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 64)), jnp.zeros(1, int))
  np.testing.assert_allclose(params["params"]["class_embeddings"].std(), std, rtol=0.03)


def test_hparams_are_the_scalars_accepted_at_call_time():
  assert head("linear", 2, 2).hparams == {}
  assert head("normalised", 2, 2).hparams == {}
  for name in ("cosface", "arcface"):
    module = head(name, 3, 2, **MARGIN_OPTIONS)
    assert module.hparams == MARGIN_OPTIONS
    params, embeddings, labels = weights(0.7, 0.1, 0.2), jnp.array([[1.0, 0.0]]), jnp.array([0])
    np.testing.assert_array_equal(module.apply(params, embeddings, labels, **module.hparams),
                                  module.apply(params, embeddings, labels))


@pytest.mark.parametrize("name", ["cosface", "arcface"])
def test_a_margin_head_lends_the_logits_that_it_makes(name):
  """Of embeddings in the classes' plane, at other scalars than those that it was made with."""
  module, own = head(name, 2, 2, **MARGIN_OPTIONS), {"margin": 0.3, "scale": 5.0}
  lent = geometry_of(module)(own)
  angle = jnp.array([0.2, 1.0, 2.0])
  embeddings = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
  params = {"params": {"class_embeddings": jnp.eye(2)}}
  logits = module.apply(params, embeddings, jnp.zeros(3, jnp.int32), **own)
  np.testing.assert_allclose(lent.true_class_logit(jnp.cos(angle)), logits[:, 0], rtol=1e-5)
  np.testing.assert_allclose(lent.scale * jnp.sin(angle), logits[:, 1], rtol=1e-5)


def test_heads_without_a_fixed_function_of_cosines_lend_nothing():
  assert geometry_of(head("linear", 2, 2)) is None
  assert geometry_of(head("normalised", 2, 2)) is None
  assert [head(name, 2, 2).normalised for name in ("linear", "normalised")] == [False, True]
