"""Noised updates and clusters in one run: one total, and what a silo can move by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_face as ff
from fedjax_face.draws import Draws
from fedjax_face.method import Budget
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import loop, streams
from tests.methods import tiny
from tests.methods.test_privacyface import ledger_of, run
from tests.methods.tiny_clusters import bound, bound_anew, clusters, composed, pooled

OPEN = ff.gaussian(clip_norm=0.2)


@pytest.mark.parametrize("mechanism", ["anchor_table", "exponential_caps"])
def test_the_run_has_one_total_over_all_its_channels(mechanism):
  algorithm = bound_anew(composed(
      aggregate=OPEN, exchange=clusters(mechanism, epsilon=2.0, noise_multiplier=None)),
      privacy=Budget(8.0, 1e-5))
  assert sorted(r.channel for r in algorithm.releases) == ["backbone", "clusters"]
  ledger = ledger_of(algorithm, 4)
  channels = ledger.per_channel(1e-5, "person")
  total = ledger.epsilon(1e-5, "person").best
  assert 7.8 < total <= 8.0
  assert 1.98 < channels["clusters"].best <= 2.0 and channels["backbone"].best < 8.0
  (backbone_release,) = [r for r in algorithm.releases if r.channel == "backbone"]
  z = algorithm.hparams["aggregate"]["noise_multiplier"]
  np.testing.assert_allclose(backbone_release.event.noise_multiplier, z / 2)  # 2C: several people
  forgotten = Ledger()
  forgotten.record(backbone_release, 4)
  assert forgotten.epsilon(1e-5, "person").best < total - 0.1


def test_the_correction_waits_for_the_first_clusters():
  """Nothing is published before the end of the first round."""
  first, second = (metrics["correction_norm"] for _, metrics in tiny.steps(bound(composed()), 2))
  assert first == 0 and second > 0


def rows_of_silo(algorithm, state, silo):
  rows = algorithm.class_embeddings(state)
  return np.asarray(rows.class_embeddings)[np.asarray(rows.owner) == silo]


def test_given_what_was_released_a_silo_moves_the_backbone_by_its_own_update_alone():
  """Two worlds with the same releases and other people in silo 1: 2C / K at most, and class
  embeddings of the other silos the same, bit for bit.
  """
  algorithm = bound(composed(correction=ff.gradient_correction(strength=1e3)))
  (before,), _ = run(algorithm, rounds=1)
  owner = np.asarray(algorithm.class_embeddings(before).owner)
  table = before.heads.class_embeddings
  other = before._replace(heads=before.heads._replace(class_embeddings=jnp.where(
      (owner == 1)[:, None], -3 * table[::-1], table)))
  people, step = tiny.people(), jax.jit(algorithm.step)
  silo = tiny.silos().silos(people, 0).silo
  images = np.where((silo == 1)[:, None, None, None], 255 - people.images, people.images)
  one_more = lambda state, images: step(
      state, Data(images), algorithm.cohort(Draws.of(7), 7), algorithm.hparams,
      StepKeys(jax.random.key(7), jax.random.key(8)))[0]
  a, b = one_more(before, people.images), one_more(other, images)
  moved = optax.tree.norm(jax.tree.map(jnp.subtract, a.params, b.params))
  most = 2 * algorithm.hparams["aggregate"]["clip_norm"] / 3
  assert 0.2 * most < moved <= most * (1 + 1e-4)
  for k in (0, 2):
    np.testing.assert_array_equal(rows_of_silo(algorithm, a, k), rows_of_silo(algorithm, b, k))
  assert not np.allclose(rows_of_silo(algorithm, a, 1), rows_of_silo(algorithm, b, 1))


def test_a_silo_of_one_person_may_be_joined_by_another():
  algorithm = bound(composed(clients=tiny.silos(12), exchange=clusters("client_mean")))
  assert algorithm.releases[0].event.noise_multiplier == 0.5


@pytest.mark.parametrize("asked, epsilon, words", [
    (clusters("kmeans"), 8.0, "channel 'clusters' has no guarantee"),
    (clusters(epsilon=3.0, noise_multiplier=None), 2.0, "channel 'clusters' alone takes"),
], ids=["no guarantee", "all of it"])
def test_a_total_that_leaves_nothing_for_the_backbone_is_refused(asked, epsilon, words):
  with pytest.raises(ValueError, match=words):
    bound_anew(composed(aggregate=OPEN, exchange=asked), privacy=Budget(epsilon, 1e-5))


def test_pooled_clusters_cannot_be_anchors_of_the_correction():
  with pytest.raises(ValueError, match="method.exchange.mechanism.pooled"):
    bound(composed(exchange=clusters(mechanism=pooled())))


def test_a_run_that_is_interrupted_between_publications_ends_the_same():
  algorithm = bound(composed(exchange=clusters(every=2)))
  images, keys = tiny.people().images, streams.public_root(1)

  def trained(rounds, start=0, state=None):
    *_, last = loop.train(algorithm, images, rounds=rounds, start=start, state=state, seed=0,
                          noise_root=keys, cohort_root=keys, mesh=tiny.one_device(),
                          rounds_per_dispatch=4)
    return jax.tree.map(np.asarray, last.state)

  whole, part = trained(4), trained(2)
  jax.tree.map(np.testing.assert_array_equal, whole, trained(4, start=2, state=part))
  assert whole.heads.exchanged.round == 4
