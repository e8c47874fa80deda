"""What trains before a run: resumed like a run, made once for all that ask for the same."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.runs import (
  checkpoint,
  config,
  experiment,
  fit,
  kept_starts,
  loop,
  records,
  stage,
)
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.mesh import clients_mesh
from tests.experiments import tiny_call
from tests.runs.interruption import Killed, interrupt
from tests.runs.toys import IMAGES, toy_algorithm

LONG = {"rounds": 5, "checkpoint_every": 2}
PUBLIC = FaceDataset("toys", IMAGES, *2 * [np.arange(12, dtype=np.int32) // 2])
INVERTED = dataclasses.replace(PUBLIC, images=255 - IMAGES)


@pytest.fixture(autouse=True)
def nothing_in_memory():
  kept_starts.forget()


def asked(**values):
  return Asked.of_config(changed(tiny_call.get_config("pretrain"), values))


@functools.cache
def sources():
  return asked().sources()


def bits(params):
  return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))


def toy_stage(rounds=2, seed=0, checkpoint_every=25, method="a", **toy):
  """Of an algorithm that compiles at once."""
  algorithm = dataclasses.replace(toy_algorithm(**toy), start=lambda state: state.weights)
  return stage.Stage(algorithm, rounds, seed, f"{method} {rounds} {seed}", ConfigDict(
      {"rounds_per_dispatch": 2, "checkpoint_every": checkpoint_every, "resident": "true"}))


class Runs:
  """Runs of one comparison: what they start from, and what they said."""

  def __init__(self, folder):
    self.folder, self.stages = folder, folder / "public_stages"

  def backbone(self, name, shared=True, public=PUBLIC, **changes):
    """As another process would find it."""
    kept_starts.forget()
    self.said = []
    return bits(stage.carried_out(
        toy_stage(**changes), public, clients_mesh(jax.devices()[:1]), self.folder / name,
        self.said.append, self.stages if shared else None))

  @property
  def trained(self):
    return any(line.startswith("pre-training on") for line in self.said)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  runs = Runs(tmp_path_factory.mktemp("runs"))
  first = runs.backbone("first")
  assert runs.trained
  return runs, first


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """Parameters and metrics.csv of a start that nothing stopped."""
  runs = Runs(tmp_path_factory.mktemp("whole"))
  return runs.backbone("run", False, **LONG), metrics(runs.folder / "run")


def metrics(workdir):
  return (workdir / "start/metrics.csv").read_bytes()


@pytest.mark.parametrize("owner, name, call, before, resumes", [
    (stage, "_begin", 1, False, None),
    (records.CsvFile, "write_rows", 1, False, None),
    (checkpoint, "save", 1, True, None),
    (checkpoint, "save", 1, False, 2),
    (records.CsvFile, "write_rows", 2, False, 2),
    (checkpoint, "save", 2, False, 4),
    (checkpoint, "save", 3, True, 4),
    (checkpoint, "save", 3, False, 5),
])
def test_a_start_that_was_killed_goes_on_bit_for_bit(
    tmp_path, monkeypatch, uninterrupted, owner, name, call, before, resumes):
  runs = Runs(tmp_path)
  with monkeypatch.context() as patched:
    interrupt(patched, owner, name, call, before)
    with pytest.raises(Killed):
      runs.backbone("run", False, **LONG)
  assert runs.backbone("run", False, **LONG) == uninterrupted[0]
  assert metrics(tmp_path / "run") == uninterrupted[1]
  line = f"resuming after round {resumes} of 5" if resumes else ": 5 rounds"
  assert (not runs.said) if resumes == 5 else runs.said[-1].endswith(line)
  assert [path.name for path in (tmp_path / "run/start/checkpoints").iterdir()] == ["00000005"]


def test_a_call_that_is_killed_in_pretraining_has_shown_it_and_leaves_the_start_alone(
    tmp_path, monkeypatch, capsys):
  one = asked(**{"start.rounds": 3, "compute.checkpoint_every": 2})
  with monkeypatch.context() as patched:
    interrupt(patched, checkpoint, "save", 1, before=False)
    with pytest.raises(Killed):
      fit.carried_out(one, tmp_path / "run", print, sources=sources())
  shown = capsys.readouterr()
  assert "pre-training on" in shown.out and "public start: round 2/3" in shown.err
  assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lock", "start"]
  assert all(path.stat().st_mode & 0o077 == 0 for path in (
      tmp_path / "run", tmp_path / "run/start"))
  said = json.loads((tmp_path / "run/start/start.json").read_text())
  assert said["public"] == sources().public.name and said["rounds"] == 3
  assert said["method"]["name"] == "centralized"


def test_every_round_has_its_row(uninterrupted):
  header, *rows = uninterrupted[1].decode().splitlines()
  assert "loss" in header and [row.split(",")[0] for row in rows] == ["1", "2", "3", "4", "5"]


def test_runs_that_pretrain_alike_share_it(played):
  runs, first = played
  assert runs.backbone("second") == first and not runs.trained
  assert (runs.folder / "second/start/checkpoints/00000002").is_dir()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"rounds": 3}, {"method": "b"}], ids=str)
def test_another_pretraining_is_another_one(played, changes):
  runs, first = played
  before = set(runs.stages.iterdir())
  assert runs.backbone(f"other {changes}", **changes) and runs.trained
  assert before < set(runs.stages.iterdir())
  shutil.rmtree(runs.folder / "first")
  assert runs.backbone("first") == first and not runs.trained


def test_other_public_images_under_the_same_config_are_another_one(played):
  runs, first = played
  assert runs.backbone("inverted", public=INVERTED) != first
  assert runs.trained


def test_another_start_is_replaced_as_long_as_no_run_has_begun_from_it(tmp_path):
  runs = Runs(tmp_path)
  first = runs.backbone("one", shared=False)
  assert runs.backbone("one", shared=False, public=INVERTED) != first
  assert "from which no run has begun: it is replaced" in runs.said[0] and runs.trained
  for begun in (tmp_path / "one/config.json", tmp_path / "one/checkpoints/00000000"):
    begun.mkdir(parents=True)
    for changes in ({}, {"seed": 2}, {"rounds": 3}):
      with pytest.raises(ValueError, match="not what this run starts from"):
        runs.backbone("one", shared=False, **changes)
    begun.rmdir()
  assert runs.backbone("one", shared=False) == first


def test_a_run_keeps_its_own_copy(played):
  runs, first = played
  shutil.copytree(runs.folder / "first", runs.folder / "moved")
  assert runs.backbone("moved", shared=False) == first and not runs.trained


@pytest.mark.parametrize("damaged", ["start.json", "checkpoints/00000002/meta.json"])
def test_a_damaged_start_of_a_run_is_made_anew(tmp_path, damaged):
  runs = Runs(tmp_path)
  first = runs.backbone("run", shared=False)
  (tmp_path / "run/config.json").mkdir()
  (tmp_path / "run/start" / damaged).write_text("{")
  assert runs.backbone("run", shared=False) == first and runs.trained
  assert runs.said[0].endswith("pre-training is made anew")
  assert runs.backbone("run", shared=False) == first and not runs.said


def test_a_damaged_shared_start_is_passed_over_and_replaced(tmp_path):
  runs = Runs(tmp_path)
  first = runs.backbone("first")
  (kept,) = runs.stages.iterdir()
  (kept / "00000002/meta.json").write_text("{")
  assert runs.backbone("first") == first and not runs.said
  assert runs.backbone("second") == first and runs.trained
  assert runs.said[0].startswith("passed over, to be made anew: no readable checkpoint")
  assert [path.name for path in runs.stages.iterdir()] == [kept.name]
  assert runs.backbone("third") == first and not runs.said


def done(round_number=1, digest="digest"):
  return checkpoint.Checkpoint(round_number, {"x": np.ones(2, np.float32)}, {}, digest, "")


def test_who_comes_second_leaves_the_start_of_the_first(tmp_path):
  said = []
  kept_starts.put(tmp_path, done(1), said.append)
  kept_starts.put(tmp_path, done(2), said.append)
  assert not said and [path.name for path in tmp_path.iterdir()] == ["digest"]
  assert kept_starts.find(tmp_path, "digest", done().state, said.append).round == 1
  kept_starts.put(tmp_path, done(2), said.append, instead=True)
  assert not said and [path.name for path in tmp_path.iterdir()] == ["digest"]
  assert kept_starts.find(tmp_path, "digest", done().state, said.append).round == 2


def test_who_is_faster_between_the_look_and_the_move_stays_too(tmp_path, monkeypatch):
  said, rename = [], kept_starts.disk.rename

  def late(old, new):
    monkeypatch.setattr(kept_starts.disk, "rename", rename)
    kept_starts.put(tmp_path, done(2), said.append)
    rename(old, new)

  monkeypatch.setattr(kept_starts.disk, "rename", late)
  kept_starts.put(tmp_path, done(1), said.append)
  assert not said and [path.name for path in tmp_path.iterdir()] == ["digest"]
  assert kept_starts.find(tmp_path, "digest", done().state, said.append).round == 2


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
  (tmp_path / "file").write_text("")
  said = []
  kept_starts.put(tmp_path / "file", done(), said.append)
  assert said[0].startswith("start not kept for other runs: ")


def started(**changes):
  """Lines of a call without a folder, and its backbone."""
  said = []
  return said, bits(asked(**changes).experiment(None, said.append, sources=sources()).backbone)


def was_trained(said):
  return any(line.startswith("pre-training on") for line in said)


def test_a_process_pretrains_once_for_all_calls_alike(tmp_path):
  said, first = started()
  assert was_trained(said)
  said, again = started(rounds=2)
  assert again == first and not was_trained(said)
  said, other = started(seed=1)
  assert other != first and was_trained(said)


def test_memory_keeps_a_few_of_the_newest():
  for number in range(9):
    kept_starts.remember("method", done(digest=str(number)))
  kept = [number for number in range(9) if kept_starts.remembered(str(number), "method")]
  assert kept == [5, 6, 7, 8]
  large = done(digest="large")._replace(state={"x": np.broadcast_to(np.float32(0), (1 << 29,))})
  kept_starts.remember("method", large)
  assert kept_starts.remembered("large", "method") is None


def test_memory_knows_a_module_that_was_made_by_hand_by_more_than_its_repr():
  kept_starts.remember("as it was", done())
  assert kept_starts.remembered("digest", "as it is now") is None
  assert kept_starts.remembered("digest", "as it was") is not None


def test_a_folder_of_starts_is_found_by_other_processes_and_is_no_part_of_a_run(tmp_path):
  place = {"compute.starts": str(tmp_path / "starts")}
  said, first = started(**place)
  assert was_trained(said)
  kept_starts.forget()
  said, again = started(**place, rounds=2)
  assert again == first and not was_trained(said)
  assert len(list((tmp_path / "starts").iterdir())) == 1
  assert config.digest(asked(**place).record) == config.digest(asked().record)


def test_what_was_in_memory_reaches_the_folders_of_later_calls(tmp_path):
  mesh = clients_mesh(jax.devices()[:1])
  make = lambda said, shared=None: bits(stage.carried_out(
      toy_stage(), PUBLIC, mesh, None, said.append, shared))
  first, said = make([]), []
  assert make(said, tmp_path) == first and not said
  kept_starts.forget()
  assert make(said, tmp_path) == first and not said


def test_a_parameter_that_is_not_finite_is_said_to_be_of_the_start(tmp_path):
  with pytest.raises(ValueError, match=(
      r"^start: pre-training on toys made a parameter NaN or infinite in rounds 3-4; lower "
      r"start\.method\.learning_rate \(0\.5\)$")):
    Runs(tmp_path).backbone("run", False, rounds=6, blow_up_at=3)


@pytest.mark.parametrize("changes, message", [
    ({"method.clients.per_round": 5000}, "per_round .* = 10000 users a round"),
    ({"privacy.unit": "image"}, "privacy.unit='image'"),
    ({"method.aggregate.noise_multiplier": None, "privacy.epsilon": 1e-9,
      "privacy.delta": 1e-12, "privacy.noise_seed": None}, "privacy.epsilon=1e-09 cannot be"),
])
def test_a_method_that_does_not_fit_is_refused_before_anything_trains(
    tmp_path, monkeypatch, changes, message):
  monkeypatch.setattr(loop, "train", lambda *args, **kwargs: pytest.fail("it trains"))
  for workdir in (None, tmp_path / "run"):
    with pytest.raises(ValueError, match=message):
      asked(**changes).experiment(workdir, sources=sources())
  assert not (tmp_path / "run").exists()


def test_noise_is_calibrated_once_and_said_once(monkeypatch):
  from fedjax_face.privacy import accounting, calibration
  calibration._epsilon.cache_clear()
  monkeypatch.setattr(experiment, "_SECONDS_BETWEEN_LINES", -1.0)
  evaluated, said, own = [], [], accounting.smallest_finite
  monkeypatch.setattr(accounting, "smallest_finite", lambda event, *rest: (
      evaluated.append(event), own(event, *rest))[1])
  changes = {"method.aggregate.noise_multiplier": None, "privacy.epsilon": 5.0,
             "privacy.noise_seed": None}
  asked(**changes).experiment(None, said.append, sources=sources())
  lines = [line for line in said if line.startswith("calibrating")]
  assert len(lines) == len(set(lines)) == len(evaluated) > 2
  assert said.index(lines[-1]) < next(
      i for i, line in enumerate(said) if line.startswith("pre-training"))
