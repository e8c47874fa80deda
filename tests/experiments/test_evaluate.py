import json
import math

import pytest

import fedjax_face as ff
from experiments import evaluate, train
from fedjax_face.runs import config as configs
from fedjax_face.runs import edge
from fedjax_face.runs.asked import Asked
from tests.edge.test_build import save_server
from tests.experiments.test_train import cache, command  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("evaluated") / "run"
  assert train.main(command(workdir, "resident", "--config.rounds=2")) == 0
  return workdir


def result(workdir, name):
  return json.loads((workdir / "evaluations" / name / "evaluation.json").read_text())


def test_own_set_gives_the_numbers_of_the_run(trained):
  assert evaluate.main([f"--workdir={trained}"]) == 0
  summary = json.loads((trained / "summary.json").read_text())
  own = result(trained, "own")
  assert own["metrics"] == summary["metrics"]
  assert own["roc"] == summary["roc"]
  for name in ("roc.png", "det.png"):
    assert (trained / "evaluations/own" / name).stat().st_size > 0


def test_on_its_own_set_what_the_run_is_compared_with_stands_beside(trained, capsys):
  assert evaluate.main([f"--workdir={trained}", "--bootstrap=0", "--fars=0.1,0.2"]) == 0
  said = capsys.readouterr().out
  assert "untrained start" in said and "raw pixels" in said
  references = json.loads((trained / "summary.json").read_text())["references"]
  found = result(trained, "own")
  assert found["references"] == references
  assert set(found["metrics"]) - set(references["start"]["metrics"]) == {
      "recall_all_pairs@far=0.2"}
  assert evaluate.main([f"--workdir={trained}", "--bootstrap=0", "--flip=sum"]) == 0
  assert result(trained, "own")["references"] == {}  # those were not flipped


def test_another_set_protocol_and_far(trained):
  assert evaluate.main([
      f"--workdir={trained}", "--data=synthetic_faces", "--data_option=people=6",
      "--data_option=images_per_person=4", "--data_option=seed=5",
      "--protocols=identification,retrieval", "--fars=0.2", "--bootstrap=5"]) == 0
  assert result(trained, "synthetic_faces")["references"] == {}
  names = result(trained, "synthetic_faces")["metrics"]
  assert {"identification/rank1", "identification/dir@far=0.2", "retrieval/precision_at_1"} & set(
      names)
  assert len(names) >= 5


@pytest.mark.parametrize("arguments, message", [
    (["--protocols=nothing"], "protocols: names='nothing': expected some of recall_all_pairs"),
    (["--fars=2"], "fars[0]=2.0: expected a number in (0, 1]"),
    (["--fars=1e-9"], "one false accept is a rate of"),
    (["--bootstrap=-1"], "protocols.bootstrap=-1: expected a whole number, at least 0"),
    (["--pairs=0", "--protocols=tar_at_far"], "pairs=0: expected a whole number, at least 1"),
    (["--out="], "--out=: expected a text"),
    (["--data=folder", "--data_option=path="], "data.path='': expected the name of a place"),
    (["--fars=a"], "--fars: 'a' is not a number"),
    (["--data=nothing"], "data=nothing: no public set has this name"),
    (["--data_option=size=2"], "--data_option needs --data"),
    (["--data=folder", "--data_option=path"], "expected key=value"),
    # the people of the training set itself
    (["--data=synthetic_faces", "--data_option=people=6", "--data_option=images_per_person=4",
      "--data_option=domain=street", "--data_option=seed=0"], "share"),
])
def test_mistakes_are_one_line(trained, arguments, message, capfd):
  assert evaluate.main([f"--workdir={trained}", *arguments]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def test_a_small_set_gives_the_pairs_that_it_has_and_another_is_read_at_the_size_of_the_run(
    trained, capsys):
  assert evaluate.main([f"--workdir={trained}", "--data=synthetic_faces",
                        "--data_option=people=4", "--data_option=seed=5", "--bootstrap=0",
                        "--protocols=tar_at_far,lfw_view2", "--fars=0.5"]) == 0
  metrics = result(trained, "synthetic_faces")["metrics"]
  assert "2 folds" in metrics["lfw_view2/accuracy"]["note"]
  assert "negative pairs" in metrics["tar@smallest_far"]["note"]


PEOPLE = {"name": "synthetic_faces", "people": 4, "images_per_person": 5}
SERVER = {
    "method": {"name": "dp_activations", "backbone": {"name": "lenet_small", "embedding_dim": 8},
               "split": {"projection": 3}, "activations": {"noise_multiplier": 1.0},
               "clients": {"number": 2, "batch_size": 3}},
    "data": {"name": "closed_set", "people": PEOPLE, "evaluation": 0.2,
             "public": PEOPLE | {"seed": 7}},
    "rounds": 2, "evaluation": {"name": "classification", "bootstrap": 10, "batch_size": 8}}


def test_the_run_of_an_edge_server_needs_its_own_public_parts(tmp_path, capfd):
  asked = Asked.of_config(SERVER)
  configs.record(asked.record, tmp_path)
  (tmp_path / "devices.json").write_text("{}")
  save_server(asked.experiment().algorithm, tmp_path)
  command = [f"--workdir={tmp_path}", "--compilation_cache=off"]
  public = edge.build(asked).public_digest()
  edge.write_server_record(tmp_path, edge.ServerRecord(f"{'0' * 12}{public[12:]}", 3))
  assert evaluate.main(command) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert said[-1].startswith("error: ") and "are not those of its run" in said[-1]
  assert not (tmp_path / "evaluations").exists()
  edge.write_server_record(tmp_path, edge.ServerRecord(public, 3))
  assert evaluate.main(command) == 0
  assert "no digest" not in capfd.readouterr().err
  assert result(tmp_path, "own")["rounds"] == 3
  run = ff.load(tmp_path)
  assert run.ledger.entries and 0 < run.epsilon < math.inf  # of three steps, not of none
  assert not run.finished and "has not finished: 3 steps are done" in run.statement
  (tmp_path / "server.json").unlink()
  assert evaluate.main(command) == 0
  assert "no digest of the public parts" in capfd.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path, capfd):
  assert evaluate.main([f"--workdir={tmp_path}"]) == 2
  assert "config.json: no run is kept there" in capfd.readouterr().err
