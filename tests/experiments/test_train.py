"""The program as a user runs it: a tiny real run, real kills, one-line errors."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import train
from fedjax_face.figures import figures
from tests import drawing
from tests.runs.interruption import undated

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = str(ROOT / "tests/experiments/tiny_call.py")


def command(workdir, variant="resident", *overrides):
  return [f"--config={TINY}:{variant}", f"--workdir={workdir}", *overrides]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run") / "whole"
  with drawing.drawn():
    assert train.main(command(workdir)) == 0
  return workdir


def test_leaves_what_the_design_says(whole):
  names = {p.name.split(".tfevents")[0] for p in whole.iterdir()}
  assert names == {"config.json", "metrics.csv", "events.out", "checkpoints", "summary.json",
                   "privacy.json", "PRIVACY.md", "figures", "training_set.key",
                   "inputs.json", "facts.npz", "resolved.json", "lock"}
  assert {p.name for p in (whole / "figures").iterdir()} == {
      "training.png", "roc.png", "det.png"}
  summary = json.loads((whole / "summary.json").read_text())
  assert summary["status"] == "finished" and summary["rounds"] == 6
  assert summary["bytes_per_client_and_round"]["up"] > 0
  assert {"git_revision", "versions", "device", "seconds"} <= set(summary)
  metric = summary["metrics"]["recall_all_pairs@far=0.1"]
  assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
  assert os.listdir(whole / "checkpoints") == ["00000006"]


def test_what_the_result_is_compared_with_is_there(whole):
  summary = json.loads((whole / "summary.json").read_text())
  references = summary["references"]
  assert {name: of["words"] for name, of in references.items()} == {
      "start": "untrained start", "pixels": "raw pixels"}
  assert {frozenset(of["metrics"]) for of in references.values()} == {frozenset(summary["metrics"])}
  with open(whole / "metrics.csv", newline="") as file:
    first = next(csv.DictReader(file))
  for name, start in references["start"]["metrics"].items():
    assert first["round"] == "0" and float(first[name]) == start["value"]
    gain = summary["gains"][name]
    assert gain["value"] == summary["metrics"][name]["value"] - start["value"]
    assert gain["low"] <= gain["high"]
  roc = summary["roc"]
  assert set(roc["tar"]) == {"model", "start", "pixels"}
  assert {len(tar) for tar in roc["tar"].values()} == {len(roc["far"])} == {200}


def test_the_end_of_a_run_says_what_was_gained(whole, capsys):
  assert train.main(command(whole)) == 0  # it has finished: only what it says is said again
  last = capsys.readouterr().out.strip().splitlines()[-1]
  assert last.startswith("recall_all_pairs@far=0.1: untrained start 0.")
  assert " at epsilon " in last and " for each of 8 persons; raw pixels 0." in last


def test_sigkill_and_the_same_command_again_is_bit_identical(whole, tmp_path):
  workdir = tmp_path / "killed"
  process = subprocess.Popen(
      [sys.executable, "-m", "experiments.train", *command(workdir)], cwd=ROOT,
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 300
  while not (workdir / "checkpoints/00000003").exists() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert process.returncode == -signal.SIGKILL and not (workdir / "summary.json").exists()
  assert train.main(command(workdir)) == 0
  for name in ("metrics.csv", "config.json"):
    assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
  for name in ("privacy.json", "PRIVACY.md"):  # but for the day on which they were written
    assert undated(workdir / name) == undated(whole / name), name
  resumed, straight = final_state(workdir), final_state(whole)
  assert resumed.keys() == straight.keys() and len(resumed) > 4
  for name in straight:
    assert resumed[name].tobytes() == straight[name].tobytes(), name


def final_state(workdir):
  """Arrays of the last checkpoint by name, read with Orbax alone."""
  import orbax.checkpoint as ocp
  folder = workdir / "checkpoints/00000006"
  names = json.loads((folder / "meta.json").read_text())["arrays"]
  numpy = ocp.args.PyTreeRestore(
      restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(folder / "state", args=numpy)


def test_gathered_rows_train_like_resident_ones(whole, tmp_path):
  assert train.main(command(tmp_path, "gathered")) == 0
  trained = [figures.read_metrics(workdir / "metrics.csv") for workdir in (whole, tmp_path)]
  assert trained[0].keys() == trained[1].keys()
  for name in ("loss", "update_norm", "epsilon"):
    assert trained[0][name] == pytest.approx(trained[1][name], rel=1e-3, nan_ok=True), name


def test_pretraining_on_a_public_set_is_kept_and_stated(tmp_path):
  assert train.main(command(tmp_path, "pretrain", "--config.rounds=1")) == 0
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert len(said["public_datasets"]) == 1 and said["units"][0]["epsilon"]["best"] != "infinite"
  assert (tmp_path / "start/checkpoints/00000002").is_dir()


def test_pretraining_on_an_undeclared_set_has_no_epsilon(tmp_path):
  assert train.main(command(
      tmp_path, "pretrain", "--config.rounds=1", "--config.start.public=false")) == 0
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert not said["public_datasets"] and said["units"][0]["epsilon"]["best"] == "infinite"


@pytest.mark.parametrize("arguments, message", [
    (["--config=configs/none.py", "--workdir=w"], "--config=configs/none.py: no such file"),
    ([f"--config={TINY}:big", "--workdir=w"], "no variant 'big'"),
    ([f"--config={TINY}"], "--workdir is required"),
    (["--workdir=w"], "--config is required"),
    ([f"--config={TINY}", "--wrkdir=w"], "Did you mean: workdir"),
    ([f"--config={TINY}", "--workdir=w", "--config.method.aggregate.clip_nrm=1"],
     "--config.method.aggregate.clip_nrm: gaussian takes no clip_nrm (did you mean clip_norm?)"),
    ([f"--config={TINY}", "--workdir=w", "--config.rounds=many"], "--config.rounds=many"),
    ([f"--config={TINY}", "--workdir=w", "extra"], "argument 'extra' is not a flag"),
    ([f"--config={TINY}", "--workdir=w", "--config.data=nowhere"],
     "--config.data=nowhere: no data has this name"),
    ([f"--config={TINY}", "--workdir=w", "--config.method=none"],
     "--config.method=none: no method has this name"),
    ([f"--config={TINY}", "--workdir=w", "--config.rounds=0"], "rounds=0"),
    ([f"--config={TINY}", "--workdir=w", "--config.privacy.epsilon=1"],
     "exactly one of privacy.epsilon and method.aggregate.noise_multiplier"),
    ([f"--config={TINY}", "--workdir=w", "--config.data=photographs", "--config.data.sources="
      "synthetic_scenes"], "data: dp_fedemb learns embeddings, and these data are for face tasks"),
    *(([f"--config={TINY}", "--workdir=w", f"--config.{said}"], message) for said, message in (
        ("method.local.batch_size=0", "expected a whole number, at least 1"),
        ("method.classes=foo", "expected one of own, all"),
        ("method.clients.per_round=400", "800 users a round, but the training set has 8"),
        ("evaluation.names=tar_at_far", "protocol tar_at_far needs pairs"),
        ("evaluation.fars=1e-9", "evaluation.fars=1e-09: the evaluation set has"),
        ("data.evaluation=1", "1 person evaluates, so that there is nobody to take for another"),
        ("data.people=1", "users a round, but the training set has 1"),
        ("compute.clients_per_chunk=5", "compute.clients_per_chunk=5 must divide"),
        ("seed=4294967296", "--config.seed=4294967296: expected a whole number, at least 0, below"),
        ("compute.wandb=x", "needs the package wandb"))),
    ([f"--config={TINY}", "--workdir="], "--workdir=: expected a text"),
    ([f"--config={TINY}", "--workdir=/proc/none"], "/proc/none not made"),
    ([f"--config={TINY}", "--workdir=w", "--config.rounds", "0"], "--config.rounds=0: expected"),
])
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, tmp_path, monkeypatch, capfd):
  arguments = [a.replace("--workdir=w", f"--workdir={tmp_path}/w") for a in arguments]
  assert train.main(arguments) == 2
  said = [line for line in capfd.readouterr().err.strip().splitlines()
          if not line.startswith("dropped, as another part took its place: ")]
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not (tmp_path / "w").exists()


def test_a_workdir_of_another_config_is_refused(whole, capfd):
  assert train.main(command(whole, "resident", "--config.seed=5")) == 2
  assert "seed (there 0, now 5)" in capfd.readouterr().err
