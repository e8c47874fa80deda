"""Neighbouring data sets: who leaves or is replaced changes what holds the unit, and nothing else.

Every sampler, partition, region source, split and cohort maker, each on the neighbours that it
claims: the first unit, a middle one and the last, removed (add-or-remove) or replaced by other
images in its place (replace-one). Labels and persons of a neighbour are numbered anew, as a reader
would number them.
"""

import dataclasses
import itertools

import dp_accounting
import numpy as np
import pytest

from fedjax_face.data import closed_set, splits
from fedjax_face.data.dataset import FaceDataset, compact, concatenate
from fedjax_face.data.photographs import people_groups, split_by_image, split_by_person
from fedjax_face.data.regions.cutting import (
  RegionOptions,
  extract_regions,
  unit_identities,
  units_of,
)
from fedjax_face.data.regions.proposals import random_proposer
from fedjax_face.dp_sgd.sampling import poisson_sampling
from fedjax_face.draws import Draws, identity_of
from fedjax_face.federated.silo_people import Silos, partition
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.split.holders import devices
from tests.data.test_photographs import make_photographs
from tests.federated.schemes import participation, silo_participation

PEOPLE, IMAGES = 41, 3
PLACES = {"first": 0, "middle": 5, "last": -1}
OPTIONS = {
    "virtual_clients": 64, "users_per_client": 1, "capacity": 4, "sampling_probability": None,
    "min_separation": 2, "partition_seed": 0, "batch_size": 2, "epochs": 2, "max_examples": 7,
    "max_examples_per_user": 2, "classes": "own", "silos_per_round": 0,
}
EVERYBODY = {"sampling_probability": 1.0}  # of a user in its turn, Poisson schemes
SILOS = OPTIONS | {"max_examples": 0}  # so that a silo's batches show everybody in it


def people(count=PEOPLE, images=IMAGES):
  """Named persons in mixed order, whose every image is told by its pixel: 100 person + image."""
  person = np.tile(np.arange(count, dtype=np.int32), images)
  stamp = 100 * person + np.repeat(np.arange(images), count)
  pixels = np.stack([stamp // 256, stamp % 256, stamp * 0], -1).astype(np.uint8)[:, None, None]
  names = tuple(f"person {p:03d}" for p in range(count))
  return FaceDataset("people", pixels, person, person, names=names)


def removed(dataset, person):
  return compact(dataset.select(dataset.person != person))


def replaced(dataset, person):
  """Other images in the person's place, and one more of them."""
  stay = dataset.select(dataset.person != person)
  own = np.flatnonzero(dataset.person == person)[[0, *range(IMAGES)]]
  other = dataset.select(own)
  rows = [stay, dataclasses.replace(other, images=255 - other.images)]
  return dataclasses.replace(dataset, images=np.concatenate([d.images for d in rows]), **{
      field: np.concatenate([getattr(d, field) for d in rows]) for field in ("label", "person")})


def contents(cohort, dataset):
  """What each client trains on: client -> pixels and own labels in order, without padding."""
  held = {}
  for k, client in enumerate(cohort.client):
    mask = cohort.mask[k]
    held[int(client)] = (dataset.images[cohort.examples[k][mask]].reshape(-1, 3).tolist(),
                         cohort.labels[k][mask].tolist(), int(cohort.num_classes[k]))
  held.pop(-1, None)
  return held


def movement(before, after):
  """Most that a sum of updates of norm 1 can move: 2 for another update, 1 for one that appears."""
  keys = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
  empty = lambda held, k: k not in held or not held[k][0]
  return keys, sum(1 if empty(before, k) or empty(after, k) else 2 for k in keys)


def pixels_of(dataset, person):
  return {tuple(p) for p in dataset.images[dataset.person == person].reshape(-1, 3).tolist()}


def check_rounds(before, after, data, other, person, rounds):
  """Only clients that hold the person differ; the sums move by no more than is claimed."""
  own = pixels_of(data, person) | {(255 - a, 255 - b, 255) for a, b, _ in pixels_of(data, person)}
  touched = 0
  for r in range(rounds):
    held, held_by_other = (contents(who.cohort(Draws.of(5), r), d)
                           for who, d in ((before, data), (after, other)))
    changed, moved = movement(held, held_by_other)
    assert len(changed) <= 1
    for k in changed:
      seen = {tuple(p) for h in (held, held_by_other) for p in h.get(k, ([],))[0]}
      assert seen & own, "a client changed that does not hold the person"
    assert moved <= UpdateClip(before.users_per_client, before.adjacency).sensitivity
    touched += bool(changed)
  return touched


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sampling, changes", [
    ("poisson", EVERYBODY), ("poisson", EVERYBODY | {"virtual_clients": 5, "capacity": 3}),
    ("poisson", {"sampling_probability": .4, "max_examples": 0, "max_examples_per_user": 0}),
    ("cyclic_poisson", EVERYBODY),
    ("cyclic_poisson", EVERYBODY | {"virtual_clients": 3, "capacity": 2}),
    ("fixed", {"virtual_clients": 4, "users_per_client": 3}),
    ("fixed", {"virtual_clients": 6, "users_per_client": 2, "max_examples": 0}),
    ("cyclic_fixed", {"virtual_clients": 3, "users_per_client": 5})])
def test_a_user_who_leaves_or_is_replaced_changes_one_client(sampling, changes, place):
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  leaves = "poisson" in sampling
  make = lambda d: participation(OPTIONS | {"sampling": sampling} | changes, d)
  before = make(data)
  assert before.adjacency is (
      Adjacency.ADD_OR_REMOVE_ONE if leaves else Adjacency.REPLACE_ONE)
  other = (removed if leaves else replaced)(data, person)
  assert check_rounds(before, make(other), data, other, person, 16 if leaves else 12)


@pytest.mark.parametrize("place", PLACES)
def test_a_user_who_leaves_keeps_out_of_the_other_groups_rounds(place):
  """41 users, two groups, everybody of the turn's group takes part, 64 clients: two rounds move by
  2 C at most, where a group drawn by the row's number moves them by 18 C.
  """
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  other = removed(data, person)
  options = OPTIONS | EVERYBODY | {"sampling": "cyclic_poisson", "capacity": 8}
  before, after = participation(options, data), participation(options, other)
  moved = [movement(contents(before.cohort(Draws.of(0), r), data),
                    contents(after.cohort(Draws.of(0), r), other))[1] for r in range(2)]
  assert sorted(moved) in ([0, 1], [0, 2])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", [
    {"by": "random", "num_silos": 6}, {"by": "dirichlet", "num_silos": 6, "concentration": .5}])
def test_a_person_who_leaves_a_silo_moves_nobody_else(options, place):
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  other = removed(data, person)
  dealt, left = (partition(options, d, Draws.of(7)) for d in (data, other))
  np.testing.assert_array_equal(dealt.silo[data.person != person], left.silo)
  assert dealt.names == left.names and "given" not in dealt.words
  make = lambda d, silos: silo_participation(SILOS, d, silos, 1, 1)
  before = make(data, dealt)
  assert dealt.words in before.words and before.adjacency is Adjacency.ADD_OR_REMOVE_ONE
  assert check_rounds(before, make(other, left), data, other, person, 2) == 2


@pytest.mark.parametrize("place", PLACES)
def test_where_silos_are_given_the_statement_says_so_and_the_silo_alone_changes(place, tmp_path):
  data = people()
  tone = np.linspace(0, 1, PEOPLE)[data.person]
  data = dataclasses.replace(data, attributes={"tone": tone})
  (tmp_path / "s.csv").write_text("person,client\n" + "".join(
      f"{name},{'abc'[i % 3]}\n" for i, name in enumerate(data.names)))
  person = range(PEOPLE)[PLACES[place]]
  for options in ({"by": "attribute", "num_silos": 5, "attribute": "tone"},
                  {"by": "file", "path": str(tmp_path / "s.csv")}):
    dealt = partition(options, data, Draws.of(7))
    stay = data.person != person
    left = Silos(dealt.silo[stay], dealt.names)
    before = silo_participation(SILOS, data, dealt, 1, 1)
    assert "given which silo holds whom" in before.words
    other = removed(data, person)
    after = silo_participation(SILOS, other, left, 1, 1)
    assert check_rounds(before, after, data, other, person, 2) == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_silo_that_empties_takes_part_with_nothing(place):
  data = people(7)
  silo = (data.person % 7).astype(np.int32)
  person = range(7)[PLACES[place] % 7]
  before = silo_participation(SILOS, data, Silos(silo, tuple("abcdefg")), 1, 1)
  other = removed(data, person)
  after = silo_participation(
      OPTIONS, other, Silos(silo[data.person != person], tuple("abcdefg")), 1, 1)
  held = [contents(who.cohort(Draws.of(1), 0), d) for who, d in ((before, data), (after, other))]
  assert movement(*held) == ([person], 1)
  assert set(held[1]) == set(range(7)) and held[1][person] == ([], [], 0)
  assert (before.clients, before.lasting_clients) == (after.clients, after.lasting_clients)


UNITS = 23


def unit_rows(sampling, label, round_number):
  """Unit -> its rows in order and the draws of their augmentation."""
  cohort = sampling.cohort(Draws.of(3), round_number)
  flat = [x.reshape(-1, x.shape[-1]) for x in (cohort.examples, cohort.mask, cohort.draw)]
  return {label[e[m][0]][0]: ([label[row] for row in e[m]], d[m].tolist())
          for e, m, d in zip(*flat, strict=True) if m.any()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("capacity", [UNITS + 1, 8])
def test_a_unit_that_leaves_a_step_of_dp_sgd_leaves_the_others(capacity, place):
  """Where there is no room for all, one other unit takes the place of the one that leaves."""
  unit = np.repeat(np.arange(UNITS), np.arange(UNITS) % 4 + 1)
  rank = np.concatenate([np.arange(n % 4 + 1) for n in range(UNITS)])
  gone, let_in, absent = range(UNITS)[PLACES[place]], 0, 0
  def make(rows):
    own = unit[rows]
    return poisson_sampling(
        np.unique(own, return_inverse=True)[1], identity_of(own), "image", expected=8,
        capacity=capacity, rows=3, views=2, devices=1, probability=.4), list(
            zip(own.tolist(), rank[rows].tolist(), strict=True))
  everybody, others = make(np.arange(len(unit))), make(np.flatnonzero(unit != gone))
  for r in range(30):
    before, after = unit_rows(*everybody, r), unit_rows(*others, r)
    new = after.keys() - before.keys()
    assert before.keys() - after.keys() <= {gone} and len(new) <= (gone in before)
    assert not new or len(before) == capacity
    assert all(before[u] == after[u] for u in before.keys() & after.keys())
    let_in, absent = let_in + len(new), absent + (gone in before)
  assert absent and (let_in > 0) == (capacity < UNITS)


PHOTOGRAPHS = 30
REGIONS = RegionOptions(size=6, positives_per_face=3, negatives_per_image=2, jittered_per_face=4,
                        parts_per_face=1)


def some_photographs():
  image = np.repeat(np.arange(PHOTOGRAPHS), 1 + np.arange(PHOTOGRAPHS) % 2)
  return dataclasses.replace(
      make_photographs(image, np.arange(len(image)) // 3, size=32),
      identity=identity_of(f"{n}.jpg" for n in range(PHOTOGRAPHS)))


@pytest.mark.parametrize("place", PLACES)
def test_a_photograph_that_leaves_changes_no_region_of_the_others(place):
  photographs = some_photographs()
  gone = range(PHOTOGRAPHS)[PLACES[place]]
  cut = lambda p: extract_regions(p, random_proposer(40), REGIONS, Draws.of(2))
  whole, rest = cut(photographs), cut(photographs.select(
      np.delete(np.arange(PHOTOGRAPHS), gone)))
  stay = whole.image != gone
  for field in ("images", "box", "face", "person", "identity", "landmarks", "known"):
    np.testing.assert_array_equal(getattr(whole, field)[stay], getattr(rest, field))
  np.testing.assert_array_equal(unit_identities(whole, "image")[stay],
                                unit_identities(rest, "image"))


@pytest.mark.parametrize("place", PLACES)
def test_a_photograph_that_is_replaced_changes_no_region_of_the_others(place):
  photographs = some_photographs()
  gone = range(PHOTOGRAPHS)[PLACES[place]]
  images = photographs.images.copy()
  images[gone] = 255 - images[gone]
  box = photographs.box.copy()
  box[photographs.faces_of(gone)] = [1, 1, 20, 20]
  cut = lambda p: extract_regions(p, random_proposer(40), REGIONS, Draws.of(2))
  before, after = cut(photographs), cut(dataclasses.replace(photographs, images=images, box=box))
  for field in ("images", "box", "identity"):
    np.testing.assert_array_equal(getattr(before, field)[before.image != gone],
                                  getattr(after, field)[after.image != gone])


@pytest.mark.parametrize("unit", ["image", "region", "person"])
@pytest.mark.parametrize("place", PLACES)
def test_a_unit_of_regions_that_leaves_keeps_the_others_identities(unit, place):
  photographs = make_photographs(range(12), np.arange(12) // 3, size=32)
  whole = extract_regions(photographs, random_proposer(40), REGIONS, Draws.of(2))
  units = units_of(whole, unit)
  gone = np.unique(units)[PLACES[place] % len(np.unique(units))]
  identity = unit_identities(whole, unit)
  assert len(np.unique(identity)) == len(np.unique(units))
  stay = units != gone
  rest = type(whole)(*(field[stay] for field in whole))
  np.testing.assert_array_equal(unit_identities(rest, unit), identity[stay])


def people_of_three_photographs():
  """60 photographs of 20 people; two photographs also show somebody of the next three."""
  image = np.concatenate([np.arange(60), [5, 40]])
  person = np.concatenate([np.arange(60) // 3, [2, 14]])
  order = np.argsort(image, kind="stable")
  return dataclasses.replace(
      make_photographs(image[order], person[order]),
      identity=identity_of(f"{n}.jpg" for n in range(60)))


@pytest.mark.parametrize("place", PLACES)
def test_a_photograph_that_leaves_moves_no_other_to_the_other_side(place):
  photographs = people_of_three_photographs()
  gone = range(60)[PLACES[place]]
  stay = np.delete(np.arange(60), gone)
  _, test = split_by_image(photographs, .3, Draws.of(0))
  _, left = split_by_image(photographs.select(stay), .3, Draws.of(0))
  assert set(stay[left]) == set(test) - {gone}


def test_a_photograph_that_leaves_a_split_by_person_moves_its_own_group_alone():
  photographs = people_of_three_photographs()
  group, moved = people_groups(photographs), 0
  for seed, gone in itertools.product(range(5), range(60)):
    stay = np.delete(np.arange(60), gone)
    _, test = split_by_person(photographs, .3, Draws.of(seed))
    _, left = split_by_person(photographs.select(stay), .3, Draws.of(seed))
    others = set(stay[left]) ^ (set(test) - {gone})
    assert all(group[other] == group[gone] for other in others)
    moved += bool(others)
  assert moved  # what the privacy statement says of data.split=person does happen


@pytest.mark.parametrize("place", PLACES)
def test_a_person_who_leaves_moves_nobody_between_training_and_evaluation(place, monkeypatch):
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  name = data.names[person]
  other = removed(data, person)
  names = lambda d: {d.names[p] for p in d.person}
  before, after = (splits.split_by_person(d, .25, Draws.of(3)) for d in (data, other))
  assert all(names(a) == names(b) - {name} for a, b in zip(after, before, strict=True))
  held_out = lambda d: {tuple(p) for p in d.images[
      closed_set._held_out(d, .4, Draws.of(3))].reshape(-1, 3).tolist()}
  assert held_out(other) == held_out(data) - pixels_of(data, person)


@pytest.mark.parametrize("place", PLACES)
def test_a_replaced_person_of_split_learning_moves_nobody_to_another_device(place):
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  other = replaced(data, person)
  spread = devices(number=4, batch_size=4)
  (owner, _, _, cohort), (same, _, _, after) = (spread.holding(d, 1) for d in (data, other))
  np.testing.assert_array_equal(owner, same)
  assert np.ptp(np.bincount(owner)) <= 1
  def order(draw, dataset):
    drawn = draw(Draws.of(0), 2)
    rows = [drawn.examples[k][drawn.mask[k]] for k in range(4)]
    return [dataset.images[r[dataset.person[r] != person]].tolist() for r in rows]
  assert order(cohort, data) == order(after, other)


@pytest.mark.parametrize("place", PLACES)
def test_identities_outlive_selection_new_numbers_and_other_sources(place):
  data = people()
  person = range(PEOPLE)[PLACES[place]]
  stay = data.person != person
  np.testing.assert_array_equal(removed(data, person).identities, data.identities[stay])
  both = concatenate([data, people(5)])
  assert len(np.unique(both.identities)) == PEOPLE + 5
  np.testing.assert_array_equal(
      concatenate([removed(data, person), people(5)]).identities,
      both.identities[np.concatenate([stay, np.ones(15, bool)])])
  unnamed = dataclasses.replace(data, names=())
  np.testing.assert_array_equal(removed(unnamed, person).identities, unnamed.identities[stay])


@pytest.mark.parametrize("sampling", ["poisson", "cyclic_poisson"])
def test_where_the_probability_follows_from_the_number_of_users_the_statement_says_so(sampling):
  options = OPTIONS | {"sampling": sampling, "virtual_clients": 4}
  derived, given = (participation(options | changes, people())
                    for changes in ({}, {"sampling_probability": .1}))
  assert "from the number of users, which is treated as public" in derived.words
  assert any("N is treated as public" in sentence for sentence in derived.not_covered)
  assert "given, not derived from the number of users" in given.words and not given.not_covered
  other = removed(people(), 0)
  gaussian = dp_accounting.GaussianDpEvent(1.0)
  assert given.amplify(gaussian) == participation(
      options | {"sampling_probability": .1}, other).amplify(gaussian)


def test_where_the_probability_follows_from_the_number_of_units_the_statement_says_so():
  make = lambda **changes: poisson_sampling(
      np.arange(20), identity_of(range(20)), "image", **(dict(
          expected=5, capacity=21, rows=1, views=1, devices=1) | changes))
  assert "which is treated as public" in make().words
  assert "sampling probability follows from it" in make().not_covered[0]
  given = make(probability=.2)
  assert "given, not derived" in given.words and not given.not_covered
  tight = make(probability=.2, capacity=8).not_covered[0]
  assert "limit of a step is accounted with it" in tight and "probability follows" not in tight
  with pytest.raises(ValueError, match="Poisson probability is 1.5; expected above 0"):
    make(probability=1.5)


def test_a_shared_head_with_a_class_for_each_person_is_refused_where_silos_claim_something():
  data = people(6)
  silos = Silos((data.person % 2).astype(np.int32), ("a", "b"))
  options = OPTIONS | {"classes": "all"}
  with pytest.raises(ValueError, match="a head with a class for every person shows it"):
    silo_participation(options, data, silos, 1, 1)
  silo_participation(options, data, silos, 1, 1, private=False)
  letters = dataclasses.replace(data, label=(data.person % 3).astype(np.int32), names=("x",) * 3,
                                person_names=data.names)
  silo_participation(options, letters, silos, 1, 1)
