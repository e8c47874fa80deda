import json
import os

import numpy as np
import pytest

from fedjax_face.data.readers import femnist
from fedjax_face.data.splits import check_disjoint, split_by_person
from fedjax_face.draws import Draws


def shard(path, writers):
  """Writes a LEAF json; writers: {name: labels}; pixel 0 is dark, the rest background."""
  data = {w: {"x": [[0.0] + [1.0] * 783 for _ in y], "y": y} for w, y in writers.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({"users": list(data), "user_data": data,
                              "num_samples": [len(y) for y in writers.values()]}))


def test_shards_of_one_writer_are_one_person(tmp_path):
  shard(tmp_path / "train" / "all_0.json", {"f2": [1, 61], "f1": [10]})
  shard(tmp_path / "test" / "all_0.json", {"f1": [36], "f3": [0]})
  data, report = femnist.read_leaf(tmp_path)
  assert data.images.shape == (5, 28, 28, 1) and report.skipped == ()
  assert data.images[0, 0, 0, 0] == 0 and (data.images[0].ravel()[1:] == 255).all()
  assert data.person_names == ("f1", "f2", "f3") and data.num_labels == 62
  assert {data.person_names[p]: sorted(data.label[data.person == p]) for p in range(3)} == {
      "f1": [10, 36], "f2": [1, 61], "f3": [0]}
  assert [data.names[i] for i in (0, 10, 36, 61)] == ["0", "A", "a", "z"]
  train, test = split_by_person(data, .4, Draws.of(0))
  assert check_disjoint(train, test, "person")


def test_images_in_several_files_count_once(tmp_path):
  for folder in ("all_data", "sampled_data", "train", ".hidden"):
    shard(tmp_path / folder / "all_0.json", {"f1": [10, 10, 36], "f2": [1]})
  data, report = femnist.read_leaf(tmp_path)
  assert np.bincount(data.person).tolist() == [3, 1] and report.skipped == ()
  assert "8 images are in several files; counted once" in str(report)


@pytest.mark.parametrize("entry", [
    '{"x": [[1e999, 2]], "y": [1]}', f'{{"x": [[{10**400}]], "y": [1]}}',
    '{"x": null, "y": [1]}', '[]', '{"x": [[[[]]]], "y": [99999999999999999999]}'])
def test_a_writer_of_another_form_costs_that_writer(tmp_path, entry):
  shard(tmp_path / "a.json", {"good": [3]})
  (tmp_path / "b.json").write_text(f'{{"user_data": {{"w\\n": {entry}}}}}')
  with pytest.warns(UserWarning) as told:
    assert femnist.read_leaf(tmp_path)[0].person_names == ("good",)
  assert r"w\n: " in str(told[0].message) and "\n" not in str(told[0].message)


def test_a_pipe_among_the_shards_keeps_nobody_waiting(tmp_path):
  shard(tmp_path / "a.json", {"good": [3]})
  os.mkfifo(tmp_path / "b.json")
  with pytest.warns(UserWarning, match=r"b.json: not a LEAF json file \(no regular file\)"):
    femnist.read_leaf(tmp_path)
  with pytest.raises(ValueError, match="path is empty"):
    femnist.read_leaf("")


def test_bad_content_is_skipped_or_refused(tmp_path):
  shard(tmp_path / "a.json", {"good": [3], "empty": []})
  (tmp_path / "b.json").write_text("{")
  (tmp_path / "c.json").write_text(json.dumps({"user_data": {
      "short": {"x": [[1.0] * 783], "y": [1]}, "uneven": {"x": [[1.0] * 784], "y": [1, 2]},
      "bright": {"x": [[255.0] * 784], "y": [1]}, "bare": {"x": []}}}))
  with pytest.warns(UserWarning, match="skipped 6"):
    data, report = femnist.read_leaf(tmp_path)
  assert data.person_names == ("good",) and len(data) == 1
  reasons = dict(report.skipped)
  assert reasons["empty"] == "writer with no images"
  assert reasons[str(tmp_path / "b.json")] .startswith("not a LEAF json file (line 1: ")
  assert reasons["short"] == "x is [1, 783] for 1 labels; expected [N, 784]"
  assert "for 2 labels" in reasons["uneven"] and reasons["bright"] == "pixels outside 0..1"
  with pytest.raises(ValueError, match=r"6 bad file\(s\), first empty"):
    femnist.read_leaf(tmp_path, on_bad="refuse")
  with pytest.raises(ValueError, match="no readable image in 1 file"):
    femnist.read_leaf(tmp_path / "b.json")


def test_labels_out_of_range_are_refused(tmp_path):
  shard(tmp_path / "a.json", {"f1": [62]})
  with pytest.raises(ValueError, match=r"no readable image .*labels outside 0..61"):
    femnist.read_leaf(tmp_path)


def test_nothing_there(tmp_path):
  with pytest.raises(FileNotFoundError, match="no .json file"):
    femnist.read_leaf(tmp_path)
  with pytest.raises(FileNotFoundError, match="expected a FEMNIST npz"):
    femnist.read_femnist_npz(tmp_path / "x.npz")
  np.savez(tmp_path / "other.npz", x=np.zeros(3))
  with pytest.raises(ValueError, match="not a FEMNIST npz"):
    femnist.read_femnist_npz(tmp_path / "other.npz")
  (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:40])
  with pytest.raises(ValueError, match="not a FEMNIST npz"):
    femnist.read_femnist_npz(tmp_path / "cut.npz")


def test_npz(tmp_path):
  np.savez(tmp_path / "f.npz", x=np.full((3, 28, 28), 255, np.uint8), y=np.array([0, 61, 5]),
           user=np.array([0, 1, 0]), users=np.array(["f1", "f2"]))
  data, _ = femnist.read_femnist_npz(tmp_path / "f.npz")
  assert data.images.shape == (3, 28, 28, 1) and data.person_names == ("f1", "f2")
  one, _ = femnist.read_femnist_npz(tmp_path / "f.npz", num_writers=1)
  assert len(one) == 2 and one.person_names == ("f1",)


def test_105_writers(real_data):
  data, _ = femnist.read_femnist_npz(real_data("femnist", "femnist_leaf_105writers.npz"))
  assert len(data) == 16393 and data.num_persons == 105 and data.images[0, 0, 0, 0] == 255
  assert set(np.unique(data.label)) == set(range(62))
