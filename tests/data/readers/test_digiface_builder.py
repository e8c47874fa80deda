import subprocess
import sys
import zipfile

import numpy as np
import pytest

from fedjax_face.data.readers.tfds_source import read_tfds
from tests.data.conftest import encoded

pytest.importorskip("tensorflow_datasets")
digiface_builder = pytest.importorskip("fedjax_face.data.readers.digiface_builder")


def test_builds_and_reads_archives_and_folders(tmp_path):
  manual, data_dir = tmp_path / "manual", tmp_path / "tfds"
  (manual / "7").mkdir(parents=True)
  (manual / "7" / "0.png").write_bytes(encoded(70, 112))
  (manual / "licence.txt").write_text("text")
  with zipfile.ZipFile(manual / "subjects_0-1.zip", "w") as archive:
    for subject in range(2):
      for image in range(2):
        mode = "L" if image else "RGB"
        archive.writestr(f"{subject}/{image}.png", encoded(10 * subject + image, 112, mode=mode))
  digiface_builder.prepare(manual, data_dir)
  data, report = read_tfds("digiface", data_dir=data_dir)
  assert data.images.shape == (5, 112, 112, 3) and report.skipped == ()
  assert data.names == ("0", "1", "7") and data.persons_are_labels
  pixel = data.images[:, 5, 5, 1].tolist()
  found = {(data.names[p], v) for p, v in zip(data.label, pixel, strict=True)}
  assert found == {("0", 0), ("0", 1), ("1", 10), ("1", 11), ("7", 70)}
  np.testing.assert_array_equal(data.images.std(axis=(1, 2, 3)), 0)


def test_an_archive_that_is_unpacked_too_counts_once(tmp_path):
  manual = tmp_path / "manual"
  (manual / "7").mkdir(parents=True)
  (manual / "7" / "0.png").write_bytes(encoded(70, 112))
  with zipfile.ZipFile(manual / "a.zip", "w") as archive:
    archive.writestr("7/0.png", encoded(70, 112))
    archive.writestr("__MACOSX/7/0.png", b"junk")
  digiface_builder.prepare(manual, tmp_path / "tfds")
  assert len(read_tfds("digiface", data_dir=tmp_path / "tfds")[0]) == 1
  (manual / "7" / "0.png").write_bytes(encoded(71, 112))
  with pytest.raises(ValueError, match="7/0.png is there twice, with different content"):
    digiface_builder.prepare(manual, tmp_path / "again")


@pytest.mark.parametrize("content, message", [
    (encoded(1, 64), "0.png is 64 x 64; expected 112 x 112"), (b"junk", "0.png: not an image")])
def test_files_that_are_no_faces_of_the_set_are_refused(tmp_path, content, message):
  (tmp_path / "manual" / "0").mkdir(parents=True)
  (tmp_path / "manual" / "0" / "0.png").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    digiface_builder.prepare(tmp_path / "manual", tmp_path / "tfds")


def test_empty_manual_folder_says_what_to_download(tmp_path):
  with pytest.raises(FileNotFoundError, match="expected DigiFace-1M archives: Download"):
    digiface_builder.prepare(tmp_path / "manual", tmp_path / "tfds")


def test_tensorflow_is_not_imported():
  code = ("import sys, fedjax_face.data.sources, fedjax_face.data.readers.digiface_builder; "
          "assert 'tensorflow' not in sys.modules")
  subprocess.run([sys.executable, "-c", code], check=True)
