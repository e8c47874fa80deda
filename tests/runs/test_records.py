import json

import pytest

from fedjax_face.runs import records
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


def test_event_files_are_readable_by_tensorboard(tmp_path):
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  writer = TensorBoard(tmp_path, 0)
  writer.write(3, {"loss": 0.25, "epsilon": float("inf")})
  writer.close()
  events = accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.25)]
  assert events.Tags()["scalars"] == ["loss"]  # infinity has no place on an axis
