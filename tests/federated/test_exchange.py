"""What silos publish: with which noise, when, at which price, and who is given what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.federated import exchange
from fedjax_face.federated.memory import Ending
from fedjax_face.privacy import clustering
from fedjax_face.privacy.clustering import Clusters, Transcript

REAL = jnp.array([[True, True], [True, False], [True, True]])
ROWS = jnp.broadcast_to(jnp.eye(2), (3, 2, 2))


def ending(made, key=0):
  return Ending({}, jnp.zeros((0, 1, 1, 1), jnp.uint8), made.hparams, jax.random.key(key))


def make(mechanism, noise_multiplier=1.5, every=2):
  return exchange.cluster_exchange(
      mechanism, REAL, 2, rows=lambda class_embeddings, ending: class_embeddings, every=every,
      rounds=4, noise_multiplier=noise_multiplier, needs_all_images=False)


def publish(made, kept, key=0):
  return made.publish(kept, ROWS, ending(made, key))[0]


def test_the_noise_that_is_added_is_the_noise_on_the_ledger():
  """Standard deviation of what is really published over the sensitivity, against the event."""
  mechanism, draws = clustering.client_mean(count_weight=0.5), []
  def keep(rows, real, noise_multiplier, key):
    clusters, transcript = mechanism.publish(rows, real, noise_multiplier, key)
    return clusters._replace(centres=transcript.tables[0][..., :2]), transcript
  made = make(mechanism._replace(publish=keep))
  one = jax.jit(lambda key: made.publish(
      made.init(), ROWS, ending(made)._replace(key=key))[0].clusters.centres)
  draws = np.stack([one(key) for key in jax.random.split(jax.random.key(1), 2000)])
  stddev = (draws - draws.mean(axis=0)).std()
  (release,) = made.releases
  np.testing.assert_allclose(
      stddev / mechanism.sensitivity, release.event.noise_multiplier, rtol=0.03)
  assert made.hparams["noise_multiplier"] == release.event.noise_multiplier == 1.5


def test_clusters_change_in_the_rounds_that_the_ledger_counts():
  made = make(clustering.client_mean(significance=0.0), every=3)
  kept, seen = made.init(), []
  for number in range(7):
    kept = publish(made, kept, number)
    seen.append(np.asarray(kept.clusters.centres))
  changed = [not np.array_equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
  assert np.flatnonzero(changed).tolist() == [2, 5]
  assert made.releases[0].covers == 3


def test_before_the_first_publication_nobody_is_given_anything():
  made = make(clustering.all_rows())
  foreign = made.select(made.init(), jnp.int32(0))["foreign"]
  assert not foreign.people.any()


def test_anchors_name_their_silo_and_leave_out_what_was_not_published():
  made = make(clustering.all_rows(), noise_multiplier=0.0)
  kept = publish(made, made.init())
  anchors = made.anchors(kept, made.hparams | {"anchor_cosine": 0.6})
  assert np.asarray(anchors.owner).tolist() == [0, 0, 1, -1, 2, 2]
  np.testing.assert_allclose(anchors.cosine, 0.6)


def test_a_pooled_view_is_a_silo_s_own_and_shows_in_no_metric():
  pooled = clustering.client_mean(pooled=True, significance=0.0)
  made = make(pooled)
  assert made.anchors is None
  _, metrics = made.publish(made.init(), ROWS, ending(made))
  assert metrics == {}


@pytest.mark.parametrize("silo", [0, 1, 2])
def test_a_silo_is_given_the_points_of_the_others(silo):
  def numbered(rows, real, noise_multiplier, key):
    number = jnp.arange(3.0)[:, None]
    return (Clusters(jnp.broadcast_to(number[..., None], (3, 1, 2)), 1 + number,
                     jnp.ones((3, 1))), Transcript(jnp.zeros(1), jnp.zeros(1)))
  made = make(clustering.client_mean()._replace(publish=numbered))
  foreign = made.select(publish(made, made.init()), jnp.int32(silo))["foreign"]
  assert np.flatnonzero(foreign.people).tolist() == [k for k in range(3) if k != silo]
