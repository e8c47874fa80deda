"""The checks of `checks` hold of every clip, aggregator, sampling scheme and table as it is."""

import jax.numpy as jnp
import pytest

from fedjax_face.privacy import cluster_tables, noise
from fedjax_face.privacy.gradient_clip import joint
from fedjax_face.split.mechanism import ActivationClip
from tests.privacy import cases, checks
from tests.privacy.test_per_example import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", cases.GRADIENT_CLIPS)
def test_gradients_are_no_longer_than_their_clip_declares(name, form):
  checks.check_gradient_clip(cases.GRADIENT_CLIPS[name], form)


@pytest.mark.parametrize("make", [*cases.NOISY.values(), cases.clipped_only])
def test_updates_are_no_longer_than_the_clip_norm(make):
  checks.check_update_clip(make(), cases.HPARAMS["clip_norm"])


@pytest.mark.parametrize("non_negative", [False, True])
def test_activations_are_no_longer_than_the_clip_norm(non_negative):
  clip = ActivationClip(non_negative)
  one = lambda tree: clip(jnp.concatenate([leaf.reshape(1, -1) for leaf in tree.values()], 1), 0.7)
  checks.check_norms(one, 0.7)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_row_adds_no_more_to_a_table_than_its_sensitivity(weight):
  def one(tree):
    rows = jnp.concatenate([leaf.reshape(1, 1, -1) for leaf in tree.values()], 2)
    bounded, real = cluster_tables.bounded(rows, jnp.ones((1, 1), bool))
    return cluster_tables.contributions(bounded, real, weight)
  checks.check_norms(one, (1 + weight**2) ** 0.5)


@pytest.mark.parametrize("name", cases.NOISY)
def test_empty_rounds_are_the_stated_noise_in_every_tensor_and_round(name):
  checks.check_empty_rounds(cases.NOISY[name](), cases.HPARAMS, cases.expected_noise(name))


@pytest.mark.parametrize("name", cases.CLUSTERS)
def test_tables_of_nobody_are_the_stated_noise(name):
  checks.check_empty_clusters(cases.CLUSTERS[name][0], 1.5, cases.CLUSTERS[name][1])


def test_the_count_of_adaptive_clipping_is_noised():
  checks.check_count_noise(cases.adaptive(), cases.COUNT_STDDEV, cases.RATE, cases.CLIENTS)


@pytest.mark.parametrize("make", [*cases.NOISY.values(), cases.clipped_only])
def test_the_sum_is_divided_by_a_constant(make):
  checks.check_constant_divisor(make(), cases.CLIENTS)


def test_the_sum_of_gradients_is_divided_by_a_constant():
  checks.check_constant_divisor_of_steps(
      cases.sum_of_ones(), joint(cases.ADD), noise.gaussian(), 3.0)


@pytest.mark.parametrize("kind", cases.SAMPLINGS)
def test_nobody_takes_part_more_often_than_the_event_counts(kind):
  checks.check_amplification(cases.sampling(kind), cases.claimed_rate)


@pytest.mark.parametrize("per_dispatch", [1, 2])
def test_every_round_of_the_loop_has_noise_of_its_own(per_dispatch):
  checks.check_noise_of_the_loop(per_dispatch)


def test_who_takes_part_follows_the_secret():
  checks.check_participation_follows_the_secret()


def test_cached_noise_is_the_same_in_every_pass():
  checks.check_cached_noise()


def test_layers_with_norms_and_biases_are_measured():
  checks.check_ghost_norms(*cases.normed_network())
