"""A rehearsal as a user runs it, and the run that takes its values."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

import fedjax_face as ff
from experiments import rehearse, train
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import loop, rehearsal, rehearsed
from fedjax_face.runs.settings import Rehearsed

SMALL = {"candidates": 3, "repetitions": 2}
CLIP_NORM, EPOCHS = "method.aggregate.clip_norm", "method.local.epochs"


def config():
  """Of a few seconds: four clients of two people, noise of multiplier 2, 24 public people."""
  return {
      "method": {"name": "dp_fedemb", "backbone": {"name": "lenet_small", "embedding_dim": 8},
                 "head": "linear", "start_head": "shared_frame", "classes": "all",
                 "clients": {"per_round": 4, "users_per_client": 2, "max_examples": 8},
                 "local": {"learning_rate": 0.05, "optimizer": "sgd", "epochs": 1, "batch_size": 4},
                 "aggregate": {"clip_norm": 1.0, "noise_multiplier": 2.0},
                 "server": {"learning_rate": 0.01}},
      "data": {"name": "synthetic_faces", "people": 8, "evaluation": 6, "public": 24,
               "public_images_per_person": 4},
      "start": {"name": "pretrain", "rounds": 2, "method": {
          "name": "centralized", "steps": 2, "local": {"batch_size": 8}}},
      "privacy": {"delta": 1e-3, "noise_seed": 7},
      "evaluation": {"fars": (0.1,), "batch_size": 16, "bootstrap": 20},
      "compute": {"rounds_per_dispatch": 2}, "rounds": 6}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """The same as a file."""
  path = tmp_path_factory.mktemp("config") / "tiny.py"
  path.write_text(f"def get_config():\n  return {config()!r}\n")
  return path


@pytest.fixture(scope="module")
def played(written, tmp_path_factory):
  """(workdir, programs of rounds, their stage) of one rehearsal."""
  workdir, programs, stages = tmp_path_factory.mktemp("rehearsal"), [], []
  patch = pytest.MonkeyPatch()
  compile_rounds, stage = loop.compile_rounds, rehearsal.Stage
  patch.setattr(loop, "compile_rounds", lambda *given: programs.append(
      compile_rounds(*given)) or programs[-1])
  patch.setattr(rehearsal, "Stage", lambda *given: stages.append(stage(*given)) or stages[-1])
  assert rehearse.main([
      f"--config={written}", f"--workdir={workdir}", "--rounds=2",
      *(f"--{name}={value}" for name, value in SMALL.items())]) == 0
  patch.undo()
  return workdir, programs, stages[0]


@pytest.fixture(scope="module")
def record(played):
  return json.loads((played[0] / "rehearsal.json").read_text())


def test_nothing_is_compiled_for_a_candidate(played, record):
  _, programs, stage = played
  assert len({t["values"][EPOCHS] for t in record["trials"]}) > 1
  assert len(programs) == 3  # pre-training, settings, single clients
  assert [program._cache_size() for program in programs] == [1, 1, 1]
  assert stage.evaluator._embed._cache_size() == 1


def test_what_it_says(record):
  assert record["people"] == {"all": 24, "pretraining": 12, "clients": 7, "judges": 5}
  planned, rehearsed = record["planned"], record["rehearsed"]
  assert (planned["noise_multiplier"], planned["clients"], rehearsed["clients"]) == (2.0, 4, 3)
  assert planned["noise_on_mean_over_clip_norm"] == 2.0 / 4
  assert rehearsed["noise_multiplier"] == pytest.approx(2.0 * (3 / 4) ** 0.5)
  assert planned["noise_norm_ratio"] == pytest.approx(0.5 * math.sqrt(planned["parameters"]))
  assert [t["candidate"] for t in record["trials"]] == [0, 1, 2]
  assert record["trials"][0]["values"][CLIP_NORM] == 1.0
  assert any("times the clip norm" in line for line in record["warnings"])
  winner = record["trials"][record["winner"]["candidate"]]
  assert record["overrides"] == winner["values"]
  assert record["rehearsal"] == {
      "public": record["set"], "people": 24, "judges": 5,
      "chose": [f"{name}={value}" for name, value in winner["values"].items()]}


def test_the_noise_that_is_played_is_the_planned_one(played):
  algorithm = played[2]._player.algorithm
  assert algorithm.hparams["aggregate"]["noise_multiplier"] == pytest.approx(2.0 * (3 / 4) ** 0.5)


def test_a_setting_is_played_with_its_values(played):
  """Twice the epochs at a hundredth of the rate move less; a server at rest does not move."""
  stage, moved = played[2], []
  for values in ({}, {EPOCHS: 2, "method.local.learning_rate": 5e-4},
                 {"method.server.learning_rate": 0.0}):
    norms = stage.norms(values)
    after = stage.play(values, stage.start, 0, 1, 0)
    same = jax.tree.map(np.array_equal, after.params, stage.start.params)
    moved.append((norms.mean(), all(jax.tree.leaves(same))))
  assert 0 < moved[1][0] < 0.1 * moved[0][0] and moved[2][0] == moved[0][0]
  assert [same for _, same in moved] == [False, False, True]


def test_python_says_the_same_and_private_pixels_do_not_matter(played, tmp_path):
  given = ff.from_config(config())
  sources = given["data"].sources
  noise = np.random.default_rng(0).integers(0, 256, sources.train.images.shape, np.uint8)
  other = sources._replace(
      train=dataclasses.replace(sources.train, images=noise),
      evaluation=dataclasses.replace(sources.evaluation, images=255 - sources.evaluation.images))
  found = rehearsal.rehearse(**(given | {"data": other}), workdir=tmp_path, final_rounds=2, **SMALL,
                             say=lambda line: None)
  assert (tmp_path / "rehearsal.json").read_bytes() == (played[0] / "rehearsal.json").read_bytes()
  assert found["overrides"] == json.loads((tmp_path / "rehearsal.json").read_text())["overrides"]


def trained(written, workdir, overrides, *more):
  return train.main([f"--config={written}", f"--workdir={workdir}", "--config.rounds=1",
                     f"--overrides={overrides}", *more])


def test_a_run_with_the_overrides_says_what_was_chosen_on_whom(
    written, played, record, tmp_path, capfd):
  path, workdir = played[0] / "rehearsal.json", tmp_path / "run"
  assert trained(written, workdir, path) == 0
  run = json.loads((workdir / "config.json").read_text())
  assert run["method"]["aggregate"]["clip_norm"] == record["overrides"][CLIP_NORM]
  said = (workdir / "PRIVACY.md").read_text()
  assert "clip norm" in said and (
      f"were chosen by rehearsal on 24 public people of {record['set']} only, 5 of whom judged, "
      "which costs nothing.") in said
  assert f"* {record['set']}" in said.partition("## Data treated as public")[2]
  assert trained(written, workdir, path) == 0  # finished: nothing to do
  capfd.readouterr()
  assert trained(written, tmp_path / "other", path, f"--config.{CLIP_NORM}=3") == 2
  assert "leave one out" in capfd.readouterr().err


def test_a_set_that_trains_or_evaluates_is_not_public_because_a_rehearsal_says_so():
  sources = ff.from_config(config())["data"].sources
  said = Rehearsed(sources.train.name, 24, 5, ("method.aggregate.clip_norm=1.0",))
  with pytest.raises(ValueError, match="which trains in this run and so is not public"):
    rehearsed.enter(Ledger(), said, sources)
  rehearsed.enter(Ledger(), said._replace(public=sources.public.name), sources)
  judges = dataclasses.replace(sources.evaluation, name="judges")
  with pytest.raises(ValueError, match="which validates in this run and so is not public"):
    rehearsed.enter(Ledger(), said._replace(public="judges"), sources._replace(validation=judges))


@pytest.mark.parametrize("section, change, message", [
    ("overrides", {CLIP_NORM: 3.0}, f"{CLIP_NORM}=3.0, but rehearsal.chose says"),
    ("rehearsal", {"people": 25}, "but the public set holds 24 of them"),
])
def test_a_mismatch_is_refused(written, record, tmp_path, capfd, section, change, message):
  path = tmp_path / "changed.json"
  path.write_text(json.dumps(record | {section: record[section] | change}))
  assert trained(written, tmp_path / "run", path) == 2
  assert message in capfd.readouterr().err
  assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--workdir=w", "--config.data.public=0"], "data: a rehearsal needs a public set"),
    (["--workdir=w", "--config.data.public=5"], "has 5 people; a rehearsal needs at least 20"),
    (["--workdir=w", "--config.privacy.epsilon=1"], "exactly one of"),
    ([], "--workdir is required"),
    (["--workdir=w", "--minutes=0"], "minutes=0.0: expected above 0"),
])
def test_mistakes_are_one_line(written, arguments, message, tmp_path, capfd):
  arguments = [a.replace("--workdir=w", f"--workdir={tmp_path}/w") for a in arguments]
  assert rehearse.main([f"--config={written}", *arguments]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not (tmp_path / "w").exists()
