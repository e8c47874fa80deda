"""Clipped gradient sums: three forms against each other and against gradients taken one by one."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.normalisation import GroupNorm, PReLU
from fedjax_face.privacy import ghost_norm
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.gradient_clip import grouped, joint, per_task
from fedjax_face.privacy.per_example import clipped_gradient_sum, unclipped_gradient_sum

FORMS = ("vmapped", "scanned", "ghost")
UNITS, REGIONS, TASKS = 4, 3, 2
ADD = Adjacency.ADD_OR_REMOVE_ONE


class Everything(nn.Module):
  """A network of every known layer; with 3 regions some take Gram matrices and some do not."""

  @nn.compact
  def __call__(self, x):
    x = ConvReluMaxPool(8, (3, 3), name="pooled")(x)
    x = PReLU(name="prelu")(GroupNorm(2, name="norm")(x))
    x = nn.relu(nn.Conv(8, (2, 2), name="theirs")(x))
    x = nn.GroupNorm(2, name="their_norm")(x)
    x = nn.relu(Conv(32, (3, 3), (2, 2), ((1, 1), (0, 1)), name="strided")(x))
    x = nn.relu(Conv(24, (1, 1), use_bias=False, name="mixed")(x))
    x = nn.relu(Conv(24, (3, 3), feature_group_count=24, name="depthwise")(x))
    x = nn.LayerNorm(name="layer_norm")(x.reshape(x.shape[0], -1))
    x = nn.tanh(Dense(40, name="wide")(x))
    return nn.Dense(TASKS, name="outputs")(x)


class Small(nn.Module):
  """A convolution and a dense layer."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(Conv(4, (3, 3), (2, 2), name="convolution")(x))
    return Dense(TASKS, name="outputs")(x.reshape(x.shape[0], -1))


def loss_of(model):
  def loss(params, regions):
    """Squared errors of two tasks [N, 2], weighted by learned log-variances."""
    outputs = model.apply({"params": params["network"]}, regions["image"])
    errors = jnp.square(outputs - regions["target"])
    return 0.5 * jnp.exp(-params["log_variances"]) * errors + 0.5 * params["log_variances"]

  return loss


def params_of(model):
  network = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))["params"]
  return {"network": network, "log_variances": jnp.array([0.3, -0.5])}


loss = loss_of(Small())


@pytest.fixture(scope="module")
def params():
  return params_of(Small())


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  image = rng.normal(size=(UNITS, REGIONS, 8, 8, 2)) * rng.uniform(0.2, 3, (UNITS, 1, 1, 1, 1))
  target = rng.normal(size=(UNITS, REGIONS, TASKS))
  return {"image": jnp.asarray(image, jnp.float32), "target": jnp.asarray(target, jnp.float32)}


MASK = jnp.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
ALL = jnp.ones((UNITS, REGIONS), bool)


def one_by_one(loss, params, batch, mask):
  """By unit: the gradient of the sum over its real regions, one tree for each task."""

  @jax.jit
  def one(unit, mask, task):
    return jax.grad(lambda p: (loss(p, unit)[:, task] * mask).sum())(params)

  return [[one(jax.tree.map(lambda x, u=u: x[u], batch), mask[u], t) for t in range(TASKS)]
          for u in range(UNITS)]


@pytest.fixture(scope="module")
def gradients(params, batch):
  return one_by_one(loss, params, batch, ALL)


def total(trees):
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def clipped(tree, norm):
  return optax.tree.scale(min(1.0, norm / max(float(optax.tree.norm(tree)), 1e-30)), tree)


def close(actual, expected, rtol=2e-4):
  scale = float(optax.tree.norm(expected)) + 1e-6
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * scale / 10),
               actual, expected)


@pytest.mark.parametrize(("model", "forms"), [(Small(), FORMS), (Everything(), ["ghost"])])
def test_joint_clipping_equals_gradients_taken_one_by_one(model, forms, batch):
  loss, params = loss_of(model), params_of(model)
  units = [total(tasks) for tasks in one_by_one(loss, params, batch, MASK)]
  norms = np.array([optax.tree.norm(unit) for unit in units])
  clip_norm = float(np.median(norms[norms > 0]))
  assert norms.min() == 0 and np.isin([-1, 1], np.sign(norms[norms > 0] - clip_norm)).all()
  losses = jax.jit(loss)(params, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch))
  for form in forms:
    result = jax.jit(clipped_gradient_sum(loss, joint(ADD), form))(params, batch, MASK, clip_norm)
    close(result.gradient, total([clipped(unit, clip_norm) for unit in units]))
    np.testing.assert_allclose(result.norm, norms, rtol=2e-4)
    np.testing.assert_allclose(result.loss, (losses * MASK.reshape(-1, 1)).sum(0), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_each_group_is_clipped_to_its_share(form, params, batch, gradients):
  shares = {"": 1.0, "log_variances": 0.1, "network/outputs": 0.5}
  clip = grouped(shares, ADD)
  clip_norm = 0.5
  expected = []
  for tasks in gradients:
    unit = total(tasks)
    network = dict(unit["network"])
    outputs = clipped(network.pop("outputs"), 0.5 * clip_norm)
    network = clipped(network, clip_norm) | {"outputs": outputs}
    expected.append({"network": network,
                     "log_variances": clipped(unit["log_variances"], 0.1 * clip_norm)})
  result = jax.jit(clipped_gradient_sum(loss, clip, form))(params, batch, ALL, clip_norm)
  close(result.gradient, total(expected))


@pytest.mark.parametrize(("form", "stacked"), [
    *itertools.product(FORMS, (False, True))])
def test_tasks_are_clipped_one_by_one(form, stacked, params, batch, gradients):
  clip_norm = 0.5
  by_task = [total([clipped(tasks[t], clip_norm) for tasks in gradients])
             for t in range(TASKS)]
  expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_task)
  if not stacked:
    expected = jax.tree.map(lambda leaf: leaf.sum(0), expected)
  clip = per_task(TASKS, ADD, stacked)
  result = jax.jit(clipped_gradient_sum(loss, clip, form))(params, batch, ALL, clip_norm)
  close(result.gradient, expected)


@pytest.mark.parametrize("form", FORMS)
def test_without_clipping_units_add_up_to_the_gradient_of_the_batch(form, params, batch):
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
  expected = jax.jit(jax.grad(lambda p: loss(p, flat).sum()))(params)
  result = jax.jit(clipped_gradient_sum(loss, joint(ADD), form))(params, batch, ALL, jnp.inf)
  close(result.gradient, expected)


@pytest.mark.parametrize("units_at_once", [None, 1, 2])
def test_sums_without_a_bound_are_gradients_of_the_batch(units_at_once, params, batch):
  """Empty units, one of which is a part of its own, add nothing; views count by their mean."""
  run = jax.jit(unclipped_gradient_sum(loss, views=3, units_at_once=units_at_once))
  views = jax.tree.map(lambda x: jnp.repeat(x[:, :1], REGIONS, 1), batch)
  mask = jnp.broadcast_to(MASK[:, :1], MASK.shape)
  result = run(params, views, mask, 1e-6)
  alone = jax.tree.map(lambda x: x[:2, 0], batch)
  close(result.gradient, jax.jit(jax.grad(lambda p: loss(p, alone).sum()))(params))
  np.testing.assert_allclose(result.loss, loss(params, alone).sum(0), rtol=1e-4)
  assert result.norm.shape == (UNITS,) and not result.norm.any()


def test_parts_without_units_are_not_run(params, batch):
  ran = []

  def counted(params, regions):
    jax.debug.callback(lambda: ran.append(1))
    return loss(params, regions)

  for gradient_sum in (unclipped_gradient_sum(counted, units_at_once=1),
                       clipped_gradient_sum(counted, joint(ADD), "scanned")):
    ran.clear()
    jax.block_until_ready(jax.jit(gradient_sum)(params, batch, MASK, 0.5))
    jax.effects_barrier()
    assert len(ran) == 3  # of four units one is empty


@pytest.mark.parametrize("clip_norm", [0.0, 0.01, 0.5])
def test_after_clipping_a_unit_is_within_the_norm_over_all_parameters(clip_norm, params, batch):
  alone = jax.jit(clipped_gradient_sum(loss, joint(ADD), "ghost"))
  for u in range(UNITS):
    unit = jax.tree.map(lambda x, u=u: x[u:u + 1], batch)
    result = alone(params, unit, ALL[:1], clip_norm)
    assert float(optax.tree.norm(result.gradient)) <= clip_norm * (1 + 1e-5)
    assert np.abs(result.gradient["log_variances"]).max() > 0 or clip_norm == 0


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_units_that_are_not_finite_add_exactly_zero(form, params, batch):
  """Padding holds NaN; the last unit has a NaN target; the third has no regions."""
  spoilt = {
      "image": jnp.where(MASK[..., None, None, None], batch["image"], jnp.nan),
      "target": batch["target"].at[3].set(jnp.nan)}
  clean = MASK.at[3].set(False)
  run = jax.jit(clipped_gradient_sum(loss, joint(ADD), form))
  result, expected = run(params, spoilt, MASK, 0.5), run(params, batch, clean, 0.5)
  close(result.gradient, expected.gradient, rtol=1e-6)
  np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
  np.testing.assert_allclose(result.norm, expected.norm, rtol=1e-6)
  assert result.norm[3] == 0 and result.norm[0] > 0
  nothing = run(params, spoilt, jnp.zeros_like(MASK), 0.5)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(nothing))
  hopeless = run(params, jax.tree.map(lambda x: x * jnp.nan, batch), ALL, 0.5)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(hopeless))


@pytest.mark.parametrize("form", ["vmapped", "ghost"])
def test_physical_batches_add_up_to_one(form, params, batch):
  whole = jax.jit(clipped_gradient_sum(loss, joint(ADD), form))
  parts = jax.jit(clipped_gradient_sum(loss, joint(ADD), form, units_at_once=2))
  first, second = (f(params, batch, MASK, 0.5) for f in (whole, parts))
  close(second.gradient, first.gradient)
  np.testing.assert_allclose(second.norm, first.norm, rtol=1e-4)
  np.testing.assert_allclose(second.loss, first.loss, rtol=1e-4)


@pytest.mark.parametrize("form", ["vmapped", "ghost"])
def test_equal_views_count_as_one(form, params, batch):
  once = jax.jit(clipped_gradient_sum(loss, joint(ADD), form))(params, batch, MASK, 0.5)
  twice = jax.jit(clipped_gradient_sum(loss, joint(ADD), form, views=2))(
      params, jax.tree.map(lambda x: jnp.repeat(x, 2, axis=1), batch),
      jnp.repeat(MASK, 2, axis=1), 0.5)
  close(twice.gradient, once.gradient)
  np.testing.assert_allclose(twice.loss, once.loss, rtol=1e-4)


def linear_loss(params, regions):
  """Two tasks whose gradients are the data themselves: [N, 2]."""
  return jnp.einsum("ntd,d->nt", regions[..., :3], params["w"]) + regions[..., 3] * params["b"]


@pytest.mark.parametrize(("clip", "sensitivity"), [
    (joint(ADD), 1.0),
    (joint(Adjacency.ZERO_OUT), 1.0),
    (joint(Adjacency.REPLACE_ONE), 2.0),
    (grouped({"w": 3.0, "b": 4.0}, ADD), 5.0),
    (grouped({"w": 3.0, "b": 4.0}, Adjacency.REPLACE_ONE), 10.0),
    (per_task(2, ADD), 2.0),
    (per_task(2, ADD, stacked=True), 2 ** 0.5),
    (per_task(2, Adjacency.REPLACE_ONE), 4.0),
    (per_task(5, ADD), 5.0),
    (per_task(5, ADD, stacked=True), 5 ** 0.5),
])
def test_sensitivity_is_the_most_that_a_neighbour_moves_the_sum(clip, sensitivity):
  """Brute force over data of all signs and sizes: never above the sensitivity, which is reached."""
  assert clip.sensitivity == pytest.approx(sensitivity)
  if clip.tasks > 2:
    return
  params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
  run = jax.jit(jax.vmap(clipped_gradient_sum(linear_loss, clip, "vmapped"),
                         in_axes=(None, 0, 0, None)))
  corners = np.array(list(itertools.product([-1, 0, 1], repeat=4)), np.float32)
  random = np.random.default_rng(0).normal(size=(100, 2, 4))
  random *= np.logspace(-2, 2, 100)[:, None, None]
  data = np.concatenate([
      np.stack([corners, corners], 1) * 100, np.stack([corners, -corners], 1) * 100, random])
  data = jnp.asarray(data, jnp.float32)[:, None, None]
  sums = run(params, data, jnp.ones((len(data), 1, 1), bool), 0.7).gradient
  flat = np.concatenate([np.asarray(x).reshape(len(data), -1) for x in jax.tree.leaves(sums)], 1)
  if clip.adjacency is Adjacency.REPLACE_ONE:
    moved = np.linalg.norm(flat[:, None] - flat[None], axis=-1).max()
  else:
    moved = np.linalg.norm(flat, axis=-1).max()
  assert moved == pytest.approx(0.7 * sensitivity, rel=1e-5)


def test_gram_matrices_and_materialised_gradients_give_the_same_norms(monkeypatch):
  """Every rule that has a choice, on both sides of it."""
  from_grams, taken = ghost_norm._from_grams, []
  monkeypatch.setattr(
      ghost_norm, "_from_grams", lambda *args: taken.append(layer) or from_grams(*args))
  rng = np.random.default_rng(2)
  by_grams = [
      (Dense(6), (2, 5)), (nn.Dense(9, use_bias=False), (1, 200)),
      (Conv(64, (3, 3)), (1, 4, 4, 64)),
      (Conv(48, (3, 2), (2, 1), "VALID"), (2, 5, 6, 32)),
      (Conv(48, (2, 2), (3, 3), "VALID"), (1, 5, 5, 32))]
  materialised = [(nn.Dense(6), (2, 3, 5)), (Conv(3, (3, 3)), (2, 8, 8, 2)),
                  (Conv(64, (3, 3), feature_group_count=64), (1, 4, 4, 64))]
  for layer, shape in by_grams + materialised:
    x = jnp.asarray(rng.normal(size=(3, *shape)), jnp.float32)
    own, y = jax.eval_shape(lambda x, a=layer: a.init_with_output(jax.random.key(0), x)[::-1], x[0])
    own = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), own["params"])
    dy = jnp.asarray(rng.normal(size=(3, *y.shape)), jnp.float32)
    norms, expected = (
        jax.jit(lambda own, x, dy, a=layer, rule=rule: rule(a, own, x, dy))(own, x, dy)
        for rule in (ghost_norm._RULES[type(layer)], ghost_norm._materialised))
    assert sorted(norms) == sorted(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), norms, expected)
  assert taken == [layer for layer, _ in by_grams]


class Alone(nn.Module):
  """One layer under the name `layer`."""

  layer: nn.Module

  def __call__(self, x):
    return self.layer(x)


class Scale(nn.Module):
  """A layer that ghost norms do not know."""

  @nn.compact
  def __call__(self, x):
    return x * self.param("gain", nn.initializers.ones, ())


ROWS = jnp.ones((2, 1, 4))


def run_ghost(loss, params, rows=ROWS):
  mask = jnp.ones(rows.shape[:2], bool)
  return clipped_gradient_sum(loss, joint(ADD), "ghost")(params, rows, mask, 1.0)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p, x: Alone(Scale()).apply({"params": {"layer": {"gain": p["gain"]}}}, x).sum(1),
     r"layer 'layer' of type Scale has parameters \['gain'\] and no ghost norm; known layers are"),
    (lambda p, x: nn.Dense(4).apply({"params": optax.tree.scale(2, p["dense"])}, x).sum(1),
     "Dense does not get its parameters as they are"),
    (lambda p, x: nn.Dense(4).apply({"params": p["dense"]}, x).sum(1) + jnp.sum(
        p["dense"]["kernel"] ** 2), "'dense/kernel' is used by a layer and also outside it"),
    (lambda p, x: nn.Dense(4).apply({"params": p["dense"]}, nn.Dense(4).apply(
        {"params": p["dense"]}, x)).sum(1), "shares its parameters with an earlier call"),
    (lambda p, x: nn.Dense(4).apply({"params": p["dense"]}, x * p["gain"]).sum(1),
     "'gain' acts outside a layer before the last one"),
    (lambda p, x: nn.Dense(4).apply({"params": p["dense"]}, x[:1]).sum(1) + x.sum(1),
     r"one leading row for each of the 2 regions"),
    (lambda p, x: x @ p["table"].sum(1), r"\['table'\] are used outside layers and have 400 ent"),
    (lambda p, x: x, "loss of 2 regions has shape"),
])
def test_what_ghost_norms_would_miss_is_refused_by_name(change, message):
  params = {"dense": nn.Dense(4).init(jax.random.key(0), ROWS[0])["params"],
            "gain": jnp.ones(()), "table": jnp.ones((4, 100))}
  shaped = (lambda p, x: change(p, x)[:, :, None]) if message.startswith("loss") else change
  with pytest.raises(ValueError, match=message):
    run_ghost(shaped, params)


def test_bad_arguments_are_named():
  loss = lambda params, rows: rows @ params["w"]
  params, mask = {"w": jnp.ones(4)}, jnp.ones((2, 1), bool)
  for arguments, message in (
      (dict(form="fast"), "form 'fast' is not one of vmapped, scanned, ghost"),
      (dict(form="ghost", views=0), "views must be at least 1"),
      (dict(form="ghost", units_at_once=0), "units_at_once must be at least 1")):
    with pytest.raises(ValueError, match=message):
      clipped_gradient_sum(loss, joint(ADD), **arguments)
  for clip, arguments, given, message in (
      (joint(ADD), {}, ROWS[0], "must both begin with"),
      (joint(ADD), {"views": 2}, ROWS, "1 regions of a unit are not a multiple of views=2"),
      (joint(ADD), {"units_at_once": 3}, ROWS, "units_at_once=3 does not divide 2 units"),
      (grouped({"v": 1.0}, ADD), {}, ROWS, "parameter 'w' is in none of the clip groups"),
      (grouped({"": 1.0, "v": 1.0}, ADD), {}, ROWS, "clip group 'v' holds no parameter"),
      (per_task(2, ADD), {}, ROWS, "the clip is for 2 tasks, the loss has 1")):
    with pytest.raises(ValueError, match=message):
      clipped_gradient_sum(loss, clip, "vmapped", **arguments)(params, given, mask, 1.0)
  with pytest.raises(ValueError, match="shares of the clip norm must be positive"):
    grouped({"": 0.0}, ADD)
  with pytest.raises(ValueError, match="tasks must be at least 1"):
    per_task(0, ADD)
