"""Lists of a template protocol, and what is wrong with some."""

import pytest

from fedjax_face.data.readers.template_lists import (
  read_template_images,
  read_template_lists,
  read_template_pairs,
)

IMAGES = """# name template media
a1.jpg 10 1
a2.jpg 10 2
a3.jpg 10 2
b1.jpg 20 5
c1.jpg 30 6
"""
CSV = """TEMPLATE_ID,SUBJECT_ID,FILENAME,MEDIA_ID
10,1,a1.jpg,1
10,1,a2.jpg,2
10,1,a3.jpg,2
20,1,b1.jpg,5
30,2,c1.jpg,6
"""


def test_a_folder_of_lists(tmp_path):
  """Template 30 is a stranger; without probes.csv whoever is not enrolled is a probe."""
  (tmp_path / "images.csv").write_text(CSV)
  (tmp_path / "pairs.csv").write_text("10,20\n10,30\n")
  only_pairs = read_template_lists(tmp_path)
  assert only_pairs.row.tolist() == [0, 1, 2, 3, 4] and only_pairs.gallery is None
  (tmp_path / "gallery.csv").write_text("SUBJECT_ID,TEMPLATE_ID\n1,10\n1,10\n")
  lists = read_template_lists(tmp_path)
  assert lists.gallery.tolist() == [10] and lists.probes.tolist() == [20, 30]
  assert lists.subjects_of(lists.probes).tolist() == [1, 2]
  (tmp_path / "probes.csv").write_text("30\n")
  assert read_template_lists(tmp_path).probes.tolist() == [30]


@pytest.mark.parametrize("files, message", [
    ({"images.csv": CSV}, "expected images.csv, and pairs.csv or gallery.csv"),
    ({"gallery.csv": "10"}, "expected images.csv"),
    ({"images.csv": CSV, "gallery.csv": "99"}, "gallery.csv: template 99 has no image"),
    ({"images.csv": CSV, "gallery.csv": "10", "probes.csv": "98"}, "template 98 has no image"),
    ({"images.csv": CSV, "pairs.csv": "10 97 1"}, "pairs.csv: template 97 has no image"),
    ({"images.csv": IMAGES, "gallery.csv": "10"}, "gallery.csv needs the subject of every"),
])
def test_lists_that_do_not_fit_are_refused(tmp_path, files, message):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    read_template_lists(tmp_path)


@pytest.mark.parametrize(
  "images, pairs, message",
  [
    ("", "10 20 1", "holds no line"),
    ("a.jpg 10\n", "10 20 1", "entry 1 has 2 fields, expected 3"),
    ("a.jpg ten 1\n", "10 20 1", "expected an integer"),
    ("TEMPLATE_ID,FILENAME\n1,a\n", "10 20 1", "header lacks MEDIA_ID, SUBJECT_ID"),
    (IMAGES, "10 20 2\n", "must be 0 or 1, got 2"),
    (IMAGES, "10,20\n", "template 10 has no subject"),
  ],
)
def test_bad_files_are_refused(tmp_path, images, pairs, message):
  (tmp_path / "images").write_text(images)
  (tmp_path / "pairs").write_text(pairs)
  with pytest.raises(ValueError, match=message):
    read_template_pairs(tmp_path / "pairs", read_template_images(tmp_path / "images"))
