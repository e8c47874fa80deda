"""What the command line does to a config: numbers, unsetting a number, one-line mistakes."""

import importlib
import io
import re
import sys

import numpy as np
import pytest
from absl import flags

from experiments import calls, command_line, train
from fedjax_face.figures import figures
from fedjax_face.runs import figures as run_figures


def parsed(*overrides, variant="femnist"):
  return calls.said(["train", f"--config=configs/dp_fedemb.py:{variant}", *overrides])


def test_a_number_can_be_set_and_unset_and_the_last_wins():
  config = parsed("--config.privacy.epsilon=None", "--config.method.aggregate.noise_multiplier=0.5")
  assert config["privacy"]["epsilon"] is None
  assert config["method"]["aggregate"]["noise_multiplier"] == 0.5
  assert parsed()["privacy"]["epsilon"] == 8.0
  last = parsed("--config.privacy.epsilon=None", "--config.privacy.epsilon=4")
  assert last["privacy"]["epsilon"] == 4.0
  assert parsed("--config.privacy.epsilon=4", "--config.privacy.epsilon=None")["privacy"][
      "epsilon"] is None


@pytest.mark.parametrize("program", [
    "attack", "audit", "compare", "detect", "device", "edge_server", "evaluate", "rehearse",
    "train"])
def test_every_program_answers_for_help_with_its_text_and_its_flags(program, capfd):
  module = importlib.import_module(f"experiments.{program}")
  assert module.main(["--help"]) == 0
  said = capfd.readouterr()
  assert said.out.startswith(module.__doc__.strip()) and not said.err
  assert f"python -m experiments.{program} " in said.out
  assert re.search(r"^  --workdir$", said.out, re.M) and "--debug" in said.out
  assert max(map(len, said.out.splitlines())) <= 110


def test_what_can_be_said_of_a_section_is_printed_with_its_values(capfd):
  config = "--config=configs/dp_fedemb.py:lfw"
  assert train.main([config, "--options=method.head", "--config.method.head=arcface"]) == 0
  said = capfd.readouterr().out
  assert said.startswith("method.head=arcface (or cosface, ") and "margin " in said
  assert train.main([config, "--options=all"]) == 0
  said = capfd.readouterr().out
  for line in ("method=dp_fedemb", "data=lfw", "privacy=budget", "evaluation=protocols",
               "method.aggregate=gaussian"):
    assert f"{line}\n" in said or f"{line} (or " in said, line
  assert "learning_rate          a number, at least 0, traced [0.002]" in said
  assert train.main([config, "--options=method.hed"]) == 2
  assert "--options=method.hed: no section; there are" in capfd.readouterr().err


@pytest.mark.parametrize("asked, flags, first, lines", [
    ("data", [], "data=folder (or ", ["path    ", "a text: of the folder", " [64]: pix"]),
    ("data.public", [], "data.public=None, or one of", ["folder     ", "synthetic_faces "]),
    ("start", [], "start=None, or one of", ["pretrain     "]),
    ("start", ["start=pretrain"], "start=pretrain", ["a method: centralized, ", "rounds   "]),
    ("data.public", ["data.public=folder"], "data.public=folder (or ", [": of the folder or zip"]),
])
def test_what_can_be_said_is_printed_before_what_is_needed_is_said(asked, flags, first, lines,
                                                                   capfd):
  config = "--config=configs/dp_fedemb.py:folder"
  said = [f"--config.{flag}" for flag in flags]
  assert train.main([config, f"--options={asked}", *said]) == 0
  out = capfd.readouterr().out
  assert out.startswith(first)
  for line in lines:
    assert line in out
  assert train.main([config, f"--options={asked}", *said, "--config.data.size=0"]) == 2


def test_devices_are_made_of_the_processor_where_asked(monkeypatch):
  import jax
  updates = {}
  monkeypatch.setattr(jax.config, "update", lambda name, value: updates.update({name: value}))
  command_line.use_devices(None)
  assert not updates
  command_line.use_devices(2)
  assert updates == {"jax_num_cpu_devices": 2}


ROC = {"negatives": 1000, "smallest_reliable_far": 0.01, "far": [0.001, 0.1, 0.9],
       "tar": {"model": [0.1, 0.5, 0.95], "start": [0.0, 0.2, 0.92]},
       "band": {"far": [0.01, 0.5], "low": [0.1, 0.6], "high": [0.4, 0.9]}}


def test_curves_are_drawn_with_names_a_band_for_the_model_and_no_far_below_what_the_set_resolves(
    tmp_path, monkeypatch):
  drawn = {}
  for name in ("roc", "det"):
    monkeypatch.setattr(figures, name, lambda curves, name=name, **axis: drawn.update(
        {name: (curves, axis)}) or figures.contact_sheet(np.zeros((1, 2, 2, 1), np.uint8)))
  run_figures.save_roc(ROC, {"model": "dp_fedemb", "start": "public start"}, tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {"roc.png", "det.png"}
  curves, axis = drawn["roc"]
  assert list(curves) == ["dp_fedemb", "public start"] and curves["public start"].low is None
  low = curves["dp_fedemb"].low
  high = curves["dp_fedemb"].high
  assert np.isnan(low[0]) and np.isnan(high[0])  # no band below its first FAR
  for low_tar, tar, high_tar in zip(low[1:], ROC["tar"]["model"][1:], high[1:], strict=True):
    assert 0 < low_tar < tar < high_tar < 1  # also beyond its last
  assert axis == {"smallest_far": 1e-3, "reliable_far": 0.01}
  assert drawn["det"][1] == axis


@pytest.mark.parametrize("tar, low, high", [
    ([0.6, 0.9, 1.0, 1.0], [0.5, 0.85, 0.97], [0.7, 0.95, 1.0]),
    ([0.0, 0.4, 0.7, 0.8], [0.0, 0.3, 0.6], [0.05, 0.5, 0.75])])
def test_a_band_rises_and_holds_the_curve_also_where_that_is_zero_or_one(tar, low, high):
  at = np.array([1e-3, 1e-2, 1e-1])
  far = np.geomspace(1e-4, 1, 41)
  curve = np.interp(np.log(far), np.log([*at, 1.0]), tar)
  lower, upper = (run_figures._beside(far, curve, at, np.array(bound)) for bound in (low, high))
  inside = far >= 1e-3
  for bound, known in ((lower, low), (upper, high)):
    assert np.isnan(bound[~inside]).all() and (np.diff(bound[inside]) >= 0).all()
    for one, share in zip(at, known, strict=True):
      assert bound[np.argmin(abs(far - one))] == pytest.approx(share, abs=2e-4)
  assert (lower[inside] <= curve[inside] + 1e-4).all()
  assert (upper[inside] >= curve[inside] - 0.02).all()  # in between it is interpolated otherwise


def test_without_a_curve_nothing_is_drawn(tmp_path):
  run_figures.save_roc(None, {}, tmp_path)
  older = {"far": [0.1, 1.0], "tar": [0.5, 1.0]}  # as a version before wrote it
  run_figures.save_roc(older, {}, tmp_path)
  assert not list(tmp_path.iterdir())


def test_data_stand_for_the_section_of_the_config():
  config = calls.said(["train", "--config=configs/dp_fedemb.py:lfw", "--data=folder",
                       "--data.path=FACES", "--config.rounds=2", "--workdir=w"])
  assert config["data"] == {"name": "folder", "path": "FACES"} and config["rounds"] == 2
  assert calls.overrides(["--data.size=32"]) == ["--config.data.size=32"]


def test_unsetting_a_key_that_does_not_exist_names_it():
  with pytest.raises(ValueError, match="epsilom"):
    parsed("--config.privacy.epsilom=None")


@pytest.mark.parametrize("limit", ["inf", "nan"])
def test_a_budget_limit_is_a_finite_number(limit):
  values = flags.FlagValues()
  command_line.define_budget(values)
  with pytest.raises(ValueError, match="--privacy_budget_limit.*expected a finite number"):
    values(["train", "--privacy_budget=b.json", f"--privacy_budget_limit={limit}"])
    command_line.privacy_budget(values)


class Refusing(io.StringIO):
  """An output that takes nothing."""

  def __init__(self, error):
    super().__init__()
    self.error = error

  def write(self, text):
    raise self.error


@pytest.mark.parametrize("stream, status, said", [
    (None, 0, ""), (Refusing(BrokenPipeError(32, "Broken pipe")), 0, ""),
    (Refusing(OSError(28, "No space left on device")), 2,
     "error: standard output: No space left on device\n")])
def test_a_program_does_its_work_where_nobody_takes_what_it_prints(
    monkeypatch, capsys, stream, status, said):
  done = []
  monkeypatch.setattr(sys, "stdout", stream)
  found = command_line.one_line_errors(
      lambda: (print("first"), print("second"), done.append(True)), lambda: False)
  assert (found, done, capsys.readouterr().err) == (status, [True], said)


@pytest.mark.parametrize("continues", [True, False])
def test_only_a_program_that_goes_on_says_so_when_it_is_interrupted(capsys, continues):
  def interrupted():
    raise KeyboardInterrupt
  assert command_line.one_line_errors(interrupted, lambda: False, continues) == 130
  said = capsys.readouterr().err
  assert said.startswith("interrupted") and ("the same command goes on" in said) == continues
