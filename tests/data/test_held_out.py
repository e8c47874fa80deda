"""Who does not train: by chance, by name, by folder, by label, by image."""

import pathlib

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.data import by_hand, splits
from fedjax_face.draws import Draws
from tests.data.conftest import encoded, make_dataset


def people(place, names, images=2):
  """A folder with a sub-folder for each name."""
  for number, name in enumerate(names):
    (place / name).mkdir(parents=True)
    for image in range(images):
      (place / name / f"{image}.png").write_bytes(encoded(10 * number + image))
  return place


def written(path, *lines):
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def names(data):
  """Names of who trains, evaluates and validates."""
  made = options.made(data)
  return [None if of is None else set(of.names) for of in (
      made.train, made.evaluation, made.validation)]


def test_who_validates_is_drawn_beside_who_evaluates():
  """Probabilities of a quarter and a fifth; who evaluates is the same with and without."""
  data = make_dataset(np.arange(2000))
  train, evaluation, validation = splits.by_chance(data, .25, .2, Draws.of(0))
  assert len(train) + len(evaluation) + len(validation) == 2000
  assert abs(len(validation) - 400) < 5 * np.sqrt(2000 * .2 * .8)
  alone = splits.by_chance(data, .25, 0.0, Draws.of(0))
  assert alone.validation is None
  np.testing.assert_array_equal(alone.evaluation.person, evaluation.person)
  left = splits.by_chance(data.select(data.person != validation.person[0]), .25, .2, Draws.of(0))
  np.testing.assert_array_equal(left.validation.person, validation.person[1:])
  np.testing.assert_array_equal(left.train.person, train.person)
  with pytest.raises(ValueError, match="expected shares that leave somebody to train"):
    splits.by_chance(data, .5, .5, Draws.of(0))


def test_a_data_set_in_hand_is_split_in_three(tmp_path):
  images = np.zeros((40, 4, 4, 1), np.uint8)
  made = ff.faces(images, [f"p{i // 2}" for i in range(40)]).split(
      evaluation=.3, validation=.3, seed=1)
  sets = (made.train, made.evaluation, made.validation)
  assert sum(of.num_persons for of in sets) == 20 and "validation=faces" in repr(made)
  whole = options.made(ff.folder(people(tmp_path, [f"p{i}" for i in range(12)]), size=4,
                                 evaluation=.3, validation=.3, seed=3))
  assert not set(whole.validation.names) & {*whole.train.names, *whole.evaluation.names}


@pytest.mark.parametrize("who", ["train", "evaluation"])
def test_sets_by_hand_share_nobody_with_who_validates(who):
  make = lambda *names: ff.faces(np.zeros((len(names), 4, 4), np.uint8), names, name="mine")
  sets = {"train": make("a"), "evaluation": make("b"), "validation": make("c")}
  made = ff.Sources(**sets | {who: make("c")})
  with pytest.raises(ValueError, match=r"share 1 person\(s\): c"):
    by_hand.checked(made)


def test_a_file_names_who_is_held_out_or_everybody(tmp_path):
  folder = people(tmp_path / "faces", ["ann", "bo", "cem", "dan"])
  of = lambda *lines: ff.folder(folder, size=4, held_out=ff.held_out.by_file(
      written(tmp_path / "people.csv", "person,split", *lines)))
  assert names(of("cem,test", "bo,validation")) == [{"ann", "dan"}, {"cem"}, {"bo"}]
  every = ("ann,train", "bo,train", "cem,evaluation", "dan,train", "eve,test")
  made = of(*every)
  assert names(made) == [{"ann", "bo", "dan"}, {"cem"}, None]
  assert "1 person(s) are not in faces: eve" in options.made(made).sources.notes[-1]
  with pytest.raises(ValueError, match=r"people.csv: 1 person\(s\) of faces without a split: dan"):
    names(of("ann,train", "bo,train", "cem,test"))
  with pytest.raises(ValueError, match="the test set would be empty"):
    names(of("eve,test"))


def test_a_name_in_another_spelling_of_unicode_is_the_same(tmp_path):
  folder = people(tmp_path / "faces", ["Andre\u0301", "bo"])
  path = written(tmp_path / "people.csv", "person,split", "Andr\u00e9,test")
  made = ff.folder(folder, size=4, held_out=ff.held_out.by_file(path))
  assert names(made)[0] == {"bo"}


def test_sub_folders_are_sides(tmp_path):
  folder = tmp_path / "faces"
  people(folder / "train", ["ann", "bo"])
  people(folder / "test", ["cem"])
  data = lambda path=folder: ff.folder(path, size=4, held_out=ff.held_out.by_folders())
  assert names(data()) == [{"ann", "bo"}, {"cem"}, None]
  people(folder / "val", ["dan"])
  made = options.made(data())
  assert names(data())[2] == {"dan"} and made.train.name == "faces"
  people(folder / "val", ["ann"])
  with pytest.raises(ValueError, match=r"share 1 person\(s\): ann"):
    names(data())
  people(folder / "validation", ["eve"])
  with pytest.raises(ValueError, match="is a second folder of validation"):
    names(data())
  for path in (folder / "train", tmp_path / "none"):
    with pytest.raises(ValueError, match="no sub-folder of train; data.held_out=by_folders"):
      names(data(path))


def test_labels_that_nobody_has_trained_on(tmp_path):
  """Contributors of several landmarks: those of the evaluation are unseen, people may be both."""
  people(tmp_path, ["x"], images=24)
  rows = [f"x/{i}.png,user{i % 3},landmark{i // 2}" for i in range(24)]
  path = written(tmp_path / "list.csv", "path,person,label", *rows)
  made = options.made(ff.listing(path, size=4, evaluation=.3, validation=.2, seed=0,
                                 held_out=ff.held_out.unseen_labels())).sources
  sets = (made.train, made.evaluation, made.validation)
  assert sum(len(of.names) for of in sets) == 12 and len({n for of in sets for n in of.names}) == 12
  assert made.evaluates_training_people and "other images of people who" in made.not_covered[0]
  assert made.train.num_persons == 3 and not made.train.persons_are_labels


def test_a_list_says_the_side_of_each_row_itself(tmp_path):
  people(tmp_path, ["x"], images=6)
  rows = [f"x/{i}.png,p{i // 2},{split}" for i, split in enumerate(
      ("train", "train", "test", "test", "val", "val"))]
  path = written(tmp_path / "list.csv", "path,person,split", *rows)
  assert names(ff.listing(path, size=4)) == [{"p0"}, {"p1"}, {"p2"}]
  chosen = ff.held_out.by_file(written(tmp_path / "people.csv", "person,split", "p0,test"))
  assert names(ff.listing(path, size=4, held_out=chosen))[:2] == [{"p1", "p2"}, {"p0"}]
  whole = ff.closed_set(ff.public_sets.listing(path, size=4), evaluation=.5)
  assert options.made(whole).train.num_persons == 3
  rows[1] = rows[1].replace("train", "test")
  with pytest.raises(ValueError, match=r"share 1 person\(s\): p0"):
    names(ff.listing(written(tmp_path / "list.csv", "path,person,split", *rows), size=4))


def test_public_rows_of_a_list_may_be_those_of_one_split(tmp_path):
  people(tmp_path, ["x"], images=4)
  path = written(tmp_path / "list.csv", "path,person,split", *(
      f"x/{i}.png,p{i},{split}" for i, split in enumerate(("train", "train", "test", "val"))))
  private = people(tmp_path / "private", ["ann", "bo"])
  made = options.made(ff.folder(private, size=4, evaluation=.5, public=ff.public_sets.listing(
      path, size=4, split="evaluation")))
  assert made.public.names == ("p2",)


def test_images_of_everybody_are_classes(tmp_path):
  folder = people(tmp_path, ["ann", "bo"], images=4)
  made = options.made(ff.folder(folder, size=4, evaluation=.25,
                                held_out=ff.held_out.images_of_everybody()))
  assert made.feeds == "classes" and made.sources.evaluates_training_people
  assert len(made.train) == 6 and set(made.evaluation.label) == {0, 1}


@pytest.mark.parametrize("make, words", [
    (lambda: ff.folder("x", evaluation=.5, validation=.5), "validation=0.5: expected less than"),
    (lambda: ff.held_out.by_file(""), "path='': expected the name of a file"),
    (lambda: ff.listing(""), "path='': expected the name of a place"),
    (lambda: ff.folder("x", validation=.1, held_out=ff.held_out.images_of_everybody()),
     "expected 0 beside held_out=images_of_everybody"),
])
def test_what_is_refused_before_anything_is_read(make, words):
  with pytest.raises(ff.OptionError, match=words) as error:
    make()
  assert "\n" not in str(error.value)


def test_sub_folders_are_of_folders_alone(tmp_path):
  people(tmp_path, ["x"])
  path = written(tmp_path / "list.csv", "path,person", "x/0.png,a", "x/1.png,b")
  with pytest.raises(ValueError, match="held_out=by_folders: list has none; expected of data=fold"):
    names(ff.listing(pathlib.Path(path), size=4, held_out=ff.held_out.by_folders()))


def test_whom_a_file_names_is_held_out_whatever_letters_the_name_has(tmp_path):
  """A space that breaks no line is shown as its number in the name of a folder."""
  folder = people(tmp_path / "faces", ["ann\xa0lee", "bo", "cem"])
  made = ff.folder(folder, size=4, held_out=ff.held_out.by_file(
      written(tmp_path / "people.csv", "person,split", "ann\xa0lee,test")))
  assert names(made) == [{"bo", "cem"}, {r"ann\xa0lee"}, None]


def test_who_validates_is_not_drawn_beside_what_says_it(tmp_path):
  folder = people(tmp_path / "faces", ["ann", "bo"], images=1)
  for held_out in (ff.held_out.by_file("x.csv"), ff.held_out.by_folders(),
                   ff.held_out.images_of_everybody()):
    with pytest.raises(options.OptionError, match=r"validation=0.2: expected 0 beside held_out="):
      options.made(ff.folder(folder, size=4, validation=.2, held_out=held_out))
  listed = written(folder / "list.csv", "path,person,split", "ann/0.png,ann,train",
                   "bo/0.png,bo,test")
  assert names(ff.listing(listed, size=4)) == [{"ann"}, {"bo"}, None]
  with pytest.raises(ValueError, match="data.validation=0.2: expected 0, because column split of"):
    options.made(ff.listing(listed, size=4, validation=.2)).sources  # noqa: B018
