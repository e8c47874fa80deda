import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data import public_sets, sets, sources
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers import lfw
from fedjax_face.data.rendering import synthetic_faces
from fedjax_face.data.rendering.variation import STREET, STUDIO
from fedjax_face.data.splits import check_disjoint
from tests.data.conftest import encoded
from tests.data.readers.test_femnist import shard
from tests.data.readers.test_insightface_rec import write_rec
from tests.data.readers.test_lfw import write_lfw

FACES = {"name": "synthetic_faces", "num_people": 3, "evaluation_people": 2, "images_per_person": 2,
         "size": 28, "grayscale": True}


@pytest.fixture
def folder(tmp_path):
  """Ten people, `p0` to `p9`, two images each."""
  for person in range(10):
    (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
    for image in range(2):
      (tmp_path / "faces" / f"p{person}" / f"{image}.png").write_bytes(encoded(10 * person + image))
  return str(tmp_path / "faces")


@pytest.fixture
def plain_faces(monkeypatch):
  """Replaces the renderer, which compiles for seconds, by one grey level per person and world."""
  def plain(num_people, images_per_person, size, seed, *, first_person, grayscale, variation):
    assert variation in (STREET, STUDIO)
    person = np.repeat(np.arange(num_people, dtype=np.int32), images_per_person)
    images = np.ones((len(person), size, size, 1 if grayscale else 3), np.uint8)
    images *= (50 * seed + first_person + person + 1).astype(np.uint8)[:, None, None, None]
    return FaceDataset("synthetic_faces", images, person, person.copy())
  monkeypatch.setattr(synthetic_faces, "synthetic_faces", plain)


def test_rendered_faces():
  loaded = sources.load({**FACES, "num_people": 1, "evaluation_people": 1}, 0)
  assert loaded.train.images.shape == loaded.evaluation.images.shape == (2, 28, 28, 1)
  assert tuple(loaded.train.names) == ("world0-person0",)
  assert tuple(loaded.evaluation.names) == ("world0-person1",)
  assert not np.array_equal(loaded.train.images, loaded.evaluation.images)


def test_synthetic_faces_of_other_people_evaluate(plain_faces):
  loaded = sources.load(FACES, 0)
  assert len(loaded.train) == 6 and len(loaded.evaluation) == 4 and loaded.public is None
  assert loaded.train.images.shape == (6, 28, 28, 1)
  assert check_disjoint(loaded.train, loaded.evaluation, "person")
  assert loaded.train.num_labels == 3 and loaded.evaluation.num_labels == 2
  again = sources.load(FACES, 5)
  np.testing.assert_array_equal(loaded.train.images, again.train.images)
  assert not set(loaded.train.images.ravel()) & set(loaded.evaluation.images.ravel())


def test_public_faces_must_be_other_people(plain_faces):
  public = {"name": "synthetic_faces", "num_people": 2, "images_per_person": 1, "size": 28,
            "grayscale": True}
  loaded = sources.load({**FACES, "public": {**public, "seed": 9}}, 0)
  assert len(loaded.public) == 2
  assert any("2 images are taken as public" in note for note in loaded.notes)
  with pytest.raises(ValueError, match=r"share 2 person\(s\): world0-person0, world0-person1"):
    sources.load({**FACES, "public": public}, 0)
  with pytest.raises(ValueError, match=r"share 2 person\(s\): world0-person3, world0-person4"):
    sources.load({**FACES, "public": {**public, "first_person": 3}}, 0)
  with pytest.raises(ValueError, match=r"\[30, 30, 1\] but training images are \[28, 28, 1\]"):
    sources.load({**FACES, "public": {**public, "seed": 9, "size": 30}}, 0)


def test_a_public_set_of_another_domain_has_a_name_of_its_own(plain_faces):
  public = {"name": "synthetic_faces", "num_people": 2, "images_per_person": 1, "size": 28,
            "grayscale": True, "seed": 9, "domain": ff.domains.studio()}
  loaded = sources.load({**FACES, "public": public}, 0)
  assert loaded.public.name.endswith("_world9_studio") and "studio" not in loaded.train.name
  with pytest.raises(ValueError, match="domain.*beach.*street.*studio"):
    ff.synthetic_faces(domain="beach")


def test_folder_splits_by_person(folder):
  config = {"name": "folder", "path": folder, "size": 8, "test_fraction": .3}
  loaded = sources.load(config, 0)
  assert len(loaded.evaluation) + len(loaded.train) == 20 and loaded.notes == ()
  assert 2 <= len(loaded.evaluation) <= 10  # each of ten people by itself, 3 on average
  assert set(loaded.train.label) == set(range(len(loaded.train) // 2))
  for part in (loaded.train, loaded.evaluation):
    np.testing.assert_array_equal(part.images[:, 0, 0, 0] // 10,
                                  [int(part.names[p][1:]) for p in part.label])
  assert sources.load(config, 0).evaluation.names == loaded.evaluation.names
  assert sources.load(config, 1).evaluation.names != loaded.evaluation.names


def test_insightface_rec_splits_by_person(tmp_path, plain_faces):
  write_rec(tmp_path, [(p, encoded(10 * p + i)) for p in range(10) for i in range(2)])
  config = {"name": "insightface_rec", "path": str(tmp_path), "size": 8, "test_fraction": .3}
  loaded = sources.load(config, 0)
  assert len(loaded.evaluation) + len(loaded.train) == 20 and loaded.notes == ()
  assert 2 <= len(loaded.evaluation) <= 10  # each of ten people by itself, 3 on average
  people = [set((part.images[:, 0, 0, 0] // 10).tolist())
            for part in (loaded.train, loaded.evaluation)]
  assert not people[0] & people[1] and set(loaded.train.label) == set(range(
      len(loaded.train) // 2))
  public = {"name": "insightface_rec", "path": str(tmp_path), "size": 28, "grayscale": True,
            "limit": 4}
  loaded = sources.load({**FACES, "num_people": 1, "evaluation_people": 1, "public": public}, 0)
  assert loaded.public.images.shape == (4, 28, 28, 1) and loaded.public.num_labels == 2
  assert any("whether they share a person cannot be checked" in note for note in loaded.notes)


def test_skipped_files_are_noted(folder, tmp_path):
  (tmp_path / "faces" / "p3" / "x.png").write_bytes(b"junk")
  with pytest.warns(UserWarning, match="skipped 1"):
    loaded = sources.load({"name": "folder", "path": folder, "size": 8, "test_fraction": .3}, 0)
  assert "p3/x.png: not an image" in loaded.notes[0]


def test_sessions_are_said_in_the_config(tmp_path):
  for name in ("ann/monday/1.png", "ann/friday/1.png", "bob/monday/1.png"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(encoded(1))
  for of in (sets.folder(str(tmp_path), size=8, evaluation=.5),
             sets.folder(str(tmp_path), size=8, evaluation=.5, people_at=1, seed=3,
                         public=public_sets.folder(str(tmp_path), size=8))):
    with pytest.raises(ValueError, match="say people_at=1 if .* is a person, or people_at=2"):
      _ = of.sources
  section = public_sets.folder(str(tmp_path), size=8, people_at=1).section
  assert sources.whole_set("data.public", dict(section))[0].names == ("ann", "bob")


def test_femnist_evaluates_unseen_characters(tmp_path):
  shard(tmp_path / "train" / "a.json", {"f1": [1, 35, 36], "f2": [5, 61], "f3": [40]})
  shard(tmp_path / "test" / "a.json", {"f1": [2, 61]})
  loaded = sources.load({"name": "femnist", "path": str(tmp_path)}, 0)
  train, evaluation = loaded.train, loaded.evaluation
  assert train.names == ("1", "2", "5", "Z") and evaluation.names == ("a", "e", "z")
  assert train.person_names == ("f1", "f2")
  np.testing.assert_array_equal(np.bincount(train.person), [3, 1])
  assert "by writers that also train" in loaded.notes[0] and loaded.evaluates_training_people
  with pytest.raises(ValueError, match="test set would be empty"):
    sources.load({"name": "femnist", "path": str(tmp_path), "first_unseen_label": 62}, 0)


def test_lfw_evaluates_the_people_and_pairs_of_its_folds(tmp_path):
  write_lfw(tmp_path)
  loaded = sources.load({"name": "lfw", "root": str(tmp_path), "size": 8, "test_folds": (1,)}, 0)
  assert loaded.evaluation.names == ("Ann", "Bo_B") and loaded.train.names == ("Cem", "Dan", "Eve")
  pixels = loaded.evaluation.images[:, 0, 0, 0]
  np.testing.assert_array_equal(pixels[loaded.pairs.first], [0, 0])
  np.testing.assert_array_equal(pixels[loaded.pairs.second], [10, 20])
  np.testing.assert_array_equal(loaded.pairs.same, [True, False])
  several = sources.load({"name": "lfw", "root": str(tmp_path), "size": 8, "test_folds": [2],
                          "min_images": 2, "max_people": 1}, 0)
  assert several.train.names == ("Ann",) and several.evaluation.names == ("Cem", "Dan")
  assert loaded.not_covered == ()
  assert several.not_covered[0].startswith("data.max_people=1 lets in the first so many")


@pytest.mark.parametrize("config, message", [
    ({"name": "webface"}, "data.name is 'webface'; expected one of synthetic_faces, femnist, lfw"),
    ({}, "data.name is None; expected one of"),
    ({**FACES, "people": 3}, "data.people is not a key of synthetic_faces; .* num_people"),
    ({"name": "folder", "path": "x", "folds": 1}, "some of test_fraction, .*held_out, path"),
    ({"name": "folder", "path": "x", "size": 8}, "data.test_fraction is required for folder"),
    ({"name": "folder", "test_fraction": .5}, "data.path is required for folder"),
    ({"name": "folder", "test_fraction": .5, "path": ""}, "data.path is required for folder"),
    ({**FACES, "public": {"name": "mars"}}, "data.public.name is 'mars'; expected one of .*orl"),
    ({**FACES, "public": {"name": "orl", "people": 1}}, "data.public.people is not a key of orl"),
])
def test_unknown_names_and_keys_list_what_is_accepted(config, message):
  with pytest.raises(ValueError, match=message) as error:
    sources.load(config, 0)
  assert "\n" not in str(error.value)


def test_absent_data_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  assert sources.data_root() == tmp_path
  for name in ("femnist", "lfw"):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/{name}/.* does not exist"):
      sources.load({"name": name}, 0)


def test_femnist_with_public_orl(real_data):
  real_data("femnist", "femnist_leaf_105writers.npz")
  real_data("orl", "att_faces.zip")
  with pytest.warns(UserWarning, match="README"):
    loaded = sources.load({"name": "femnist", "num_writers": 5,
                           "public": {"name": "orl", "size": 28, "grayscale": True}}, 0)
  assert loaded.train.num_labels == 36 and loaded.evaluation.num_labels == 26
  assert loaded.train.num_persons == 5 and len(loaded.public) == 400


def test_lfw_folds(real_data):
  real_data("lfw", lfw.ARCHIVE)
  loaded = sources.load({"name": "lfw", "size": 28, "grayscale": True, "min_images": 40}, 0)
  assert len(loaded.pairs.first) == 1200 and loaded.pairs.same.sum() == 600
  label = loaded.evaluation.label
  np.testing.assert_array_equal(label[loaded.pairs.first] == label[loaded.pairs.second],
                                loaded.pairs.same)
  assert np.bincount(loaded.train.label).min() >= 40
  assert loaded.evaluation.num_labels == 844 and loaded.notes == ()
