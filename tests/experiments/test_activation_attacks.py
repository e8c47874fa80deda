"""The suite of attacks from its config to its files, on a few small people."""

import json
import pathlib
import shutil

import jax
import ml_collections
import pytest

from experiments import activation_attacks, attack, evaluate
from fedjax_face.training import checkpoint, experiment

ROOT = pathlib.Path(__file__).resolve().parents[2]

SMALL_RUN = '''
from configs.dp_activations import get_config as whole

CUTS = {"bottleneck": {"split.cut": "bottleneck", "split.projection": 4}}


def get_config(variant):
  config = whole(variant)
  config.data.update({"num_people": 6, "images_per_person": 8, "size": 28})
  config.data.public.update({"num_people": 12, "images_per_person": 6, "size": 28})
  config.rounds = 2
  config.pretrain.rounds = 1
  config.pretrain.cohort.update({"batch_size": 8, "steps": 2})
  config.model.embedding_dim = 8
  config.split.batch_size = 8
  config.evaluation.update({"batch_size": 16, "bootstrap": 10, "every": 0})
  return config
'''


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  folder = tmp_path_factory.mktemp("suite")
  (folder / "small.py").write_text(SMALL_RUN)
  status = attack.main([
      f"--config={ROOT}/configs/activation_attacks.py", f"--workdir={folder}/attacks",
      "--compilation_cache=off", f"--config.config={folder}/small.py",
      '--config.cuts=("bottleneck",)', "--config.epsilons=(8.0,)", "--config.trials=4000",
      "--config.decoder.epochs=1", "--config.decoder.batch_size=8", "--config.decoder.width=4",
      "--config.decoder.code=8", "--config.inversion.pictures=2", "--config.inversion.steps=2",
      "--config.shadows=4", "--config.people_in_grid=2"])
  assert status == 0
  return folder / "attacks"


def test_everything_is_written(played):
  assert {path.name for path in played.glob("*.*")} == {
      "attack.json", "attack.png", "reconstructions_bottleneck.png"}
  assert {path.name for path in played.iterdir() if path.is_dir()} == {
      "bottleneck_8", "bottleneck_inf", "public_stages"}


def test_both_settings_start_from_one_public_backbone(played):
  assert len(list((played / "public_stages").iterdir())) == 1


def test_attacks_stay_within_the_guarantee_and_are_reported_beside_it(played):
  noisy, clean = json.loads((played / "attack.json").read_text())["settings"]["bottleneck"]
  assert (noisy["epsilon"], clean["epsilon"]) == (8.0, "none")
  canaries, pictures = (noisy[name]["points"][0]
                        for name in ("distinguishing_canaries", "distinguishing"))
  for name in ("distinguishing_canaries", "distinguishing"):
    assert not any(p["exceeds_bound"] for p in noisy[name]["by_distance"]["points"])
  assert not canaries["exceeds_bound"] and not pictures["exceeds_bound"]
  assert canaries["true_positive_rate"]["value"] == pytest.approx(canaries["bound"], abs=0.08)
  assert pictures["true_positive_rate"]["value"] < canaries["true_positive_rate"]["value"]
  noise = noisy["noise"]
  assert noise["error"]["low"] < noise["fresh"] < noise["error"]["high"]
  assert not noise["below_fresh"] and noisy["repeated_noise"] == 0
  assert clean["distinguishing"] is None
  assert clean["membership_loss"]["points"][0]["bound"] == 1
  assert noisy["recognised"]["largest"] < 1 == clean["recognised"]["largest"]
  assert noisy["membership_lira"] and noisy["inversion"] and noisy["gender"]
  averaged = noisy["averaging"]
  assert averaged["releases"] == 2 and averaged["fresh"] < averaged["cached"]
  assert averaged["error"]["value"] == pytest.approx(averaged["fresh"], rel=0.2)
  assert not averaged["below_fresh"] and clean["averaging"] is None
  for by in ("by_residual", "by_clusters"):
    told = {z: guess[by] for z, guess in noisy["labels_from_gradients"].items()}
    assert told["0"]["accuracy"]["value"] == 1  # without noise a gradient shows its label
    assert told["4"]["accuracy"]["high"] < 0.7
  assert told["4"]["largest"] == pytest.approx(1)
  likeliest = noisy["labels_from_gradients"]["4"]["by_residual"]
  # Two passes at noise multiplier 4 are sqrt(2) / 4-Gaussian; each label is a sixth.
  assert likeliest["largest"] == pytest.approx(0.2704, abs=1e-3)
  assert not likeliest["exceeds_bound"]


def test_a_run_is_evaluated_again_whole_or_as_an_edge_server_left_it(played, tmp_path, capfd):
  run, server = played / "bottleneck_8", tmp_path / "server"
  off = "--compilation_cache=off"
  assert evaluate.main([f"--workdir={run}", f"--out={tmp_path}/whole", off]) == 0
  config = ml_collections.ConfigDict(json.loads((run / "config.json").read_text()))
  algorithm = experiment.build(config, run, lambda line: None).algorithm
  found = checkpoint.restore(
      run / "checkpoints", jax.eval_shape(algorithm.init, jax.random.key(0)), print)
  checkpoint.save(server / "checkpoints", found._replace(state=found.state.server))
  shutil.copytree(run / "pretrained", server / "pretrained")
  shutil.copy(run / "config.json", server)
  (server / "devices.json").write_text("{}")
  assert evaluate.main([f"--workdir={server}", f"--out={tmp_path}/edge", off]) == 0
  expected = json.loads((run / "summary.json").read_text())["metrics"]
  for name in ("whole", "edge"):
    assert json.loads((tmp_path / name / "evaluation.json").read_text())["metrics"] == expected
  capfd.readouterr()
  assert evaluate.main([f"--workdir={run}", "--protocols=identification", off]) == 2
  assert "dp_activations trains no embeddings" in capfd.readouterr().err


@pytest.mark.parametrize("given, message", [
    ("cuts=('conv9',)", "config.cuts: 'conv9' is not one of first, middle, bottleneck"),
    ("cuts=()", "config.cuts and config.epsilons: nothing to attack"),
    ("epsilons=(0.0,)", "config.epsilons=(0.0,): expected numbers above 0"),
    ("label_noise=(-1.0,)", "config.label_noise=(-1.0,): expected numbers above 0"),
    ("trials=0", "config.trials=0: expected at least 1"),
    ("shadows=-1", "config.shadows=-1: expected at least 0"),
])
def test_mistakes_are_told_before_anything_is_trained(capsys, tmp_path, given, message):
  assert attack.main([f"--config={ROOT}/configs/activation_attacks.py", f"--workdir={tmp_path}/new",
                      f"--config.{given}"]) == 2
  assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_options_of_an_attack_are_told_by_name():
  module = {"CUTS": {"bottleneck": {}}}
  config = ml_collections.ConfigDict({
      "cuts": ("bottleneck",), "epsilons": (1.0,), "without_noise": False, "trials": 1,
      "shadows": 0, "people_in_grid": 1, "label_noise": (),
      "decoder": {"width": 4, "code": 8, "epochs": 1, "batch_size": 8, "learning_rate": 0.1},
      "inversion": {"pictures": 0, "steps": 1, "learning_rate": 0.1, "total_variation": 0.0}})
  activation_attacks._check(config, module)
  config.decoder.depth = 3
  with pytest.raises(ValueError, match="config.decoder: 'depth' is missing or unknown; exp"):
    activation_attacks._check(config, module)


def test_an_unknown_suite_is_refused(capsys, tmp_path):
  assert attack.main([f"--config={ROOT}/configs/activation_attacks.py", f"--workdir={tmp_path}",
                      "--config.attack=nothing"]) == 2
  assert "config.attack='nothing' is not one of activations, leak_back" in capsys.readouterr().err
