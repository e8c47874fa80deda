"""Server and device programs: a whole run, killed and continued, files, one line for mistakes."""

import json
import pathlib
import socket
import sys
import types

import jax
import numpy as np
import pytest

from experiments import device, edge_server
from fedjax_face.split.edge_device import device_part
from fedjax_face.split.edge_parts import server_part
from fedjax_face.split.edge_record import read_transcript
from fedjax_face.training import checkpoint
from tests.split.edge_toys import Call
from tests.split.tiny_edge import make_parts

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = [f"--config={ROOT}/configs/dp_activations.py", "--compilation_cache=off"]


@pytest.fixture
def parts(monkeypatch):
  """What every config is built into; `set` changes it."""
  held = types.SimpleNamespace(parts=make_parts())
  module = types.SimpleNamespace(build=lambda config: held.parts)
  monkeypatch.setitem(sys.modules, "fedjax_face.training.edge", module)
  monkeypatch.setattr("fedjax_face.training.edge", module, raising=False)
  return held


@pytest.fixture
def port():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


def serve(folder, port, *more):
  return Call(edge_server.main, [*CONFIG, f"--workdir={folder}/server",
                                 f"--address=127.0.0.1:{port}", "--step_seconds=20", *more])


def take_part(folder, port, number, *more):
  return Call(device.main, [*CONFIG, f"--workdir={folder}/device_{number}", f"--device={number}",
                            f"--address=127.0.0.1:{port}", "--patience=20", *more])


def end_state(folder, template):
  return checkpoint.restore(folder / "checkpoints", template, pytest.fail)


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def whole_run(folder, port, *more):
  calls = [serve(folder, port, *more), *(take_part(folder, port, number) for number in (0, 1))]
  assert [call.result() for call in calls] == [0, 0, 0]


def test_two_devices_and_what_they_leave(parts, port, tmp_path, capsys):
  (tmp_path / "token").write_text("secret\n")
  token = f"--token_file={tmp_path}/token"
  calls = [serve(tmp_path, port, token, f"--transcript={tmp_path}/transcript"),
           *(take_part(tmp_path, port, number, token) for number in (0, 1))]
  assert [call.result() for call in calls] == [0, 0, 0]
  said = capsys.readouterr().out
  assert f"listening on 127.0.0.1:{port}, step 0 of 4, devices: 2" in said
  assert "done: 4 steps" in said and "step 4 of 4, loss" in said
  server = tmp_path / "server"
  rows = (server / "metrics.csv").read_text().splitlines()
  assert rows[0] == "round,accuracy,loss" and [row[0] for row in rows[1:]] == list("1234")
  end = end_state(server, server_part(parts.parts))
  assert end.round == 4 and end.noise_words is None
  privacy = json.loads((server / "privacy.json").read_text())
  assert {unit["unit"] for unit in privacy["units"]} == {"image", "person"}
  assert "a sentence" in (server / "PRIVACY.md").read_text()
  crossed = read_transcript(tmp_path / "transcript")
  assert [c.step for c in crossed.select("to_server", "activations")] == [0, 0, 1, 1, 2, 2, 3, 3]
  noise = tmp_path / "device_0/noise.json"
  assert (tmp_path / "device_0").stat().st_mode & 0o077 == 0
  assert json.loads(noise.read_text())["device"] == 0
  assert not list(server.rglob("noise*"))
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
    assert json.loads((tmp_path / "broken/device_1/noise.json").read_text())["last_step"] == 3


def test_another_config_is_refused(parts, port, tmp_path, capfd):
  parts.parts = make_parts(devices=1)
  server = serve(tmp_path, port)
  other = take_part(tmp_path, port, 0, "--config.rounds=31")
  assert other.result() == 2
  assert "another config than the server" in capfd.readouterr().err
  (tmp_path / "device_0/config.json").unlink()
  assert take_part(tmp_path, port, 0).result() == server.result() == 0


@pytest.mark.parametrize("program, given, words", [
    (edge_server, ["--address=0.0.0.0:50051"], "is not loopback"),
    (device, ["--address=10.1.1.1:50051"], "is not loopback"),
    (edge_server, ["--certificate=a.pem"], "--key is missing"),
    (edge_server, ["--certificate=a", "--key=b", "--authority=c"], "TLS file b: No such file"),
    (device, ["--device=2"], "--device=2: devices are numbered 0 to 1"),
    (device, ["--device=-1"], "device"),
    (edge_server, ["--token_file=absent"], "absent"),
    (edge_server, ["--config.split.cutt=first"], "cutt")])
def test_mistakes_are_one_line(program, given, words, parts, tmp_path, capfd):
  assert program.main([*CONFIG, f"--workdir={tmp_path}/w", *given]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and words in said[0] and said[0].startswith("error: ")


def test_the_journal_claims_a_step_once_and_for_all(tmp_path):
  path = tmp_path / "noise.json"
  first = device.Journal(path, 1, lambda: (5, 6))
  assert [first.claim(step) for step in (0, 2, 2, 1)] == [True, True, False, False]
  again = device.Journal(path, 1, lambda: pytest.fail("drawn again"))
  assert again.noise_words == (5, 6)
  assert [again.claim(step) for step in (2, 3)] == [False, True]
  with pytest.raises(ValueError, match="is of device 1, not 0"):
    device.Journal(path, 0, lambda: (1, 2))
  path.write_text(path.read_text()[:-9])
  with pytest.raises(ValueError, match="is damaged.*the run cannot go on"):
    device.Journal(path, 1, lambda: (1, 2))
