"""The audit passes the real mechanisms and catches each broken one."""

import functools
import gc
import weakref

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_privacy.matrix_factorization import buffered_toeplitz

from fedjax_face.attacks import audit
from fedjax_face.attacks.trial_cohorts import cohorts_of_trials
from fedjax_face.draws import Draws
from fedjax_face.federated import aggregators, heads
from fedjax_face.federated.client import ClientResult, Totals
from fedjax_face.federated.local_prototypes import prototype_head
from fedjax_face.federated.training import backbone_release
from fedjax_face.privacy import accounting, ledger, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from tests.federated import toys
from tests.federated.schemes import participation

COHORT = {
    "virtual_clients": 2, "users_per_client": 2, "capacity": 4, "sampling_probability": None,
    "min_separation": 2, "partition_seed": 0, "batch_size": 2, "epochs": 1, "max_examples": 4,
    "max_examples_per_user": 0, "classes": "all",
}
HPARAMS = {"clip_norm": 0.5, "noise_multiplier": 1.0}
USERS, DELTA = 8, 1e-2


def gaussian(who):
  return aggregators.noised_mean(
      UpdateClip(who.users_per_client, who.adjacency), who.clients, noise.gaussian())


@functools.cache
def participating(options, roles, persons):
  """The same one for the same population, so that games share what they draw."""
  roles = np.frombuffer(roles, np.uint8)
  return participation(dict(options), audit.population(roles, np.array(persons)))


def play(sampling, make_aggregator=gaussian, hparams=HPARAMS, rounds=1, probability=0.5,
         claim_hparams=None, client_update=audit.canary_update, cohort=COHORT, event=None,
         trials=4000, head=audit.NO_HEAD, **chosen):
  options = cohort | {
      "sampling": sampling, "sampling_probability": probability if "poisson" in sampling else None}
  make = lambda dataset: participating(
      tuple(options.items()), dataset.images[:, 0, 0, 0].tobytes(), tuple(dataset.person.tolist()))
  who = make(audit.population([audit.IDLE] * USERS))
  aggregator = make_aggregator(who)
  if event is None:
    release = backbone_release(aggregator, who, claim_hparams or hparams)
    event = dp_accounting.SelfComposedDpEvent(
        release.event, ledger.events_used(rounds, release.covers))
  return audit.audit(
      make, aggregator, event, hparams, toys.one_device(), users=USERS, probability=probability,
      rounds=rounds, trials=trials, delta=DELTA, confidence=0.99, seed=1,
      client_update=client_update, head=head, **chosen)


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


def clipped_by_layer(who):
  """Every tensor clipped to C, and C claimed for all: 1 / sqrt(number of layers) was forgotten."""
  real = gaussian(who)
  def clip(update, state, hparams):
    parts = {name: real.clip({name: leaf}, state, hparams)
             for name, leaf in update["backbone"].items()}
    clipped = {name: part[0][name] for name, part in parts.items()}
    return update | {"backbone": clipped}, jnp.zeros(()), jnp.array(True)
  return real._replace(clip=clip)


LOUD = HPARAMS | {"noise_multiplier": 2.0}


@pytest.mark.parametrize("towards, make, violated", [
    ("all_layers", gaussian, False), ("one_layer", gaussian, False),
    ("all_layers", clipped_by_layer, True), ("one_layer", clipped_by_layer, False)])
def test_a_clip_by_layer_that_claims_the_whole_is_caught_where_all_layers_move(
    towards, make, violated):
  result = play("fixed", make, hparams=LOUD, cohort=ALWAYS, probability=1, towards=towards)
  assert result.violated == violated
  assert result.measured > 0.3 * result.claimed


@pytest.mark.parametrize("name", audit.DIRECTIONS)
def test_directions_are_unit_vectors_over_tensors_of_different_sizes(name):
  moved = audit.direction(name)
  norms = {layer: np.linalg.norm(vector) for layer, vector in moved.items()}
  assert sum(norm**2 for norm in norms.values()) == pytest.approx(1, rel=1e-5)
  assert {layer: vector.shape for layer, vector in moved.items()} == audit.SHAPES
  assert len({vector.size for vector in moved.values()}) == len(moved) == 4
  expected = {"one_layer": 1, "all_layers": 4, "random": 4}[name]
  assert sum(norm > 0 for norm in norms.values()) == expected
  if name == "all_layers":
    assert list(norms.values()) == pytest.approx([0.5] * 4, rel=1e-5)


@pytest.mark.parametrize("place, row", [("first", 0), ("middle", 4), ("last", 7)])
def test_neighbours_differ_in_one_unit_and_the_others_keep_their_numbers(place, row):
  pushing, pulling = audit.neighbours(8, Adjacency.REPLACE_ONE, place)
  assert np.flatnonzero((pushing.images != pulling.images).ravel()).tolist() == [row]
  with_it, without = audit.neighbours(8, Adjacency.ADD_OR_REMOVE_ONE, place)
  assert without.person.tolist() == [person for person in range(8) if person != row]
  assert with_it.images[row] == audit.PUSH and (without.images == audit.PULL).all()


@pytest.mark.parametrize("place", audit.PLACES)
@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_whoever_is_removed_or_replaced_the_claim_holds(sampling, place):
  cohort, rate = (TOGETHER, 1) if sampling == "poisson" else (COHORT, 0.5)
  result = play(sampling, hparams=LOUD, cohort=cohort, probability=rate, place=place, trials=2000)
  assert 0 < result.measured <= result.claimed


@pytest.mark.parametrize("place", ["first", "last"])
def test_groups_that_follow_from_the_number_of_users_are_caught(place, monkeypatch):
  """Whoever leaves, all others change groups; each has a client of its own."""
  monkeypatch.setattr(Draws, "groups", lambda self, identity, count, purpose: np.full(
      len(identity), len(identity) % count))
  cohort = COHORT | {"virtual_clients": 48, "users_per_client": 1, "sampling": "cyclic_poisson",
                     "sampling_probability": 1.0, "max_examples": 4, "batch_size": 4}
  made, make_aggregator = correlated("banded", rounds=2, min_separation=2)
  make = lambda dataset: participation(cohort, dataset)
  aggregator = make_aggregator(make(audit.population([audit.IDLE] * USERS)))
  hparams = HPARAMS | {"noise_multiplier": 2.0}
  result = audit.audit(
      make, aggregator, aggregator.event(hparams), hparams, toys.one_device(), users=USERS,
      probability=1.0, rounds=2, trials=1000, delta=DELTA, confidence=0.99, seed=1, place=place)
  assert result.violated


@pytest.mark.parametrize("fault", ["towards", "place"])
def test_unknown_directions_and_places(fault):
  with pytest.raises(ValueError, match="'sideways' is not one of"):
    play("fixed", **{fault: "sideways"})


ROLES = prototype_head(lambda backbone, images: jax.nn.one_hot(images[:, 0, 0, 0], 3), False)


def of_everybody(head, backbone, images, batches):
  """Prototypes that are not a client's own: of all images of the population."""
  everyone = jnp.arange(len(images))[None]
  return ROLES(head, backbone, images, batches._replace(
      examples=everyone, labels=jnp.zeros_like(everyone), mask=everyone >= 0, first_pass=None))


def as_the_head_says(params, images, batches, hparams, key):
  """A canary that sees roles in the prototypes from which its head started, and nowhere else."""
  row = params["head"]["params"]["class_embeddings"][0]
  push, pull = row[audit.PUSH] > 0, row[audit.PULL] > 0
  moved = audit.shifted(params["backbone"], -audit.STRENGTH * jnp.where(push, 1.0, -1.0 * pull))
  return ClientResult({"backbone": moved, "head": params["head"]}, Totals.zero())


@pytest.mark.parametrize("prototypes, violated", [(ROLES, False), (of_everybody, True)])
def test_canaries_reach_no_further_through_the_start_of_a_head(prototypes, violated):
  """Own prototypes carry a person into one clipped update; those of everybody into all."""
  head = heads.fresh(lambda key: {"params": {"class_embeddings": jnp.zeros((1, 3))}},
                     "local_prototypes", prototypes)
  result = play("fixed", hparams=HPARAMS | {"noise_multiplier": 2.0}, cohort=ALWAYS, probability=1,
                client_update=as_the_head_says, head=head)
  assert result.violated == violated
  assert result.measured > 0.3 * result.claimed


def test_claiming_c_where_a_client_holds_several_users_is_caught():
  """The noise of a virtual client's update must answer for 2C: the claim z/1 instead of z/2."""
  hparams = HPARAMS | {"noise_multiplier": 2.0}
  wrong = dp_accounting.GaussianDpEvent(2.0)
  assert play("fixed", hparams=hparams, cohort=ALWAYS, probability=1, event=wrong).violated


# One client of all users that are sampled, so that the canary never has a client of its own.
TOGETHER = COHORT | {"virtual_clients": 1, "users_per_client": 4, "capacity": 8, "batch_size": 8,
                     "max_examples": 8}


def test_a_poisson_canary_that_turns_its_client_round_needs_two_clip_norms():
  """The sum moves from -C to C: the claim for 2C holds, that for C does not."""
  epsilon = lambda multiplier: accounting.epsilon(
      dp_accounting.GaussianDpEvent(multiplier), DELTA, Adjacency.ADD_OR_REMOVE_ONE).best
  result = play("poisson", hparams=HPARAMS | {"noise_multiplier": 2.0}, cohort=TOGETHER,
                probability=1)
  assert result.claimed == epsilon(1.0)
  assert epsilon(2.0) < result.measured <= result.claimed


def test_half_the_noise_of_a_poisson_round_is_caught():
  claimed = HPARAMS | {"noise_multiplier": 2.0}
  assert play("poisson", claim_hparams=claimed, cohort=TOGETHER, probability=1).violated


def correlated(kind, rounds, min_separation):
  made = noise.correlated(kind, rounds, min_separation)
  return made, lambda who: aggregators.noised_mean(
      UpdateClip(who.users_per_client, who.adjacency), who.clients, made)


@pytest.fixture
def short_search(monkeypatch):
  """A buffered Toeplitz strategy as it is; the search for the best one takes half a minute."""
  with jax.enable_x64(True):
    strategy = buffered_toeplitz.BufferedToeplitz.build([0.9, 0.4], [0.3, 0.3])
  monkeypatch.setattr(buffered_toeplitz, "optimize", lambda **_: strategy)


@pytest.mark.parametrize("change, holds", [
    ({}, True),
    ({"noise": 0.5}, False),
    ({"every_round": True}, False),
], ids=["as it is", "half the noise", "separation not enforced"])
@pytest.mark.parametrize("kind, sampling", [
    ("banded", "cyclic_fixed"), ("buffered_toeplitz", "cyclic_poisson")])
def test_correlated_noise_over_a_whole_run(kind, sampling, change, holds, short_search):
  """Four rounds; two groups take turns, or one that takes part in every round. Its two turns move
  the whitened outputs by 1.25 standard deviations, all that is claimed.
  """
  made, make_aggregator = correlated(kind, rounds=4, min_separation=2)
  claimed = HPARAMS | {"noise_multiplier": 1.6 * made.relative_sensitivity}
  hparams = claimed | {"noise_multiplier": claimed["noise_multiplier"] * change.get("noise", 1)}
  groups = {"min_separation": 1, "users_per_client": 8} if "every_round" in change else {}
  result = play(sampling, make_aggregator, hparams=hparams, claim_hparams=claimed, rounds=4,
                probability=1, cohort=TOGETHER | groups, trials=6000)
  assert result.claimed == pytest.approx(accounting.epsilon(
      dp_accounting.GaussianDpEvent(0.8), DELTA, Adjacency.REPLACE_ONE).best, rel=1e-3)
  assert result.violated is not holds
  assert result.measured > 0.25 * result.claimed


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_independent_noise_with_turns_stays_under_its_claim(probability):
  """Of three rounds the canary may take part in two, each an event of its own."""
  result = play("cyclic_poisson", cohort=TOGETHER, rounds=3, probability=probability, trials=1500)
  assert 0 < result.measured <= result.claimed


def test_the_covariance_of_the_noise_is_read_off_the_aggregator():
  mechanism, make_aggregator = correlated("banded", rounds=4, min_separation=2)
  who = participation(TOGETHER | {"sampling": "cyclic_fixed"}, audit.population([audit.IDLE] * 8))
  covariance = audit.noise_covariance(make_aggregator(who), who.clients, HPARAMS, 4, seed=0)
  turns = np.array([1.0, 0.0, 1.0, 0.0])  # the worst participation, from the first round on
  assert turns @ np.linalg.solve(covariance, turns) == pytest.approx(
      (mechanism.relative_sensitivity / HPARAMS["noise_multiplier"]) ** 2, rel=0.02)


def test_whitened_scores_by_hand():
  """Standard deviations 2 and 1, one movement of 2 in the first round: (1 or -1) * half of it."""
  first, second = np.array([[1.0, 0.0]] * 2), np.array([[-1.0, 0.0]] * 2)
  seen = np.array([[1.0, 9.0], [-1.0, 9.0]])
  np.testing.assert_allclose(
      audit.whitened_scores(seen, first, second, np.diag([4.0, 1.0])), [0.5, -0.5])


def test_clean_sums_are_those_of_the_round():
  """Without noise the adversary sees exactly what the scores take for the clean sum."""
  options = TOGETHER | {"sampling": "poisson", "virtual_clients": 2, "sampling_probability": 0.5}
  for dataset in audit.neighbours(USERS, Adjacency.ADD_OR_REMOVE_ONE):
    who = participation(options, dataset)
    hparams = HPARAMS | {"noise_multiplier": 0.0}
    drawn = cohorts_of_trials(who.cohort, 0, 3, 5, seed=0)
    round_ = audit.canary_round(gaussian(who), hparams, toys.one_device())
    np.testing.assert_allclose(audit.observe(round_, dataset, drawn, hparams, 0),
                               audit.clean_sums(drawn, dataset), atol=1e-5)


def batchwise_canary(params, images, batches, hparams, key):
  """Clips every local step instead of the whole update: four steps of norm C each."""
  start, clip_norm = params["backbone"], hparams["aggregate"]["clip_norm"]
  result = audit.canary_update(params, images, batches, hparams, key).params["backbone"]
  moved = jax.tree.map(lambda a, b: a + (b - a) / audit.STRENGTH * clip_norm * 4, start, result)
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


def test_what_was_drawn_is_kept_as_long_as_what_it_was_drawn_from():
  who = participation(TOGETHER | {"sampling": "fixed"}, audit.population([audit.IDLE] * USERS))
  calls = []

  def cohort(draws, round_number):
    calls.append(round_number)
    return who.cohort(draws, round_number)

  first = cohorts_of_trials(cohort, 1, 2, 3, 0)
  assert first.mask.shape[:2] == (3, 2) and calls == [1, 2] * 3
  assert cohorts_of_trials(cohort, 1, 2, 3, 0) is first and len(calls) == 6
  assert cohorts_of_trials(cohort, 1, 2, 3, 1) is not first and len(calls) == 12
  kept = weakref.ref(first.mask)
  del cohort, first
  gc.collect()
  assert kept() is None


def test_the_oldest_draws_are_dropped_first():
  who = participation(TOGETHER | {"sampling": "fixed"}, audit.population([audit.IDLE] * USERS))
  first = cohorts_of_trials(who.cohort, 0, 1, 1, 0)
  for seed in range(1, 5):
    cohorts_of_trials(who.cohort, 0, 1, 1, seed)
  assert cohorts_of_trials(who.cohort, 0, 1, 1, 0) is not first
