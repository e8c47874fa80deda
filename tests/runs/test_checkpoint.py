import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import types

import jax
import numpy as np
import pytest

from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, checkpoint_folder, disk
from fedjax_face.runs.checkpoint import Checkpoint
from tests.runs.interruption import Killed
from tests.runs.toys import toy_algorithm


def state_of(seed):
  return toy_algorithm().init(jax.random.key(seed))


def saved(folder, round_number, finished=False, **options):
  ledger = Ledger()
  ledger.record(toy_algorithm().releases[0], round_number)
  whole = Checkpoint(round_number, state_of(round_number), ledger.to_json(), "c", "r", finished)
  checkpoint.save(folder, whole, **options)
  return whole


def restored(folder, warn=None):
  shapes = jax.eval_shape(toy_algorithm().init, jax.random.key(0))
  return checkpoint.restore(folder, shapes, warn or (lambda line: pytest.fail(line)))


def assert_same(a, b):
  assert a._replace(state=None) == b._replace(state=None)
  for x, y in zip(a.state, b.state, strict=True):
    assert x.dtype == y.dtype
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)


def files(folder):
  return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_round_trip_and_newest_wins(tmp_path):
  assert restored(tmp_path / "none") is None
  saved(tmp_path, 1)
  last = saved(tmp_path, 2)
  assert_same(restored(tmp_path), last)


def test_keeps_the_newest_two_and_clears_abandoned_ones(tmp_path):
  (tmp_path / "partial-00000009").mkdir()
  for n in (1, 2, 3):
    saved(tmp_path, n)
  assert sorted(os.listdir(tmp_path)) == ["00000002", "00000003"]


@pytest.mark.parametrize("finished", [True, False])
def test_whether_the_run_has_finished_is_kept(tmp_path, finished):
  saved(tmp_path, 1, finished)
  assert restored(tmp_path).finished == finished


def test_a_checkpoint_that_holds_the_key_of_its_noise_is_refused(tmp_path):
  """As an earlier version wrote them: the run cannot go on with other noise on the same rounds."""
  saved(tmp_path, 1)
  path = tmp_path / "00000001/meta.json"
  meta = json.loads(path.read_text())
  meta |= {"noise_words": [5, 6]}
  meta.pop("digest")
  path.write_text(json.dumps(meta | {"digest": checkpoint_folder.digest(path.parent, meta)}))
  with pytest.raises(ValueError, match="holds the key of its noise.*another workdir") as error:
    restored(tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [
    lambda b: b[:len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_every_cut_or_damaged_file_falls_back_with_one_line(tmp_path, damage):
  older = saved(tmp_path, 1)
  saved(tmp_path, 2)
  for file in files(tmp_path / "00000002"):
    content = file.read_bytes()
    file.write_bytes(damage(content))
    lines = []
    assert_same(restored(tmp_path, lines.append), older)
    assert len(lines) == 1 and "\n" not in lines[0] and "resuming at round 1" in lines[0]
    file.write_bytes(content)
  assert restored(tmp_path).round == 2


def test_nothing_readable_is_one_line(tmp_path):
  saved(tmp_path, 1)
  (tmp_path / "00000001/meta.json").write_text("{")
  with pytest.raises(ValueError, match="no readable checkpoint: .*00000001") as error:
    restored(tmp_path)
  assert "\n" not in str(error.value)


def test_another_model_is_named(tmp_path):
  saved(tmp_path, 1)
  template = state_of(0)._replace(weights=np.zeros(5, np.float32))
  with pytest.raises(ValueError, match=r"another model: weights is float32\[4\] there"):
    checkpoint.restore(tmp_path, template, pytest.fail)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
  first = saved(tmp_path, 1)

  def full(*_):
    raise ValueError("DATA_LOSS: write failed: No space left on device [source locations='...']")

  monkeypatch.setattr(checkpoint, "_write", full)
  with pytest.raises(OSError, match="round 2 not saved in .*: No space left on device; earlier"):
    saved(tmp_path, 2)
  assert os.listdir(tmp_path) == ["00000001"]
  assert_same(restored(tmp_path), first)


def test_ledger_in_a_checkpoint_is_exact(tmp_path):
  whole = saved(tmp_path, 4)
  meta = json.loads((tmp_path / "00000004/meta.json").read_text())
  assert Ledger.from_json(meta["ledger"]) == Ledger.from_json(whole.ledger)
  assert Ledger.from_json(meta["ledger"]).entries[0][1] == 4


def test_rows_of_metrics_are_kept_and_older_checkpoints_hold_none(tmp_path):
  checkpoint.save(tmp_path, Checkpoint(1, state_of(1), {}, "c", "r", records="round,a\n1,2.0\n"))
  assert restored(tmp_path).records == "round,a\n1,2.0\n"
  path = tmp_path / "00000001/meta.json"
  meta = json.loads(path.read_text())
  del meta["digest"], meta["records"]
  path.write_text(json.dumps(meta | {"digest": checkpoint_folder.digest(path.parent, meta)}))
  assert restored(tmp_path).records == ""


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def renamed_by_hand(folder):
  os.rename(folder / "00000001", folder / "00000099")


def empty(folder):
  (folder / "00000099").mkdir()


def a_file(folder):
  (folder / "00000099").write_text("a note")


def a_copy(folder):
  shutil.copytree(folder / "00000002", folder / "00000099")


@pytest.mark.parametrize("junk", [renamed_by_hand, empty, a_file, a_copy])
def test_what_is_no_checkpoint_of_its_name_is_named_left_and_not_counted(tmp_path, junk, caplog):
  saved(tmp_path, 1)
  last = saved(tmp_path, 2)
  junk(tmp_path)
  lines = []
  assert_same(restored(tmp_path, lines.append), last)
  assert len(lines) == 1 and "00000099" in lines[0] and "resuming at round 2" in lines[0]
  for round_number in (3, 4):
    last = saved(tmp_path, round_number, keep=1)
    assert names(tmp_path) == [f"{round_number:08d}", "00000099"]
  assert caplog.text.count("00000099 is not a checkpoint that this run made; it is left") == 1
  checkpoint.keep_newest(tmp_path, 1)
  assert_same(restored(tmp_path, lines.append), last)


def test_a_renamed_checkpoint_alone_is_refused_with_the_way_out(tmp_path):
  saved(tmp_path, 1)
  renamed_by_hand(tmp_path)
  with pytest.raises(ValueError, match="no readable checkpoint.*round 1; give it that name back"):
    restored(tmp_path)
  os.rename(tmp_path / "00000099", tmp_path / "00000001")
  assert restored(tmp_path).round == 1


def test_a_junk_folder_among_the_older_ones_counts_for_none_of_the_kept(tmp_path):
  for number in (1, 3):
    saved(tmp_path, number)
  (tmp_path / "00000002").mkdir()
  (tmp_path / "00000003/state/d").rename(tmp_path / "00000003/state/e")  # damaged
  saved(tmp_path, 4)
  assert names(tmp_path) == ["00000001", "00000002", "00000004"]


def begun(folder):
  folder.mkdir()


def one_before(folder):
  return saved(folder, 1)


def two_before(folder):
  saved(folder, 0)
  return saved(folder, 1)


def the_same_round(folder):
  saved(folder, 1)
  return saved(folder, 2, finished=True)


def damaged_in_place(folder):
  """The new one is whole beside a damaged one of its round."""
  saved(folder, 1)
  new = saved(folder, 2)
  os.rename(folder / "00000002", folder / "replaced-00000002")
  shutil.copytree(folder / "00000001", folder / "00000002")
  return new


def half_removed(change, path):
  """A kill during a removal."""
  if change == "remove":
    for file in files(path)[-1:]:
      file.unlink()


class Moments:
  """A `disk.watched` that counts where a kill leaves another disk, and stops at one of these.

  Of several syncs on end only the first: the array store writes more or fewer files.
  """

  def __init__(self, stop_at=-1, error=None):
    self.count, self._last, self._stop_at, self._error = 0, "", stop_at, error

  def __call__(self, change, path):
    if not change == self._last == "sync":
      if self.count == self._stop_at:
        half_removed(change, path)
        raise self._error
      self.count += 1
    self._last = change


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("prepare, error", [
    (begun, Killed()), (one_before, Killed()), (two_before, Killed()), (the_same_round, Killed()),
    (damaged_in_place, Killed()), (the_same_round, FULL)])
def test_stopped_at_any_change_the_old_or_the_new_is_whole(tmp_path, monkeypatch, prepare, error):
  old, moments = prepare(tmp_path / "before"), Moments()
  shutil.copytree(tmp_path / "before", tmp_path / "whole")
  monkeypatch.setattr(disk, "watched", moments)
  new = saved(tmp_path / "whole", 2)
  monkeypatch.undo()
  assert moments.count > 6
  ends = set()
  for call in range(moments.count):
    folder = tmp_path / str(call)
    shutil.copytree(tmp_path / "before", folder)
    monkeypatch.setattr(disk, "watched", Moments(call, error))
    with pytest.raises(type(error)) as raised:
      saved(folder, 2)
    monkeypatch.undo()
    assert "\n" not in str(raised.value)
    assert old is None or any(
        checkpoint_folder.is_whole(path, number) for number, kind, path
        in checkpoint_folder.candidates(folder)
        if kind != checkpoint_folder.PARTIAL and number >= old.round)
    found = restored(folder, lambda line: None)
    assert found is None and old is None or same(found, old) or same(found, new)
    ends.add(found is not None and same(found, new))
    last = saved(folder, 3, keep=1)
    assert names(folder) == ["00000003"] and same(restored(folder), last)
  assert ends == {False, True} or prepare is damaged_in_place


def same(found, wanted):
  if wanted is None:
    return False
  try:
    assert_same(found, wanted)
  except AssertionError:
    return False
  return True


def test_a_whole_checkpoint_is_put_in_its_place_with_a_line(tmp_path, monkeypatch):
  saved(tmp_path, 1)
  monkeypatch.setattr(checkpoint_folder, "put_in_place", lambda *_: (_ for _ in ()).throw(Killed))
  with pytest.raises(Killed):
    saved(tmp_path, 2)
  monkeypatch.undo()
  assert names(tmp_path) == ["00000001", "partial-00000002"]
  lines = []
  assert restored(tmp_path, lines.append).round == 2 and names(tmp_path)[1][:7] == "partial"
  assert "partial-00000002" in lines.pop() and not lines
  assert checkpoint.exist(tmp_path)
  checkpoint.adopt(tmp_path, lines.append)
  assert names(tmp_path) == ["00000001", "00000002"]
  assert len(lines) == 1 and "partial-00000002" in lines[0]
  assert restored(tmp_path).round == 2


def test_a_checkpoint_that_was_never_finished_is_none(tmp_path):
  saved(tmp_path, 1)
  os.rename(tmp_path / "00000001", tmp_path / "partial-00000001")
  assert checkpoint.exist(tmp_path)
  (tmp_path / "partial-00000001/meta.json").unlink()
  assert not checkpoint.exist(tmp_path)
  assert restored(tmp_path) is None


def test_every_file_of_a_checkpoint_is_synced_before_it_takes_its_place(tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(disk, "watched", lambda *told: seen.append(told))
  saved(tmp_path, 1)
  final = tmp_path / "00000001"
  moved = seen.index(("rename", final))
  before = {path for change, path in seen[:moved] if change == "sync"}
  wanted = {tmp_path / "partial-00000001" / path.relative_to(final)
            for path in (final, *final.rglob("*"))}
  assert wanted <= before and len(wanted) > 5
  assert seen[moved + 1] == ("sync", tmp_path)


def test_writes_of_the_array_store_that_end_late_report_nothing(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(sys, "unraisablehook", told.append)
  checkpoint._ignore_late_reports.cache_clear()
  checkpoint.save(tmp_path / "checkpoints", Checkpoint(
      0, {"a": np.zeros(2, np.float32)}, {}, "config", "one"))
  checkpoint._ignore_late_reports.cache_clear()  # the next save is under the hook of before
  report = lambda error: types.SimpleNamespace(exc_value=error)
  for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), ValueError("x")):
    sys.unraisablehook(report(error))
  assert [str(one.exc_value) for one in told] == ["another", "x"]


def test_calls_that_overlap_silence_nothing_for_good(caplog):
  """As two sides of split learning in one process."""
  with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
    first.enter_context(checkpoint._orbax())
    second.enter_context(checkpoint._orbax())
    logging.getLogger("absl").warning("not now")
    first.close()
  logging.getLogger("absl").warning("again")
  assert "again" in caplog.text and "not now" not in caplog.text
