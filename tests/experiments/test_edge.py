"""Server and device programs: a whole run, killed and continued, files, one line for mistakes."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import time
import types

import jax
import numpy as np
import pytest

from experiments import device, edge_server
from fedjax_face.edge.client import EdgeClient
from fedjax_face.edge.device import device_part
from fedjax_face.edge.halves import DeviceData, server_part
from fedjax_face.edge.recording import read_transcript
from fedjax_face.privacy import statement
from fedjax_face.runs import checkpoint, edge, edge_device, lock
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.edge_folder import Statement
from fedjax_face.runs.edge_journal import Journal
from fedjax_face.runs.edge_server_files import ServerFiles
from tests.edge.tiny import accounted_once, data, make_parts
from tests.edge.toys import Call, wait_until

NOISE_ROOT = bytes(range(32))
CONFIG = [f"--config={pathlib.Path(__file__).parent}/edge_call.py", "--compilation_cache=off"]


@pytest.fixture
def parts(monkeypatch):
  """What every config is built into; its `parts` may be changed."""
  held = types.SimpleNamespace(parts=make_parts())

  def build(asked, device=None):
    assert isinstance(asked, Asked)
    return held.parts

  monkeypatch.setattr(edge, "build", build)
  monkeypatch.setattr(statement, "privacy_json", accounted_once)
  return held


@pytest.fixture
def port():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


def serve(folder, port, *more):
  return Call(edge_server.main, [*CONFIG, f"--workdir={folder}/server",
                                 f"--address=127.0.0.1:{port}", "--step_seconds=200", *more])


def take_part(folder, port, number, *more):
  return Call(device.main, [*CONFIG, f"--workdir={folder}/device_{number}", f"--device={number}",
                            f"--address=127.0.0.1:{port}", "--patience=200", *more])


def end_state(folder, template):
  return checkpoint.restore(folder / "checkpoints", template, pytest.fail)


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def whole_run(folder, port, *more):
  calls = [serve(folder, port, *more), *(take_part(folder, port, number) for number in (0, 1))]
  assert [call.result() for call in calls] == [0, 0, 0]


def test_two_devices_and_what_they_leave(parts, port, tmp_path, capsys):
  tokens = tmp_path / "tokens"
  server = serve(tmp_path, port, f"--tokens={tokens}", f"--transcript={tmp_path}/transcript")
  wait_until((tmp_path / "server/tokens.json").exists)
  devices = [take_part(tmp_path, port, number, f"--token_file={tokens}/{number}")
             for number in (0, 1)]
  assert [call.result() for call in (server, *devices)] == [0, 0, 0]
  said = capsys.readouterr().out
  assert f"listening on 127.0.0.1:{port}, step 0 of 4, devices: 2" in said
  assert "done: 4 steps" in said and "step 4 of 4, loss" in said
  server = tmp_path / "server"
  rows = (server / "metrics.csv").read_text().splitlines()
  assert rows[0] == "round,loss,train_accuracy" and [row[0] for row in rows[1:]] == list("1234")
  end = end_state(server, server_part(parts.parts))
  assert end.round == 4
  privacy = json.loads((server / "privacy.json").read_text())
  assert {unit["unit"] for unit in privacy["units"]} == {"image", "person"}
  assert "a sentence" in (server / "PRIVACY.md").read_text()
  crossed = read_transcript(tmp_path / "transcript")
  assert [c.step for c in crossed.select("to_server", "activations")] == [0, 0, 1, 1, 2, 2, 3, 3]
  noise = tmp_path / "device_0/noise.json"
  assert (tmp_path / "device_0").stat().st_mode & 0o077 == noise.stat().st_mode & 0o077 == 0
  assert json.loads(noise.read_text())["device"] == 0
  assert not list(server.rglob("noise*"))
  known = json.loads((server / "devices.json").read_text())
  assert sorted(known) == ["0", "1"] and known["0"] != known["1"]
  assert edge.server_record(server).public == parts.parts.public_digest()
  call = json.loads((server / "config.json").read_text())
  assert call["method"]["name"] == "dp_activations" and call["rounds"] == 30
  assert call == json.loads((tmp_path / "device_0/config.json").read_text())
  own = (tmp_path / "device_1/PRIVACY.md").read_text()
  assert "Written by device 1 from its own" in own and "a sentence" in own
  assert json.loads((tmp_path / "device_1/privacy.json").read_text())["units"] == privacy["units"]
  assert f"by this device's own account: {tmp_path}/device_1/PRIVACY.md" in said
  assert edge_server.main([*CONFIG, f"--workdir={server}"]) == 0
  assert "is over after 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["frozen_cached", "trained_private"])
def test_a_server_that_died_goes_on_from_its_checkpoint(mode, parts, port, tmp_path, monkeypatch,
                                                        capfd):
  parts.parts = make_parts(mode)
  save, failing = checkpoint.save, []

  def full(folder, saved, *options, **more):
    if "server" in str(folder) and saved.round == 3 and not failing:
      failing.append(saved.round)
      raise OSError("no space")
    save(folder, saved, *options, **more)

  monkeypatch.setattr(checkpoint, "save", full)
  (tmp_path / "broken").mkdir()
  died = serve(tmp_path / "broken", port)
  devices = [take_part(tmp_path / "broken", port, number) for number in (0, 1)]
  assert died.result() == 2
  assert "error: no space" in capfd.readouterr().err
  again = serve(tmp_path / "broken", port)
  assert [call.result() for call in (again, *devices)] == [0, 0, 0]
  assert "step 2 of 4" in capfd.readouterr().out
  if mode == "frozen_cached":
    whole_run(tmp_path / "whole", port)
    ends = [end_state(tmp_path / name / "server", server_part(parts.parts))
            for name in ("broken", "whole")]
    assert_same(ends[0].state, ends[1].state)
    assert ((tmp_path / "broken/server/metrics.csv").read_bytes()
            == (tmp_path / "whole/server/metrics.csv").read_bytes())
  else:
    trained = end_state(tmp_path / "broken/device_0", device_part(parts.parts))
    assert trained.round == 4
    last = json.loads((tmp_path / "broken/device_1/noise.json").read_text())["last"]
    assert last["send"] == 3 and last["update"] >= 1


def test_other_public_parts_are_refused_by_the_server(parts, port, tmp_path, capfd):
  parts.parts = make_parts(devices=1)
  server = serve(tmp_path, port)
  wait_for_start(capfd)
  parts.parts = dataclasses.replace(parts.parts, clip_norm=1.5)
  assert take_part(tmp_path, port, 0).result() == 2
  assert "device 0 has other public parts" in capfd.readouterr().err
  parts.parts = make_parts(devices=1)
  shutil.rmtree(tmp_path / "device_0")
  assert take_part(tmp_path, port, 0).result() == server.result() == 0


def wait_for_start(capfd):
  deadline = time.monotonic() + 100
  while "listening" not in capfd.readouterr().out:
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_a_lost_noise_root_is_refused(parts, port, tmp_path, monkeypatch, capfd):
  parts.parts = dataclasses.replace(make_parts(devices=1), noise_seed=None)
  server = serve(tmp_path, port)

  def broken(*step):
    raise OSError("no screen")

  with monkeypatch.context() as patch:
    patch.setattr(edge_device.Lines, "show", broken)
    assert take_part(tmp_path, port, 0).result() == 2
  noise = tmp_path / "device_0/noise.json"
  kept = noise.read_text()
  noise.unlink()
  assert take_part(tmp_path, port, 0).result() == 2
  assert "noise.json is gone, and PRIVACY.md says" in capfd.readouterr().err
  (tmp_path / "device_0/PRIVACY.md").unlink()
  assert take_part(tmp_path, port, 0).result() == 2
  assert "device 0 has another noise root than when it first joined" in capfd.readouterr().err
  noise.write_text(kept)
  noise.chmod(0o644)
  assert take_part(tmp_path, port, 0).result() == 2
  assert "noise.json is open to others than its owner" in capfd.readouterr().err
  noise.chmod(0o600)
  assert take_part(tmp_path, port, 0).result() == server.result() == 0


def test_a_server_that_was_restarted_knows_the_noise_of_its_devices(tmp_path):
  run = ServerFiles(tmp_path, make_parts(), "digest")
  assert run.first_noise(0, "aa" * 32) == "aa" * 32
  again = ServerFiles(tmp_path, make_parts(), "digest")
  assert again.first_noise(0, "bb" * 32) == "aa" * 32
  assert again.first_noise(1, "bb" * 32) == "bb" * 32


def test_a_server_counts_what_devices_may_have_sent_in_its_lives(tmp_path):
  parts = make_parts("frozen_fresh")  # two passes of two messages
  run = ServerFiles(tmp_path, parts, "digest")
  counts = [parts.ledger(run.steps_begun).entries[0][1]]
  for step in (1, 2, 3):
    run.finished_step(step, server_part(parts), {"loss": 0.0})
    counts.append(parts.ledger(run.steps_begun).entries[0][1])
  assert counts == [1, 1, 2, 2] and run.steps_begun == 4
  shutil.rmtree(tmp_path / "checkpoints/00000003")
  again = ServerFiles(tmp_path, parts, "digest")
  assert again.step == 2 and parts.ledger(again.steps_begun).entries[0][1] == 2
  assert again.asked_for == 4  # the second pass had begun, and how far is not on disk


def test_a_server_goes_on_with_the_public_parts_of_its_run_only(tmp_path):
  parts = make_parts()
  run = ServerFiles(tmp_path, parts, "digest")
  run.finished_step(1, server_part(parts), {"loss": 0.0})
  with pytest.raises(ValueError, match="public parts .* are not those of its run"):
    ServerFiles(tmp_path, dataclasses.replace(parts, clip_norm=1.5), "digest")
  (tmp_path / "server.json").unlink()  # a run of before there was one
  ServerFiles(tmp_path, parts, "digest")
  assert edge.server_record(tmp_path) == edge.ServerRecord(None, 2)


def steps_on_the_statement(folder):
  said = json.loads((folder / "privacy.json").read_text())
  return {channel["steps"] for unit in said["units"] for channel in unit["channels"]}


@pytest.mark.parametrize("mode", ["frozen_cached", "frozen_fresh"])
def test_a_message_without_an_answer_is_on_the_statement(mode, parts, port, tmp_path, capfd):
  parts.parts = make_parts(mode)
  assert take_part(tmp_path, port, 0, "--patience=0.2").result() == 2
  assert steps_on_the_statement(tmp_path / "device_0") == {0}  # there was no server
  server = serve(tmp_path, port)
  wait_for_start(capfd)
  assert take_part(tmp_path, port, 0, "--patience=1").result() == 2  # the other does not come
  assert steps_on_the_statement(tmp_path / "device_0") == {1}
  calls = [server, *(take_part(tmp_path, port, number) for number in (0, 1))]
  assert [call.result() for call in calls] == [0, 0, 0]
  assert steps_on_the_statement(tmp_path / "device_0") == {2}


@pytest.mark.parametrize("begun, passes", [(2, 1), (3, 2)])
def test_a_device_that_stops_between_passes_counts_those_that_it_began(begun, passes, parts, port,
                                                                       tmp_path, capfd):
  parts.parts = make_parts("frozen_fresh", devices=1)
  (tmp_path / "device_0").mkdir(mode=0o700)
  journal = Journal(tmp_path / "device_0/noise.json", 0, lambda: NOISE_ROOT)
  assert [journal.claim("send", step) for step in range(begun)] == [True] * begun
  assert take_part(tmp_path, port, 0, "--patience=0.2").result() == 2
  assert steps_on_the_statement(tmp_path / "device_0") == {passes}


def test_devices_that_the_server_cannot_read_are_one_line(parts, port, tmp_path, capfd):
  (tmp_path / "server").mkdir()
  (tmp_path / "server/devices.json").write_text('{"0": 7}')
  assert serve(tmp_path, port).result() == 2
  assert "devices.json is damaged" in capfd.readouterr().err


def test_noise_never_meets_other_values(parts, port, tmp_path, capfd):
  parts.parts = make_parts(devices=1)
  assert take_part(tmp_path, port, 0, "--patience=0.2").result() == 2  # no server, but bound
  def changed(device):
    images, labels = data(device)
    return DeviceData(images ^ 1, labels)
  for name, other in (("public parts (device", {"clip_norm": 1.5}),
                      ("images or labels", {"device_data": changed})):
    parts.parts = dataclasses.replace(make_parts(devices=1), **other)
    capfd.readouterr()
    assert take_part(tmp_path, port, 0, "--patience=0.2").result() == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f"noise.json: the {name}" in said[0]
    assert "differ from those that this noise was first used for" in said[0]


def test_what_stands_for_the_noise_root_does_not_reveal_it(tmp_path):
  journals = [Journal(tmp_path / f"{k}.json", k, lambda: NOISE_ROOT) for k in (0, 1)]
  other = Journal(tmp_path / "2.json", 0, lambda: bytes(32))
  shown = [journals[0].shown("ab"), journals[0].shown("cd"), journals[1].shown("ab"),
           other.shown("ab")]
  assert len(set(shown)) == 4 and shown[0] == journals[0].shown("ab")
  assert len(bytes.fromhex(shown[0])) == 32


def test_another_config_is_refused(parts, port, tmp_path, capfd):
  parts.parts = make_parts(devices=1)
  server = serve(tmp_path, port)
  other = take_part(tmp_path, port, 0, "--config.rounds=31")
  assert other.result() == 2
  assert "other config than the server" in capfd.readouterr().err
  (tmp_path / "device_0/config.json").unlink()
  assert take_part(tmp_path, port, 0).result() == server.result() == 0


@pytest.mark.parametrize("program, given, words", [
    (edge_server, ["--address=0.0.0.0:50051"], "is not loopback"),
    (edge_server, ["--address=0.0.0.0:50051", "--insecure"], "give --tokens"),
    (device, ["--address=10.1.1.1:50051"], "is not loopback"),
    (edge_server, ["--certificate=a.pem"], "--key is missing"),
    (edge_server, ["--certificate=a", "--key=b", "--authority=c"], "TLS file b: No such file"),
    (device, ["--device=-1"], "device"),
    (device, ["--token_file=absent"], "token absent: No such file"),
    (edge_server, ["--config.method.split.aftr=first"], "takes no aftr")])
def test_mistakes_are_one_line(program, given, words, parts, tmp_path, capfd):
  assert program.main([*CONFIG, f"--workdir={tmp_path}/w", *given]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and words in said[0] and said[0].startswith("error: ")


def test_the_journal_claims_a_step_once_and_for_all(tmp_path):
  path = tmp_path / "noise.json"
  first = Journal(path, 1, lambda: NOISE_ROOT)
  assert [first.claim("send", step) for step in (0, 2, 2, 1)] == [True, True, False, False]
  assert [first.claim("update", step) for step in (1, 1)] == [True, False]
  again = Journal(path, 1, lambda: pytest.fail("drawn again"))
  assert again.root == NOISE_ROOT and again.steps_begun == 3
  assert [again.claim("send", step) for step in (2, 3)] == [False, True]
  assert [again.claim("update", step) for step in (1, 2)] == [False, True]
  with pytest.raises(ValueError, match="is of device 1, not 0"):
    Journal(path, 0, lambda: NOISE_ROOT)
  path.write_text(path.read_text()[:-9])
  with pytest.raises(ValueError, match="is damaged.*the run cannot go on"):
    Journal(path, 1, lambda: NOISE_ROOT)


@pytest.mark.parametrize("mode, way_out", [
    *((mode, "anew in other workdirs, which is a second release")
      for mode in ("frozen_fresh", "trained_private", "trained_published")),
    ("frozen_cached", "the devices keep theirs and send the same bytes")])
def test_a_server_that_lost_its_checkpoints_is_refused(mode, way_out, tmp_path):
  parts = make_parts(mode)
  run = ServerFiles(tmp_path, parts, "digest")
  shutil.rmtree(tmp_path / "checkpoints")
  run = ServerFiles(tmp_path, parts, "digest")  # nobody had joined: nothing is lost
  run.first_noise(0, "aa" * 32)
  shutil.rmtree(tmp_path / "checkpoints")
  with pytest.raises(ValueError, match=f"but devices.json says that devices joined; .*{way_out}"):
    ServerFiles(tmp_path, parts, "digest")
  (tmp_path / "devices.json").unlink()
  run = ServerFiles(tmp_path, parts, "digest")
  run.finished_step(1, server_part(parts), {"loss": 0.0})
  run.finished_step(2, server_part(parts), {"loss": 0.0})
  shutil.rmtree(tmp_path / "checkpoints")
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ValueError, match="metrics.csv has steps and server.json says") as error:
    ServerFiles(tmp_path, parts, "digest")
  assert "\n" not in str(error.value) and not list((tmp_path / "checkpoints").iterdir())


def test_a_server_killed_before_its_first_pass_goes_on_from_step_0(tmp_path):
  parts = dataclasses.replace(make_parts("frozen_fresh"), checkpoint_every=2)
  run = ServerFiles(tmp_path, parts, "digest")
  run.first_noise(0, "aa" * 32)
  run.finished_step(1, server_part(parts), {"loss": 0.0})
  again = ServerFiles(tmp_path, parts, "digest")
  assert again.step == 0 and again.asked_for == 2
  again.finished_step(1, server_part(parts), {"loss": 1.0})
  assert (tmp_path / "metrics.csv").read_text() == "round,loss\n1,1.0\n"


def test_a_device_that_lost_its_trained_part_is_refused(parts, port, tmp_path, capfd):
  parts.parts = make_parts("trained_private", devices=1)
  server = serve(tmp_path, port)
  assert take_part(tmp_path, port, 0).result() == server.result() == 0
  shutil.rmtree(tmp_path / "device_0/checkpoints")
  assert take_part(tmp_path, port, 0).result() == 2
  said = capfd.readouterr().err
  assert "device_0/checkpoints: there are none, but noise.json says that 4 steps" in said


def test_the_folders_of_both_programs_are_held(parts, port, tmp_path, capfd):
  parts.parts = make_parts(devices=1)
  server = serve(tmp_path, port)
  wait_until((tmp_path / "server/server.json").exists)
  assert serve(tmp_path, port + 1).result() == 2
  assert f"{tmp_path}/server is in use by process {os.getpid()}" in capfd.readouterr().err
  with lock.held(tmp_path / "device_0"):
    assert take_part(tmp_path, port, 0).result() == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and f"{tmp_path}/device_0 is in use by process {os.getpid()}" in said[0]
  assert take_part(tmp_path, port, 0).result() == server.result() == 0


def test_a_statement_is_true_before_the_next_step_is_sent(tmp_path):
  parts = make_parts("frozen_fresh")
  kept = Statement(tmp_path, parts, "author", ())
  seen = []
  run = ServerFiles(tmp_path, parts, "digest", lambda steps: (
      kept.cover(steps), seen.append((steps, edge.server_record(tmp_path)))))
  assert steps_on_the_statement(tmp_path) == {1}
  run.finished_step(1, server_part(parts), {"loss": 0.0})
  assert steps_on_the_statement(tmp_path) == {1}
  run.finished_step(2, server_part(parts), {"loss": 0.0})
  assert steps_on_the_statement(tmp_path) == {2}
  assert [steps for steps, _ in seen] == [1, 2, 3] and seen[0][1] is None
  text = (tmp_path / "PRIVACY.md").read_text()
  assert "author" in text and "a sentence" in text


def test_a_device_has_a_statement_before_it_reaches_a_server(parts, port, tmp_path, monkeypatch):
  parts.parts, seen = make_parts("frozen_fresh", devices=1), []

  def join(client):
    seen.append(steps_on_the_statement(tmp_path / "device_0"))
    raise ValueError("seen")

  monkeypatch.setattr(EdgeClient, "join", join)
  assert take_part(tmp_path, port, 0).result() == 2
  assert seen == [{0}]
