"""The audit program: what it prints and writes, and that a broken mechanism changes its status."""

import json
import math

import numpy as np
import pytest

from experiments import audit, train
from fedjax_face.attacks import audit_records, cluster_audit, method_audit, user_game
from fedjax_face.data import public_sets
from fedjax_face.data.sets import closed_set, synthetic_faces
from fedjax_face.federated import aggregators
from fedjax_face.methods.dp_activations import dp_activations
from fedjax_face.methods.dp_fedemb import dp_fedemb
from fedjax_face.privacy import budget as budgets
from fedjax_face.privacy import clustering

TINY = """
def get_config():
  return dict(
      method=dict(name="dp_fedemb", start_head="shared_frame", classes="all", head="linear",
                  backbone=dict(name="lenet", embedding_dim=8),
                  clients=dict(per_round=4, users_per_client=2, max_examples=8),
                  local=dict(learning_rate=0.05, batch_size=4),
                  aggregate=dict(clip_norm=1.0, noise_multiplier=2.0),
                  server=dict(learning_rate=0.01)),
      data=dict(name="synthetic_faces", people=8, evaluation=6),
      privacy=dict(delta=1e-3, noise_seed=7),
      evaluation=dict(fars=(0.1,), batch_size=16, bootstrap=20),
      compute=dict(rounds_per_dispatch=2), rounds=6)
"""
SILOS = """
def get_config(name="composed"):
  clusters = dict(exchange=dict(mechanism="client_mean")) if name == "composed" else {}
  return dict(method=dict(name=name, aggregate="mean", **clusters), data="synthetic_faces",
              rounds=1)
"""
UNITS = """
def get_config():
  return dict(
      method=dict(name="dp_hyperface", units=dict(batch_size=32),
                  gradient=dict(name="grouped", weights_share=0.1, form="vmapped")),
      data=dict(name="photographs", sources=dict(scenes=dict(name="synthetic_scenes"))), rounds=1)
"""
DEVICES = """
def get_config():
  return dict(
      method=dict(name="dp_activations", device="frozen_cached",
                  labels=dict(name="randomized_response", epsilon=0.5)),
      data=dict(name="closed_set", people="synthetic_faces"), rounds=1)
"""


@pytest.fixture
def tiny(tmp_path):
  return written(tmp_path, TINY)


def written(folder, config):
  path = folder / "config.py"
  path.write_text(config)
  return f"--config={path}"


def command(config, workdir, *overrides):
  return [config, f"--workdir={workdir}", "--trials=400", "--game_rounds=1",
          "--compilation_cache=off", *overrides]


def test_real_mechanism_holds_and_the_report_is_complete(tiny, tmp_path, capfd):
  assert audit.main(command(tiny, tmp_path)) == 0
  record = json.loads((tmp_path / "audit.json").read_text())
  assert (record["unit"], record["adjacency"], record["delta"], record["confidence"]) == (
      "person", "replace_one", 1e-2, 0.99)
  assert (record["rounds"], record["sampling"], record["aggregator"]) == (1, "fixed", "gaussian")
  games = record["games"]
  assert [game["broken"] for game in games] == [False, False, False, True, True]
  assert not any(game["violated"] for game in games[:3])
  everyone, last, sampled, halved, small = games
  assert everyone["mechanism"].endswith("the first replaced")
  assert last["mechanism"].endswith("the last replaced, all layers")
  assert last["measured_epsilon"] > 0
  assert everyone["claimed_epsilon"] == pytest.approx(2.5, abs=0.01)
  assert sampled["claimed_epsilon"] < everyone["claimed_epsilon"] and sampled["users"] == 16
  assert halved["claimed_epsilon"] == everyone["claimed_epsilon"]
  assert halved["measured_epsilon"] > everyone["measured_epsilon"] > 0
  assert small["claimed_epsilon"] < everyone["claimed_epsilon"]
  assert small["measured_epsilon"] == everyone["measured_epsilon"]  # the same game, another claim
  assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
  said = capfd.readouterr().out
  assert "epsilon for each person at delta 0.01, replace-one" in said and "holds" in said


def test_correlated_noise_is_audited_with_its_turns(tiny, tmp_path):
  assert audit.main(command(
      tiny, tmp_path, "--game_rounds=2", "--epsilon=3.5",
      "--config.method.clients.sampling=cyclic_fixed",
      "--config.method.clients.sampling.min_separation=2",
      "--config.method.aggregate=correlated")) == 0
  games = json.loads((tmp_path / "audit.json").read_text())["games"]
  everyone, last, sampled, halved, small, unenforced = games
  assert [game["users"] for game in games] == [16, 16, 32, 16, 16, 16]
  assert not last["violated"]
  assert not (everyone["violated"] or sampled["violated"])
  assert sampled["claimed_epsilon"] == everyone["claimed_epsilon"]  # turns are known: no sampling
  assert unenforced["measured_epsilon"] > everyone["measured_epsilon"]
  assert "not in one of 2" in unenforced["mechanism"]


def test_a_violated_claim_is_exit_status_1(tiny, tmp_path, monkeypatch, capfd):
  """The aggregator adds an eighth of the noise that its event claims."""
  honest = aggregators.noised_mean

  def quiet(*arguments):
    made = honest(*arguments)
    return made._replace(release=lambda sums, state, hparams, key: made.release(
        sums, state, hparams | {"noise_multiplier": hparams["noise_multiplier"] / 8}, key))

  monkeypatch.setattr(aggregators, "noised_mean", quiet)
  assert audit.main(command(tiny, tmp_path)) == 1
  assert "VIOLATED" in capfd.readouterr().out


def client_mean_game(less_noise=1.0):
  """A client mean, with a share of the noise that its event claims."""
  honest = clustering.client_mean()
  mechanism = honest._replace(publish=lambda rows, real, noise, key: honest.publish(
      rows, real, noise * less_noise, key))
  return cluster_audit.table_game("client mean", mechanism, np.ones(2, np.float32))


@pytest.fixture
def few_games(monkeypatch):
  """A mechanism that keeps its promise and one that does not."""
  monkeypatch.setattr(cluster_audit, "games", lambda epsilon, delta: (
      client_mean_game(), cluster_audit.published_blob(epsilon, delta)))


@pytest.fixture
def silos(tmp_path):
  return [written(tmp_path, SILOS), f"--workdir={tmp_path}/w", "--cluster_trials=4000",
          "--compilation_cache=off"]


def test_silos_that_exchange_clusters_are_audited_for_these(tmp_path, silos, few_games, capfd):
  assert audit.main(silos) == 0
  assert sorted(path.name for path in (tmp_path / "w").iterdir()) == [
      "audit_clusters.json", "audit_clusters.png"]
  record = json.loads((tmp_path / "w" / "audit_clusters.json").read_text())
  assert (record["channel"], record["unit"], record["adjacency"], record["delta"]) == (
      "clusters", "person", "add_or_remove_one", 1e-2)
  assert [(game["mechanism"], game["broken"], game["violated"]) for game in record["games"]] == [
      ("client mean", False, False), ("DPLC as published, a blob", True, True),
      ("half the noise: client mean", True, True)]
  assert record["games"][1]["measured_epsilon"] <= record["largest_measurable_epsilon"]
  said = capfd.readouterr().out
  assert "the noised sum is not audited: method.aggregate=mean adds no noise" in said
  assert "clusters: epsilon for each person at delta 0.01, add-or-remove-one" in said


def test_a_violated_claim_about_clusters_is_exit_status_1(silos, monkeypatch, capfd):
  game = client_mean_game(less_noise=0.25)
  monkeypatch.setattr(cluster_audit, "games", lambda epsilon, delta: (game,))
  assert audit.main(silos) == 1
  assert "VIOLATED" in capfd.readouterr().out


def test_the_noised_backbone_of_silos_is_audited_beside_their_clusters(
    tmp_path, silos, few_games, capfd):
  """As `composed` runs: people of silos, a noised backbone, an exchange."""
  assert audit.main([*silos, "--config.method.aggregate=gaussian", "--trials=1500"]) == 0
  assert {path.name for path in (tmp_path / "w").iterdir()} >= {
      "audit.json", "audit_clusters.json"}
  record = json.loads((tmp_path / "w" / "audit.json").read_text())
  assert (record["channel"], record["unit"], record["adjacency"], record["sampling"]) == (
      "backbone", "person", "add_or_remove_one", "silos")
  first, last, halved, small = record["games"]
  assert "the first person removed" in first["mechanism"]
  assert first["claimed_epsilon"] == pytest.approx(2.5, abs=0.01)
  assert 0 < first["measured_epsilon"] and not (first["violated"] or last["violated"])
  assert small["claimed_epsilon"] < first["claimed_epsilon"]
  assert halved["measured_epsilon"] > first["measured_epsilon"]


def test_dp_sgd_on_units_is_audited_with_the_clip_of_the_config(tmp_path, capfd):
  assert audit.main([*command(written(tmp_path, UNITS), tmp_path / "w"), "--trials=3000"]) == 0
  record = json.loads((tmp_path / "w" / "audit.json").read_text())
  assert (record["channel"], record["unit"], record["adjacency"]) == (
      "model", "image", "add_or_remove_one")
  assert record["clip"] == "grouped"
  games = record["games"]
  assert [game["broken"] for game in games] == [False] * 4 + [True] * 2
  assert "the first image removed" in games[0]["mechanism"]
  assert "room for half of the images" in games[3]["mechanism"]
  assert 0 < games[0]["measured_epsilon"] <= games[0]["claimed_epsilon"]
  assert all(game["violated"] for game in games[4:])


def test_the_messages_of_a_device_are_audited_with_its_mode_and_labels(tmp_path):
  assert audit.main([*command(written(tmp_path, DEVICES), tmp_path / "w"), "--trials=4000",
                     "--game_rounds=4"]) == 0
  record = json.loads((tmp_path / "w" / "audit.json").read_text())
  assert (record["unit"], record["adjacency"], record["mode"], record["labels"]) == (
      "image", "replace_one", "frozen_cached", "randomized_response")
  games = record["games"]
  assert [game["broken"] for game in games] == [False, False, False, True, True]
  assert games[0]["claimed_epsilon"] == pytest.approx(2.5, abs=0.01)
  assert all(0 < game["measured_epsilon"] <= game["claimed_epsilon"] for game in games[:3])
  assert all(game["violated"] for game in games[3:])


def one_run(config, workdir, *overrides):
  return [config, f"--workdir={workdir}", "--one_run", "--canaries=64",
          "--compilation_cache=off", "--config.rounds=2",
          "--config.method.aggregate.noise_multiplier=60",
          "--config.privacy.noise_seed=None", "--config.privacy.delta=1e-6", *overrides]


def test_a_run_is_audited_while_it_trains(tiny, tmp_path, capfd):
  assert audit.main(one_run(tiny, tmp_path / "w")) == 0
  record = json.loads((tmp_path / "w" / "audit_one_run.json").read_text())
  [game] = record["games"]
  assert (record["channel"], record["unit"], record["delta"], record["trials"]) == (
      "backbone", "person", 1e-6, 64)
  assert 0 < game["claimed_epsilon"] < 1 and not game["violated"]
  assert record["largest_measurable_epsilon"] > game["claimed_epsilon"]
  assert (tmp_path / "w" / "audit_one_run.png").exists()
  said = " ".join(capfd.readouterr().out.split())
  assert "holds" in said and "an estimate, no bound" in said


def test_a_bound_that_cannot_reach_the_claim_does_not_say_that_it_holds():
  game = {"broken": False, "violated": False, "claimed_epsilon": 2.0}
  assert audit_records.verdict(game, {}) == "holds"
  assert audit_records.verdict(game, {"largest_measurable_epsilon": 3.0}) == "holds"
  said = audit_records.verdict(game, {"largest_measurable_epsilon": 1.0})
  assert said == "not violated; the bound cannot reach it"


def test_a_run_without_its_noise_is_caught_in_one_run(tiny, tmp_path, monkeypatch, capfd):
  silent = aggregators.noise_mechanisms.gaussian()._replace(
      add=lambda total, state, stddev, key: (total, state))
  monkeypatch.setattr(aggregators.noise_mechanisms, "gaussian", lambda: silent)
  assert audit.main(one_run(tiny, tmp_path / "w")) == 1
  assert "VIOLATED" in capfd.readouterr().out


def test_each_audit_of_a_run_is_a_release_that_a_budget_counts(tiny, tmp_path, capfd):
  """Also in the folder of a run, whose own entry stays, and with a pinned seed that it ignores."""
  budget, workdir = tmp_path / "budget.json", tmp_path / "w"
  held = lambda: json.loads(budget.read_text())["runs"]
  arguments = one_run(tiny, workdir, f"--privacy_budget={budget}")
  training = [flag for flag in arguments if flag != "--one_run" and "canaries" not in flag]
  assert train.main(training) == 0
  first = held()
  for flags in ([], ["--config.privacy.noise_seed=3"]):
    assert audit.main([*arguments, *flags]) == 0
  assert held()[0] == first[0] and len({run["run"] for run in held()}) == 3
  assert all(math.isfinite(budgets.statement(budget)["runs"][n]["epsilon"]["person"])
             for n in range(3))
  assert train.main(training) == 0 and len(held()) == 3  # the finished run is still known
  capfd.readouterr()
  assert audit.main(one_run(tiny, workdir)) == 0
  assert "counted in no budget" in " ".join(capfd.readouterr().err.split())
  assert len(held()) == 3
  games = [tiny, f"--workdir={workdir}", f"--privacy_budget={budget}"]
  assert audit.main(games) == 2
  assert "without one_run nothing is" in capfd.readouterr().err


def test_one_run_needs_a_noised_sum(tmp_path, capfd):
  config = TINY.replace("aggregate=dict(clip_norm=1.0, noise_multiplier=2.0)", 'aggregate="mean"')
  assert config != TINY
  given = one_run(written(tmp_path, config), tmp_path / "w")
  assert audit.main([flag for flag in given if "noise_multiplier" not in flag]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1
  assert "method=dp_fedemb releases no noised sum of updates or gradients" in said[0]
  assert not (tmp_path / "w").exists()


def test_nothing_to_audit_is_one_line(tmp_path, silos, capfd):
  assert audit.main([f"{silos[0]}:fedpe", *silos[1:]]) == 2
  said = capfd.readouterr().err.strip().splitlines()
  assert len(said) == 1 and "method.aggregate=mean adds no noise" in said[0]
  assert "it has no method.exchange" in said[0]
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("overrides, message", [
    (["--config.method=centralized"], "method=centralized has no aggregate"),
    (["--config.method.clients.sampling=all"], "--config.method.clients.sampling="),
    (["--config.method.clients.sampling=cyclic_fixed",
      "--config.method.clients.sampling.min_separation=3"],
     "game_rounds=1: method.clients.sampling.min_separation=3 needs as many"),
    (["--config.method.aggregate=correlated"], "method.aggregate=correlated needs"),
    (["--config.rounds=default"], "the config says no rounds"),
    (["--delta=2"], "delta=2.0: expected"),
    (["--epsilon=0"], "epsilon=0.0: expected"),
    (["--trials=1"], "trials=1: expected at least 100"),
])
def test_mistakes_are_one_line(tiny, tmp_path, overrides, message, capfd):
  assert audit.main(command(tiny, tmp_path / "w", *overrides)) == 2
  said = [line for line in capfd.readouterr().err.strip().splitlines()
          if not line.startswith("dropped, ")]
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not (tmp_path / "w").exists()


def test_a_sampling_that_the_game_does_not_know_is_refused(monkeypatch):
  monkeypatch.setattr(user_game, "_KNOWN", ("poisson", "cyclic_poisson"))
  with pytest.raises(ValueError, match="method.clients.sampling=fixed: the game knows poisson and"):
    method_audit.audit(dp_fedemb(), synthetic_faces(), rounds=1)


def test_from_python_nothing_is_written_without_a_workdir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  data = closed_set(public_sets.synthetic_faces())
  records = method_audit.audit(dp_activations(), data, rounds=1, trials=100, game_rounds=1)
  assert list(records) == ["audit"] and records["audit"]["unit"] == "image"
  assert records["audit"]["labels"] == "pseudonym" and not list(tmp_path.iterdir())
