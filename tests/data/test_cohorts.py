import functools

import numpy as np
import pytest

from fedjax_face.data import cohorts
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, identity_of, part_identities

CLIENTS, CAPACITY = 4, 6


def ids(count):
  return identity_of(range(count))


def sample(sampler, round_number, users, seed=0):
  return sampler.sample(Draws.of(seed), round_number, ids(users))


def grouped(sampled, clients, seed=0):
  return cohorts.grouped(np.asarray(sampled), clients, Draws.of(seed), 0, ids(2000))


def independent(sampled, clients, capacity, seed=0):
  return cohorts.independent(np.asarray(sampled, np.int32), clients, capacity, Draws.of(seed), 0,
                             ids(2000))


def parts_of(users):
  """Identities of the rows of users whose rows are consecutive."""
  return part_identities(np.repeat(users.identity, users.counts))


def population(counts, num_labels=5):
  """Users with the given numbers of rows, and a label per row."""
  person = np.repeat(np.arange(len(counts)), counts)
  return Users.from_person(person), (np.arange(len(person)) % num_labels).astype(np.int32)


def batches(users, labels, assignment, seed=0, **changes):
  options = dict(batch_size=4, epochs=2, max_examples=24, num_labels=5) | changes
  return cohorts.client_batches(users, labels, parts_of(users), assignment, draws=Draws.of(seed),
                                round=0, **options)


def rows(cohort, client):
  """Rows that one client trains on, in order."""
  return cohort.examples[client][cohort.mask[client]]


@pytest.mark.parametrize("sampler", [
    cohorts.FixedSize(5), cohorts.Poisson(.4), cohorts.CyclicFixedSize(5, 3, 7),
    cohorts.CyclicPoisson(.6, 3, 7)])
def test_samples_are_distinct_ascending_and_repeatable(sampler):
  for t in range(6):
    drawn = sample(sampler, t, 30)
    assert drawn.dtype == np.int32
    assert (np.diff(drawn) > 0).all() and (drawn >= 0).all() and (drawn < 30).all()
    np.testing.assert_array_equal(drawn, sample(sampler, t, 30))


def test_fixed_size_is_uniform():
  counts = np.zeros(10)
  for t in range(2000):
    drawn = sample(cohorts.FixedSize(3), t, 10)
    assert len(drawn) == 3
    counts[drawn] += 1
  assert np.abs(counts - 600).max() < 5 * np.sqrt(2000 * .3 * .7)


def test_poisson_members_are_independent():
  member = np.zeros((4000, 3), bool)
  for t in range(4000):
    member[t, sample(cohorts.Poisson(.3), t, 3)] = True
  assert np.abs(member.mean(0) - .3).max() < 5 * np.sqrt(.21 / 4000)
  pair = (member[:, 0] & member[:, 1]).mean()
  assert abs(pair - .09) < 5 * np.sqrt(.09 * .91 / 4000)
  assert abs(np.var(member.sum(1)) - 3 * .21) < .06


@pytest.mark.parametrize("sampler", [cohorts.CyclicFixedSize(4, 5, 1),
                                     cohorts.CyclicPoisson(1.0, 5, 1)])
def test_a_user_rests_min_separation_rounds(sampler):
  last = {}
  for t in range(20):
    for user in sample(sampler, t, 43):
      assert t - last.get(user, -99) >= 5
      last[user] = t
  if isinstance(sampler, cohorts.CyclicPoisson):
    assert len(last) == 43
    assert {t % 5 for t in last.values()} == set(range(5))


def test_cyclic_fixed_size_partitions_everybody_evenly():
  groups = [sample(cohorts.CyclicFixedSize(size, 5, 1), t, 43)
            for t, size in enumerate([8, 9, 8, 9, 9])]
  assert sorted(np.concatenate(groups)) == list(range(43))
  other = sample(cohorts.CyclicFixedSize(8, 5, 2), 0, 43)
  assert not np.array_equal(groups[0], other)


def test_cyclic_poisson_group_of_a_user_ignores_the_population():
  sampler = cohorts.CyclicPoisson(1.0, 4, 3)
  small, large = sample(sampler, 2, 50), sample(sampler, 2, 51)
  np.testing.assert_array_equal(small, large[large < 50])


@pytest.mark.parametrize("make, message", [
    (lambda: cohorts.FixedSize(0), "FixedSize size is 0"),
    (lambda: cohorts.Poisson(1.5), "Poisson probability is 1.5"),
    (lambda: cohorts.CyclicFixedSize(2, 0, 0), "min_separation is 0"),
    (lambda: sample(cohorts.FixedSize(5), 0, 4), "5 users wanted .* has 4"),
    (lambda: sample(cohorts.CyclicFixedSize(5, 4, 0), 1, 16), "group 1 of 4 has 4"),
    (lambda: grouped(np.arange(5), 2), "5 users for 2 virtual clients"),
])
def test_impossible_choices_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_grouped_deals_every_user_once():
  sampled = np.array([3, 5, 8, 13, 21, 34])
  assignment = grouped(sampled, 3)
  assert assignment.users.shape == (3, 2) and assignment.dropped == 0
  assert sorted(assignment.users.ravel()) == list(sampled)
  assert not np.array_equal(assignment.users, grouped(sampled, 3, 1).users)
  np.testing.assert_array_equal(assignment.client, [0, 1, 2])


def test_independent_slots_are_uniform_and_keep_at_most_the_capacity():
  sampled = np.arange(0, 2000, 2)
  roomy = independent(sampled, 5, 1000)
  counts = (roomy.users >= 0).sum(1)
  assert roomy.dropped == 0 and counts.sum() == 1000
  assert np.abs(counts - 200).max() < 5 * np.sqrt(1000 * .2 * .8)
  tight = independent(sampled, 5, 30)
  assert tight.dropped == 1000 - 150 and (tight.users >= 0).all()
  for k in range(5):
    assert set(tight.users[k]) <= set(roomy.users[k])
  assert tight.users.max() > 1000  # the kept are not simply the first


def test_independent_leaves_empty_slots():
  nobody = independent(np.array([], np.int32), 3, 2)
  np.testing.assert_array_equal(nobody.client, [-1, -1, -1])
  assert (nobody.users == -1).all()


def test_one_per_client_keeps_the_number_of_the_silo():
  assignment = cohorts.one_per_client(np.array([4, 9, -1]))
  np.testing.assert_array_equal(assignment.client, [4, 9, -1])
  np.testing.assert_array_equal(assignment.users, [[4], [9], [-1]])


def poisson_round(counts, seed, **changes):
  """A whole Poisson round for a population given by its counts."""
  users, labels = population(counts)
  sampled = sample(cohorts.Poisson(.5), 0, users.num_users, seed)
  assignment = independent(sampled, CLIENTS, CAPACITY, seed)
  return assignment, batches(users, labels, assignment, seed, **(
      dict(epochs=3, max_examples=40) | changes))


@pytest.mark.parametrize("changes", [{}, {"max_examples_per_user": 2}, {"classes": "own"}])
def test_one_user_more_changes_one_client_only(changes):
  """The property on which add-or-remove accounting rests."""
  counts, changed_rounds = [5, 3, 9, 1, 7, 7, 2, 8, 4, 6, 3, 5], 0
  for seed in range(40):
    before_assignment, before = poisson_round(counts, seed, **changes)
    after_assignment, after = poisson_round([*counts, 11], seed, **changes)
    home = np.flatnonzero((after_assignment.users == len(counts)).any(1))
    differs = np.array([
        any(not np.array_equal(a[k], b[k]) for a, b in zip(before[:6], after[:6], strict=True))
        for k in range(CLIENTS)])
    sampled = len(counts) in sample(cohorts.Poisson(.5), 0, len(counts) + 1, seed)
    assert differs.sum() <= 1
    if len(home):
      assert sampled and differs[home[0]] and differs.sum() == 1
      changed_rounds += 1
    if not sampled:
      assert not differs.any()
    others = np.setdiff1d(np.arange(CLIENTS), np.flatnonzero(differs))
    np.testing.assert_array_equal(before_assignment.users[others], after_assignment.users[others])
  assert changed_rounds > 10


def test_a_full_slot_drops_inside_itself():
  """A user who pushes another out of a full slot still changes that slot alone."""
  pushed = 0
  for seed in range(60):
    sampled = np.arange(12)
    before = independent(sampled, 3, 2, seed)
    after = independent(np.arange(13), 3, 2, seed)
    assert (before.users != after.users).any(1).sum() <= 1
    pushed += (after.users == 12).any() and before.dropped + 1 == after.dropped
  assert pushed > 3


@pytest.mark.parametrize("capacity", [2, 12])
def test_a_sampled_user_who_stays_away_changes_one_slot_only(capacity):
  """Whatever the place of the user in the sample: zero-out accounting."""
  sampled = np.arange(5, 35, 3)
  whole = independent(sampled, 3, capacity, 2)
  for absent in sampled:
    rest = independent(sampled[sampled != absent], 3, capacity, 2)
    changed = (whole.users != rest.users).any(1)
    assert changed.sum() == (whole.users == absent).any()
    assert changed[np.flatnonzero((whole.users == absent).any(1))].all()


@pytest.mark.parametrize("max_examples", [0, 30])
def test_replacing_a_users_examples_changes_one_client_only(max_examples):
  """The property on which replace-one accounting rests."""
  counts = [5, 3, 9, 1, 7, 7, 2, 8]
  replaced = [5, 3, 9, 6, 7, 7, 2, 8]

  def play(counts):
    users, labels = population(counts)
    person = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(person)) - users.offset[person]
    sampled = sample(cohorts.FixedSize(6), 0, users.num_users, 4)
    assignment = grouped(sampled, 3, 4)
    cohort = batches(users, labels, assignment, max_examples=max_examples)
    pictures = [[(person[r], rank[r]) for r in rows(cohort, k)] for k in range(3)]
    return assignment, pictures

  (assignment, before), (same, after) = play(counts), play(replaced)
  np.testing.assert_array_equal(assignment.users, same.users)
  home = np.flatnonzero((assignment.users == 3).any(1))
  assert len(home) == 1, "the seed must draw user 3"
  assert [k for k in range(3) if before[k] != after[k]] == list(home)


def test_every_epoch_is_a_fresh_permutation_of_the_clients_data():
  users, labels = population([4, 3, 6])
  assignment = cohorts.Assignment(np.array([[0, 2]], np.int32), np.array([0], np.int32))
  cohort = batches(users, labels, assignment, epochs=3, max_examples=0, batch_size=4)
  assert cohort.examples.shape == (1, 8, 4)  # 3 epochs of 10 rows
  order = rows(cohort, 0).reshape(3, 10)
  for epoch in order:
    assert sorted(epoch) == [0, 1, 2, 3, 7, 8, 9, 10, 11, 12]
  assert len({tuple(epoch) for epoch in order}) == 3
  np.testing.assert_array_equal(cohort.mask[0].sum(1), [4] * 7 + [2])
  np.testing.assert_array_equal(cohort.labels[cohort.mask], labels[rows(cohort, 0)])
  assert not cohort.examples[~cohort.mask].any() and not cohort.labels[~cohort.mask].any()


def test_order_is_uniform():
  users, labels = population([1, 2])
  assignment = cohorts.Assignment(np.array([[0, 1]], np.int32), np.array([0], np.int32))
  counts = {}
  for seed in range(3000):
    order = tuple(rows(batches(users, labels, assignment, seed, epochs=1, max_examples=0), 0))
    counts[order] = counts.get(order, 0) + 1
  assert len(counts) == 6
  assert max(abs(n - 500) for n in counts.values()) < 5 * np.sqrt(3000 / 6 * 5 / 6)


def test_max_examples_cuts_across_epochs():
  users, labels = population([5])
  assignment = cohorts.Assignment(np.array([[0]], np.int32), np.array([0], np.int32))
  cohort = batches(users, labels, assignment, epochs=9, max_examples=7, batch_size=4)
  assert cohort.mask.shape == (1, 2, 4) and cohort.mask.sum() == 7
  assert sorted(rows(cohort, 0)[:5]) == [0, 1, 2, 3, 4]
  short = batches(users, labels, assignment, epochs=1, max_examples=7, batch_size=4)
  assert short.mask.shape == (1, 2, 4) and short.mask.sum() == 5


def test_a_user_with_more_examples_than_the_cap_gives_a_fresh_subset_each_epoch():
  users, labels = population([50, 2, 3])
  assignment = cohorts.Assignment(np.array([[0, 1, 2]], np.int32), np.array([0], np.int32))
  cohort = batches(users, labels, assignment, epochs=4, max_examples=0, max_examples_per_user=3,
                   batch_size=8)
  assert cohort.mask.shape == (1, 4, 8) and cohort.mask.all()  # 3 + 2 + 3 rows in each epoch
  for epoch in cohort.examples[0]:
    assert (epoch < 50).sum() == 3 and len(set(epoch)) == 8
    assert {50, 51, 52, 53, 54} <= set(epoch)
  assert len({frozenset(epoch) for epoch in cohort.examples[0]}) > 1


def test_unlimited_steps_fit_the_largest_users_whoever_takes_part():
  users, labels = population([2, 9, 4, 7])
  for k in (1, 2, 3):
    assignment = cohorts.Assignment(np.full((k, 2), 0, np.int32), np.arange(k, dtype=np.int32))
    cohort = batches(users, labels, assignment, epochs=2, max_examples=0, batch_size=5)
    assert cohort.mask.shape == (k, 7, 5)  # 2 * (9 + 7) = 32 rows
  assert cohorts.largest_client(users, 9, 1, 0) == 22
  assert cohorts.largest_client(users, 2, 2, 0, max_examples_per_user=5) == 20
  assert cohorts.largest_client(users, 2, 2, 13) == 13
  assert cohorts.largest_client(users, 9, 1, 1000) == 22  # a cap that nobody reaches pads nothing


def test_own_classes_are_numbered_in_the_order_of_the_labels():
  users = Users.from_person(np.array([0, 0, 0, 1, 1]))
  labels = np.array([40, 7, 40, 11, 7], np.int32)
  assignment = cohorts.Assignment(np.array([[0], [1], [-1]], np.int32),
                                  np.array([0, 1, -1], np.int32))
  cohort = batches(users, labels, assignment, num_labels=62, classes="own", max_examples=2)
  np.testing.assert_array_equal(cohort.num_classes, [2, 2, 0])
  own = {40: 1, 7: 0}, {11: 1, 7: 0}
  for k in range(2):
    drawn = cohort.examples[k][cohort.mask[k]]
    np.testing.assert_array_equal(cohort.labels[k][cohort.mask[k]],
                                  [own[k][label] for label in labels[drawn]])
  everything = batches(users, labels, assignment, num_labels=62)
  np.testing.assert_array_equal(everything.num_classes, [62, 62, 62])
  assert set(everything.labels[1][everything.mask[1]]) == {11, 7}


def test_empty_slot_is_masked():
  users, labels = population([3, 3])
  assignment = independent(np.array([0]), 4, 2)
  cohort = batches(users, labels, assignment)
  empty = assignment.client == -1
  assert empty.sum() == 3
  np.testing.assert_array_equal(cohort.client, assignment.client)
  assert not cohort.mask[empty].any() and cohort.mask[~empty].any()


@pytest.mark.parametrize("changes, message", [
    ({"num_labels": 4}, "label 4 is out of range; expected 0..3"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"epochs": 0}, "epochs is 0"),
    ({"max_examples": -1}, "max_examples is -1"),
    ({"max_examples_per_user": -2}, "max_examples_per_user is -2"),
    ({"classes": "some"}, "classes is 'some'; expected 'all' or 'own'"),
])
def test_bad_options_are_refused(changes, message):
  users, labels = population([5, 5])
  assignment = grouped(np.arange(2), 1)
  with pytest.raises(ValueError, match=message):
    batches(users, labels, assignment, **changes)


def test_every_round_draws_anew_from_one_root():
  users, labels = population([9, 9])
  assignment = grouped(np.arange(2), 1)
  orders = {tuple(rows(cohorts.client_batches(
      users, labels, parts_of(users), assignment, batch_size=4, epochs=1, max_examples=0,
      num_labels=5, draws=Draws.of(0), round=r), 0)) for r in range(10)}
  assert len(orders) == 10
  assert len({tuple(sample(cohorts.FixedSize(5), r, 30)) for r in range(10)}) == 10


def test_a_client_whose_users_hold_nothing_is_masked():
  users = Users.of_silos(np.array([0, 0, 2]), 3)
  parts = identity_of(range(3))
  cohort = cohorts.client_batches(
      users, np.array([1, 2, 0], np.int32), parts, cohorts.one_per_client(np.arange(3)),
      batch_size=2, epochs=2, max_examples=0, num_labels=3, draws=Draws.of(0), round=0,
      classes="own")
  assert cohort.mask.sum((1, 2)).tolist() == [4, 0, 2] and cohort.client.tolist() == [0, 1, 2]
  assert cohort.num_classes.tolist() == [2, 0, 1] and cohort.first_pass.tolist() == [2, 0, 1]


def test_stack_adds_a_round_axis():
  users, labels = population([5, 5])
  assignment = grouped(np.arange(2), 2)
  draw = functools.partial(batches, users, labels, assignment)
  stacked = cohorts.stack([draw(seed=0), draw(seed=1), draw(seed=2)])
  assert isinstance(stacked, Cohort) and stacked.examples.shape == (3, 2, 3, 4)
  np.testing.assert_array_equal(stacked.examples[1], draw(seed=1).examples)
  with pytest.raises(ValueError, match="one shape"):
    cohorts.stack([draw(), draw(batch_size=3)])
