import numpy as np
import pytest

from fedjax_face.data.users import Users, cap_examples


def test_from_person_groups_rows():
  users = Users.from_person(np.array([7, 2, 7, 4, 2, 7]))
  np.testing.assert_array_equal(users.index, [1, 4, 3, 0, 2, 5])
  np.testing.assert_array_equal(users.offset, [0, 2, 3, 6])
  np.testing.assert_array_equal(users.ids, [2, 4, 7])
  np.testing.assert_array_equal(users.counts, [2, 1, 3])
  np.testing.assert_array_equal(users.examples(2), [0, 2, 5])
  assert users.num_users == 3
  assert (users.index.dtype, users.offset.dtype, users.ids.dtype) == (np.int32, np.int64, np.int32)


@pytest.mark.parametrize("person, num_persons, message", [
    (np.array([0, 2, 5]), 6, r"3 person\(s\) with no images: 1, 3, 4; expected at least one"),
    (np.zeros(1, int), 8, "7 person.*: 1, 2, 3, 4, 5, ...;"),
    (np.array([0, 6]), 6, "person 6 is out of range; expected 0..5"),
    (np.array([0, -1]), None, "person -1 is out of range"),
    (np.array([], np.int32), None, r"expected integers \[N\]"),
    (np.array([0.5]), None, r"float64 \[1\]; expected integers"),
])
def test_bad_persons_are_refused(person, num_persons, message):
  with pytest.raises(ValueError, match=message):
    Users.from_person(person, num_persons)


def test_index_is_small():
  """A thousandth of 1e6 users with 1e7 examples, whose index must stay below 100 MB."""
  users = Users.from_person(np.repeat(np.arange(1000), 10))
  assert sum(array.nbytes for array in users) * 1000 < 100e6


def test_cap_keeps_a_random_subset_of_large_users_only():
  users = Users.from_person(np.repeat([0, 1, 2], [50, 3, 10]))
  capped = cap_examples(users, 4, np.random.default_rng(0))
  np.testing.assert_array_equal(capped.counts, [4, 3, 4])
  np.testing.assert_array_equal(capped.examples(1), [50, 51, 52])
  for u in range(3):
    assert set(capped.examples(u)) <= set(users.examples(u))
    assert (np.diff(capped.examples(u)) > 0).all()
  assert (capped.index.dtype, capped.offset.dtype) == (np.int32, np.int64)
  other = cap_examples(users, 4, np.random.default_rng(1))
  assert not np.array_equal(capped.examples(0), other.examples(0))
  uncapped = cap_examples(users, 99, np.random.default_rng(0))
  np.testing.assert_array_equal(uncapped.index, users.index)


def test_cap_is_uniform():
  users = Users.from_person(np.repeat([0, 1], [5, 2]))
  kept = np.zeros(7)
  for seed in range(2000):
    kept[cap_examples(users, 2, np.random.default_rng(seed)).index] += 1
  assert np.abs(kept[:5] - 800).max() < 5 * np.sqrt(2000 * .4 * .6)
  np.testing.assert_array_equal(kept[5:], 2000)


def test_cap_below_one_is_refused():
  with pytest.raises(ValueError, match="is 0; expected at least 1"):
    cap_examples(Users.from_person(np.array([0])), 0, np.random.default_rng(0))
