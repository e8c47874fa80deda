import os

import pytest

from fedjax_face.runs import disk, secret_roots
from tests.runs.interruption import Killed


def stop_at(monkeypatch, stops, error):
  """Raises before the changes of which `stops` says so; returns what was told."""
  seen = []

  def watched(change, path):
    seen.append((change, path))
    if stops(len(seen), change, path):
      raise error

  monkeypatch.setattr(disk, "watched", watched)
  return seen


def test_roots_and_the_names_of_their_folders_are_synced_and_never_written_again(
    tmp_path, monkeypatch):
  seen = stop_at(monkeypatch, lambda *_: False, None)
  roots = secret_roots.obtain(tmp_path / "w", must_exist=False)
  moved = seen.index(("rename", tmp_path / "w/secrets"))
  assert seen[moved + 1:] == [("sync", tmp_path / "w")]
  synced = [path.relative_to(tmp_path).as_posix() for change, path in seen[:moved]
            if change == "sync"]
  assert {".", "w", "w/.secrets.partial", "w/.secrets.partial/noise",
          "w/.secrets.partial/participation"} <= set(synced)
  seen.clear()
  assert secret_roots.obtain(tmp_path / "w", must_exist=False) == roots
  assert secret_roots.obtain(tmp_path / "w", must_exist=True) == roots and not seen


def test_killed_at_any_change_there_are_both_roots_or_none(tmp_path, monkeypatch):
  seen = stop_at(monkeypatch, lambda *_: False, None)
  secret_roots.obtain(tmp_path / "whole", must_exist=False)
  for call in range(1, len(seen) + 1):
    workdir = tmp_path / str(call)
    stop_at(monkeypatch, lambda number, *_, call=call: number == call, Killed())
    with pytest.raises(Killed):
      secret_roots.obtain(workdir, must_exist=False)
    monkeypatch.undo()
    there = (workdir / "secrets").exists()
    roots = secret_roots.obtain(workdir, must_exist=there)
    assert secret_roots.obtain(workdir, must_exist=True) == roots
    assert os.listdir(workdir) == ["secrets"]
    assert (workdir / "secrets").stat().st_mode & 0o777 == 0o700


def test_killed_at_any_change_of_the_removal_the_next_roots_are_whole(tmp_path, monkeypatch):
  old = secret_roots.obtain(tmp_path / "whole", must_exist=False)
  seen = stop_at(monkeypatch, lambda *_: False, None)
  secret_roots.remove(tmp_path / "whole")
  assert os.listdir(tmp_path / "whole") == []
  for call in range(1, len(seen) + 1):
    workdir = tmp_path / str(call)
    monkeypatch.undo()
    old = secret_roots.obtain(workdir, must_exist=False)
    stop_at(monkeypatch, lambda number, *_, call=call: number == call, Killed())
    with pytest.raises(Killed):
      secret_roots.remove(workdir)
    monkeypatch.undo()
    roots = secret_roots.obtain(workdir, must_exist=False)
    assert roots == old or not {*roots} & {*old}
    assert os.listdir(workdir) == ["secrets"]
    secret_roots.remove(workdir)
    assert os.listdir(workdir) == []


@pytest.mark.parametrize("change", ["remove", "rename"])
def test_roots_that_cannot_be_deleted_are_warned_about(tmp_path, monkeypatch, caplog, change):
  secret_roots.obtain(tmp_path, must_exist=False)
  stop_at(monkeypatch, lambda _, told, path: told == change, OSError("not now"))
  secret_roots.remove(tmp_path)
  place = {"remove": ".secrets.removed", "rename": "secrets"}[change]
  assert f"{tmp_path}/{place} could not be deleted" in caplog.text
  monkeypatch.undo()
  secret_roots.remove(tmp_path)
  assert os.listdir(tmp_path) == []


def test_roots_that_cannot_be_written_are_named(tmp_path):
  (tmp_path / "w").write_text("")
  with pytest.raises(OSError, match="w/.secrets.partial not made|w not made") as error:
    secret_roots.obtain(tmp_path / "w", must_exist=False)
  assert "\n" not in str(error.value)
