"""The audit passes the real mechanisms and catches each broken one."""

import dp_accounting
import jax
import jax.numpy as jnp
import pytest

from fedjax_face.attacks import audit
from fedjax_face.federated import aggregators
from fedjax_face.federated.client import ClientResult, Totals
from fedjax_face.federated.participation import participation
from fedjax_face.privacy import noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from tests.federated import toys

COHORT = {
    "virtual_clients": 2, "users_per_client": 2, "capacity": 4, "sampling_probability": None,
    "min_separation": 2, "partition_seed": 0, "batch_size": 2, "epochs": 1, "max_examples": 4,
    "max_examples_per_user": 0, "classes": "all",
}
HPARAMS = {"clip_norm": 0.5, "noise_multiplier": 1.0}
USERS, TRIALS, DELTA = 8, 4000, 1e-2


def gaussian(who):
  return aggregators.noised_mean(
      UpdateClip(who.users_per_client, who.adjacency), who.clients, noise.gaussian())


def play(sampling, make_aggregator=gaussian, hparams=HPARAMS, rounds=1, probability=0.5,
         claim_hparams=None, client_update=audit.canary_update, cohort=COHORT, event=None):
  options = cohort | {"sampling": sampling, "sampling_probability": probability}
  make = lambda dataset: participation(options, dataset)
  who = make(audit.population(USERS, audit.PUSH))
  aggregator = make_aggregator(who)
  one = aggregator.event(claim_hparams or hparams)
  event = event or dp_accounting.SelfComposedDpEvent(who.amplify(one), rounds)
  return audit.audit(
      make, aggregator, event, hparams, toys.one_device(), users=USERS, probability=probability,
      rounds=rounds, trials=TRIALS, delta=DELTA, confidence=0.99, seed=1,
      client_update=client_update)


@pytest.mark.parametrize("sampling, rounds", [("fixed", 2), ("poisson", 1)])
def test_real_mechanism_stays_under_its_claim(sampling, rounds):
  result = play(sampling, rounds=rounds)
  assert 0 < result.measured <= result.claimed
  assert not result.violated


def test_adaptive_clipping_stays_under_its_claim():
  make = lambda who: aggregators.adaptive_clip(
      UpdateClip(who.users_per_client, who.adjacency), who.clients, quantile=0.5,
      learning_rate=0.2, count_stddev_per_client=2.0)
  assert not play("fixed", make).violated


ALWAYS = COHORT | {"users_per_client": 4}


def test_half_the_noise_is_caught():
  """All users in every round, so that nothing hides the canary but the noise."""
  honest = play("fixed", hparams=HPARAMS | {"noise_multiplier": 2.0}, cohort=ALWAYS, probability=1)
  halved = play("fixed", hparams=HPARAMS, claim_hparams=HPARAMS | {"noise_multiplier": 2.0},
                cohort=ALWAYS, probability=1)
  assert not honest.violated
  assert halved.violated


def test_claiming_c_where_a_client_holds_several_users_is_caught():
  """The noise of a virtual client's update must answer for 2C: the claim z/1 instead of z/2."""
  hparams = HPARAMS | {"noise_multiplier": 2.0}
  wrong = dp_accounting.GaussianDpEvent(2.0)
  assert play("fixed", hparams=hparams, cohort=ALWAYS, probability=1, event=wrong).violated


def batchwise_canary(params, images, batches, hparams, key):
  """Clips every local step instead of the whole update: four steps of norm C each."""
  result = audit.canary_update(params, images, batches, hparams, key)
  moved = jnp.sign(result.params["backbone"]) * hparams["clip_norm"] * 4
  return ClientResult({"backbone": moved, "head": ()}, Totals.zero())


def test_clipping_every_batch_instead_of_the_update_is_caught():
  unclipped = lambda who: gaussian(who)._replace(
      clip=lambda update, state, hparams: (update, jnp.zeros(()), jnp.array(True)))
  hparams = HPARAMS | {"noise_multiplier": 4.0}
  assert play("fixed", unclipped, hparams=hparams, cohort=ALWAYS, probability=1,
              client_update=batchwise_canary).violated


def test_sensitivity_of_the_clip():
  table = {(1, Adjacency.ADD_OR_REMOVE_ONE): 1, (1, Adjacency.ZERO_OUT): 1,
           (1, Adjacency.REPLACE_ONE): 2, (4, Adjacency.ADD_OR_REMOVE_ONE): 2,
           (4, Adjacency.REPLACE_ONE): 2}
  for (users, adjacency), expected in table.items():
    assert UpdateClip(users, adjacency).sensitivity == expected


def test_clip_bounds_every_norm():
  clip = UpdateClip(1, Adjacency.ADD_OR_REMOVE_ONE)
  for scale in (0.0, 1e-3, 1.0, 1e20, jnp.inf, jnp.nan):
    clipped, _ = clip({"a": scale * jnp.ones(3), "b": jnp.ones((2, 2)) * scale}, 0.7)
    total = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(clipped)))
    assert total <= 0.7 * (1 + 1e-6)
