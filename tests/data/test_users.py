import numpy as np
import pytest

from fedjax_face.data.users import Users


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
