from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.losses.softmax import masked_cross_entropy


def batch():
  logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
  return logits, jnp.array([0, 1, 2, 3, 4, 2]), jnp.array([True, True, False, True, False, True])


@jax.jit
def gradient(logits, labels, mask, num_classes=None):
  return jax.grad(lambda z: masked_cross_entropy(z, labels, mask, num_classes)[0])(logits)


def test_cosface_by_hand():
  logits = jnp.array([[30 * (0.7 - 0.4), 30 * 0.1, 30 * -0.05, 30 * 0.3]])
  loss, metrics = masked_cross_entropy(logits, jnp.array([0]), jnp.array([True]))
  np.testing.assert_allclose(loss, 0.6943995403, rtol=1e-6)
  assert metrics["count"] == 1


def test_mean_accuracy_and_count_by_hand():
  logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0], [1.0, 1.0]]))
  loss, metrics = masked_cross_entropy(logits, jnp.array([0, 1, 0]), jnp.array([True, True, False]))
  np.testing.assert_allclose(loss, (np.log(4) + np.log(4 / 3)) / 2, rtol=1e-6)
  assert metrics == {"accuracy": 0.5, "count": 2.0}


def test_classes_that_are_not_held_get_no_mass_and_no_gradient():
  """Of weights 1, 3 and 4 the last does not count; the softmax is that of the first two."""
  logits = jnp.log(jnp.array([[1.0, 3.0, 4.0]]))
  held = jnp.array([True, True, False])
  of = lambda z: masked_cross_entropy(z, jnp.array([0]), jnp.array([True]), held=held)[0]
  np.testing.assert_allclose(of(logits), np.log(4), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(of)(logits), [[-0.75, 0.75, 0]], rtol=1e-6)


def test_real_examples_only_equal_optax():
  logits, labels, mask = batch()
  real = np.flatnonzero(mask)

  def reference(z):
    return optax.softmax_cross_entropy_with_integer_labels(z[real], labels[real]).mean()

  np.testing.assert_allclose(masked_cross_entropy(logits, labels, mask)[0], reference(logits),
                             rtol=1e-6)
  expected = jax.jit(jax.grad(reference))(logits)
  np.testing.assert_allclose(gradient(logits, labels, mask), expected, atol=1e-7)


@pytest.mark.parametrize("num_classes", [None, 0, 3])
@pytest.mark.parametrize("padding", [0.0, 1e30, np.inf, np.nan])
def test_all_padding_gives_exactly_nothing(padding, num_classes):
  logits, mask = jnp.full((6, 5), padding), jnp.zeros(6, bool)
  labels = jnp.array([0, 2, 9, -1, 4, 5])
  loss, metrics = masked_cross_entropy(logits, labels, mask, num_classes)
  assert loss == 0
  assert metrics == {"accuracy": 0.0, "count": 0.0}
  np.testing.assert_array_equal(gradient(logits, labels, mask, num_classes), 0)


def test_padded_rows_cannot_be_told_apart():
  logits, labels, mask = batch()
  other = jnp.where(mask[:, None], logits, jnp.nan)
  for a, b in zip(jax.tree.leaves(masked_cross_entropy(logits, labels, mask)),
                  jax.tree.leaves(masked_cross_entropy(other, labels, mask)), strict=True):
    assert a == b
  np.testing.assert_array_equal(gradient(logits, labels, mask), gradient(other, labels, mask))


def test_unused_classes_count_for_nothing():
  logits, labels, mask = batch()
  labels = labels % 3
  spoiled = logits.at[:, 3:].set(1e4)
  expected = masked_cross_entropy(logits[:, :3], labels, mask)
  for call in (masked_cross_entropy, jax.jit(masked_cross_entropy)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                 call(spoiled, labels, mask, 3), expected)
  grad = gradient(spoiled, labels, mask, 3)
  np.testing.assert_array_equal(grad[:, 3:], 0)
  np.testing.assert_allclose(grad[:, :3], gradient(logits[:, :3], labels, mask), atol=1e-7)


def test_vmap_over_clients_with_their_own_class_counts_equals_a_loop():
  logits, labels, mask = batch()
  clients = (jnp.stack([logits, -logits, 2 * logits]), jnp.stack([labels % 2, labels % 4, labels]),
             jnp.stack([mask, ~mask, jnp.zeros_like(mask)]), jnp.array([2, 4, 5]))
  vmapped = jax.jit(jax.vmap(masked_cross_entropy))(*clients)
  for k in range(3):
    one = masked_cross_entropy(*(array[k] for array in clients))
    jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-6), vmapped, one)


def test_gradient_is_finite_for_extreme_logits():
  logits = jnp.array([[1e30, -1e30, 0.0], [-1e30, 1e30, 1e30]])
  assert jnp.isfinite(gradient(logits, jnp.array([1, 0]), jnp.ones(2, bool), 2)).all()
