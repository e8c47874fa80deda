"""The audit program: what it prints and writes, and that a broken mechanism changes its status."""

import json
import pathlib

import pytest

from experiments import audit
from fedjax_face.federated import aggregators

TINY = str(pathlib.Path(__file__).with_name("tiny_config.py"))


def command(workdir, *overrides):
  return [f"--config={TINY}", f"--workdir={workdir}", "--trials=400", "--rounds=1",
          "--compilation_cache=off", *overrides]


def test_real_mechanism_holds_and_the_report_is_complete(tmp_path, capfd):
  assert audit.main(command(tmp_path)) == 0
  record = json.loads((tmp_path / "audit.json").read_text())
  assert (record["unit"], record["adjacency"], record["delta"], record["confidence"]) == (
      "person", "replace_one", 1e-2, 0.99)
  games = record["games"]
  assert [game["broken"] for game in games] == [False, False, True, True]
  assert not any(game["violated"] for game in games[:2])
  everyone, sampled, halved, small = games
  assert everyone["claimed_epsilon"] == pytest.approx(2.5, abs=0.01)
  assert sampled["claimed_epsilon"] < everyone["claimed_epsilon"] and sampled["users"] == 16
  assert halved["claimed_epsilon"] == everyone["claimed_epsilon"]
  assert halved["measured_epsilon"] > everyone["measured_epsilon"] > 0
  assert small["claimed_epsilon"] < everyone["claimed_epsilon"]
  assert small["measured_epsilon"] == everyone["measured_epsilon"]  # the same game, another claim
  assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
  said = capfd.readouterr().out
  assert "epsilon for a person at delta 0.01, replace-one" in said and "holds" in said


def test_correlated_noise_is_audited_with_its_turns(tmp_path):
  assert audit.main(command(
      tmp_path, "--rounds=2", "--epsilon=3.5", "--config.cohort.sampling=cyclic_fixed",
      "--config.cohort.min_separation=2", "--config.privacy.aggregator=correlated")) == 0
  games = json.loads((tmp_path / "audit.json").read_text())["games"]
  everyone, sampled, halved, small, unenforced = games
  assert [game["users"] for game in games] == [16, 32, 16, 16, 16]
  assert not (everyone["violated"] or sampled["violated"])
  assert sampled["claimed_epsilon"] == everyone["claimed_epsilon"]  # turns are known: no sampling
  assert unenforced["measured_epsilon"] > everyone["measured_epsilon"]
  assert "not in one of 2" in unenforced["mechanism"]


def test_a_violated_claim_is_exit_status_1(tmp_path, monkeypatch, capfd):
  """The aggregator adds an eighth of the noise that its event claims."""
  honest = aggregators.noised_mean

  def quiet(*arguments):
    made = honest(*arguments)
    return made._replace(release=lambda sums, state, hparams, key: made.release(
        sums, state, hparams | {"noise_multiplier": hparams["noise_multiplier"] / 8}, key))

  monkeypatch.setattr(aggregators, "noised_mean", quiet)
  assert audit.main(command(tmp_path)) == 1
  assert "VIOLATED" in capfd.readouterr().out


@pytest.mark.parametrize("overrides, message", [
    (["--config.privacy.aggregator=mean"], "privacy.aggregator=mean adds no noise"),
    (["--config.cohort.sampling=all"], "cohort.sampling='all'"),
    (["--config.cohort.sampling=cyclic_fixed", "--config.cohort.min_separation=3"],
     "--rounds=1: cohort.min_separation=3 needs as many"),
    (["--delta=2"], "delta"),
    (["--trials=1"], "trials"),
])
def test_mistakes_are_one_line(tmp_path, overrides, message, capfd):
  assert audit.main(command(tmp_path / "w", *overrides)) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not (tmp_path / "w").exists()
