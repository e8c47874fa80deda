import io
import warnings

import numpy as np
import pytest

from fedjax_face.data.readers.tfds_source import (
  EACH_IMAGE,
  FeatureNames,
  prepare_command,
  read_tfds,
)
from fedjax_face.draws import identity_of
from tests.data.conftest import encoded

tfds = pytest.importorskip("tensorflow_datasets")


class NestedFaces(tfds.core.GeneratorBasedBuilder):
  """Six images, named classes, nested identities as in celeb_a; image 4 is broken."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
        "identity": {"Identity_No": np.int64},
        "who": tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      content = b"junk" if i == 4 else encoded(10 * i)
      yield i, {"image": io.BytesIO(content), "label": 2 * (i % 2),
                "identity": {"Identity_No": 100 + i // 2}, "who": f"p{i // 3}"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  place = tmp_path_factory.mktemp("tfds")
  NestedFaces(data_dir=str(place)).download_and_prepare(file_format="array_record")
  return place


def read(data_dir, **options):
  """The made-up set, with image values as keys because TFDS shuffles its records."""
  with pytest.warns(UserWarning, match=r"nested_faces: skipped 1: record \d: not an image"):
    data, report = read_tfds("nested_faces", data_dir=data_dir, **options)
  assert len(report.skipped) == 1
  return data, {int(v): i for i, v in enumerate(data.images[:, 0, 0, 0])}


def test_class_labels_keep_their_numbers_and_names(data_dir):
  data, row = read(data_dir)
  assert data.names == ("x", "y", "z") and data.images.shape == (5, 8, 8, 3)
  assert [data.label[row[v]] for v in (0, 10, 20, 30, 50)] == [0, 2, 0, 2, 2]
  assert data.persons_are_labels


def test_nested_and_text_features(data_dir):
  data, row = read(data_dir, features=FeatureNames(label="identity/Identity_No", person="who"))
  assert data.names == ("100", "101", "102") and data.person_names == ("p0", "p1")
  assert [data.label[row[v]] for v in (0, 10, 20, 30, 50)] == [0, 0, 1, 1, 2]
  assert [data.person[row[v]] for v in (0, 10, 20, 30, 50)] == [0, 0, 0, 1, 1]


def test_every_image_its_own_person_size_and_channels(data_dir):
  data, _ = read(data_dir, features=FeatureNames(person=EACH_IMAGE), size=4, channels=1)
  np.testing.assert_array_equal(data.person, np.arange(5))
  assert data.images.shape == (5, 4, 4, 1) and data.person_names == ()


def test_a_record_that_is_skipped_leaves_the_others_their_identities(data_dir):
  with pytest.warns(UserWarning, match="skipped 1"):
    data, report = read_tfds("nested_faces", data_dir=data_dir,
                             features=FeatureNames(person=EACH_IMAGE))
  [(skipped, _)] = report.skipped
  records = [f"record {number}" for number in range(6)]
  records.remove(skipped)
  np.testing.assert_array_equal(data.identities, identity_of(records))


def test_slices_and_limits(data_dir):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the broken image may be among the first three
    whole, _ = read_tfds("nested_faces", data_dir=data_dir, split="train")
    for options in ({"split": "train[:3]"}, {"limit": 3}):
      part, report = read_tfds("nested_faces", data_dir=data_dir, **options)
      assert len(part) + len(report.skipped) == 3
      np.testing.assert_array_equal(part.images, whole.images[:len(part)])


def test_broken_images_can_be_refused(data_dir):
  with pytest.raises(ValueError, match=r"nested_faces: 1 bad file\(s\), first record"):
    read_tfds("nested_faces", data_dir=data_dir, on_bad="refuse")


@pytest.mark.parametrize("options, message", [
    ({"features": FeatureNames(label="age")}, "no feature 'age'; expected one of .*label"),
    ({"features": FeatureNames(label="identity/No")}, "no feature 'identity/No'"),
    ({"split": "test"}, "nested_faces: Unknown split"),
    ({"on_bad": "no"}, "on_bad is 'no'")])
def test_wrong_options_are_refused(data_dir, options, message):
  with pytest.raises(ValueError, match=message) as error:
    read_tfds("nested_faces", data_dir=data_dir, **options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lfw", "celeb_a"])
def test_a_set_that_is_not_prepared_names_the_command(tmp_path, name):
  with pytest.raises(FileNotFoundError) as error:
    read_tfds(name, data_dir=tmp_path)
  assert prepare_command(name, tmp_path) in str(error.value) and "\n" not in str(error.value)
  assert f"tfds.builder('{name}', data_dir='{tmp_path}')" in str(error.value)


def test_unknown_set(tmp_path):
  with pytest.raises(ValueError, match="no_such_faces is no TFDS data set") as error:
    read_tfds("no_such_faces", data_dir=tmp_path)
  assert "\n" not in str(error.value)


def test_emnist_has_no_writers(tmp_path):
  with pytest.raises(ValueError, match="emnist has no writers.*femnist.*each_image"):
    read_tfds("emnist/byclass", data_dir=tmp_path)
