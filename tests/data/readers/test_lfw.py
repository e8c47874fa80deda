import zipfile

import numpy as np
import pytest

from fedjax_face.data.readers import lfw
from fedjax_face.data.splits import check_disjoint, split_by_fold
from tests.data.conftest import encoded

PAIRS = ["2\t1", "Ann\t1\t2", "Ann\t1\tBo_B\t1", "Cem\t1\t2", "Cem\t2\tDan\t1"]


def write_lfw(root, pairs=PAIRS):
  """A made-up LFW of four people in two folds, and one person outside them."""
  with zipfile.ZipFile(root / lfw.ARCHIVE, "w") as archive:
    for value, (person, number) in enumerate([("Ann", 1), ("Ann", 2), ("Bo_B", 1), ("Cem", 1),
                                              ("Cem", 2), ("Dan", 1), ("Eve", 1), ("Eve", 2)]):
      archive.writestr(f"lfw/{person}/{person}_{number:04d}.jpg", encoded(10 * value))
  (root / "pairs.txt").write_text("\n".join(pairs) + "\n")
  (root / "images.csv").write_text("file,person,gender\nAnn_0001.jpg,Ann,F\nCem_0001.jpg,Cem,M\n"
                                   "Dan_0001.jpg,Dan,\n")


def test_images_pairs_folds_and_gender_fit_together(tmp_path):
  write_lfw(tmp_path)
  data, report = lfw.read_lfw(tmp_path)
  assert data.name == "lfw" and data.names == ("Ann", "Bo_B", "Cem", "Dan", "Eve")
  np.testing.assert_array_equal(data.gender_known, [1, 0, 0, 1, 0, 0, 0, 0])
  assert data.gender[0] == 1 and data.gender[3] == 0
  named = lfw.parse_pairs(tmp_path / "pairs.txt")
  assert [p.fold for p in named] == [1, 1, 2, 2] and [p.same for p in named] == [1, 0, 1, 0]
  pairs, left_out = lfw.locate_pairs(named, report)
  np.testing.assert_array_equal(data.images[pairs.first, 0, 0, 0], [0, 0, 30, 40])
  np.testing.assert_array_equal(data.images[pairs.second, 0, 0, 0], [10, 20, 40, 50])
  np.testing.assert_array_equal(pairs.same, [True, False, True, False])
  np.testing.assert_array_equal(pairs.fold, [1, 1, 2, 2])
  assert left_out.skipped == ()
  folds = lfw.person_folds(named)
  assert folds == {"Ann": 1, "Bo_B": 1, "Cem": 2, "Dan": 2}
  train, test = split_by_fold(data, folds, (1,))
  assert check_disjoint(train, test, "person")
  assert {data.names[i] for i in train.label} == {"Cem", "Dan", "Eve"}


def test_pairs_without_their_images(tmp_path):
  write_lfw(tmp_path)
  _, report = lfw.read_lfw(tmp_path, people={"Ann", "Cem"})
  named = lfw.parse_pairs(tmp_path / "pairs.txt")
  with pytest.raises(ValueError, match=r"2 bad file\(s\), first Bo_B_0001: image of a pair is"):
    lfw.locate_pairs(named, report)
  with pytest.warns(UserWarning, match="skipped 2"):
    pairs, _ = lfw.locate_pairs(named, report, on_bad="skip")
  np.testing.assert_array_equal(pairs.fold, [1, 2])
  empty, _ = lfw.locate_pairs([], report)
  assert empty.first.shape == (0,)


def test_a_list_of_other_people_is_refused(tmp_path):
  write_lfw(tmp_path)
  _, report = lfw.read_lfw(tmp_path, people={"Eve"})
  named = lfw.parse_pairs(tmp_path / "pairs.txt")
  for on_bad in ("skip", "refuse"):
    with pytest.raises(ValueError, match="none of the 4 pairs has both images, Ann_0001 for"):
      lfw.locate_pairs(named, report, on_bad=on_bad)


def test_names_are_compared_in_one_spelling(tmp_path):
  write_lfw(tmp_path)
  with zipfile.ZipFile(tmp_path / lfw.ARCHIVE, "a") as archive:
    for number in (1, 2):  # as a Mac packs it: decomposed
      archive.writestr(f"lfw/Zoe\u0308/Zoe\u0308_000{number}.jpg", encoded(200))
  (tmp_path / "pairs.txt").write_text("1\nZo\xeb\t1\t2\nAnn\t1\tZo\xeb\t2\n")
  with (tmp_path / "images.csv").open("a") as table:
    table.write("Zo\xeb_0001.jpg,Zo\xeb,F\n")
  data, report = lfw.read_lfw(tmp_path)
  pairs, _ = lfw.locate_pairs(lfw.parse_pairs(tmp_path / "pairs.txt"), report)
  assert len(pairs.same) == 2 and data.gender_known[-2:].tolist() == [True, False]


@pytest.mark.parametrize("lines, message", [
    (PAIRS[:-1], "3 pairs; expected 4"), (["x", *PAIRS[1:]], "first line must be"),
    ([], "first line must be"), ([*PAIRS[:-1], "Ann\t1"], "pair 4 is 'Ann 1'"),
    ([*PAIRS[:-1], "Ann\tone\t2"], "pair 4 is 'Ann one 2'; expected 'person i j'")])
def test_malformed_lists_are_refused(tmp_path, lines, message):
  (tmp_path / "pairs.txt").write_text("\n".join(lines))
  with pytest.raises(ValueError, match=message):
    lfw.parse_pairs(tmp_path / "pairs.txt")


def test_a_person_in_two_folds_is_refused():
  named = [lfw.NamedPair(("Ann", 1), ("Ann", 2), 1), lfw.NamedPair(("Ann", 1), ("Bob", 1), 2)]
  with pytest.raises(ValueError, match="Ann is in folds 1 and 2"):
    lfw.person_folds(named)
  with pytest.raises(FileNotFoundError, match="expected an LFW pair list"):
    lfw.parse_pairs("nowhere.txt")


def test_official_lists(real_data):
  view2 = lfw.parse_pairs(real_data("lfw", "pairs.txt"))
  assert len(view2) == 6000 and sum(p.same for p in view2) == 3000
  assert [p.fold for p in view2] == [fold for fold in range(1, 11) for _ in range(600)]
  assert len(lfw.person_folds(view2)) == 4281
  for name, count in (("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)):
    view1 = lfw.parse_pairs(real_data("lfw", name))
    assert len(view1) == count and {p.fold for p in view1} == {0}


def test_a_few_real_people(real_data):
  root = real_data("lfw", lfw.ARCHIVE).parent
  data, report = lfw.read_lfw(root, size=28, channels=1, people={"Ann_Veneman", "Anthony_Fauci"})
  assert data.images.shape[1:] == (28, 28, 1) and data.names == ("Ann_Veneman", "Anthony_Fauci")
  view2 = lfw.parse_pairs(root / "pairs.txt")
  wanted = [pair for pair in view2 if pair.first[0] == "Ann_Veneman" and pair.same]
  pairs, _ = lfw.locate_pairs(wanted, report)
  assert len(pairs.first) == len(wanted) > 0 and (data.label[pairs.first] == 0).all()
