import io
import json
import math

import numpy as np
import pytest
from PIL import Image

import fedjax_face as ff
from experiments import evaluate, train
from fedjax_face import options
from fedjax_face.data import judging_sets
from fedjax_face.data.readers.insightface_bin import write_insightface_bin
from fedjax_face.runs import config as configs
from fedjax_face.runs import edge
from fedjax_face.runs.asked import Asked
from tests.edge.test_build import save_server
from tests.experiments.test_train import command


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
      f"--workdir={trained}", "--data=synthetic_faces", "--data.people=6",
      "--data.images_per_person=4", "--data.seed=5", "--protocols=identification,retrieval",
      "--fars=0.2", "--bootstrap=5"]) == 0
  found = result(trained, "synthetic_faces")
  names, beside = found["metrics"], found["references"]
  assert {of["words"] for of in beside.values()} == {"untrained start", "raw pixels"}
  assert all(of["metrics"].keys() == names.keys() for of in beside.values())
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
    (["--data=folder", "--data.path="], "data.path='': expected the name of a place"),
    (["--fars=a"], "--fars: 'a' is not a number"),
    (["--data=nothing"], "data=nothing: no public set has this name"),
    (["--data.size=2"], "--data.size=2: needs --data=NAME"),
    (["--data=folder", "--data.path"], "--data.path: expected --data.KEY=VALUE"),
    (["--data=bin", "--data.path=no.bin"], "no.bin does not exist"),
    (["--data=bin", "--data.path=no.bin", "--protocols=retrieval"],
     "protocols=retrieval: data=bin has lists for insightface, tar_at_far, lfw_view2 alone"),
    (["--protocols=templates"], "protocol templates needs the lists"),
    # the people of the training set itself
    (["--data=synthetic_faces", "--data.people=6", "--data.images_per_person=4",
      "--data.domain=street", "--data.seed=0"], "share"),
])
def test_mistakes_are_one_line(trained, arguments, message, capfd):
  assert evaluate.main([f"--workdir={trained}", *arguments]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def photographs(people, images):
  """PNG of grey faces of 40 pixels; the run takes images of another size."""
  faces = np.random.default_rng(0).integers(0, 256, (people, 5, 5), np.uint8)
  encoded = {}
  for person in range(people):
    for image in range(images):
      picture = Image.fromarray(faces[person] // 2 + 30 * image).resize((40, 40))
      file = io.BytesIO()
      picture.save(file, "png")
      encoded[f"{person}_{image}.png"] = file.getvalue()
  return encoded


def test_pairs_of_insightface_are_read_at_the_size_of_the_run(trained, tmp_path):
  faces = photographs(12, 2)
  of = lambda person, image: faces[f"{person}_{image}.png"]
  matched = [file for p in range(12) for file in (of(p, 0), of(p, 1))]
  others = [file for p in range(12) for file in (of(p, 0), of((p + 1) % 12, 1))]
  write_insightface_bin(tmp_path / "lfw.bin", matched + others, [True] * 12 + [False] * 12)
  assert evaluate.main([f"--workdir={trained}", "--data=bin", f"--data.path={tmp_path}/lfw.bin",
                        "--fars=0.2", "--bootstrap=5"]) == 0
  found = result(trained, "bin")["metrics"]
  assert {"insightface/accuracy", "tar@far=0.2", "tar@smallest_far"} <= set(found)
  assert 0 <= found["tar@far=0.2"]["low"] <= found["tar@far=0.2"]["high"] <= 1
  people = judging_sets.bin(str(tmp_path / "lfw.bin"), size=8, grayscale=True)
  dataset = options.made(people).load().dataset
  assert dataset.images.shape == (48, 8, 8, 1) and dataset.num_persons == 12


def test_templates_are_verified_and_identified(trained, tmp_path):
  faces = photographs(4, 4)
  for name, file in faces.items():
    (tmp_path / name).write_bytes(file)
  rows = [f"{10 * person + image // 2},{person},{image},{name}" for name in faces
          for person, image in [map(int, name.removesuffix(".png").split("_"))]]
  (tmp_path / "images.csv").write_text(
      "\n".join(["TEMPLATE_ID,SUBJECT_ID,MEDIA_ID,FILENAME", *rows]))
  (tmp_path / "pairs.csv").write_text(
      "\n".join(f"{10 * a},{10 * b + 1}" for a in range(4) for b in range(4)))
  (tmp_path / "gallery.csv").write_text("0\n10\n20\n")
  (tmp_path / "probes.csv").write_text("1\n11\n21\n31\n")
  assert evaluate.main([f"--workdir={trained}", "--data=templates", f"--data.path={tmp_path}",
                        "--protocols=templates", "--fars=0.5", "--bootstrap=5"]) == 0
  found = result(trained, "templates")["metrics"]
  assert set(found) == {"templates/tar@far=0.5", "templates/rank1", "templates/rank5",
                        "templates/rank10", "templates/dir@far=0.5"}
  assert found["templates/rank5"]["value"] == 1  # of three enrolled
  assert 0 <= found["templates/rank1"]["low"] <= found["templates/rank1"]["high"] <= 1
  (tmp_path / "0_0.png").write_bytes(b"none")
  assert evaluate.main([f"--workdir={trained}", "--data=templates",
                        f"--data.path={tmp_path}"]) == 2


def test_a_small_set_gives_the_pairs_that_it_has_and_another_is_read_at_the_size_of_the_run(
    trained, capsys):
  assert evaluate.main([f"--workdir={trained}", "--data=synthetic_faces",
                        "--data.people=4", "--data.seed=5", "--bootstrap=0",
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
