import os
import socket

import numpy as np
import pytest

from fedjax_face.data.readers import file_bytes
from fedjax_face.data.readers.file_bytes import inside, printable, read_file, require_given


def test_a_regular_file_is_read_through_a_link(tmp_path):
  (tmp_path / "file").write_bytes(b"content")
  (tmp_path / "link").symlink_to(tmp_path / "file")
  assert read_file(tmp_path / "link") == read_file(tmp_path / "file", most=7) == b"content"
  with pytest.raises(ValueError, match="more than 6 bytes"):
    read_file(tmp_path / "file", most=6)
  with pytest.raises(FileNotFoundError):
    read_file(tmp_path / "absent")


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_has_no_content_of_its_own_is_refused_at_once(tmp_path, kind, monkeypatch):
  monkeypatch.chdir(tmp_path)  # the name of a socket is short
  if kind == "pipe":
    os.mkfifo("x")
  elif kind == "folder":
    os.mkdir("x")
  elif kind == "device":
    os.symlink("/dev/zero", "x")
  with socket.socket(socket.AF_UNIX) as server:
    if kind == "socket":
      server.bind("x")
    with pytest.raises(ValueError, match="no regular file"):
      read_file("x")


def test_a_file_that_grows_is_read_up_to_the_cap(tmp_path):
  place = "/proc/self/status"  # a file that says it is empty
  if not os.path.exists(place):
    pytest.skip("no /proc")
  assert read_file(place)
  with pytest.raises(ValueError, match="more than 10 bytes"):
    read_file(place, most=10)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\..\\x", "C:\\x",
                                  "a/..", "x\0y"])
def test_a_name_in_a_list_leads_below_its_folder_only(tmp_path, name):
  with pytest.raises(ValueError, match="a name that leads out of"):
    inside(tmp_path, name)
  assert inside(tmp_path, "a/..b/x.png") == tmp_path / "a" / "..b" / "x.png"


def test_an_empty_path_is_not_the_current_folder():
  with pytest.raises(ValueError, match="root is empty; expected the name of a file or folder"):
    require_given("", "root")


def test_every_name_is_shown_on_one_line_that_can_be_encoded():
  assert printable("Zoë Ann/1 (2).png") == "Zoë Ann/1 (2).png"
  shown = printable(b"a\nb\r\xe9\x1b[2J\t.png".decode("utf-8", "surrogateescape"))
  assert shown == r"a\nb\r\xe9\x1b[2J\t.png" and shown.encode()
  rng = np.random.default_rng(0)
  for _ in range(200):
    name = rng.bytes(12).decode("utf-8", "surrogateescape")
    assert len(printable(name).splitlines()) <= 1 and printable(name).encode()
  assert file_bytes.words(1000) == "1,000 bytes"
