"""Mechanisms broken one at a time: the check that each of them has must fail.

The same calls without the fault pass in `test_mechanisms`.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from fedjax_face.federated import sampling
from fedjax_face.models.normalisation import GroupNorm
from fedjax_face.privacy import ghost_norm, noise
from fedjax_face.privacy.gradient_clip import GradientClip, joint
from fedjax_face.runs import loop, streams
from fedjax_face.split import step as split_step
from tests.privacy import cases, checks

caught = functools.partial(pytest.raises, AssertionError)


def test_the_count_of_adaptive_clipping_without_noise(monkeypatch):
  real = jax.random.normal
  monkeypatch.setattr(jax.random, "normal", lambda key, shape=(), dtype=float: (
      jnp.zeros(()) if shape == () else real(key, shape, dtype)))
  with caught():
    checks.check_count_noise(cases.adaptive(), cases.COUNT_STDDEV, cases.RATE, cases.CLIENTS)


def test_one_noise_key_for_all_rounds(monkeypatch):
  at = streams.RoundKeys.at
  monkeypatch.setattr(streams.RoundKeys, "at", lambda self, index, round_index: at(
      self, 0 * index, round_index))
  with caught():
    checks.check_noise_of_the_loop(per_dispatch=2)


def test_a_group_amplified_as_if_it_were_the_population(monkeypatch):
  real = sampling.cyclic_fixed
  def wrong(**options):
    everybody = sampling.fixed()
    return sampling.Sampling(lambda *given: real(**options).bind(*given)._replace(
        amplify=everybody.bind(*given).amplify), shows_members=True)
  monkeypatch.setattr(sampling, "cyclic_fixed", wrong)
  with caught():
    checks.check_amplification(cases.sampling("cyclic_fixed"), cases.claimed_rate)


@pytest.mark.parametrize("name", cases.NOISY)
def test_half_the_noise(name):
  hparams = cases.HPARAMS | {"noise_multiplier": cases.HPARAMS["noise_multiplier"] / 2}
  with caught():
    checks.check_empty_rounds(cases.NOISY[name](), hparams, cases.expected_noise(name))


@pytest.mark.parametrize("name", cases.CLUSTERS)
def test_half_the_noise_of_tables(name):
  mechanism, tables = cases.CLUSTERS[name]
  publish = mechanism.publish
  halved = mechanism._replace(publish=lambda rows, real, multiplier, key: publish(
      rows, real, multiplier / 2, key))
  with caught():
    checks.check_empty_clusters(halved, 1.5, tables)


@pytest.mark.parametrize("name", cases.NOISY)
def test_the_same_noise_in_every_tensor(name, monkeypatch):
  def alike(key, tree, sampler):
    return jax.tree.map(lambda leaf: sampler(key, (5000,))[:leaf.size].reshape(leaf.shape), tree)
  monkeypatch.setattr(optax.tree, "random_like", alike)
  with caught():
    checks.check_empty_rounds(cases.NOISY[name](), cases.HPARAMS, cases.expected_noise(name))


@pytest.mark.parametrize("name", cases.NOISY)
def test_the_same_noise_in_every_round(name, monkeypatch):
  aggregator = cases.NOISY[name]()
  once = aggregator._replace(release=lambda sums, state, hparams, key: aggregator.release(
      sums, state, hparams, jax.random.key(0)))
  with caught():
    checks.check_empty_rounds(once, cases.HPARAMS, cases.expected_noise(name))


def test_noise_in_some_tensors_only():
  aggregator = cases.independent_mean()
  def release(sums, state, hparams, key):
    mean, state, metrics = aggregator.release(sums, state, hparams, key)
    return mean | {"small": 0 * mean["small"]}, state, metrics
  with caught():
    checks.check_empty_rounds(aggregator._replace(release=release), cases.HPARAMS,
                              cases.expected_noise("independent"))


def test_ghost_norms_without_group_norm(monkeypatch):
  monkeypatch.setitem(ghost_norm._RULES, GroupNorm, lambda layer, own, x, dy: {})
  with caught():
    checks.check_ghost_norms(*cases.normed_network())


def test_ghost_norms_without_biases(monkeypatch):
  without = lambda rule: lambda layer, own, x, dy: {
      name: squared for name, squared in rule(layer, own, x, dy).items() if name != "bias"}
  for layer, rule in ghost_norm._RULES.items():
    monkeypatch.setitem(ghost_norm._RULES, layer, without(rule))
  with caught():
    checks.check_ghost_norms(*cases.normed_network())


@pytest.mark.parametrize("make", cases.NOISY.values(), ids=list(cases.NOISY))
def test_division_by_the_clients_that_took_part(make):
  aggregator = make()
  def release(sums, state, hparams, key):
    mean, state, metrics = aggregator.release(sums, state, hparams, key)
    scale = cases.CLIENTS / jnp.maximum(sums.clients, 1)
    return optax.tree.scale(scale, mean), state, metrics
  with caught():
    checks.check_constant_divisor(aggregator._replace(release=release), cases.CLIENTS)


def test_division_by_the_units_that_took_part():
  real = cases.sum_of_ones()
  def of_actual_batch(params, batch, mask, clip_norm):
    total = real(params, batch, mask, clip_norm)
    return total._replace(gradient=total.gradient * 3.0 / jnp.maximum(mask.any(1).sum(), 1))
  with caught():
    checks.check_constant_divisor_of_steps(
        of_actual_batch, joint(cases.ADD), noise.gaussian(), 3.0)


def test_cached_noise_drawn_anew(monkeypatch):
  real, passes = split_step.example_keys, itertools.count()
  monkeypatch.setattr(split_step, "example_keys", lambda key, example: real(
      jax.random.fold_in(key, next(passes)), example))
  with caught():
    checks.check_cached_noise()


def test_participation_from_a_public_root(monkeypatch):
  real = loop.train
  monkeypatch.setattr(loop, "train", lambda *given, seed, cohort_root, **options: real(
      *given, seed=seed, cohort_root=streams.public_root(seed), **options))
  with caught():
    checks.check_participation_follows_the_secret()


@dataclasses.dataclass(frozen=True)
class EachLayerToTheWhole(GradientClip):
  """Clips every layer to C and declares C for all of them: 1 / sqrt(L) was forgotten."""

  @property
  def sensitivity(self):
    return 1.0


@pytest.mark.parametrize("form", ["vmapped", "ghost"])
def test_a_clip_by_layer_without_its_root_of_the_number_of_layers(form):
  with caught():
    checks.check_gradient_clip(
        EachLayerToTheWhole(cases.ADD, tuple(cases.LAYERS.items())), form)


def test_updates_clipped_layer_by_layer():
  aggregator = cases.independent_mean()
  def clip(update, state, hparams):
    parts = {name: aggregator.clip({name: leaf}, state, hparams) for name, leaf in update.items()}
    clipped = {name: part[0][name] for name, part in parts.items()}
    return clipped, jnp.zeros(()), jnp.array(True)
  with caught():
    checks.check_update_clip(aggregator._replace(clip=clip), cases.HPARAMS["clip_norm"])


@pytest.mark.parametrize("fault", ["not clipped", "normed in 16 bits", "nan kept"])
def test_clips_that_keep_no_bound(fault):
  aggregator = cases.independent_mean()
  def clip(update, state, hparams):
    if fault == "not clipped":
      return update, jnp.zeros(()), jnp.array(True)
    if fault == "nan kept":
      scale = jnp.minimum(1, hparams["clip_norm"] / optax.tree.norm(update))
      return optax.tree.scale(scale, update), jnp.zeros(()), jnp.array(True)
    norm = optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), update))
    scale = jnp.minimum(1, hparams["clip_norm"] / norm.astype(jnp.float32))
    return optax.tree.scale(jnp.nan_to_num(scale), jax.tree.map(
        lambda leaf: jnp.nan_to_num(leaf, posinf=0), update)), jnp.zeros(()), jnp.array(True)
  with caught():
    checks.check_update_clip(aggregator._replace(clip=clip), cases.HPARAMS["clip_norm"])
