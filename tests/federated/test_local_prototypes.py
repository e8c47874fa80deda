"""Heads that start from a client's own class means: by hand, alone in what they use, and masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws
from fedjax_face.federated.client import Batch, ClientBatches
from fedjax_face.federated.local_prototypes import LINEAR_SCALE, prototype_head
from fedjax_face.federated.training import train_locally
from fedjax_face.method.algorithm import Data
from fedjax_face.models.heads import COSINE_INIT_STD
from fedjax_face.runs.streams import public_root, step_keys
from tests.methods import tiny

LENGTH = COSINE_INIT_STD * np.sqrt(2)
IMAGES = jnp.array([[3, 0], [0, 5], [0, 2], [7, 0], [4, 4]], jnp.uint8).reshape(5, 1, 2, 1)


def embed(backbone, images):
  return backbone * images.reshape(len(images), 2).astype(jnp.float32)


def batches(examples, labels, mask=None, first_pass=None):
  examples = jnp.asarray(examples, jnp.int32)
  mask = jnp.ones(examples.shape, bool) if mask is None else jnp.asarray(mask)
  return ClientBatches(examples, jnp.asarray(labels, jnp.int32), mask, jnp.int32(3), first_pass)


def head(classes=3):
  return {"params": {"class_embeddings": jnp.full((classes, 2), 9.0)}}


def rows(found):
  return found["head"]["params"]["class_embeddings"]


def test_rows_are_unit_means_of_unit_embeddings_as_long_as_a_cosine_head_starts():
  """Class 0 has unit embeddings (1, 0) and (0, 1), class 2 twice (0, 1); nothing is of class 1."""
  found = prototype_head(embed, linear=False)(
      head(), 2.0, IMAGES, batches([[0, 1], [2, 1]], [[0, 0], [2, 2]]))
  expected = LENGTH * np.array([[0.5**0.5, 0.5**0.5], [9 / LENGTH, 9 / LENGTH], [0, 1]])
  np.testing.assert_allclose(rows(found), expected, rtol=1e-6)
  np.testing.assert_array_equal(found["held"], [True, False, True])


def test_padding_and_later_passes_do_not_count():
  """Positions 3 and 4 repeat the data, position 5 is padding."""
  found = prototype_head(embed, linear=False)(
      head(), 1.0, IMAGES, batches([[0, 1, 2], [3, 4, 3]], [[0, 0, 1], [0, 0, 2]],
                                   [[True, True, True], [True, True, False]], jnp.int32(3)))
  expected = LENGTH * np.array([[0.5**0.5, 0.5**0.5], [0, 1]])
  np.testing.assert_allclose(rows(found)[:2], expected, rtol=1e-6)
  np.testing.assert_array_equal(found["held"], [True, True, False])


def test_a_class_that_only_a_later_pass_shows_is_held_and_keeps_its_row():
  found = prototype_head(embed, linear=False)(
      head(), 1.0, IMAGES, batches([[0, 1]], [[0, 1]], first_pass=jnp.int32(1)))
  np.testing.assert_array_equal(found["held"], [True, True, False])
  np.testing.assert_array_equal(rows(found)[1], [9, 9])


def test_a_linear_head_gives_the_mean_image_a_fixed_logit_at_its_own_mean():
  """Raw lengths 3 and 5 have the mean 4."""
  found = prototype_head(embed, linear=True)(
      head(), 1.0, IMAGES, batches([[0, 1]], [[0, 1]]))
  np.testing.assert_allclose(4 * rows(found)[0], [LINEAR_SCALE, 0], rtol=1e-6)


@pytest.mark.parametrize("steps, size", [(1, 1), (3, 7), (40, 2)])
def test_blocks_of_any_shape_give_the_same_means(steps, size):
  rng = np.random.default_rng(0)
  examples, labels = rng.integers(0, 5, (2, steps * size))
  labels = labels % 3
  one = prototype_head(embed, linear=False)(
      head(), 1.0, IMAGES, batches(examples[None], labels[None]))
  cut = prototype_head(embed, linear=False)(
      head(), 1.0, IMAGES, batches(examples.reshape(steps, size), labels.reshape(steps, size)))
  np.testing.assert_allclose(rows(cut), rows(one), rtol=1e-5)


def algorithm(**changes):
  return tiny.bound(tiny.dp_fedemb(**{
      "start_head": "local_prototypes", "classes": "own",
      "aggregate": ff.gaussian(clip_norm=0.05, noise_multiplier=0.0)} | changes))


def mean_update(chosen, cohort, images):
  """What one round does to the backbone, flat."""
  state = tiny.start(chosen)
  keys = step_keys(1, public_root(2), 0)
  after, _ = jax.jit(chosen.step)(
      state, Data(jnp.asarray(images)), cohort, jax.tree.map(jnp.float32, chosen.hparams), keys)
  move = jax.tree.map(jnp.subtract, after.params, state.params)
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(move)])


def replaced(images, person, who):
  changed = images.copy()
  changed[person == who] = 255 - changed[person == who]
  return changed


@pytest.mark.parametrize("head_name", ["linear", "normalised", "cosface", "arcface"])
@pytest.mark.parametrize("classes", ["own", "all"])
def test_one_person_moves_one_clipped_update_and_no_more(head_name, classes):
  """K = 2, C = .05, server rate 1: the mean moves by 2 C / 2 at most, and by something."""
  chosen = algorithm(head=getattr(ff, head_name)(), classes=classes,
                     server=ff.momentum(learning_rate=1.0))
  data = tiny.people()
  cohort = chosen.cohort(Draws.of(3), 0)
  member = data.person[cohort.examples[0][cohort.mask[0]][0]]
  outsider = next(p for p in range(12) if not (data.person[cohort.examples] == p).any())
  before = mean_update(chosen, cohort, data.images)
  moved = mean_update(chosen, cohort, replaced(data.images, data.person, member)) - before
  assert 0 < np.linalg.norm(moved) <= 2 * 0.05 / 2 * (1 + 1e-4)
  np.testing.assert_array_equal(
      mean_update(chosen, cohort, replaced(data.images, data.person, outsider)), before)


def test_a_client_alone_trains_as_beside_others():
  """The update of a client is the same whatever images the other client of the round holds."""
  chosen, data = algorithm(), tiny.people()
  cohort = chosen.cohort(Draws.of(3), 0)
  other = data.person[cohort.examples[1][cohort.mask[1]][0]]
  alone = cohort._replace(client=np.array([cohort.client[0], -1], np.int32),
                          mask=cohort.mask & np.array([True, False])[:, None, None])
  before = mean_update(chosen, alone, data.images)
  np.testing.assert_array_equal(
      mean_update(chosen, alone, replaced(data.images, data.person, other)), before)
  assert np.linalg.norm(before) > 0


def test_nothing_more_is_released_sent_or_kept():
  own, random = algorithm(), algorithm(start_head="per_client")
  assert own.releases == random.releases
  shapes = jax.eval_shape(own.init, jax.random.key(0))
  assert own.communication(shapes) == random.communication(shapes)
  assert not jax.tree.leaves(shapes.heads)


def test_cohorts_count_the_first_pass():
  chosen = algorithm(local=ff.replace(tiny.LOCAL, epochs=3),
                     clients=ff.replace(tiny.CLIENTS, max_examples=0))
  cohort = chosen.cohort(Draws.of(3), 0)
  users = Users.from_person(tiny.people().person)
  np.testing.assert_array_equal(cohort.first_pass, [2 * users.counts[0]] * 2)
  for k in range(2):
    order = cohort.examples[k][cohort.mask[k]]
    assert len(np.unique(order[:cohort.first_pass[k]])) == cohort.first_pass[k] == len(order) // 3


def test_rows_of_classes_that_a_client_does_not_hold_are_masked_from_its_loss():
  """A head with a class for everybody: absent rows have no gradient and leave the loss as it is."""
  data = tiny.people()
  model = train_locally(tiny.OneLayer(), ff.linear(), tiny.LOCAL).model(data, data.num_labels)
  held = np.zeros(data.num_labels, bool)
  held[:2] = True
  labels = np.array([0, 1], np.int32)
  images = jnp.asarray(data.images[[np.flatnonzero(data.label == k)[0] for k in labels]])
  batch = Batch(images, jnp.asarray(labels), jnp.ones(2, bool), jnp.int32(data.num_labels))
  head = model.init_head(jax.random.key(1))
  others = {"backbone": model.init_backbone(jax.random.key(0)), "held": jnp.asarray(held)}
  loss = lambda head: model.loss(
      {**others, "head": head}, batch, {}, jax.random.key(2))[0]
  moved = jax.grad(loss)(head)["params"]["class_embeddings"]
  assert np.abs(moved[~held]).max() == 0 < np.abs(moved[held]).max()
  far = jax.tree.map(lambda rows: rows.at[2:].multiply(-3.0), head)
  np.testing.assert_array_equal(loss(head), loss(far))
