"""The attack program: files, table, one line for mistakes."""

import json
import pathlib

import pytest

from experiments import attack

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT}/configs/leak_back.py"
SMALL = ["--config.population.classes=40", "--config.population.clients=4",
         "--config.population.dim=48", "--config.population.targets=3",
         "--config.server.scales=(16.0,)", "--config.server.strengths=(0.0, 1.0)",
         "--config.server.forms=('as_written',)", "--config.attacker.decoys=8"]


def test_recovers_more_with_a_correction_than_without(tmp_path, capsys):
  assert attack.main([CONFIG, f"--workdir={tmp_path}", "--compilation_cache=off", *SMALL]) == 0
  said = capsys.readouterr().out
  assert "lambda 1" in said and f"{tmp_path}/attack.png" in said
  record = json.loads((tmp_path / "attack.json").read_text())
  by_strength = {outcome["strength"]: outcome for outcome in record["outcomes"]}
  assert by_strength[0.0]["recovered"]["value"] == pytest.approx(0.6, abs=0.01)
  assert by_strength[1.0]["recovered"]["value"] > 0.9
  assert (tmp_path / "attack.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("given, words", [
    ([CONFIG, "--config.attack=guess"], "attack='guess' is not one of activations, leak_back"),
    ([CONFIG, "--config.server.forms=('paper',)"], "form 'paper': expected one of"),
    ([CONFIG, "--config.population.targets=400"], "targets 400: expected 1 to the 300 classes"),
    ([CONFIG, "--config.populatoin.dim=3"], "populatoin"),
    ([CONFIG, "--config.population.clasess=3"], "population: 'clasess' is missing or unknown"),
    ([CONFIG, "--config.server.margin=wide"], "server.margin='wide': expected a number"),
    ([f"{CONFIG}:none"], "'none'"),
])
def test_mistakes_are_one_line(given, words, tmp_path, capfd):
  try:
    status = attack.main([*given, f"--workdir={tmp_path}/w", "--compilation_cache=off"])
  except SystemExit as stopped:
    status = stopped.code
  said = capfd.readouterr().err.strip().splitlines()
  assert status == 2 and len(said) == 1 and words in said[0]
  assert not (tmp_path / "w").exists()
