"""Consensus-aware loss: known answers, limits between the forms, and nothing without clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.losses.consensus import FORMS, ForeignPoints, consensus
from fedjax_face.losses.softmax import masked_cross_entropy
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.models.margins import cosface_margin, geometry

HPARAMS = {"weight": 1.0, "cap_angle": 0.3, "hinge_weight": 2.0}


def lent(scale=30.0):
  """What a CosFace head lends."""
  return geometry(scale, 0.4, cosface_margin)


def points(vectors, people=None, concentration=None):
  vectors = jnp.asarray(vectors, jnp.float32)
  ones = jnp.ones(len(vectors))
  return ForeignPoints(vectors, ones if people is None else jnp.asarray(people, jnp.float32),
                       ones if concentration is None else jnp.asarray(concentration, jnp.float32))


def at_cosines(cosines, dim=8):
  """One unit embedding [1, D] and unit vectors with these cosines to it."""
  cosines = np.asarray(cosines, np.float32)
  vectors = np.zeros((len(cosines), dim), np.float32)
  vectors[:, 0], vectors[:, 1] = cosines, np.sqrt(1 - cosines**2)
  return jnp.eye(1, dim), vectors


def random_case(seed=0, examples=5, foreign=7, dim=6, classes=4):
  rng = np.random.default_rng(seed)
  embeddings = l2_normalise(jnp.asarray(rng.normal(size=(examples, dim)), jnp.float32))
  logits = jnp.asarray(rng.normal(size=(examples, classes)), jnp.float32) * 5
  labels = jnp.asarray(rng.integers(0, classes, examples), jnp.int32)
  vectors = l2_normalise(jnp.asarray(rng.normal(size=(foreign, dim)), jnp.float32))
  return embeddings, logits, labels, vectors


def loss(form, embeddings, logits, labels, given, hparams=HPARAMS):
  negatives = consensus(form)(embeddings, given, hparams, lent()) if given is not None else None
  return masked_cross_entropy(
      logits, labels, jnp.ones(len(labels), bool), negatives=negatives)[0]


@pytest.mark.parametrize("foreign", [0, 1, 2, 3])
def test_known_answer_however_the_negatives_are_divided(foreign):
  """CosFace s = 30, m = .4, cosines .7 and (.1, -.05, .3): 0.6943995403."""
  embeddings, vectors = at_cosines([0.1, -0.05, 0.3])
  local = 30 * jnp.asarray([[cosface_margin(0.7, 0.4), 0.1, -0.05, 0.3][:4 - foreign]])
  negatives = points(vectors[3 - foreign:]) if foreign else None
  found = loss("v0", embeddings, local, jnp.zeros(1, jnp.int32), negatives)
  np.testing.assert_allclose(found, 0.6943995403, rtol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_without_clusters_loss_and_gradient_are_the_base_loss_bit_for_bit(form):
  embeddings, logits, labels, vectors = random_case()
  def value_and_gradient(given):
    def total(embeddings, logits):
      return loss(form, embeddings, logits, labels, given)
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(embeddings, logits)
  plain = value_and_gradient(None)
  for given in (points(vectors, people=jnp.zeros(7)), points(vectors[:0])):
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(value_and_gradient(given)),
                    strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_goes_into_the_points(form):
  embeddings, logits, labels, vectors = random_case()
  ones, wide = jnp.ones(7), HPARAMS | {"cap_angle": 1.4}
  gradient = jax.grad(lambda given: loss(form, embeddings, logits, labels, given, wide))(
      ForeignPoints(vectors, ones, 0.8 * ones))
  assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
  moved = jax.grad(lambda e: loss(form, e, logits, labels, points(vectors), wide))(embeddings)
  assert jnp.abs(moved).max() > 1e-6 and jnp.isfinite(moved).all()


def test_caps_of_no_width_are_points_and_wider_caps_only_push_more():
  embeddings, logits, labels, vectors = random_case()
  at = lambda angle: float(loss("v1", embeddings, logits, labels, points(vectors),
                                HPARAMS | {"cap_angle": angle}))
  np.testing.assert_allclose(
      at(0.0), loss("v0", embeddings, logits, labels, points(vectors)), rtol=1e-6)
  values = [at(angle) for angle in np.linspace(0, np.pi / 2, 15)]
  assert all(a <= b + 1e-6 for a, b in zip(values, values[1:], strict=False))
  assert values[-1] > values[0] + 0.1


def test_a_point_within_the_cap_counts_as_its_centre():
  embeddings, vectors = at_cosines([np.cos(0.2)])
  found = consensus("v1")(embeddings, points(vectors), HPARAMS, lent())
  np.testing.assert_allclose(found.log_mass, [30.0], rtol=1e-6)
  far, vectors = at_cosines([np.cos(1.0)])
  found = consensus("v1")(far, points(vectors), HPARAMS, lent())
  np.testing.assert_allclose(found.log_mass, [30 * np.cos(0.7)], rtol=1e-5)


def test_matched_moments_of_one_concentrated_person_is_that_person():
  embeddings, logits, labels, vectors = random_case()
  np.testing.assert_allclose(loss("v3", embeddings, logits, labels, points(vectors)),
                             loss("v0", embeddings, logits, labels, points(vectors)), rtol=1e-6)


@pytest.mark.parametrize("form", ["v0", "v1", "v3"])
def test_two_identical_clusters_are_one_with_log_2_more(form):
  embeddings, vectors = at_cosines([0.3])
  mass = lambda given: consensus(form)(embeddings, given, HPARAMS, lent()).log_mass
  np.testing.assert_allclose(mass(points(np.repeat(vectors, 2, axis=0))),
                             mass(points(vectors)) + np.log(2), rtol=1e-6)


def test_matched_moments_weigh_a_cluster_like_the_people_it_stands_for():
  """Mean of exp(s cos) over many people scattered around a centre, against the closed form."""
  rng, dim, people, scale = np.random.default_rng(0), 128, 40_000, 16.0
  centre = np.eye(1, dim)[0]
  noise = rng.normal(size=(people, dim)) / np.sqrt(dim)
  members = 1.5 * centre + noise
  members /= np.linalg.norm(members, axis=1, keepdims=True)
  mean = members.mean(axis=0)
  length = np.linalg.norm(mean)
  embedding, _ = at_cosines([0.0], dim)
  turned = 0.4 * np.eye(1, dim)[0] + np.sqrt(1 - 0.16) * np.eye(1, dim, 1)[0]
  exact = np.log(np.exp(scale * members @ turned).sum())
  given = points((mean / length)[None], [people], [length])
  found = consensus("v3")(
      jnp.asarray(turned, jnp.float32)[None], given, HPARAMS, lent(scale))
  np.testing.assert_allclose(found.log_mass, [exact], atol=0.1)
  wrong = consensus("v0")(
      jnp.asarray(turned, jnp.float32)[None], given, HPARAMS, lent(scale))
  assert abs(float(wrong.log_mass[0]) - exact) > 5


def test_the_weight_multiplies_the_mass():
  embeddings, vectors = at_cosines([0.3, 0.1])
  mass = lambda weight: consensus("v0")(
      embeddings, points(vectors), HPARAMS | {"weight": weight}, lent()).log_mass
  np.testing.assert_allclose(mass(0.1), mass(1.0) - np.log(10), rtol=1e-5)


def test_hinge_by_hand():
  embeddings, vectors = at_cosines([0.99, 0.5])
  found = consensus("v2")(embeddings, points(vectors), HPARAMS, lent())
  np.testing.assert_allclose(found.penalty, [2 * (0.99 - np.cos(0.3)) ** 2], rtol=1e-4)
  logits, labels = jnp.asarray([[1.0, 2.0]]), jnp.zeros(1, jnp.int32)
  base = loss("v2", embeddings, logits, labels, None)
  np.testing.assert_allclose(loss("v2", embeddings, logits, labels, points(vectors)),
                             base + found.penalty[0], rtol=1e-6)


def test_gradients_are_finite_at_the_poles():
  for form in FORMS:
    for cosine in (1.0, -1.0):
      embeddings, vectors = at_cosines([cosine])
      given = points(vectors, concentration=[0.5])
      gradient = jax.grad(lambda e, form=form, given=given: loss(
          form, e, jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), given))(embeddings)
      assert jnp.isfinite(gradient).all(), (form, cosine)


def test_an_unknown_form_is_refused():
  with pytest.raises(ValueError, match="'v4' is not one of v0, v1, v2, v3"):
    consensus("v4")
