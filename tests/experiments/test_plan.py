"""The planning program: what it prints and writes, and one line for bad input."""

from __future__ import annotations

import json

import pytest

from experiments import plan
from fedjax_face.runs import plan as planned

ARGUMENTS = {
    "population": "2000", "target_epsilon": "6", "delta": "1e-5", "rounds": "3",
    "virtual_clients": "16", "users_per_client": "2", "noise_multiplier": "0.8",
    "sampling": "poisson"}


@pytest.fixture(autouse=True)
def few_populations(monkeypatch):
  monkeypatch.setattr(planned, "_TABLE", (1.,))
  monkeypatch.setattr(planned, "_FIGURE", (1., 4.))


def run(tmp_path, **changes):
  options = {**ARGUMENTS, "output_dir": str(tmp_path / "plan"), **changes}
  return plan.main([f"--{name}={value}" for name, value in options.items() if value is not None])


def test_table_json_and_figure(tmp_path, capsys):
  assert run(tmp_path) == 0
  printed = capsys.readouterr().out
  for word in ("2,000", "add-or-remove-one", "delta 1e-05", "3 rounds", "eps PLD"):
    assert word in printed.replace("\n", " ").replace("  ", " ")
  record = json.loads((tmp_path / "plan" / "plan.json").read_text())
  assert record["noise_on_mean"] == pytest.approx(.05)
  assert (record["unit"], record["adjacency"], record["delta"]) == (
      "user", "add_or_remove_one", 1e-5)
  chosen = next(p for p in record["smallest_cohorts"] if p["population"] == 2000)
  assert chosen["pld"] <= 6 and chosen["meets_target"]
  assert chosen["noise_multiplier"] / chosen["virtual_clients"] == pytest.approx(.05)
  for curve in record["curves"]:
    assert curve["epsilon"] == sorted(curve["epsilon"], reverse=True)
  image = (tmp_path / "plan" / "epsilon_vs_population.png").read_bytes()
  assert image.startswith(b"\x89PNG")


def test_noise_on_mean_is_the_same_question(tmp_path):
  run(tmp_path / "a")
  run(tmp_path / "b", noise_multiplier=None, noise_on_mean="0.25", clip_norm="5")
  a, b = (json.loads((tmp_path / x / "plan" / "plan.json").read_text()) for x in "ab")
  assert a["smallest_cohorts"] == b["smallest_cohorts"]
  assert b["noise_on_mean"] == pytest.approx(.25)


@pytest.mark.parametrize("changes, message", [
    ({"noise_on_mean": "0.1"}, "exactly one of noise_multiplier and noise_on_mean"),
    ({"noise_multiplier": None}, "exactly one of noise_multiplier and noise_on_mean, got none"),
    ({"population": "20"}, "need 32 users, population=20"),
    ({"delta": "2"}, "delta=2.0: expected a number in (0, 1)"),
    ({"target_epsilon": "0"}, "target_epsilon=0.0: expected a finite number above 0"),
    ({"clip_norm": "0"}, "clip_norm=0.0: expected a finite number above 0"),
    ({"parameters": "0"}, "parameters=0: expected at least 1"),
    ({"rounds": "0"}, "rounds must be positive"),
    ({"rounds": "1" + 400 * "0"}, "rounds must be between 1 and 1e+12"),
    ({"population": "1" + 400 * "0"}, "population must be between 1 and 1e+12"),
    ({"target_epsilon": "inf"}, "target_epsilon=inf: expected"),
    ({"clip_norm": "inf"}, "clip_norm=inf: expected"),
    ({"noise_multiplier": "inf"}, "noise_multiplier must be between 0.0001 and 1e+06, got inf"),
    ({"noise_multiplier": "1e-300"}, "noise_multiplier must be between 0.0001 and 1e+06"),
    ({"noise_multiplier": "1e300"}, "noise_multiplier must be between 0.0001 and 1e+06")])
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, changes, message):
  assert run(tmp_path, **changes) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("occupied", ["plan", "plan/plan.json/x"])
def test_the_output_folder_is_tried_before_anything_is_computed(
    tmp_path, capsys, monkeypatch, occupied):
  monkeypatch.setattr(planned.planning, "smallest_cohort", lambda *_: pytest.fail("computed"))
  (tmp_path / occupied).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / occupied).write_text("")
  assert run(tmp_path) == 2
  error = capsys.readouterr().err
  assert "plan: workdir=" in error and "expected a f" in error and error.count("\n") == 1


@pytest.mark.parametrize("noise", ["1e-4", "1e6"])
def test_tiny_and_huge_noise_are_planned_and_written_as_strict_json(tmp_path, noise):
  assert run(tmp_path, noise_multiplier=noise) == 0
  def refuse(constant):
    raise AssertionError(constant)
  record = json.loads((tmp_path / "plan" / "plan.json").read_text(), parse_constant=refuse)
  assert record["smallest_cohorts"][0]["meets_target"] == (noise == "1e6")


def test_help_names_every_option(capsys):
  with pytest.raises(SystemExit):
    plan.main(["--help"])
  printed = capsys.readouterr().out
  for name in (*ARGUMENTS, "noise_on_mean", "clip_norm", "parameters", "output_dir"):
    assert f"--{name}" in printed


@pytest.mark.parametrize("parameters, ratio, warned", [
    ("400", 1.0, False), ("10000", 5.0, True), (None, .05 * 453_632**.5, True)])
def test_noise_longer_than_any_update_is_warned_about(
    tmp_path, capsys, parameters, ratio, warned):
  run(tmp_path, parameters=parameters)
  printed = " ".join(capsys.readouterr().out.split())
  assert f"has norm {ratio:.3g} times the clip norm." in printed
  assert ("Warning: noise on the mean has norm" in printed) == warned
  record = json.loads((tmp_path / "plan" / "plan.json").read_text())
  assert record["noise_norm_ratio"] == pytest.approx(ratio)
  assert record["parameters"] == int(parameters or plan.LENET_PARAMETERS)


def test_large_delta_is_warned_about(tmp_path, capsys):
  run(tmp_path, delta="1e-3")
  assert "Warning: delta = 0.001 is not below 1/2000" in capsys.readouterr().out.replace("\n", " ")
