import pytest

from fedjax_face.data.readers.layout import is_picture, person_depth
from fedjax_face.data.readers.listing import Listing


def listed(*entries):
  """A listing of files; an entry that ends in / is a folder."""
  folders = {"/".join(entry.split("/")[:depth]) for entry in entries
             for depth in range(1, entry.count("/") + 1)}
  files = [entry for entry in entries if not entry.endswith("/")]
  return Listing(sorted(folders), sorted(files), lambda name: b"")


@pytest.mark.parametrize("entries, depth", [
    (("ann/1.png", "bob/1.png"), 1),
    (("faces/ann/1.png", "faces/bob/1.png", "faces/README"), 2),
    (("a/b/ann/1.png", "a/b/bob/1.png", "montage.png"), 3),
    (("ann/1.png", "bob/"), 1),                             # who has no image yet
    (("ann/1.png",), 1),
    (("ann/1", "bob/2"), 1),                                # names without an ending
    (("ann/1.png", "ann/notes/a.txt", "bob/1.png"), 1),
    (("ann/1.png", "ann/old/2.png", "bob/1.png"), 1),       # who has images belongs above them
    (("ann/1.png", "ann/x/y/2.png", "bob/1.png", "cem/"), 1)])
def test_people_are_found(entries, depth):
  assert person_depth("here", listed(*entries), None)[0] == depth


def test_sessions_of_people_who_have_images_are_theirs_and_that_is_said():
  content = listed("ann/1.png", "ann/monday/2.png", "bob/1.png")
  assert person_depth("here", content, None) == (
      1, ["pictures in folders of a person's folder, as in ann/monday, are that person's"])


@pytest.mark.parametrize("entries", [
    ("ann/monday/1.png", "ann/friday/1.png", "bob/monday/1.png"),
    ("train/ann/1.png", "test/bob/1.png"),
    ("ann/1.png", "bob/monday/1.png"),
    ("faces/ann/monday/1.png", "faces/bob/1.png")])
def test_sessions_and_groups_look_alike_and_are_refused_with_the_way_out(entries):
  top = entries[0].startswith("faces/")
  with pytest.raises(ValueError, match="^here: .* may be session .* of person .*; say people_at="
                     f"{1 + top} if .* is a person, or people_at={2 + top} if .* is one$"):
    person_depth("here", listed(*entries), None)
  assert person_depth("here", listed(*entries), 1) == (1, [])
  with pytest.raises(ValueError, match="people_at=4: there is no folder so far below"):
    person_depth("here", listed(*entries), 4)


def test_pictures_of_formats_that_are_not_read_count_too():
  assert all(map(is_picture, ("a.JPG", "b/c.heic", "d.avif", "e.tiff")))
  assert not any(map(is_picture, ("a.txt", "jpg", "a.jpg/b")))
