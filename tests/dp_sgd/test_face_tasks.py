"""The five tasks as what DP-SGD trains: losses, mirror images, frozen layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.dp_sgd.face_tasks import five_tasks
from fedjax_face.dp_sgd.gradients import joint
from fedjax_face.losses import multi_task
from fedjax_face.losses.multi_task import TASKS, Targets
from fedjax_face.losses.tasks import detection, fixed, uncertainty
from fedjax_face.method import Setting
from fedjax_face.method.algorithm import Data
from fedjax_face.models.task_networks import Network
from fedjax_face.options import OptionError
from fedjax_face.privacy import gradient_clip, per_example
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.runs.mesh import clients_mesh
from tests.methods import tiny_faces

ADD = Adjacency.ADD_OR_REMOVE_ONE


@pytest.fixture(scope="module")
def sources():
  return tiny_faces.sources()


def bound(train, tasks=None, frozen=(), start=None):
  """The tiny network on five tasks, as a `Model`."""
  network = Network(lambda landmarks: tiny_faces.Tiny(landmarks), frozen)
  setting = Setting(clients_mesh(jax.devices()[:1]), 1, start=start, start_is_public=True)
  return five_tasks(network, tasks or uncertainty())(train, setting)


def started(model):
  return jax.jit(model.init)(jax.random.key(0))


def data_of(sources):
  return jax.tree.map(jnp.asarray, Data(sources.train.images, sources.train.targets))


def changed(layers):
  """Names of the layers that are not zero."""
  return {name for name, layer in layers.items()
          if any(np.any(leaf) for leaf in jax.tree.leaves(layer))}


# ---- the loss ----


def test_regions_without_a_face_train_detection_only(sources):
  """Not the heads of the other tasks, not their weights."""
  model = bound(sources.train)
  loss, params = model.loss, started(model)
  rows = jax.tree.map(lambda leaf: leaf[np.flatnonzero(sources.train.regions.face == 0)],
                      data_of(sources))
  rows = rows._replace(targets=rows.targets | {"known": jnp.ones_like(rows.targets["known"])})
  gradient = jax.jit(jax.grad(lambda p: loss(p, rows).sum()))(params)
  assert changed(gradient["network"]) == {"shared", "detection"}
  assert np.flatnonzero(gradient["weights"]).tolist() == [0]


def test_unknown_tasks_do_not_train_their_heads(sources):
  model = bound(sources.train)
  loss, params = model.loss, started(model)
  rows = data_of(sources)
  known = rows.targets["known"].at[:, TASKS.index("gender")].set(False)
  rows = rows._replace(targets=rows.targets | {"known": known})
  gradient = jax.jit(jax.grad(lambda p: loss(p, rows).sum()))(params)
  assert changed(gradient["network"]) == {"shared", *TASKS} - {"gender"}
  assert np.flatnonzero(gradient["weights"]).tolist() == [0, 1, 2, 3]


def test_a_unit_moves_network_and_weights_together_by_at_most_the_clip_norm(sources):
  """A batch of one unit each: whatever is released beyond noise has this length."""
  model, gradient = bound(sources.train), joint(units_at_once=None)
  params = started(model)
  total = jax.jit(gradient.sum(model.loss, gradient.clip(ADD, model.tasks)))
  lengths, data = [], data_of(sources)
  for image in np.unique(sources.train.regions.image)[:6]:
    rows = np.resize(np.flatnonzero(sources.train.regions.image == image), 6)
    unit = jax.tree.map(lambda leaf, rows=rows: leaf[rows][None], data)
    found = total(params, unit, jnp.ones((1, 6), bool), .05)
    assert set(found.gradient) == {"network", "weights"} and np.any(found.gradient["weights"])
    lengths.append(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(found.gradient))))
    assert found.norm[0] > .05
  np.testing.assert_allclose(lengths, .05, rtol=1e-5)


def test_mirrored_regions_keep_their_labels(sources):
  augment = bound(sources.train).augment
  data = data_of(sources)
  once = augment(data, jax.random.split(jax.random.key(0), len(data.images)))
  mirrored, targets = multi_task.mirror(data.images, Targets(**data.targets),
                                        multi_task.AFLW_MIRROR)
  flipped = (once.images != data.images).any((1, 2, 3))
  assert 0 < flipped.sum() < len(flipped)
  for row in range(len(flipped)):
    images, labels = ((mirrored, targets) if flipped[row] else
                      (data.images, Targets(**data.targets)))
    np.testing.assert_array_equal(once.images[row], images[row])
    for name, field in once.targets.items():
      np.testing.assert_array_equal(field[row], getattr(labels, name)[row])
  assert bound(sources.train, fixed(flip=False)).augment is None


def test_points_of_a_mirror_are_those_of_the_frame(sources):
  data = data_of(sources)
  keys = jax.random.split(jax.random.key(0), len(data.images))
  once = bound(sources.train._replace(frame="centre")).augment(data, keys)
  row = int(np.flatnonzero((once.images != data.images).any((1, 2, 3))
                           & (data.targets["face"] == 1))[0])
  x = data.targets["landmarks"][row, list(multi_task.AFLW_MIRROR), 0]
  np.testing.assert_allclose(once.targets["landmarks"][row, :, 0], -x)


def test_the_clip_and_both_forms_see_only_what_trains(sources):
  """Gradients of the frozen layers neither fill the clip norm nor appear in a ghost norm."""
  unfrozen = bound(sources.train)
  everything = started(unfrozen)
  frozen = bound(sources.train, frozen=("shared",), start=everything["network"])
  loss, params = frozen.loss, started(frozen)
  batch = jax.tree.map(lambda leaf: leaf[:12].reshape(4, 3, *leaf.shape[1:]), data_of(sources))
  found = {form: jax.jit(per_example.clipped_gradient_sum(loss, gradient_clip.joint(ADD), form))(
      params, batch, jnp.ones((4, 3), bool), .05) for form in ("vmapped", "scanned", "ghost")}
  full = jax.jit(per_example.clipped_gradient_sum(
      unfrozen.loss, gradient_clip.joint(ADD), "vmapped"))(
          everything, batch, jnp.ones((4, 3), bool), .05)
  for form in ("scanned", "ghost"):
    np.testing.assert_allclose(found[form].norm, found["vmapped"].norm, rtol=1e-4)
    for mine, theirs in zip(*map(jax.tree.leaves, (found[form].gradient,
                                                   found["vmapped"].gradient)), strict=True):
      np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)
  assert np.all(found["vmapped"].norm < full.norm)


def test_frozen_layers_are_put_back_and_need_a_network_that_has_them(sources):
  start = started(bound(sources.train))["network"]
  model = bound(sources.train, frozen=("shared", "pose"), start=start)
  params = started(model)
  assert set(params["network"]) == set(TASKS) - {"pose"}
  whole = model.start(params)
  jax.tree.map(np.testing.assert_array_equal, whole, dict(start))
  with pytest.raises(OptionError, match=r"^method.network.frozen=\('shared',\) without pretrain"):
    bound(sources.train, frozen=("shared",))
  with pytest.raises(OptionError, match=r"^method.network.frozen=\('conv9',\): frozen layer 'co"):
    bound(sources.train, frozen=("conv9",), start=start)


def test_a_mirror_is_known_for_the_landmarks_or_refused(sources):
  regions = sources.train.regions
  four = sources.train._replace(regions=regions._replace(
      landmarks=regions.landmarks[:, :4], visible=regions.visible[:, :4]))
  assert bound(four, fixed(flip=False)).augment is None
  with pytest.raises(OptionError, match="^method.tasks.flip: no mirror is known for 4 landmarks"):
    bound(four)


def test_weights_that_do_not_learn_are_said_to_be_fixed(sources):
  assert bound(sources.train).fixed == {}
  assert bound(sources.train, fixed()).fixed == {"weights": "method.tasks=fixed"}
  assert bound(sources.train, detection()).fixed == {"weights": "method.tasks=detection"}
