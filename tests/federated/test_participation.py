"""Sampling schemes: what the ledger is told, and that the cohort does it."""

import dataclasses

import dp_accounting
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.data import cohorts
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws, identity_of
from fedjax_face.federated.sampling import Sampling, expected_dropped_share
from fedjax_face.federated.silo_people import Silos
from fedjax_face.privacy.adjacency import Adjacency
from tests.federated.schemes import participation, silo_participation

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
    cohort = who.cohort(Draws.of(round_number), round_number)
    assert len(users_of(cohort)) == 6 and cohort.mask.sum() == 12


def test_poisson_pairs_with_add_or_remove_and_is_poisson():
  who = scheme("poisson")
  assert who.adjacency is Adjacency.ADD_OR_REMOVE_ONE
  assert who.amplify(GAUSSIAN) == dp_accounting.PoissonSampledDpEvent(0.25, GAUSSIAN)
  sizes = [len(users_of(who.cohort(Draws.of(r), r))) for r in range(400)]
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
    for user in users_of(who.cohort(Draws.of(round_number), round_number)):
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
    options.kind_of(Sampling).find("shuffled", "clients.sampling")


def silos_of(sizes):
  """Silo k holds sizes[k] persons, of one image each."""
  silo = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
  person = np.arange(len(silo), dtype=np.int32)
  images = np.zeros((len(silo), 1, 1, 1), np.uint8)
  return (FaceDataset("silos", images, person, person),
          Silos(silo, tuple(f"s{k}" for k in range(len(sizes)))))


SILO_OPTIONS = {"silos_per_round": 0, "batch_size": 2, "epochs": 1, "max_examples": 0,
                "classes": "own"}


def test_every_silo_takes_part_with_all_its_images_largest_first():
  dataset, silos = silos_of([1, 5, 3])
  who = silo_participation(SILO_OPTIONS, dataset, silos, devices=1, clients_per_chunk=1)
  cohort = who.cohort(Draws.of(0), 0)
  assert cohort.client.tolist() == [1, 2, 0]
  assert cohort.mask.sum(axis=(1, 2)).tolist() == [5, 3, 1]
  assert cohort.num_classes.tolist() == [5, 3, 1]
  for k, silo in enumerate(cohort.client):
    assert set(silos.silo[cohort.examples[k][cohort.mask[k]]]) == {silo}
  assert (who.own_classes, who.users_per_client) == (5, 5)
  assert (who.population, who.lasting_clients) == (9, 3)
  assert who.adjacency is Adjacency.ADD_OR_REMOVE_ONE
  assert "numbers of images" in who.not_covered[0]


def test_slots_are_filled_up_for_devices_and_chunks():
  """Six slots for five silos: chunks of similar size, dealt to the devices in turn."""
  dataset, silos = silos_of([1, 2, 3, 4, 5])
  who = silo_participation(SILO_OPTIONS, dataset, silos, devices=3, clients_per_chunk=2)
  cohort = who.cohort(Draws.of(0), 0)
  assert (who.clients, who.slots) == (5, 6)
  assert cohort.client.tolist() == [4, 3, 2, 1, 0, -1]
  who = silo_participation(SILO_OPTIONS, dataset, silos, devices=2, clients_per_chunk=1)
  cohort = who.cohort(Draws.of(0), 0)
  assert cohort.client.tolist() == [4, 2, 0, 3, 1, -1]
  assert not cohort.mask[-1].any()


def test_the_examples_of_a_silo_do_not_depend_on_the_other_silos():
  """Silo 0 grows beyond silo 1, so slots change places; silo 1 draws the same examples."""
  drawn = []
  for size in (2, 9):
    dataset, silos = silos_of([size, 5])
    names = [f"{silo} {number}" for silo, of_silo in enumerate((size, 5))
             for number in range(of_silo)]
    dataset = dataclasses.replace(dataset, names=tuple(names))
    who = silo_participation(SILO_OPTIONS | {"max_examples": 4}, dataset, silos, 1, 1)
    cohort = who.cohort(Draws.of(0), 0)
    slot = cohort.client.tolist().index(1)
    drawn.append(cohort.examples[slot][cohort.mask[slot]] - size)
  np.testing.assert_array_equal(*drawn)


def test_a_person_in_two_silos_is_refused():
  dataset, silos = silos_of([2, 2])
  shared = dataclasses.replace(dataset, person=np.array([0, 1, 1, 2], np.int32))
  with pytest.raises(ValueError, match="person 1 is in several silos"):
    silo_participation(SILO_OPTIONS, shared, silos, 1, 1)


def test_padding_is_noted_by_hand():
  """Silos of 4, 3 and 1 images in batches of 2: 4 + 4 + 2 computed one by one, 12 by twos."""
  dataset, silos = silos_of([1, 4, 3])
  note = lambda chunk: silo_participation(SILO_OPTIONS, dataset, silos, 1, chunk).notes[0]
  assert note(1).startswith("20.0% of the computed examples are padding")
  assert note(2).startswith("33.3% of the computed examples are padding")


def test_some_silos_are_drawn_anew_each_round():
  dataset, silos = silos_of([2] * 8)
  who = silo_participation(SILO_OPTIONS | {"silos_per_round": 3}, dataset, silos, 1, 1)
  drawn = [tuple(sorted(who.cohort(Draws.of(0), r).client.tolist())) for r in range(200)]
  assert all(len(set(d)) == 3 for d in drawn)
  counts = np.bincount(np.concatenate(drawn), minlength=8)
  assert len(set(drawn)) > 30 and (np.abs(counts - 75) < 5 * np.sqrt(75)).all()


def test_share_without_room_by_hand_and_in_words():
  """Two users, both sampled, one client of one; then each sampled by a coin toss: 1/4 over 1."""
  assert expected_dropped_share(2, 1.0, 1, 1) == pytest.approx(0.5)
  assert expected_dropped_share(2, 0.5, 1, 1) == pytest.approx(0.25)
  assert expected_dropped_share(2, 0.5, 1, 2) == 0
  assert "a share of 0.011 of the sampled users" in scheme("poisson").words
  assert "a share of 0.21 of the sampled users" in scheme("cyclic_poisson", capacity=3).words


def test_share_without_room_is_what_the_assignment_drops():
  draws, identity = Draws.of(0), identity_of(range(24))
  sampled = [cohorts.Poisson(0.5).sample(draws, r, identity) for r in range(2000)]
  dropped = sum(cohorts.independent(users, 2, 4, draws, r, identity).dropped
                for r, users in enumerate(sampled))
  assert dropped / sum(map(len, sampled)) == pytest.approx(
      expected_dropped_share(24, 0.5, 2, 4), abs=0.01)
