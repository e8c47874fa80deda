"""A rehearsal as a user runs it, and the run that takes its values."""

import dataclasses
import json
import math

import ml_collections
import numpy as np
import pytest

from experiments import rehearse, train
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.training import experiment, loop, rehearsal
from tests.experiments import tiny_config
from tests.experiments.test_train import TINY, cache  # noqa: F401  (a fixture)

PEOPLE = "--config.data.public.num_people=24"
SMALL = {"candidates": 3, "repetitions": 2, "rounds": 2}


def config():
  given = tiny_config.get_config("pretrain")
  given.data.public.num_people = 24
  return given


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  """(workdir, programs of rounds, their stage) of one rehearsal."""
  workdir, programs, stages = tmp_path_factory.mktemp("rehearsal"), [], []
  patch = pytest.MonkeyPatch()
  compile_rounds, stage = loop.compile_rounds, rehearsal.Stage
  patch.setattr(loop, "compile_rounds", lambda *given: programs.append(
      compile_rounds(*given)) or programs[-1])
  patch.setattr(rehearsal, "Stage", lambda *given: stages.append(stage(*given)) or stages[-1])
  assert rehearse.main([
      f"--config={TINY}:pretrain", f"--workdir={workdir}", PEOPLE,
      *(f"--{name}={value}" for name, value in SMALL.items())]) == 0
  patch.undo()
  return workdir, programs, stages[0]


@pytest.fixture(scope="module")
def record(played):
  return json.loads((played[0] / "rehearsal.json").read_text())


def test_nothing_is_compiled_for_a_candidate(played, record):
  _, programs, stage = played
  assert len({t["values"]["cohort.epochs"] for t in record["trials"]}) > 1
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
  assert record["trials"][0]["values"]["hparams.clip_norm"] == 1.0
  assert any("times the clip norm" in line for line in record["warnings"])
  winner = record["trials"][record["winner"]["candidate"]]
  assert {f"rehearsal.chose.{name}": value for name, value in winner["values"].items()}.items() <= (
      record["overrides"].items())


def test_the_noise_that_is_played_is_the_planned_one(played):
  algorithm = played[2]._player.algorithm
  assert algorithm.hparams["aggregate"]["noise_multiplier"] == pytest.approx(2.0 * (3 / 4) ** 0.5)


def test_private_pixels_do_not_matter_and_the_seed_decides(played, tmp_path):
  sources = experiment.load_sources(config())
  noise = np.random.default_rng(0).integers(0, 256, sources.train.images.shape, np.uint8)
  other = sources._replace(
      train=dataclasses.replace(sources.train, images=noise),
      evaluation=dataclasses.replace(sources.evaluation, images=255 - sources.evaluation.images))
  rehearsal.rehearse(config(), tmp_path, **SMALL, say=lambda line: None, sources=other)
  assert (tmp_path / "rehearsal.json").read_bytes() == (played[0] / "rehearsal.json").read_bytes()


def trained(workdir, overrides, *more):
  return train.main([f"--config={TINY}:pretrain", f"--workdir={workdir}", PEOPLE,
                     "--config.rounds=1", f"--overrides={overrides}", *more])


def test_a_run_with_the_overrides_says_what_was_chosen_on_whom(played, record, tmp_path, capfd):
  path = played[0] / "rehearsal.json"
  assert trained(tmp_path, path) == 0
  run = json.loads((tmp_path / "config.json").read_text())
  assert run["hparams"]["clip_norm"] == record["overrides"]["hparams.clip_norm"]
  said = (tmp_path / "PRIVACY.md").read_text()
  assert "clip norm" in said and (
      f"were chosen by rehearsal on 24 public people of {record['set']} only, 5 of whom judged, "
      "which costs nothing.") in said
  assert f"* {record['set']}" in said.partition("## Data treated as public")[2]
  assert trained(tmp_path, path) == 0  # finished: nothing to do
  capfd.readouterr()
  assert trained(tmp_path / "other", path, "--config.hparams.clip_norm=3") == 2
  assert "leave one out" in capfd.readouterr().err


def test_a_set_that_trains_or_evaluates_is_not_public_because_a_rehearsal_says_so(played, record):
  sources = experiment.load_sources(config())
  said = ml_collections.ConfigDict({"set": sources.train.name, "people": 24, "judges": 5,
                                    "chose": {"hparams": {"clip_norm": 1.0}}})
  with pytest.raises(ValueError, match="which trains in this run and so is not public"):
    experiment._enter_rehearsal(Ledger(), said, sources)
  said.set = sources.public.name
  experiment._enter_rehearsal(Ledger(), said, sources)


@pytest.mark.parametrize("change, message", [
    ({"hparams.clip_norm": 3.0}, "config.hparams.clip_norm=3.0, but rehearsal.chose says"),
    ({"rehearsal.people": 25}, "but data.public holds 24 of them"),
])
def test_a_mismatch_is_refused(played, record, tmp_path, capfd, change, message):
  path = tmp_path / "changed.json"
  path.write_text(json.dumps({"overrides": record["overrides"] | change}))
  assert trained(tmp_path / "run", path) == 2
  assert message in capfd.readouterr().err
  assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("arguments, message", [
    ([f"--config={TINY}:resident", "--workdir=w"], "a rehearsal needs data.public"),
    ([f"--config={TINY}:pretrain", "--workdir=w"], "has 5 people; a rehearsal needs at least 20"),
    ([f"--config={TINY}:pretrain"], "--workdir is required"),
    ([f"--config={TINY}:pretrain", "--workdir=w", "--minutes=0"], "minutes=0.0: expected above 0"),
])
def test_mistakes_are_one_line(arguments, message, tmp_path, capfd):
  arguments = [a.replace("--workdir=w", f"--workdir={tmp_path}/w") for a in arguments]
  assert rehearse.main(arguments) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not (tmp_path / "w").exists()
