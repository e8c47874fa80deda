"""Sampling schemes: what the ledger is told, and that the cohort does it."""

import dp_accounting
import numpy as np
import pytest

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.participation import participation
from fedjax_face.privacy.adjacency import Adjacency

OPTIONS = {
    "virtual_clients": 2, "users_per_client": 3, "capacity": 6, "sampling_probability": None,
    "min_separation": 3, "partition_seed": 0, "batch_size": 4, "epochs": 1, "max_examples": 24,
    "max_examples_per_user": 0, "classes": "all",
}
USERS, GAUSSIAN = 24, dp_accounting.GaussianDpEvent(1.0)


def people(users=USERS, images=2):
  """Every user has a label of its own, which is not its number."""
  person = np.repeat(np.arange(users, dtype=np.int32), images)
  label = users - 1 - person
  return FaceDataset("people", np.zeros((len(person), 2, 2, 1), np.uint8), label, person)


def scheme(sampling, **changes):
  return participation(OPTIONS | {"sampling": sampling} | changes, people())


def users_of(cohort):
  return set(cohort.labels[cohort.mask].tolist())


def test_fixed_size_pairs_with_replace_one():
  who = scheme("fixed")
  assert who.adjacency is Adjacency.REPLACE_ONE
  assert who.amplify(GAUSSIAN) == dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
      USERS, 6, GAUSSIAN)
  for round_number in range(5):
    cohort = who.cohort(np.random.default_rng(round_number), round_number)
    assert len(users_of(cohort)) == 6 and cohort.mask.sum() == 12


def test_poisson_pairs_with_add_or_remove_and_is_poisson():
  who = scheme("poisson")
  assert who.adjacency is Adjacency.ADD_OR_REMOVE_ONE
  assert who.amplify(GAUSSIAN) == dp_accounting.PoissonSampledDpEvent(0.25, GAUSSIAN)
  sizes = [len(users_of(who.cohort(np.random.default_rng(r), r))) for r in range(400)]
  binomial = USERS * 0.25 * 0.75
  assert abs(np.mean(sizes) - 6) < 5 * np.sqrt(binomial / 400)
  assert np.var(sizes) == pytest.approx(binomial, rel=0.4)


def test_a_newcomer_may_push_another_user_out_so_a_client_counts_as_several():
  assert scheme("poisson", capacity=1).users_per_client == 2


@pytest.mark.parametrize("sampling", ["cyclic_fixed", "cyclic_poisson"])
def test_cyclic_schemes_enforce_the_separation(sampling):
  who = scheme(sampling)
  assert who.rounds_per_event == 3
  last = {}
  for round_number in range(30):
    for user in users_of(who.cohort(np.random.default_rng(round_number), round_number)):
      assert round_number - last.get(user, -3) >= 3
      last[user] = round_number


def test_too_many_users_a_round_are_refused():
  with pytest.raises(ValueError, match="= 30 users a round, but the training set has 24"):
    scheme("fixed", users_per_client=15)
  with pytest.raises(ValueError, match="lower min_separation"):
    scheme("cyclic_fixed", min_separation=12)
  with pytest.raises(ValueError, match="sampling probability of 3 > 1"):
    scheme("cyclic_poisson", min_separation=12)


def test_unknown_scheme_lists_the_names():
  with pytest.raises(ValueError, match="cyclic_fixed, cyclic_poisson, fixed, poisson"):
    scheme("shuffled")
