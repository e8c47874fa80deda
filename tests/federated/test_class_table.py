"""The packed table of class embeddings: places, what a silo sees, what the server corrects."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.federated import class_table
from fedjax_face.federated.client import ClientResult, Totals
from fedjax_face.federated.memory import Ending
from fedjax_face.losses.class_pairs import Anchors, own_anchors
from fedjax_face.losses.gradient_correction import gradient_correction
from fedjax_face.method.algorithm import Communication
from tests.federated import toys

OWNER = np.array([0, 0, 0, 1, 2, 2])
ENDING = Ending({}, jnp.zeros((0, 1, 1, 1)), {}, jax.random.key(0))
HPARAMS = {"correction": {"strength": 2.0, "learning_rate": 0.1}}


def head_of(embeddings):
  return {"params": {"class_embeddings": jnp.asarray(embeddings)}}


def numbered(where):
  """Row r of the table holds r + 1 everywhere."""
  rows = jnp.arange(1.0, len(OWNER) + 1)[:, None]
  return lambda key: head_of(jnp.broadcast_to(rows, (len(OWNER), where.dim)))


def some_rows(where):
  rows = jax.random.normal(jax.random.key(1), (len(where.owner), where.dim))
  return jnp.where(jnp.asarray(where.owner)[:, None] >= 0, rows, 0)


def result_of(embeddings, cosine=0.5, examples=4.0):
  totals = Totals.zero()._replace(cosine=jnp.float32(cosine * examples), examples=examples)
  return ClientResult({"head": head_of(embeddings)}, totals)


def test_places_pack_silos_without_gaps_and_fill_up_to_the_devices():
  where = class_table.places(OWNER, 3, dim=2, devices=4)
  np.testing.assert_array_equal(where.owner, [0, 0, 0, 1, 2, 2] + [-1] * 58)
  np.testing.assert_array_equal(where.rows, [[0, 1, 2], [3, 64, 64], [4, 5, 64]])
  assert where.channels() == {"class embeddings": Communication(0, 20, 0, 28),
                              "corrections": Communication(16, 0, 24, 0)}


@pytest.mark.parametrize("devices, rows", [(1, 64), (4, 64), (64, 64), (3, 192), (128, 128)])
def test_rows_are_shared_evenly_and_mostly_do_not_depend_on_the_devices(devices, rows):
  assert len(class_table.places(OWNER, 3, dim=2, devices=devices).owner) == rows


def test_a_silo_sees_its_own_classes_and_no_others():
  where = class_table.places(OWNER, 3, dim=2, devices=4)
  heads = class_table.private(numbered(where), where)
  _, table = heads.init(jax.random.key(0))
  assert not table.class_embeddings[6:].any()
  own = heads.memory.own(table, jnp.array([2, -1, 0]))
  np.testing.assert_array_equal(own.class_embeddings[..., 0], [[5, 6, 0], [0, 0, 0], [1, 2, 3]])
  assert heads.memory.common(table) == ()
  assert heads.channels == {}


def test_entries_go_back_to_their_rows_and_an_empty_slot_changes_nothing():
  where = class_table.places(OWNER, 3, dim=1, devices=1)
  heads = class_table.private(numbered(where), where)
  _, table = heads.init(jax.random.key(0))
  entries = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[
      heads.entry(result_of(jnp.full((3, 1), value))) for value in (50.0, 60.0, 70.0)])
  after, metrics = heads.memory.finish(table, entries, jnp.array([2, 1, -1]), ENDING)
  np.testing.assert_array_equal(after.class_embeddings[:, 0], [1, 2, 3, 60, 50, 50] + [0] * 58)
  np.testing.assert_array_equal(after.cosine, [0, 0.5, 0.5])
  assert metrics == {}


def test_server_steps_are_gradient_descent_with_anchors_taken_anew():
  where = class_table.places(OWNER, 3, dim=3, devices=1)
  embeddings = some_rows(where)
  correction = gradient_correction("as_written", normalised=False, block=4)
  correct = class_table.gradient_steps(
      gradient_correction("as_written", normalised=False, block=4, axis_name="clients"), where,
      toys.one_device(), steps=2)
  table = class_table.ClassTable(embeddings, jnp.zeros(3))
  after, metrics = jax.jit(correct)(table, HPARAMS)
  expected, owner = embeddings, jnp.asarray(where.owner)
  for _ in range(2):
    anchors = own_anchors(expected, owner, jnp.zeros(3))
    expected = expected - 0.2 * correction(expected, owner, anchors, {})
  np.testing.assert_allclose(after.class_embeddings, expected, rtol=1e-5)
  moved = np.linalg.norm(expected - embeddings) / np.linalg.norm(embeddings)
  np.testing.assert_allclose(metrics["correction_norm"], moved, rtol=1e-5)


def test_without_strength_the_corrected_table_is_the_private_one():
  where = class_table.places(OWNER, 3, dim=3, devices=1)
  correct = class_table.gradient_steps(
      gradient_correction("as_written", normalised=False, axis_name="clients"), where,
      toys.one_device(), steps=3)
  table = class_table.ClassTable(some_rows(where), jnp.zeros(3))
  after, _ = correct(table, {"correction": HPARAMS["correction"] | {"strength": 0.0}})
  chex.assert_trees_all_equal(after.class_embeddings, table.class_embeddings)


def test_published_anchors_push_every_silo_by_its_own_rows_alone():
  """A single anchor of silo 1 pushes the rows of silos 0 and 2, and nothing pushes silo 1."""
  where = class_table.places(OWNER, 3, dim=3, devices=1)
  published = lambda exchanged, hparams: Anchors(
      exchanged, jnp.array([1]), jnp.ones(1), jnp.zeros(1))
  correct = jax.jit(class_table.steps_at_home(
      gradient_correction("as_written", normalised=False), where, 1, published))
  table = class_table.ClassTable(some_rows(where), jnp.zeros(3), jnp.array([[1.0, 0.0, 0.0]]))
  owner = where.owner

  def push(table):
    return np.asarray(correct(table, HPARAMS)[0].class_embeddings - table.class_embeddings)

  moved = push(table)
  of_others = jnp.where((jnp.asarray(owner) == 0)[:, None], 5.0, table.class_embeddings)
  np.testing.assert_array_equal(push(table._replace(class_embeddings=of_others))[owner == 2],
                                moved[owner == 2])
  assert (moved[(owner == 0) | (owner == 2)][:, 0] < 0).all()
  assert not moved[(owner == 1) | (owner == -1)].any() and not moved[:, 1:].any()


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
  where = class_table.places(OWNER, 3, dim=3, devices=1)
  with pytest.raises(ValueError, match=f"correction.steps={steps}: expected at least 1"):
    class_table.gradient_steps(None, where, toys.one_device(), steps)


def test_a_head_with_more_than_class_embeddings_is_refused():
  where = class_table.places(OWNER, 3, dim=3, devices=1)
  heads = class_table.private(
      lambda key: {"params": {"class_embeddings": jnp.zeros((6, 3)), "scale": jnp.ones(())}}, where)
  with pytest.raises(ValueError, match="class_embeddings, scale cannot be kept in a table"):
    heads.init(jax.random.key(0))
