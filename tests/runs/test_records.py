import errno
import json
import os

import pytest

from fedjax_face.runs import disk, event_files, records
from fedjax_face.runs.records import CsvFile, TensorBoard


def test_rows_have_all_digits_and_later_columns_extend_the_header(tmp_path):
  table = CsvFile(tmp_path / "m.csv", 0)
  table.write_rows([(1, {"loss": 0.1 + 0.2}), (2, {"loss": float("inf")})])
  table.write_rows([(3, {"loss": 1.0, "recall@far=0.1": 0.5})])
  table.write_rows([(4, {"loss": 2.0})])
  assert (tmp_path / "m.csv").read_text() == (
      "round,loss,recall@far=0.1\n1,0.30000000000000004,\n2,inf,\n3,1.0,0.5\n4,2.0,\n")


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_reopening_drops_later_rows_and_cut_lines(tmp_path, start, cut):
  path = tmp_path / "m.csv"
  rows = [(r, {"loss": r / 3} | ({"eval@": 1.0 * r} if r % 2 == 0 else {})) for r in range(1, 6)]
  whole = CsvFile(path, 0)
  for row in rows:
    whole.write_rows([row])
  expected = path.read_text()
  path.write_text(expected[:len(expected) - cut])
  again = CsvFile(path, start)
  for row in rows[start:]:
    again.write_rows([row])
  assert path.read_text() == expected


def test_a_run_that_begins_anew_keeps_no_row_not_even_of_round_0(tmp_path):
  path = tmp_path / "m.csv"
  CsvFile(path, records.BEFORE_ALL).write_rows([(0, {"eval@": 1.0}), (1, {"loss": 2.0})])
  expected = path.read_text()
  CsvFile(path, records.BEFORE_ALL).write_rows([(0, {"eval@": 1.0}), (1, {"loss": 2.0})])
  assert path.read_text() == expected


def test_json_is_strict_and_atomic(tmp_path):
  records.write_json(tmp_path / "a.json", {"x": float("nan"), "y": (1, float("inf"))})
  assert json.loads((tmp_path / "a.json").read_text()) == {"x": "nan", "y": [1, "inf"]}
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
  with pytest.raises(OSError, match="no/a.json not written: No such file or directory"):
    records.write_atomically(tmp_path / "no/a.json", "")


ROWS = [(r, {"loss": r / 3} | ({"eval@": 1.0 * r} if r % 3 == 0 else {})) for r in range(1, 8)]


def table_of(path, rows=ROWS):
  table = CsvFile(path, records.BEFORE_ALL, say=pytest.fail)
  for row in rows:
    table.write_rows([row])
  return table


def flips(text, end):
  """Every character up to a place changed, the commas and the ends of lines too."""
  for at in range(end):
    yield at, text[:at] + ("8" if text[at] != "8" else "7") + text[at + 1:]


@pytest.mark.parametrize("start", [2, 4, 7])
def test_rows_that_were_changed_or_removed_are_seen_and_written_again(tmp_path, start):
  path = tmp_path / "m.csv"
  table = table_of(path, ROWS[:start])
  kept, lines = table.kept(), []
  assert kept == path.read_text()
  table.write_rows(ROWS[start:])
  whole = path.read_text()
  header, end = whole.index("\n"), whole.index(f"\n{start},") + len(f"\n{start},0.")
  unused = range(whole.index("eval@"), header) if start < 3 else ()  # only later rows fill it
  changed = [text for at, text in flips(whole, end) if at not in unused]
  for text in (*changed, "", "\0\n", whole[:header + 1], whole.replace("\n1,", "\n\n1,"),
               whole.replace("\n2,", "\n9,")):
    path.write_text(text)
    again = CsvFile(path, start, kept, lines.append)
    assert again.kept() == path.read_text() == kept
    assert len(lines) == 1 and f"{path} was changed or removed: " in lines.pop()
  path.write_bytes(b"\xff")
  CsvFile(path, start, kept, lines.append)
  path.unlink()
  again = CsvFile(path, start, kept, lines.append)
  assert len(lines) == 2
  again.write_rows(ROWS[start:])
  assert path.read_text() == whole
  CsvFile(path, start, kept, pytest.fail).write_rows(ROWS[start:])
  assert path.read_text() == whole


def test_a_file_that_is_changed_or_removed_while_it_is_written_is_written_again(tmp_path):
  path, lines = tmp_path / "m.csv", []
  table = CsvFile(path, records.BEFORE_ALL, say=lines.append)
  assert table.kept() == ""
  table.write_rows(ROWS[:2])
  whole = path.read_text()
  path.write_text(whole.replace("0.6", "0.7"))
  assert table.kept() == path.read_text() == whole and len(lines) == 1
  path.unlink()
  table.write_rows(ROWS[2:])
  assert path.read_text() == table.kept() == table_of(tmp_path / "n.csv").kept()
  assert len(lines) == 1


def test_a_file_that_is_no_table_is_refused_where_nothing_is_kept(tmp_path):
  path = tmp_path / "m.csv"
  path.write_text("round,loss\n1\n")
  with pytest.raises(ValueError, match="m.csv is no table of rounds: put it back.*or remove it"):
    CsvFile(path, 1)
  assert CsvFile(path, records.BEFORE_ALL).rows() == [] and not path.exists()


def test_rows_are_given_back_as_they_were_written(tmp_path):
  table = table_of(tmp_path / "m.csv")
  assert table.rows() == ROWS
  assert CsvFile(tmp_path / "m.csv", 7, table.kept()).rows() == ROWS
  assert CsvFile(tmp_path / "m.csv", 4).rows() == ROWS[:4]


def full(change, path):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_writers_say_in_one_line_which_file_could_not_be_written(tmp_path, monkeypatch, caplog):
  table, events = table_of(tmp_path / "m.csv"), TensorBoard(tmp_path, 0)
  monkeypatch.setattr(disk, "watched", full)
  for write in (lambda: table.write_rows([(8, {"loss": 1.0})]), lambda: table.write_rows(
      [(9, {"new": 1.0})]), lambda: records.write_json(tmp_path / "m.csv", {})):
    with pytest.raises(OSError, match="m.csv not written: No space left on device") as error:
      write()
    assert "\n" not in str(error.value)
  for step in range(10_000):  # nothing fills up, nothing waits
    events.write(step, {"loss": 1.0})
  with pytest.raises(OSError, match="tfevents.* not written: No space left on device"):
    events.flush()
  events.write(1, {"loss": 1.0})
  events.close()
  assert "not written: No space left" in caplog.text


def test_event_files_are_readable_by_tensorboard(tmp_path):
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  writer = TensorBoard(tmp_path, 0)
  writer.write(3, {"loss": 0.25, "epsilon": float("inf")})
  writer.close()
  events = accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.25)]
  assert events.Tags()["scalars"] == ["loss"]  # infinity has no place on an axis


def shown(folder, tag="loss"):
  """(step, value) that TensorBoard shows."""
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  events = accumulator.EventAccumulator(str(folder))
  events.Reload()
  return [(event.step, event.value) for event in events.Scalars(tag)]


LOSSES = [(step, {"loss": float(step), "recall@1": 0.5}) for step in range(1, 9)]
SHOWN = [(step, float(step)) for step in range(1, 9)]


def written(folder, rows, start=0, before=()):
  writer = TensorBoard(folder, start, before)
  for step, values in rows:
    writer.write(step, values)
  return writer


def test_what_was_flushed_outlives_a_kill_and_a_resumed_run_goes_on(tmp_path):
  first = written(tmp_path, LOSSES[:3])
  first.flush()
  first.write(*LOSSES[3])  # lost with the process
  written(tmp_path, LOSSES[3:], 3, LOSSES[:3]).close()
  assert shown(tmp_path) == SHOWN and len(shown(tmp_path, "recall_1")) == 8


@pytest.mark.parametrize("start", [3, 5, 8])
def test_rounds_that_the_files_lack_are_written_after_a_resume(tmp_path, start):
  """Two rounds were lost on a kill; later ones, of a run that went further, are hidden."""
  written(tmp_path, LOSSES[:2]).flush()
  written(tmp_path, LOSSES[5:7], 5).flush()
  written(tmp_path, LOSSES[start:], start, LOSSES[:start]).close()
  assert shown(tmp_path) == SHOWN


def test_rounds_of_a_removed_or_cut_event_file_are_written_again_and_of_a_whole_one_not(tmp_path):
  written(tmp_path, LOSSES[:4]).close()
  path, = tmp_path.iterdir()
  sizes = []
  for length in (None, 200, 3, 0):
    data = path.read_bytes()
    path.write_bytes(data[:length])
    written(tmp_path, [], 4, LOSSES[:4]).close()
    assert shown(tmp_path) == SHOWN[:4]
    other = max(tmp_path.iterdir())
    sizes.append(other.stat().st_size)
    other.unlink()
    path.write_bytes(data)
  assert sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_a_later_event_file_is_read_later_whatever_the_clock_says(tmp_path, monkeypatch):
  paths = []
  for now in (2_000_000_000.0, 2_000_000_000.0, 1_000_000_000.0):
    monkeypatch.setattr(event_files.time, "time", lambda now=now: now)
    paths.append(event_files.new_path(tmp_path))
    paths[-1].touch()
  assert paths == sorted(set(paths)) and len(set(paths)) == 3
