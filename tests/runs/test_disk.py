import errno
import os
import pathlib

import pytest

from fedjax_face.runs import disk


@pytest.fixture
def told(monkeypatch):
  seen = []
  monkeypatch.setattr(disk, "watched", lambda change, path: seen.append((change, path.name)))
  return seen


def test_changes_are_told_in_the_order_in_which_they_are_made(tmp_path, told):
  disk.make_folder(tmp_path / "a/b")
  disk.write(tmp_path / "a/b/f", "1")
  disk.append(tmp_path / "a/b/f", "2")
  disk.append(tmp_path / "a/b/f", b"\xff")
  disk.rename(tmp_path / "a/b", tmp_path / "a/c")
  disk.remove(tmp_path / "a/c")
  disk.remove(tmp_path / "a/c")
  assert told == [
      ("make", "a"), ("sync", tmp_path.name), ("make", "b"), ("sync", "a"),
      ("write", "f"), ("sync", "f"), ("rename", "f"), ("sync", "b"),
      ("append", "f"), ("sync", "f"), ("append", "f"), ("sync", "f"),
      ("rename", "c"), ("sync", "a"), ("remove", "c"), ("sync", "a")]


def test_folders_and_files_have_the_modes_that_were_asked_for(tmp_path):
  old = os.umask(0o022)
  try:
    disk.make_folder(tmp_path / "above/guarded")
    disk.write(tmp_path / "above/guarded/secret", "x", 0o600)
    disk.write(tmp_path / "above/plain", "x")
  finally:
    os.umask(old)
  modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
  assert modes == {"above": 0o755, "guarded": 0o700, "secret": 0o600, "plain": 0o644}


def test_every_file_and_folder_of_a_tree_is_synced_from_below(tmp_path, told):
  (tmp_path / "t/d").mkdir(parents=True)
  (tmp_path / "t/f").write_text("")
  (tmp_path / "t/d/g").write_text("")
  disk.sync_tree(tmp_path / "t")
  assert told == [("sync", name) for name in ("g", "d", "f", "t")]
  with pytest.raises(OSError, match="no not synced: No such file"):
    disk.sync_tree(tmp_path / "no")


class Stopped(BaseException):
  pass


@pytest.mark.parametrize("error", [Stopped(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))],
                         ids=["killed", "full"])
@pytest.mark.parametrize("call", range(4))
def test_a_file_is_old_or_new_wherever_a_write_stops(tmp_path, monkeypatch, call, error):
  path, calls = tmp_path / "f", []
  path.write_text("old")

  def watched(change, place):
    calls.append(change)
    if len(calls) == call + 1:
      raise error

  monkeypatch.setattr(disk, "watched", watched)
  with pytest.raises(type(error)) as raised:
    disk.write(path, "new")
  assert path.read_text() == ("new" if call == 3 else "old")
  if isinstance(error, OSError):
    assert str(raised.value).startswith(f"{path if call < 3 else tmp_path} not ")
    assert raised.value.errno == errno.ENOSPC and "No space left" in str(raised.value)
    assert os.listdir(tmp_path) == ["f"]
  disk.write(path, "newer")
  assert os.listdir(tmp_path) == ["f"] and path.read_text() == "newer"


@pytest.mark.parametrize("change, words", [
    (lambda path: disk.append(path / "f", ""), "f not written: No such file"),
    (lambda path: disk.rename(path / "f", path / "g"), "g not written: No such file"),
    (lambda path: disk.sync_folder(path), "no not synced: No such file"),
    (lambda path: disk.make_folder(path.parent / "file/x"), "x not made: Not a directory")])
def test_what_fails_is_named_in_one_line(tmp_path, change, words):
  (tmp_path / "file").write_text("")
  with pytest.raises(disk.DiskError, match=words) as error:
    change(tmp_path / "no")
  assert "\n" not in str(error.value)


def test_a_link_is_removed_and_what_it_names_is_not(tmp_path):
  (tmp_path / "far").mkdir()
  pathlib.Path(tmp_path / "link").symlink_to(tmp_path / "far")
  disk.remove(tmp_path / "link")
  assert os.listdir(tmp_path) == ["far"]
