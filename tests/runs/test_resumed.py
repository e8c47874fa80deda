"""A run goes on, begins again with the same noise, or is refused; nothing else happens."""

import csv
import json
import os
import shutil
import signal
import threading

import jax
import pytest

from fedjax_face.runs import (
  checkpoint,
  derived,
  disk,
  interrupts,
  loop,
  machine,
  records,
  resumed,
  streams,
)
from tests.runs.interruption import Killed, interrupt
from tests.runs.test_engine import (  # noqa: F401
  SECRET,
  Made,
  options,
  outcome_of,
  run,
  statement_of,
  toy_experiment,
)

EVERY = {"rounds_per_dispatch": 3, "checkpoint_every": 4}


def allowing(name, **more):
  return options(**SECRET, training=EVERY | {name: True}, **more)


def killed(folder, monkeypatch, call=5, given=None):
  """A run that died before the rows of its dispatch `call - 1` were written."""
  with monkeypatch.context() as patch:
    interrupt(patch, records.CsvFile, "write_rows", call, True)
    with pytest.raises(Killed):
      run(given or options(**SECRET), folder)


def noise_of(folder):
  return [(folder / "secrets" / name).read_text() for name in ("noise", "participation")]


def lose(folder, how):
  if how == "removed":
    shutil.rmtree(folder / "checkpoints")
  elif how == "emptied":
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
  else:
    for path in folder.glob("checkpoints/*/meta.json"):
      path.write_text("{}")


@pytest.mark.parametrize("how", ["removed", "emptied", "damaged"])
def test_lost_checkpoints_are_refused_and_begin_again_with_the_same_noise(
    tmp_path, monkeypatch, how):
  whole, folder = tmp_path / "whole", tmp_path / "w"
  killed(folder, monkeypatch)
  shutil.copytree(folder, whole)
  run(options(**SECRET), whole)
  lose(folder, how)
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  with pytest.raises(ValueError, match="--restart_same_noise") as error:
    run(options(**SECRET), folder)
  assert "\n" not in str(error.value) and "checkpoint" in str(error.value)
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
  root = noise_of(folder)
  seen = []
  monkeypatch.setattr(loop, "train", lambda *given, train=loop.train, **more: (
      seen.append(more["noise_root"].hex() + "\n"), train(*given, **more))[1])
  run(allowing("restart_same_noise"), folder)
  assert seen == [root[0]]
  assert outcome_of(folder)[:5] == outcome_of(whole)[:5]
  assert len(list(folder.glob("checkpoints.lost-*"))) == (how == "damaged")


@pytest.mark.parametrize("gone", ["secrets", "config.json", "inputs.json", "resolved.json"])
def test_without_what_proves_the_same_noise_no_run_begins_again(tmp_path, monkeypatch, gone):
  killed(tmp_path, monkeypatch)
  lose(tmp_path, "removed")
  path = tmp_path / gone
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.raises(ValueError, match="cannot begin again with the same noise: .* gone"):
    run(allowing("restart_same_noise"), tmp_path)
  assert not (tmp_path / "checkpoints").exists()


def test_a_run_begins_again_neither_elsewhere_nor_with_other_noise(
    tmp_path, monkeypatch, toy_experiment):  # noqa: F811
  killed(tmp_path, monkeypatch)
  lose(tmp_path, "removed")
  with monkeypatch.context() as patch:
    patch.setattr(machine, "of", lambda *given: {"jax": "another"})
    with pytest.raises(ValueError, match="another platform"):
      run(allowing("restart_same_noise"), tmp_path)
  said = json.loads((tmp_path / "resolved.json").read_text())
  (tmp_path / "resolved.json").write_text(json.dumps(said | {"releases": "other"}))
  with pytest.raises(ValueError, match="calibrated otherwise"):
    run(allowing("restart_same_noise"), tmp_path)


def test_a_finished_run_without_its_checkpoints_is_not_run_again(tmp_path):
  run(options(**SECRET), tmp_path)
  lose(tmp_path, "removed")
  for given in (options(**SECRET), allowing("restart_same_noise")):
    with pytest.raises(ValueError, match="had begun|the root of its noise is gone"):
      run(given, tmp_path)


def test_where_no_run_can_begin_again_no_message_offers_it(tmp_path):
  run(options(**SECRET), tmp_path)
  lose(tmp_path, "removed")
  with pytest.raises(ValueError, match="put them back, or choose another workdir$"):
    run(options(**SECRET), tmp_path)


def test_a_run_that_died_before_it_began_simply_begins(tmp_path, monkeypatch):
  for owner, name, before in ((checkpoint, "save", True), (resumed, "roots", False)):
    folder = tmp_path / name
    with monkeypatch.context() as patch:
      interrupt(patch, owner, name, 1, before)
      with pytest.raises(Killed):
        run(options(**SECRET), folder)
    assert not any((folder / trace).exists() for trace in ("config.json", "metrics.csv"))
    run(options(**SECRET), folder)


# Another platform.

def test_another_platform_is_refused_by_what_differs_or_stated(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch)
  here = machine.of
  monkeypatch.setattr(machine, "of",
                      lambda *given: here(*given) | {"devices": "8 x H200 (gpu)"})
  before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
  with pytest.raises(ValueError, match="devices '1 x cpu .cpu.' before, '8 x H200 .gpu.' now.*"
                     "--allow_other_platform"):
    run(options(**SECRET), tmp_path)
  assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
  _, privacy = run(allowing("allow_other_platform"), tmp_path)
  said = [line for line in privacy["not_covered"] if "another platform" in line]
  assert len(said) == 1 and said[0].startswith("After round 4 ") and "8 x H200" in said[0]
  assert said[0] in (tmp_path / "PRIVACY.md").read_text()


def test_rounds_that_are_added_to_a_finished_run_may_be_run_anywhere(tmp_path, monkeypatch):
  run(options(**SECRET, rounds=4), tmp_path)
  monkeypatch.setattr(machine, "of", lambda *given: {"jax": "another"})
  _, privacy = run(options(**SECRET), tmp_path)
  assert not [line for line in privacy["not_covered"] if "another platform" in line]


def test_what_a_number_depends_on_is_recorded(monkeypatch):
  mesh = jax.sharding.Mesh(jax.devices()[:1], ("clients",))
  here = machine.of(mesh)
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4 --xla_other=1")
  assert machine.of(mesh)["XLA_FLAGS"] == "--xla_other=1"
  with jax.default_matmul_precision("bfloat16"):
    other = machine.of(mesh)
  assert other["matmul precision"] == "bfloat16" != here["matmul precision"]
  assert {"devices", "jax", "jaxlib", "instructions", "generator"} < set(here)


@pytest.mark.parametrize("setting", [{"jax_threefry_partitionable": False},
                                     {"jax_default_prng_impl": "rbg"}])
def test_the_generator_is_the_runs_own_whatever_the_environment_says(tmp_path, setting):
  plain, other = tmp_path / "plain", tmp_path / "other"
  run(options(), plain)
  before = {name: getattr(jax.config, name) for name in setting}
  try:
    jax.config.update(*next(iter(setting.items())))
    run(options(), other)
    assert {name: getattr(jax.config, name) for name in setting} == setting
  finally:
    jax.config.update(*next(iter(before.items())))
  assert outcome_of(plain)[:5] == outcome_of(other)[:5]


def test_between_the_steps_of_an_iterator_the_caller_has_a_generator_of_its_own():
  inner, closed = [], []

  def steps():
    try:
      for _ in range(3):
        inner.append(jax.config.jax_default_prng_impl)
        yield
    finally:
      closed.append(True)

  with jax.default_prng_impl("rbg"):
    iterator = streams.in_pinned(steps())
    for _ in range(2):
      next(iterator)
      assert jax.random.key_impl(jax.random.key(0)) == "rbg"
    iterator.close()
  assert inner == [streams.DEVICE_GENERATOR] * 2 and closed


# What a run says is what it released.

def edited(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_a_finished_run_says_what_its_checkpoint_holds_whatever_is_in_its_files(tmp_path, capsys):
  first = run(options(**SECRET), tmp_path)
  texts = {name: (tmp_path / name).read_text()
           for name in ("privacy.json", "PRIVACY.md", "summary.json")}
  best = str(first[1]["units"][0]["epsilon"]["best"])
  edited(tmp_path / "privacy.json", best, "0.5")
  (tmp_path / "PRIVACY.md").unlink()
  edited(tmp_path / "summary.json", '"finished"', '"never"')
  again = run(options(**SECRET), tmp_path)
  assert json.dumps(again) == json.dumps([json.loads(texts["summary.json"]),
                                          json.loads(texts["privacy.json"])])
  assert {name: (tmp_path / name).read_text() for name in texts} == texts
  assert capsys.readouterr().err.count("written anew from its last checkpoint") == 3


def test_a_finished_run_whose_config_is_gone_has_it_again_from_the_call(tmp_path, capsys):
  first = run(options(**SECRET), tmp_path)
  path = tmp_path / "config.json"
  text = path.read_text()
  path.unlink()
  assert json.dumps(run(options(**SECRET), tmp_path)) == json.dumps(first)
  assert path.read_text() == text
  assert "config.json is missing: written anew" in capsys.readouterr().err
  path.write_text("")
  with pytest.raises(ValueError, match="not a readable JSON file.*put it back, or remove it"):
    run(options(**SECRET), tmp_path)


def test_a_finished_checkpoint_under_another_name_is_named_with_its_own(tmp_path):
  run(options(**SECRET), tmp_path)
  place = tmp_path / "checkpoints" / "00000010"
  place.rename(place.with_name("00000050"))
  with pytest.raises(ValueError, match="00000050: it is of round 10; give it that name back"):
    run(options(**SECRET), tmp_path)
  assert derived.newest(tmp_path) is None


def test_an_edited_record_in_a_checkpoint_is_made_anew_from_its_ledger(tmp_path):
  _, first = run(options(**SECRET), tmp_path)
  place = tmp_path / "checkpoints" / "00000010" / derived.DERIVED
  edited(place, str(first["units"][0]["epsilon"]["best"]), "0.5")
  _, again = run(options(**SECRET), tmp_path)
  assert again["units"] == first["units"]


def test_a_statement_comes_after_every_release_that_it_must_count(tmp_path, monkeypatch):
  """Whenever the process dies, rows on disk are at most what the statement counts."""
  seen = []
  write = records.CsvFile.write_rows

  def looking(self, rows):
    write(self, rows)
    said = json.loads((tmp_path / "privacy.json").read_text())
    seen.append((rows[-1][0], said["ledger"]["entries"][0]["times"]))

  monkeypatch.setattr(records.CsvFile, "write_rows", looking)
  run(options(**SECRET), tmp_path)
  assert [done for done, _ in seen] == [0, 3, 4, 6, 8, 9, 10]
  assert all(done <= counted for done, counted in seen)


# Nothing is written before everything is checked.

def test_what_is_refused_leaves_no_folder(tmp_path, monkeypatch, toy_experiment):  # noqa: F811
  def refused(given, folder, words):
    with pytest.raises(ValueError, match=words):
      run(given, folder)
    assert not folder.exists()
    run(options(), folder)

  wandb = options(training=EVERY | {"wandb": "faces"})
  monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
  refused(wandb, tmp_path / "a", "needs the package wandb")
  with monkeypatch.context() as patch:
    def broken(self, state):
      raise ValueError("no pairs")
    patch.setattr("tests.runs.test_engine.ToyEvaluator.values", broken)
    with pytest.raises(ValueError, match="no pairs"):
      run(options(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


# Signals.

@pytest.mark.parametrize("number, kind", [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_a_run_with_a_checkpoint_and_what_it_has_released(
    tmp_path, monkeypatch, number, kind):
  whole, folder = tmp_path / "whole", tmp_path / "w"
  run(options(), whole)
  with monkeypatch.context() as patch:
    write = records.CsvFile.write_rows

    def signalled(self, rows):
      if rows[-1][0] == 3:
        os.kill(os.getpid(), number)
      write(self, rows)

    patch.setattr(records.CsvFile, "write_rows", signalled)
    with pytest.raises(kind):
      run(options(), folder)
  said = json.loads((folder / "privacy.json").read_text())
  done = max(int(path.name) for path in (folder / "checkpoints").iterdir())
  with open(folder / "metrics.csv", newline="") as file:
    assert [int(row["round"]) for row in csv.DictReader(file)][-1] == done < 10
  assert said["run"]["status"] == "interrupted"
  assert [entry["times"] for entry in said["ledger"]["entries"]] == [done]
  assert (f"stopped before its end.** What follows is what it released until then: {done} rounds."
          in (folder / "PRIVACY.md").read_text())
  run(options(), folder)
  assert outcome_of(folder)[:5] == outcome_of(whole)[:5]


def test_two_threads_cannot_run_in_one_folder(tmp_path, monkeypatch):
  refused, begun, over = [], threading.Event(), threading.Event()
  build = Made.build

  def slow(*given):
    begun.set()
    assert over.wait(60)
    return build(*given)

  monkeypatch.setattr(Made, "build", slow)
  first = threading.Thread(target=lambda: run(options(), tmp_path / "w"))
  first.start()
  assert begun.wait(60)
  try:
    run(options(), tmp_path / "w")
  except ValueError as error:
    refused.append(str(error))
  over.set()
  first.join()
  assert len(refused) == 1 and "in use by process" in refused[0]
  assert (tmp_path / "w" / "summary.json").exists()


# What the processes before may have released is never less than what is said.

def signalled_at(monkeypatch, done):
  """A signal comes while the rows that end with this round are written."""
  write = records.CsvFile.write_rows

  def signalled(self, rows):
    if rows[-1][0] == done:
      os.kill(os.getpid(), signal.SIGINT)
    write(self, rows)

  monkeypatch.setattr(records.CsvFile, "write_rows", signalled)


def test_a_statement_never_takes_back_rounds_that_may_have_run(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch, call=6)  # rows to 8 are there, the checkpoint of 8 too
  with monkeypatch.context() as patch:
    interrupt(patch, records.CsvFile, "write_rows", 2, True)  # rows to 9
    with pytest.raises(Killed):
      run(options(**SECRET), tmp_path)
  lose_last = sorted(path for path in (tmp_path / "checkpoints").iterdir())[-1]
  shutil.rmtree(lose_last)  # goes on from 4: rounds to 10 may have run
  with monkeypatch.context() as patch:
    signalled_at(patch, 6)
    with pytest.raises(KeyboardInterrupt):
      run(options(**SECRET), tmp_path)
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert said["run"]["status"] == "interrupted"
  assert [entry["times"] for entry in said["ledger"]["entries"]] == [10]
  _, privacy = run(options(**SECRET), tmp_path)
  assert [entry["times"] for entry in privacy["ledger"]["entries"]] == [10]


def test_a_checkpoint_that_comes_sooner_does_not_shrink_the_statement(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch, call=3, given=options(
      **SECRET, training=EVERY | {"checkpoint_every": 25}))
  given = options(**SECRET, training=EVERY | {"checkpoint_every": 3})
  killed(tmp_path, monkeypatch, call=2, given=given)
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert said["run"]["counted"] == 10


def test_without_the_mark_of_what_ran_all_rounds_to_the_next_checkpoint_count(
    tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch)
  before = json.loads((tmp_path / "privacy.json").read_text())["run"]["counted"]
  (tmp_path / "resolved.json").write_text("")
  with pytest.raises(ValueError, match="resolved.json is not.*put it back, or remove it"):
    run(options(**SECRET), tmp_path)
  (tmp_path / "resolved.json").unlink()
  with monkeypatch.context() as patch:
    signalled_at(patch, 6)
    with pytest.raises(KeyboardInterrupt):
      run(options(**SECRET), tmp_path)
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert said["run"]["counted"] == before
  assert [entry["times"] for entry in said["ledger"]["entries"]] == [before]


def test_what_a_resumed_run_must_say_is_kept_before_it_goes_on(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch)
  here = machine.of
  with monkeypatch.context() as patch:
    patch.setattr(machine, "of", lambda *given: here(*given) | {"jax": "another"})
    killed(tmp_path, patch, call=2, given=allowing("allow_other_platform"))
  with pytest.raises(ValueError, match="another platform"):  # and back again
    run(options(**SECRET), tmp_path)
  _, privacy = run(allowing("allow_other_platform"), tmp_path)
  assert len([line for line in privacy["not_covered"] if "another platform" in line]) == 2


def test_a_run_begins_again_only_on_the_roots_and_platform_of_all_its_rounds(
    tmp_path, monkeypatch):
  grown, moved = tmp_path / "grown", tmp_path / "moved"
  run(options(**SECRET, rounds=4), grown)
  killed(grown, monkeypatch, call=3)
  lose(grown, "removed")
  with pytest.raises(ValueError, match="the root of the noise of its first rounds was deleted"):
    run(allowing("restart_same_noise"), grown)
  killed(moved, monkeypatch)
  here = machine.of
  with monkeypatch.context() as patch:
    patch.setattr(machine, "of", lambda *given: here(*given) | {"jax": "another"})
    killed(moved, patch, call=2, given=allowing("allow_other_platform"))
    lose(moved, "removed")
    with pytest.raises(ValueError, match="another platform"):
      run(allowing("restart_same_noise"), moved)


def test_other_images_are_refused_as_soon_as_a_run_has_begun(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch, call=2)  # the checkpoint of round 0 alone
  (tmp_path / "inputs.json").unlink()
  with pytest.raises(ValueError, match="inputs.json is gone"):
    run(options(**SECRET), tmp_path)


def test_without_its_key_no_data_are_taken_for_those_of_the_run(tmp_path, monkeypatch):
  killed(tmp_path, monkeypatch)
  (tmp_path / "training_set.key").write_text("")
  with pytest.raises(ValueError, match="training_set.key is damaged.*or choose another workdir"):
    run(options(**SECRET), tmp_path)
  (tmp_path / "training_set.key").unlink()
  with pytest.raises(ValueError, match="training_set.key is gone"):
    run(options(**SECRET), tmp_path)
  assert not (tmp_path / "training_set.key").exists()


@pytest.mark.parametrize("name", ["00000004", "resolved.json", "config.json"])
def test_a_growth_that_was_killed_leaves_the_finished_run_as_it_was(tmp_path, monkeypatch, name):
  """Killed when the first of these names is renamed or written anew; then both commands."""
  first = run(options(**SECRET, rounds=4), tmp_path)
  with monkeypatch.context() as patch:
    seen = []

    def strikes(change, path):
      if change == "rename" and path.name == name and not seen:
        seen.append(path)
        raise Killed

    patch.setattr(disk, "watched", strikes)
    with pytest.raises(Killed):
      run(options(**SECRET), tmp_path)
  if json.loads((tmp_path / "config.json").read_text())["rounds"] == 4:
    again = run(options(**SECRET, rounds=4), tmp_path)
    assert json.dumps(again[1]["units"]) == json.dumps(first[1]["units"])
  _, privacy = run(options(**SECRET), tmp_path)
  assert [entry["times"] for entry in privacy["ledger"]["entries"]] == [10]


def test_a_run_that_fails_before_it_ran_anything_leaves_its_folder_to_others(
    tmp_path, monkeypatch):
  def failing(*given, **more):
    raise RuntimeError("out of memory")
    yield

  with monkeypatch.context() as patch:
    patch.setattr(loop, "train", failing)
    with pytest.raises(RuntimeError):
      run(options(**SECRET), tmp_path / "w")
  assert not (tmp_path / "w").exists()
  run(options(**SECRET, seed=3), tmp_path / "w")


def test_a_signal_in_the_last_dispatch_is_not_swallowed(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    signalled_at(patch, 10)
    with pytest.raises(KeyboardInterrupt):
      run(options(**SECRET), tmp_path)
  assert json.loads((tmp_path / "summary.json").read_text())["status"] == "finished"
  run(options(**SECRET), tmp_path)


def test_no_stream_ends_a_run(tmp_path, monkeypatch):
  class Full:
    def write(self, text):
      raise OSError(28, "No space left on device")

    def flush(self):
      pass

    def isatty(self):
      return False

  killed(tmp_path, monkeypatch)
  monkeypatch.setattr("sys.stderr", Full())
  run(options(**SECRET), tmp_path)


def test_the_signals_wait_no_longer_when_a_run_has_failed():
  with pytest.raises(ZeroDivisionError), interrupts.watched() as stop:
    stop.waits = True
    raise ZeroDivisionError
  assert not stop.waits
