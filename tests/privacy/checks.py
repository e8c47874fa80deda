"""What must hold of every mechanism, as functions that raise AssertionError where it does not.

The tests of the mechanisms call them, and so does the test that breaks each mechanism and expects
its check to notice.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.attacks.trial_cohorts import cohorts_of_trials
from fedjax_face.dp_sgd.step import descent
from fedjax_face.federated.aggregators import Sums
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.privacy.per_example import clipped_gradient_sum
from fedjax_face.runs import loop
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.split.step import device_message
from tests.federated import toys
from tests.runs.toys import IMAGES, toy_algorithm
from tests.split import tiny

ROUNDING = 3e-6             # relative, of norms in float32
DEVIATIONS = 5.0            # of a statistic from what is expected: one false alarm in a million
# Tensors of different sizes, one of them a scalar.
SHAPES = {"scalar": (), "bias": (5,), "kernel": (4, 5), "wide": (3, 3, 7)}


def zeros(shapes=SHAPES):
  return {name: jnp.zeros(shape) for name, shape in shapes.items()}


# ---- how long what is clipped may be ----


def pushes(seed=0):
  """Trees to clip: random, single-layer and all-layer directions, from nothing to infinity."""
  rng = np.random.default_rng(seed)
  random = lambda: {n: rng.normal(size=s) * 10.0 ** rng.uniform(-3, 3) for n, s in SHAPES.items()}
  ones = {name: np.ones(shape) for name, shape in SHAPES.items()}
  single = [{n: ones[n] * (n == chosen) for n in SHAPES} for chosen in SHAPES]
  equal = {name: one / math.sqrt(one.size) for name, one in ones.items()}
  directions = [*(random() for _ in range(8)), *single, ones, equal]
  scales = (0.0, 1e-6, 0.3, 1.0, 1e3, 1e15, 1e25)
  as_tree = lambda tree, scale: jax.tree.map(lambda x: jnp.asarray(scale * x, jnp.float32), tree)
  finite = [as_tree(tree, scale) for tree, scale in itertools.product(directions, scales)]
  return [*finite, as_tree(ones, np.inf), as_tree(ones, np.nan),
          finite[-1] | {"bias": jnp.full(5, jnp.nan)}]


def check_norms(clip, bound, reached=True):
  """`clip` of every push has at most the norm `bound`, which some reach."""
  norms = [float(optax.tree.norm(clip(tree))) for tree in pushes()]
  assert all(norm <= bound * (1 + ROUNDING) for norm in norms), (max(norms), bound)
  if reached:
    assert max(norms) >= bound * (1 - 1e-4), (max(norms), bound)


def gradient_clip(clip, form, clip_norm):
  """A push as the only unit's gradient -> its clipped gradient; tasks all pull the same way."""
  tasks = clip.tasks or 1

  def loss(params, rows):
    terms = [(rows[n] * params[n]).reshape(rows[n].shape[0], -1).sum(1) for n in SHAPES]
    return jnp.repeat(sum(terms)[:, None], tasks, axis=1)

  total = jax.jit(clipped_gradient_sum(loss, clip, form))

  def clipped(tree):
    unit = jax.tree.map(lambda leaf: leaf[None, None], tree)
    return total(zeros(), unit, jnp.ones((1, 1), bool), clip_norm).gradient

  return clipped


def check_gradient_clip(clip, form, clip_norm=0.7):
  check_norms(gradient_clip(clip, form, clip_norm), clip_norm * clip.sensitivity)


def check_update_clip(aggregator, clip_norm=0.7):
  hparams = {"clip_norm": clip_norm, "noise_multiplier": 1.0}
  state = aggregator.init(zeros(), hparams)
  check_norms(lambda tree: aggregator.clip(tree, state, hparams)[0], clip_norm)


def check_ghost_norms(loss, params, batch, mask, clip):
  """The form that measures layer by layer adds up what clipping gradient after gradient does."""
  ghost, plain = (jax.jit(clipped_gradient_sum(loss, clip, form))(params, batch, mask, 0.01)
                  for form in ("ghost", "scanned"))
  scale = float(optax.tree.norm(plain.gradient))
  for a, b in zip(*(jax.tree.leaves(total.gradient) for total in (ghost, plain)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale)
  np.testing.assert_allclose(ghost.norm, plain.norm, rtol=1e-3)


# ---- the noise of rounds in which nobody takes part ----

NOISE_SHAPES = {"large": (50, 100), "other": (5000,), "small": (70, 70)}


def empty_rounds(aggregator, hparams, rounds, seed=0):
  """What an aggregator releases of nothing: a list over rounds of trees.

  Where the clip norm follows the clients, each release is that of the norm it starts from.
  """
  nothing, zero = zeros(NOISE_SHAPES), jnp.zeros(())
  state, seen = aggregator.init(nothing, hparams), []
  for index in range(rounds):
    key = jax.random.fold_in(jax.random.key(seed), index)
    mean, state, metrics = aggregator.release(
        Sums(nothing, zero, zero, zero, zero), state, hparams, key)
    clip_norm = metrics.get("clip_norm", hparams["clip_norm"])
    seen.append(optax.tree.scale(hparams["clip_norm"] / clip_norm, mean))
  return seen


def check_noise(seen, covariance):
  """Every tensor has the stated noise, and no two tensors or rounds share any but as stated.

  Args:
    seen: trees, one for each round, of noise alone.
    covariance: [rounds, rounds] that each entry has over rounds; a tensor with another has nothing
      to do with it.
  """
  covariance = np.asarray(covariance)
  names = sorted(seen[0])
  flat = {n: np.stack([np.asarray(tree[n], np.float64).ravel() for tree in seen]) for n in names}
  spread = np.sqrt(np.diag(covariance))
  for first, second in itertools.combinations_with_replacement(names, 2):
    size = min(flat[first].shape[1], flat[second].shape[1])
    found = flat[first][:, :size] @ flat[second][:, :size].T / size
    expected = covariance if first == second else 0 * covariance
    # A variance of s^2 from n samples deviates by s^2 sqrt(2 / n), a covariance by less.
    allowed = DEVIATIONS * math.sqrt(2 / size) * np.outer(spread, spread)
    assert np.all(np.abs(found - expected) <= allowed), (first, second, found, expected)


def independent(stddev, rounds=3):
  return stddev**2 * np.eye(rounds)


def check_empty_rounds(aggregator, hparams, covariance):
  check_noise(empty_rounds(aggregator, hparams, len(covariance)), covariance)


def check_empty_clusters(mechanism, multiplier, tables_per_person, seed=0):
  """Tables of silos that hold nobody: noise as stated, independent over all that leaves."""
  rows, nobody = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), bool)
  keys = jax.random.split(jax.random.key(seed), 4000)
  tables = np.asarray(jax.jit(jax.vmap(lambda key: mechanism.publish(
      rows, nobody, multiplier, key)[1].tables))(keys), np.float64)
  if mechanism.pooled:
    tables = tables[:, :, :1]
  flat = tables.reshape(len(tables), -1)
  stddev = multiplier * mechanism.sensitivity * math.sqrt(tables_per_person)
  allowed = DEVIATIONS * math.sqrt(2 / len(flat)) * stddev**2
  found = flat.T @ flat / len(flat)
  assert np.all(np.abs(found - stddev**2 * np.eye(flat.shape[1])) <= allowed)


def check_count_noise(aggregator, stddev, learning_rate, clients, trials=4000):
  """The next clip norm moves by the noise of the count alone: log C is Gaussian."""
  hparams = {"clip_norm": 1.0, "noise_multiplier": 1.0}
  state, zero = aggregator.init(jnp.zeros(2), hparams), jnp.zeros(())
  release = lambda key: aggregator.release(
      Sums(jnp.zeros(2), zero, zero, zero, zero), state, hparams, key)[1].clip_norm
  logs = np.log(jax.jit(jax.vmap(release))(jax.random.split(jax.random.key(0), trials)))
  expected = learning_rate * stddev / clients
  assert abs(logs.std() / expected - 1) <= DEVIATIONS / math.sqrt(2 * trials), logs.std()


# ---- what the sum is divided by ----


def check_constant_divisor(aggregator, clients):
  """The mean of few clients is their sum over K: else K itself would tell how many there are."""
  update, hparams = zeros(NOISE_SHAPES), {"clip_norm": 1.0, "noise_multiplier": 0.0}
  update = update | {"other": jnp.ones(5000)}
  state = aggregator.init(update, hparams)
  for present in (0.0, 1.0, float(clients)):
    count = jnp.float32(present)
    mean, _, _ = aggregator.release(
        Sums(update, count, count, count, count), state, hparams, jax.random.key(0))
    np.testing.assert_allclose(mean["other"], 1 / clients, rtol=1e-5)


def check_constant_divisor_of_steps(gradient_sum, clip, noise, expected):
  """A step with one unit moves half as far as one with two, whatever was expected."""
  steps = descent(gradient_sum, clip, noise, expected, lambda hparams: optax.sgd(1.0),
                  None, lambda params: params)
  hparams = {"gradient": {"clip_norm": 1e6, "noise_multiplier": 0.0},
             "optimizer": {"decay": 0.0}}
  params, images = jnp.zeros(3), jnp.ones((4, 3))
  keys = StepKeys(jax.random.key(0), jax.random.key(1))
  for units in (1, 2, 4):
    cohort = toys.cohort_of(range(4))
    mask = np.arange(4)[:, None, None] < units
    state, _ = steps.step(steps.init(params, hparams), Data(images),
                          cohort._replace(mask=mask), hparams, keys)
    np.testing.assert_allclose(state.params, -units / expected, rtol=1e-5)


# ---- randomness over rounds, passes and runs ----


def check_noise_of_the_loop(per_dispatch, rounds=2):
  """Noise read off the weights of a run: as long as stated, and new in every round.

  The steps are w_(t+1) = w_t / 2 + 0.1 Z_t. What is expected of Z owes nothing to the code that
  hands out the keys.
  """
  algorithm = toy_algorithm()
  size = 4000

  def init(key):
    return algorithm.init(key)._replace(weights=jnp.zeros(size))

  def step(state, data, cohort, hparams, keys):
    weights = state.weights / 2 + hparams["noise"] * jax.random.normal(keys.noise, (size,))
    return state._replace(weights=weights, rounds=state.rounds + 1), {"loss": jnp.zeros(())}

  noisy = dataclasses.replace(algorithm, init=init, step=step)
  weights = [np.zeros(size)]
  # A run of its own up to every round shows the weights after it, however long a dispatch is.
  for stop in range(1, rounds + 1):
    *_, last = loop.train(
        noisy, 0 * IMAGES, rounds=stop, seed=3, noise_root=bytes([11] * 32),
        cohort_root=bytes(32), rounds_per_dispatch=per_dispatch,
        mesh=clients_mesh(jax.devices()[:1]))
    weights.append(np.asarray(last.state.weights))
  draws = [{"w": after - before / 2} for before, after in itertools.pairwise(weights)]
  check_noise(draws, independent(0.1, rounds))


def check_participation_follows_the_secret():
  """With one public seed, another secret root draws others."""
  algorithm = toy_algorithm()

  def targets(root):
    return np.concatenate([progress.metrics["target"] for progress in loop.train(
        algorithm, IMAGES, rounds=6, seed=3, noise_root=bytes(32), cohort_root=root,
        mesh=clients_mesh(jax.devices()[:1]))])

  assert not np.array_equal(targets(bytes([7] * 32)), targets(bytes([8] * 32)))


def check_cached_noise():
  """A device that sends an image again sends the same numbers, not a second noise."""
  split, params, clip = tiny.network()
  images, labels, example = tiny.batch()
  send = lambda order: device_message(
      split, clip, params["device"], images[order],
      labels[order], example[order], 0, 1.0, 2.0, jax.random.key(4)).activations
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(send(order), np.asarray(send(np.arange(4)))[order], atol=1e-5)


def check_amplification(who, rate_of, rounds=600):
  """No user takes part more often, of the rounds in which it can, than the event claims.

  Args:
    who: a sampling scheme.
    rate_of: event -> sampling rate that it claims.
    rounds: to count in.
  """
  claimed = rate_of(who.amplify(dp_accounting.GaussianDpEvent(1.0)))
  drawn = cohorts_of_trials(who.cohort, 0, rounds, 1, seed=0)
  examples, mask = (leaf.reshape(rounds, -1) for leaf in (drawn.examples, drawn.mask))
  times = np.zeros(who.population)
  for round_examples, there in zip(examples, mask, strict=True):
    times[np.unique(round_examples[there])] += 1
  chances = rounds // who.rounds_per_event
  found = times.mean() / chances
  allowed = DEVIATIONS * math.sqrt(claimed * (1 - claimed) / (chances * who.population))
  assert found <= claimed + allowed, (found, claimed)
  assert times.max() / chances <= claimed + DEVIATIONS * math.sqrt(claimed / chances)
