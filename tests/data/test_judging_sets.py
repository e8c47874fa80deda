import os

import pytest

from fedjax_face.data import judging_sets
from fedjax_face.data.readers.insightface_bin import write_insightface_bin
from tests.data.conftest import encoded


@pytest.mark.parametrize("name, message", [
    ("../secret.png", "../secret.png: a name that leads out of"), ("pipe.png", "no regular file"),
    ("/secret.png", "a name that leads out of")])
def test_a_list_of_images_leads_to_files_in_its_folder_only(tmp_path, name, message):
  folder = tmp_path / "set"
  folder.mkdir()
  (tmp_path / "secret.png").write_bytes(encoded(1))
  (folder / "a.png").write_bytes(encoded(2))
  os.mkfifo(folder / "pipe.png")
  (folder / "images.csv").write_text(f"a.png 0 0\n{name} 1 1\n")
  (folder / "pairs.csv").write_text("0 1 1\n")
  with pytest.raises(ValueError, match=message):
    judging_sets.templates(str(folder)).load()


def test_an_empty_path_is_refused():
  for of in (judging_sets.bin, judging_sets.templates):
    with pytest.raises(ValueError, match="path is empty"):
      of("").load()


def test_a_pair_without_an_image_is_noted(tmp_path):
  write_insightface_bin(tmp_path / "a.bin", [encoded(1), encoded(2), b"%!PS", encoded(3)],
                        [True, False])
  with pytest.warns(UserWarning, match="PostScript is not read"):
    judged = judging_sets.bin(str(tmp_path / "a.bin"), size=8).load()
  assert len(judged.pairs.same) == 1 and "image 2 (pair 1)" in judged.notes[0]
