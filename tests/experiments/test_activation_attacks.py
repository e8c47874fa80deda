"""The suite of attacks from its config to its files, on a few small people."""

import json
import pathlib
import shutil

import jax
import pytest

from experiments import attack, evaluate
from fedjax_face.attacks.activation_runs import Suite
from fedjax_face.attacks.attack import attack as attack_of
from fedjax_face.runs import checkpoint, edge
from fedjax_face.runs.asked import Asked

ROOT = pathlib.Path(__file__).resolve().parents[2]

SMALL_RUN = '''
import ml_collections

CUTS = {name: {"method.split.after": name, "method.split.projection": 4}
        for name in ("first", "middle", "bottleneck")}


def faces(people, images, seed):
  return dict(name="synthetic_faces", people=people, images_per_person=images, size=28, seed=seed,
              grayscale=False, domain="street")


def get_config(variant):
  assert variant == "synthetic"
  return ml_collections.ConfigDict(dict(
      method=dict(name="dp_activations", backbone=dict(name="lenet", embedding_dim=8),
                  device="frozen_cached", clients=dict(batch_size=8)),
      data=dict(name="closed_set", people=faces(6, 8, 21), public=faces(12, 6, 22)),
      start=dict(method=dict(name="centralized", local=dict(batch_size=8), steps=2), rounds=1),
      privacy=dict(epsilon=8.0, delta=1e-5), rounds=2,
      evaluation=dict(batch_size=16, bootstrap=10, every=0)))
'''
DECODER = {"width": 4, "code": 8, "epochs": 1, "batch_size": 8, "learning_rate": 0.1}
INVERSION = {"pictures": 0, "steps": 1, "learning_rate": 0.1, "total_variation": 0.0}


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
  told = {z: found["by_cosine"]["auc"] for z, found in noisy["labels_from_gradients"].items()}
  assert told["0"]["value"] == 1 and told["4"]["low"] < 1
  assert 0 <= noisy["labels_from_gradients"]["0"]["by_norm"]["auc"]["value"] <= 1
  likeliest = noisy["labels_from_gradients"]["4"]["by_residual"]
  # Two passes at noise multiplier 4 are sqrt(2) / 4-Gaussian; each label is a sixth.
  assert likeliest["largest"] == pytest.approx(0.2704, abs=1e-3)
  assert not likeliest["exceeds_bound"]


def test_a_run_is_evaluated_again_whole_or_as_an_edge_server_left_it(played, tmp_path, capfd):
  run, server = played / "bottleneck_8", tmp_path / "server"
  off = "--compilation_cache=off"
  assert evaluate.main([f"--workdir={run}", f"--out={tmp_path}/whole", off]) == 0
  asked = Asked.of_config(json.loads((run / "config.json").read_text()))
  algorithm = asked.experiment(run).algorithm
  found = checkpoint.restore(
      run / "checkpoints", jax.eval_shape(algorithm.init, jax.random.key(0)), print)
  checkpoint.save(server / "checkpoints", found._replace(state=found.state.server))
  shutil.copytree(run / "start", server / "start")
  shutil.copy(run / "config.json", server)
  (server / "devices.json").write_text("{}")
  edge.write_server_record(server, edge.ServerRecord(edge.build(asked).public_digest(), 2))
  assert evaluate.main([f"--workdir={server}", f"--out={tmp_path}/edge", off]) == 0
  expected = json.loads((run / "summary.json").read_text())["metrics"]
  for name in ("whole", "edge"):
    assert json.loads((tmp_path / name / "evaluation.json").read_text())["metrics"] == expected
  capfd.readouterr()
  assert evaluate.main([f"--workdir={run}", "--protocols=identification", off]) == 2
  assert "dp_activations trains no embeddings" in capfd.readouterr().err


@pytest.fixture
def small(tmp_path):
  (tmp_path / "small.py").write_text(SMALL_RUN)
  return [f"--config={ROOT}/configs/activation_attacks.py", "--compilation_cache=off",
          f"--config.config={tmp_path}/small.py"]


@pytest.mark.parametrize("given, message", [
    ("cuts=('conv9',)", "config.cuts: 'conv9' is not one of first, middle, bottleneck"),
    ("config=absent.py", "absent.py: no such file"),
    ("cuts=()", "cuts and epsilons: nothing to attack"),
    ("epsilons=(0.0,)", "epsilons[0]=0.0: expected a number above 0"),
    ("label_noise=(-1.0,)", "label_noise[0]=-1.0: expected a number, at least 0"),
    ("trials=0", "trials=0: expected a whole number, at least 1"),
    ("shadows=-1", "shadows=-1: expected a whole number, at least 0"),
    ("decoder.epochs=x", "decoder.epochs='x': expected a whole number"),
    ("decoder.depth=3", "decoder: 'depth' is missing or unknown; expected batch_size, code, ep"),
    ("attack=nothing", "attack='nothing' is not one of activations, leak_back"),
])
def test_mistakes_are_told_before_anything_is_trained(capsys, tmp_path, small, given, message):
  assert attack.main([*small, f"--workdir={tmp_path}/new", f"--config.{given}"]) == 2
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and message in said[0] and not (tmp_path / "new").exists()


def config_of(method=(), **others):
  images = {"name": "synthetic_faces", "people": 4, "images_per_person": 4}
  return {"method": {"name": "dp_activations", "device": "frozen_cached"} | dict(method),
          "data": {"name": "closed_set", "people": images},
          "start": {"method": "centralized"}, "rounds": 2} | others


@pytest.mark.parametrize("config, cut, message", [
    (config_of({"device": "frozen"}), {}, "method.device sends as frozen_fresh, method.client"),
    (config_of({"clients": {"number": 2}}), {}, "method.clients.number=2: the suite attacks"),
    (config_of(start=None), {}, "cut one: start=None: the attacker recognises faces with"),
    (config_of(), {"method.split.aftr": "first"}, "takes no aftr .did you mean after"),
    (config_of(), {"method.split.projection": -1}, "projection=-1: expected a whole number, at l"),
    (config_of({"name": "dp_fedemb"}), {}, "dp_fedemb takes no activations"),
])
def test_runs_that_are_not_attacked_are_refused_before_they_are_trained(tmp_path, config, cut,
                                                                        message):
  with pytest.raises(ValueError, match=message) as error:
    attack_of({"attack": "activations", "config": config, "cuts": {"one": cut},
               "decoder": DECODER, "inversion": INVERSION}, tmp_path / "new")
  assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_noise_is_calibrated_or_none_at_every_cut():
  cuts = {name: {"method.split.after": name, "method.split.projection": 0}
          for name in ("first", "middle")}
  asked = Suite(config_of(), cuts, DECODER, INVERSION, epsilons=(2.0, 4.0), seed=3).asked()
  assert [key for key in asked] == [(cut, epsilon) for cut in cuts
                                    for epsilon in (2.0, 4.0, float("inf"))]
  for (cut, epsilon), own in asked.items():
    method, noised = own.record["method"], epsilon < float("inf")
    assert (method["split"]["after"], method["split"]["projection"]) == (cut, 0)
    assert method["activations"]["noise_multiplier"] == (None if noised else 0.0)
    assert own.privacy.epsilon == (epsilon if noised else None) and own.record["seed"] == 3


def test_options_of_an_attack_are_told_by_name(tmp_path):
  asked = {"attack": "activations", "config": config_of(), "cuts": {"bottleneck": {}},
           "decoder": DECODER, "inversion": INVERSION}
  Suite(**{name: value for name, value in asked.items() if name != "attack"}).check()
  for changes, message in (
      ({"decoder": DECODER | {"depth": 3}}, "decoder: 'depth' is missing or unknown; expected ba"),
      ({"trails": 3}, r"takes no trails \(did you mean trials\?\)")):
    with pytest.raises(ValueError, match=message):
      attack_of(asked | changes, tmp_path)
  del asked["inversion"]
  with pytest.raises(ValueError, match="inversion: activations needs it"):
    attack_of(asked, tmp_path)
