"""Every reader, and `detect`, gives the same pixels for the same file."""

import io
import zipfile

import numpy as np
import pytest

from fedjax_face.data import judging_sets
from fedjax_face.data.readers import face_tasks
from fedjax_face.data.readers.folders import read_folder
from fedjax_face.data.readers.image_decoder import decode_image
from fedjax_face.data.readers.insightface_bin import read_insightface_bin, write_insightface_bin
from fedjax_face.data.readers.insightface_rec import read_rec
from fedjax_face.data.readers.tfds_photographs import EncodedPhotographs
from fedjax_face.data.readers.tfds_source import read_tfds
from fedjax_face.runs.detect import read_upright
from tests.data.readers.pictures import FORMS
from tests.data.readers.test_insightface_rec import write_rec

FILES = [content for name, (content, *_) in FORMS.items()]


def folder(root):
  for number, content in enumerate(FILES):
    (root / "ann").mkdir(exist_ok=True)
    (root / "ann" / f"{number:02d}").write_bytes(content)
  return read_folder(root)[0].images


def archive(root):
  with zipfile.ZipFile(root / "a.zip", "w") as packed:
    for number, content in enumerate(FILES):
      packed.writestr(f"ann/{number:02d}", content)
  return read_folder(root / "a.zip")[0].images


def rec(root):
  write_rec(root, [(0, content) for content in FILES])
  return read_rec(root)[0].images


def pairs(root):
  files = [*FILES, FILES[0]] if len(FILES) % 2 else FILES
  write_insightface_bin(root / "a.bin", files, [True] * (len(files) // 2))
  return read_insightface_bin(root / "a.bin")[0][:len(FILES)]


def templates(root):
  names = [f"{number:02d}.jpg" for number in range(len(FILES))]
  for name, content in zip(names, FILES, strict=True):
    (root / name).write_bytes(content)
  (root / "images.csv").write_text("".join(f"{name} {i} {i}\n" for i, name in enumerate(names)))
  (root / "pairs.csv").write_text("0 1 1\n")
  read = judging_sets.templates(str(root), size=32).load().dataset.images
  np.testing.assert_array_equal(read, [decode_image(content, 32) for content in FILES])
  return np.stack([decode_image(content) for content in FILES])


def utkface(root):
  for number, content in enumerate(FILES):
    (root / f"20_{number % 2}_0_{number:02d}.jpg.chip.jpg").write_bytes(content)
  found, report = face_tasks.read_utkface(root)
  return found.images[np.argsort([name.split("_")[3] for name in report.files])]


def detect(root):
  def upright(content):
    (root / "x").write_bytes(content)
    return read_upright(root / "x", 8).image
  return np.stack([upright(content) for content in FILES])


@pytest.mark.parametrize("read", [folder, archive, rec, pairs, templates, utkface, detect])
def test_every_reader_gives_the_same_pixels(read, tmp_path):
  np.testing.assert_array_equal(read(tmp_path), [decode_image(content) for content in FILES])


def test_tfds_gives_the_same_pixels(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")

  class Forms(tfds.core.GeneratorBasedBuilder):
    """The forms, numbered."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
          "image": tfds.features.Image(shape=(None, None, 3)), "label": np.int64}))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for number, content in enumerate(FILES):
        yield number, {"image": io.BytesIO(content), "label": number}

  Forms(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
  data, _ = read_tfds("forms", data_dir=tmp_path)
  np.testing.assert_array_equal(data.images[np.argsort(data.label)],
                                [decode_image(content) for content in FILES])


def test_sets_with_marks_have_the_pixels_as_stored(tmp_path):
  images = EncodedPhotographs([str(i) for i in range(len(FILES))], FILES.__getitem__)
  for number, content in enumerate(FILES):
    np.testing.assert_array_equal(images[number], decode_image(content, upright=False))
    assert images.size_of(number) == images[number].shape[1::-1]
