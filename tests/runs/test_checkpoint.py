import json
import os

import jax
import numpy as np
import pytest

from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint
from fedjax_face.runs.checkpoint import Checkpoint
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
  path.write_text(json.dumps(meta | {"digest": checkpoint._digest(path.parent, meta)}))
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
