import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

from fedjax_face.data.readers import listing as listings
from fedjax_face.data.readers.folders import read_folder
from fedjax_face.data.readers.listing import listing
from tests.data.conftest import encoded


def write(root, *names):
  for value, name in enumerate(names, 1):
    place = root / os.fsdecode(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(encoded(value))
  return root


def packed(path, entries):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in entries:
      archive.writestr(name, content)
  return path


CLUTTER = ("@eaDir/1.png/thumb.jpg", ".thumbnails/1.png", ".ipynb_checkpoints/1.png", "Thumbs.db",
           ".DS_Store", "desktop.ini", "__MACOSX/._1.png", "#recycle/1.png", "@eaDir/x")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_what_programs_leave_behind_is_no_person_and_costs_nobody(form, tmp_path):
  names = ["ann/1.png", "bob/1.png", *CLUTTER, *(f"ann/{name}" for name in CLUTTER)]
  path = (write(tmp_path / "faces", *names) if form == "folder" else
          packed(tmp_path / "faces.zip", [(name, encoded(i)) for i, name in enumerate(names, 1)]))
  with listing(path) as content:
    assert content.folders == ["ann", "bob"] and content.files == ["ann/1.png", "bob/1.png"]
  data, report = read_folder(path, on_bad="refuse")
  assert data.names == ("ann", "bob") and report.remarks == report.skipped == ()


def test_links_are_followed_and_loops_are_not(tmp_path):
  root = write(tmp_path / "faces", "bob/1.png")
  write(tmp_path / "elsewhere", "cem/1.png", "one.png")
  (root / "cem").symlink_to(tmp_path / "elsewhere" / "cem")
  (root / "ann").symlink_to("bob")                      # listed before bob, but the same folder
  (root / "bob" / "again").symlink_to("..")
  (root / "up").symlink_to(tmp_path)
  (root / "bob" / "2.png").symlink_to(tmp_path / "elsewhere" / "one.png")
  (root / "bob" / "lost.png").symlink_to(tmp_path / "nothing")
  (root / "bob" / "round").symlink_to("round")
  with listing(root) as content:
    assert content.folders == ["bob", "cem"]
    assert content.files == [
        "bob/1.png", "bob/2.png", "bob/lost.png", "bob/round", "cem/1.png"]
    assert content.remarks == tuple(f"{name} leads to a folder that is read already; counted once"
                                    for name in ("ann", "bob/again", "up"))
  with pytest.warns(UserWarning, match="bob/lost.png: missing; bob/round: .*; ann leads to"):
    data, _ = read_folder(root)
  np.testing.assert_array_equal(data.images[:, 0, 0, 0], [1, 2, 1])


def test_a_pipe_among_the_images_keeps_nobody_waiting(tmp_path):
  root = write(tmp_path / "faces", "bob/1.png")
  os.mkfifo(root / "bob" / "2.png")
  with pytest.warns(UserWarning, match="bob/2.png: no regular file"):
    assert len(read_folder(root)[0]) == 1
  os.mkfifo(tmp_path / "faces.zip")
  with pytest.raises(ValueError, match=r"neither a folder nor a readable zip .*no regular file"):
    read_folder(tmp_path / "faces.zip")


def test_names_of_any_bytes_are_read_and_shown_on_one_line(tmp_path):
  root = write(tmp_path / "faces", b"a\nb/1.png", b"caf\xe9/x\xff.png", b"cem/1.png")
  (root / os.fsdecode(b"caf\xe9") / "bad\n.png").write_bytes(b"junk")
  with pytest.warns(UserWarning) as told:
    data, report = read_folder(root)
  assert data.names == (r"a\nb", r"caf\xe9", "cem") and len(set(data.identities.tolist())) == 3
  assert report.files[1] == r"caf\xe9/x\xff.png"
  said = str(told[0].message)
  assert "\n" not in said and said.encode() and r"caf\xe9/bad\n.png: not an image" in said
  with pytest.raises(ValueError) as error:
    read_folder(root, on_bad="refuse")
  assert "\n" not in str(error.value) and str(error.value).encode()


def test_two_files_that_would_be_shown_alike_are_refused(tmp_path):
  root = write(tmp_path / "faces", b"a\nb/1.png", br"a\nb/1.png")
  with pytest.raises(ValueError, match=r"two names are shown as a\\nb"):
    read_folder(root)


def test_an_empty_path_is_refused(monkeypatch, tmp_path):
  monkeypatch.chdir(write(tmp_path, "ann/1.png"))
  with pytest.raises(ValueError, match="path is empty"):
    read_folder("")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_twice_counts_once_and_two_of_one_name_are_refused(tmp_path):
  entries = [("ann/1.png", encoded(1)), ("bob/1.png", encoded(2)), ("./ann//1.png", encoded(1)),
             ("bob\\1.png", encoded(2)), ("../cem/1.png", encoded(3))]
  data, report = read_folder(packed(tmp_path / "a.zip", entries))
  assert data.names == ("ann", "bob") and len(data) == 2
  assert report.remarks == ("2 entries are in the archive twice; counted once",
                            "1 entries lead out of the archive; left out")
  with pytest.raises(ValueError, match="ann/1.png is in the archive twice, with different content"):
    read_folder(packed(tmp_path / "b.zip", [*entries, ("ann/1.png", encoded(4))]))


def _damaged(path, kind):
  """Damages the entry b/1.png, which is stored after a/1.png."""
  content = bytearray(path.read_bytes())
  local = content.index(b"PK\3\4", 4)
  central = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
  data = content.index(b"b/1.png", local) + 7
  if kind == "coded pixels":
    content[data:data + 6] = b"\xff" * 6
  elif kind == "check sum":
    struct.pack_into("<I", content, central + 16, 1)
  elif kind == "method":
    struct.pack_into("<H", content, central + 10, 97)
  elif kind == "password":
    content[central + 8] |= 1
  elif kind == "name that is no UTF-8":
    content[local + 7] |= 8
    content[local + 30] = 0xff
  elif kind == "another name":
    content[local + 30] = ord("c")
  elif kind == "place":
    struct.pack_into("<I", content, central + 42, 2**31)
  elif kind == "cut off":
    struct.pack_into("<I", content, central + 20, 3)
  elif kind == "size":
    struct.pack_into("<I", content, central + 24, 2**31 + 5)
  path.write_bytes(content)
  return path


@pytest.mark.parametrize("kind", ["coded pixels", "check sum", "method", "password", "another name",
                                  "name that is no UTF-8", "place", "cut off", "size"])
def test_one_broken_entry_costs_itself_only(tmp_path, kind):
  path = packed(tmp_path / "faces.zip", [("a/1.png", encoded(1)), ("b/1.png", encoded(2, 64))])
  expected = "more than 256 MiB" if kind == "size" else r"broken in the archive \(.+\)"
  with pytest.warns(UserWarning, match=f"b/1.png: {expected}"):
    data, _ = read_folder(_damaged(path, kind))
  assert data.names == ("a",)


def test_a_name_that_is_no_utf8_though_it_says_so_costs_itself_only(tmp_path):
  path = packed(tmp_path / "a.zip", [("a/1.png", encoded(1)), ("caf\xe9/1.png", encoded(2))])
  path.write_bytes(path.read_bytes().replace("caf\xe9".encode(), b"caf\xe9\xe9"))
  with pytest.warns(UserWarning, match="broken in the archive .'utf-8' codec"):
    assert read_folder(path)[0].names == ("a",)


def test_an_entry_unpacks_to_no_more_than_it_says(tmp_path, monkeypatch):
  bomb = zlib.compress(bytes(2**20))
  path = packed(tmp_path / "a.zip", [("a/1.png", encoded(1)), ("b/1.png", bytes(2**20))])
  assert path.stat().st_size < 2**13 and len(bomb) < 2**11
  monkeypatch.setattr(listings, "MOST_IMAGE_BYTES", 2**19)
  with listing(path) as content:
    with pytest.raises(ValueError, match="more than 524,288 bytes when unpacked"):
      content.read("b/1.png")
  said = bytearray(path.read_bytes())
  struct.pack_into("<I", said, said.rindex(b"PK\1\2") + 24, 1000)
  path.write_bytes(said)
  with listing(path) as content, pytest.raises(OSError, match="broken in the archive"):
    content.read("b/1.png")


def test_damage_anywhere_in_an_archive_ends_in_one_line(tmp_path):
  whole = packed(tmp_path / "a.zip", [(f"{i}/1.png", encoded(i)) for i in range(2)]).read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(150):
    content = bytearray(whole)
    for place in rng.integers(len(content), size=3):
      content[place] = rng.integers(256)
    (tmp_path / "b.zip").write_bytes(content)
    try:
      with listing(tmp_path / "b.zip") as found:
        for name in found.files:
          found.read(name)
    except (ValueError, OSError) as error:
      assert "\n" not in str(error)
