import numpy as np
import pytest

from fedjax_face.data.cohorts import client_batches, one_per_client
from fedjax_face.data.dataset import compact
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated.silo_people import class_rows, order_by_size, padding_waste, partition
from tests.data.conftest import make_dataset

# ten people with 1 to 5 images, in mixed order
PERSON = np.random.default_rng(1).permutation(
    np.repeat(np.arange(10), [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]))
PEOPLE = make_dataset(PERSON, names=tuple("abcdefghij"))
NAMED = make_dataset([0, 0, 1, 2, 3, 3], names=("ann", "bob", "cem", "dan"))


def rng(seed=0):
  return np.random.default_rng(seed)


def draws(seed=0):
  return Draws.of(seed)


def of_person(dealt, dataset):
  """The silo of each person, which must be one."""
  found = [set(dealt.silo[dataset.person == p]) for p in np.unique(dataset.person)]
  assert all(len(s) == 1 for s in found)
  return np.array([s.pop() for s in found])


def test_random_silos_are_drawn_person_by_person():
  people = make_dataset(np.arange(4000))
  dealt = partition({"by": "random", "num_silos": 4}, people, draws())
  assert dealt.silo.dtype == np.int32 and dealt.names == ("silo0", "silo1", "silo2", "silo3")
  assert np.abs(np.bincount(dealt.silo) - 1000).max() < 5 * np.sqrt(4000 * .25 * .75)
  again = [partition({"by": "random", "num_silos": 4}, people, draws(s)).silo for s in (0, 1)]
  np.testing.assert_array_equal(dealt.silo, again[0])
  assert not np.array_equal(dealt.silo, again[1])
  assert "moves nobody else" in dealt.words


def test_persons_keep_together_and_numbers_may_have_gaps():
  data = make_dataset([7, 3, 7, 3], person=[9, 4, 9, 2])
  of_person(partition({"by": "random", "num_silos": 3}, data, draws()), data)
  of_person(partition({"by": "dirichlet", "num_silos": 3, "concentration": 1}, PEOPLE, draws()),
            PEOPLE)


@pytest.mark.parametrize("concentration", [.05, .5, 1000.])
def test_dirichlet_sizes_follow_the_draw(concentration):
  data = make_dataset(np.arange(5000))
  options = {"by": "dirichlet", "num_silos": 20, "concentration": concentration}
  sizes = np.bincount(of_person(partition(options, data, draws(3)), data), minlength=20)
  share = draws(3).generator(0, "shares of silos").dirichlet(np.full(20, concentration))
  assert (np.abs(sizes - 5000 * share) < 5 * np.sqrt(5000 * share * (1 - share)) + 1e-9).all()
  assert (sizes.max() > 600) == (concentration < 1000)


def test_a_silo_may_be_empty_and_the_note_says_so():
  dealt = partition({"by": "random", "num_silos": 3}, make_dataset([0, 1, 2]), draws(1))
  held = np.bincount(dealt.silo, minlength=3)
  assert (held == 0).sum() == 1, "the seed must leave one silo empty"
  assert dealt.num_silos == 3 and dealt.notes[0].startswith(
      f"1 of 3 silos hold nobody (silo{held.argmin()}) and take part with an update of zero")


def test_attribute_silos_are_consecutive_groups_of_the_ordered_people():
  tone = np.array([.9, .1, .5, .3, .7, .2, .8, .4, .6, .0])
  data = make_dataset(PERSON, attributes={"skin_tone": tone[PERSON].astype(np.float32)})
  dealt = partition({"by": "attribute", "attribute": "skin_tone", "num_silos": 3}, data, draws())
  silo = of_person(dealt, data)
  np.testing.assert_array_equal(silo[np.argsort(tone)], [0, 0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_people_of_equal_attribute_are_shuffled():
  gender = np.array([1, 0] * 5, np.int8)
  data = make_dataset(PERSON, gender=gender[PERSON])
  options = {"by": "attribute", "attribute": "gender", "num_silos": 5}
  dealt = [of_person(partition(options, data, draws(s)), data) for s in range(20)]
  for silo in dealt:
    assert np.bincount(silo).tolist() == [2] * 5
    assert set(silo[gender == 0]) == {0, 1, 2} and set(silo[gender == 1]) == {2, 3, 4}
  assert all(len({silo[p] for silo in dealt}) == 3 for p in range(10))


def test_the_attribute_of_a_person_is_the_mean_of_what_is_known():
  age = np.array([10, 50, -1, 20, 25, -1])
  data = make_dataset([0, 0, 0, 1, 1, 2], attributes={"age": age})
  options = {"by": "attribute", "attribute": "age", "num_silos": 2}
  with pytest.raises(ValueError, match=r"age of 1 person\(s\) is unknown: 2; expected a value"):
    partition(options, data, draws())
  dealt = partition(options, data.select(data.label < 2), draws())
  np.testing.assert_array_equal(dealt.silo, [1, 1, 1, 0, 0])
  hidden = make_dataset([0, 1], names=("ann", "bob"), gender=np.zeros(2, np.int8),
                        gender_known=np.array([True, False]))
  with pytest.raises(ValueError, match=r"gender of 1 person\(s\) is unknown: bob"):
    partition({**options, "attribute": "gender"}, hidden, draws())


def write(path, *lines):
  path.write_text("\n".join(("person,client", *lines)) + "\n")
  return {"by": "file", "path": str(path)}


def test_file_silos_are_numbered_as_the_file_names_them(tmp_path):
  options = write(tmp_path / "s.csv", "dan,west", "ann, east", "", '"bob",west', "cem,east",
                  "ann,east")
  dealt = partition(options, NAMED, draws())
  assert dealt.names == ("west", "east") and dealt.notes == ()
  np.testing.assert_array_equal(dealt.silo, [1, 1, 0, 1, 0, 0])
  (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "s.csv").read_bytes())
  np.testing.assert_array_equal(partition(options, NAMED, draws()).silo, dealt.silo)


def test_file_gives_the_privacy_unit_by_name_or_number(tmp_path):
  letters = dict(label=[0, 1, 0], person=[4, 4, 6])
  numbers = write(tmp_path / "n.csv", "6,x", "4,y")
  np.testing.assert_array_equal(partition(numbers, make_dataset(**letters, names=("a", "b")),
                                          rng()).silo, [1, 1, 0])
  names = write(tmp_path / "w.csv", "w6,x", "w4,y")
  writers = make_dataset(**letters, person_names=tuple(f"w{i}" for i in range(7)))
  np.testing.assert_array_equal(partition(names, writers, draws()).silo, [1, 1, 0])


def test_a_name_is_the_same_however_it_is_shown(tmp_path):
  """A folder's name is shown on one line; the file has it as it is."""
  options = write(tmp_path / "s.csv", "ann\xa0lee,x", "bob,y")
  for name in ("ann\xa0lee", r"ann\xa0lee"):
    people = make_dataset([0, 1], names=(name, "bob"))
    assert partition(options, people, draws()).silo.tolist() == [0, 1]


ALL = ("ann,x", "bob,x", "cem,y", "dan,y")


def test_a_file_may_name_people_who_do_not_train(tmp_path):
  """Who evaluates is listed too; a silo of such people alone holds nobody."""
  options = write(tmp_path / "s.csv", "eve,z", *ALL, "fay,x")
  dealt = partition(options, NAMED, draws())
  assert dealt.names == ("z", "x", "y")
  assert dealt.silo.tolist() == (partition(write(tmp_path / "a.csv", *ALL), NAMED,
                                           draws()).silo + 1).tolist()
  assert "1 of 3 silos hold nobody (z)" in dealt.notes[0]


def test_people_without_names_go_by_the_numbers_of_their_source(tmp_path):
  """Of people 2, 5 and 7 those who train are numbered anew: the file still means 2, 5 and 7."""
  whole = make_dataset([2, 2, 5, 7])
  train = compact(whole.select(whole.person != 5))
  options = write(tmp_path / "s.csv", "0,never", "1,never", "2,x", "5,y", "7,z")
  dealt = partition(options, train, draws())
  assert [dealt.names[k] for k in dealt.silo] == ["x", "x", "z"]
  with pytest.raises(ValueError, match=r"1 person\(s\) without a client: person 1 of those who"):
    partition(write(tmp_path / "s.csv", "0,a", "1,b", "2,x"), train, draws())


@pytest.mark.parametrize("lines, message", [
    ((*ALL, "ann,y"), "line 6: person ann is with both x and y; expected one client per person"),
    (ALL[:1], r"3 person\(s\) without a client: bob, cem, dan;"),
    ((*ALL, ",z"), "line 6 is ',z'; expected a person and a client"),
    ((*ALL, "eve,"), "line 6 is 'eve,'; expected a person and a client"),
    ((*ALL, "eve"), "line 6 is 'eve'"),
    ((*ALL, "eve,x,y"), "line 6 is 'eve,x,y'"),
])
def test_files_that_do_not_place_everybody_once_are_refused(tmp_path, lines, message):
  with pytest.raises(ValueError, match=message) as error:
    partition(write(tmp_path / "s.csv", *lines), NAMED, draws())
  assert "\n" not in str(error.value) and "s.csv" in str(error.value)


def test_other_files_are_refused(tmp_path):
  path = tmp_path / "s.csv"
  options = {"by": "file", "path": path}
  with pytest.raises(FileNotFoundError, match="s.csv does not exist; expected a CSV file"):
    partition(options, NAMED, draws())
  for content, message in ((b"", "header is ''"), (b"client,person\n", "header is 'client,person'"),
                           (b"person,client\n\xff,x\n", "not a CSV file in UTF-8")):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      partition(options, NAMED, draws())
  twins = make_dataset([0, 1], names=("ann", "ann"))
  with pytest.raises(ValueError, match="several persons have one name or identity"):
    partition(write(path, "ann,x"), twins, draws())


@pytest.mark.parametrize("options, message", [
    ({"by": "luck"}, "partition.by is 'luck'; expected one of random, dirichlet, attribute, file"),
    ({"num_silos": 2}, "partition.by is None"),
    ({"by": "random", "silos": 2}, "partition.silos is not a key; expected some of by, num_silos"),
    ({"by": "random"}, "partition.num_silos is required where .*partition.by is 'random'"),
    ({"by": "random", "num_silos": 0}, "partition.num_silos is 0; expected a whole number, 1 to 4"),
    ({"by": "random", "num_silos": 5}, r"partition.num_silos is 5; .* \(the people of made\)"),
    ({"by": "random", "num_silos": 2.5}, "partition.num_silos is 2.5"),
    ({"by": "dirichlet", "num_silos": 2}, "partition.concentration is required"),
    ({"by": "dirichlet", "num_silos": 2, "concentration": 0}, "concentration is 0; expected a num"),
    ({"by": "dirichlet", "num_silos": 5, "concentration": 1}, "num_silos is 5"),
    ({"by": "attribute", "num_silos": 2}, "partition.attribute is required"),
    ({"by": "attribute", "num_silos": 2, "attribute": "age"}, "made: no attribute 'age'"),
    ({"by": "file", "path": ""}, "partition.path is required where .*partition.by is 'file'"),
])
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message) as error:
    partition(options, NAMED, draws())
  assert "\n" not in str(error.value)


def test_options_of_other_ways_are_ignored():
  options = {"by": "random", "num_silos": 2, "concentration": -1, "attribute": "x", "path": None}
  assert partition(options, NAMED, draws()).num_silos == 2


def test_silos_of_a_single_class_are_noted(tmp_path):
  dealt = partition(write(tmp_path / "s.csv", "ann,x", "bob,y", "cem,y", "dan,z"), NAMED, draws())
  assert dealt.notes == ("2 of 3 silos hold a single class (x, z): "
                         "softmax over one class has no gradient",)


def test_class_rows_by_hand():
  rows = class_rows(np.array([1, 0, 2, 1, 1]), np.array([5, 7, 0, 2, 5]), 5)
  np.testing.assert_array_equal(rows.owner, [0, 1, 1, 2])
  np.testing.assert_array_equal(rows.label, [7, 2, 5, 0])
  np.testing.assert_array_equal(rows.offset, [0, 1, 3, 4, 4, 4])
  assert (rows.owner.dtype, rows.label.dtype, rows.offset.dtype) == (np.int32, np.int32, np.int64)
  with pytest.raises(ValueError, match=r"several silos: 4, 6; 2 in all; first held by silos 0, 2"):
    class_rows(np.array([0, 1, 2, 0, 1]), np.array([4, 6, 4, 6, 9]), 3)


def test_class_rows_number_own_classes_as_client_batches_do():
  dealt = partition({"by": "dirichlet", "num_silos": 4, "concentration": .5}, PEOPLE, draws(2))
  rows = class_rows(dealt.silo, PEOPLE.label, 4)
  users = Users.of_silos(dealt.silo, dealt.num_silos)
  parts = part_identities(PEOPLE.identities)
  cohort = client_batches(users, PEOPLE.label, parts, one_per_client(np.array([0, 1, 3, -1])),
                          batch_size=3, epochs=1, max_examples=0, num_labels=10, draws=draws(),
                          round=0, classes="own")
  for k in (0, 1, 2):
    silo, mask = cohort.client[k], cohort.mask[k]
    assert cohort.num_classes[k] == rows.offset[silo + 1] - rows.offset[silo]
    row = rows.offset[silo] + cohort.labels[k][mask]
    np.testing.assert_array_equal(rows.label[row], PEOPLE.label[cohort.examples[k][mask]])
    assert (rows.owner[row] == silo).all()
  assert len(rows.label) == 10


def test_padding_waste_by_hand():
  counts = np.array([10, 1, 9, 2])
  assert padding_waste(counts, 1, 2) == pytest.approx(1 - 22 / 38)     # 2 * 10 + 2 * 9
  assert padding_waste(counts, 4, 2) == pytest.approx(1 - 22 / 48)     # 2 * 12 + 2 * 12
  order = order_by_size(counts, 2)
  np.testing.assert_array_equal(order, [0, 2, 3, 1])
  assert padding_waste(counts[order], 1, 2) == pytest.approx(1 - 22 / 24)
  assert padding_waste(np.array([8, 8]), 4, 2) == 0
  assert padding_waste(np.array([8, 0]), 4, 2) == .5
  np.testing.assert_array_equal(order_by_size(np.array([3, 5, 3, 5]), 2), [1, 3, 0, 2])


@pytest.mark.parametrize("chunk, least_unsorted, most_sorted", [(2, .35, .15), (4, .5, .3)])
def test_sorted_chunks_of_unequal_silos_waste_less_than_half(chunk, least_unsorted, most_sorted):
  data = make_dataset(np.repeat(np.arange(600), rng(7).integers(2, 11, 600)))
  options = {"by": "dirichlet", "num_silos": 36, "concentration": .5}
  counts = [np.bincount(partition(options, data, draws(seed)).silo, minlength=36)
            for seed in range(10)]
  unsorted = np.mean([padding_waste(c, 8, chunk) for c in counts])
  ordered = np.mean([padding_waste(c[order_by_size(c, chunk)], 8, chunk) for c in counts])
  assert unsorted > least_unsorted and ordered < most_sorted and ordered < unsorted / 2


def test_no_other_order_wastes_less():
  for seed in range(50):
    counts = rng(seed).integers(0, 30, 12) + 1
    least = padding_waste(counts[order_by_size(counts, 3)], 4, 3)
    assert all(padding_waste(rng([seed, i]).permutation(counts), 4, 3) >= least for i in range(20))


@pytest.mark.parametrize("function, arguments, message", [
    (order_by_size, (np.ones(6), 4), "chunk is 4 for 6 clients; expected a divisor"),
    (order_by_size, (np.ones(6), 0), "chunk is 0"),
    (padding_waste, (np.ones(6), 8, 5), "chunk is 5"),
    (padding_waste, (np.ones(0), 8, 1), "chunk is 1 for 0 clients"),
    (padding_waste, (np.ones(6), 0, 3), "batch_size is 0; expected at least 1"),
    (padding_waste, (np.zeros(6), 8, 3), "6 clients without examples"),
])
def test_bad_sizes_are_named(function, arguments, message):
  with pytest.raises(ValueError, match=message):
    function(*arguments)
