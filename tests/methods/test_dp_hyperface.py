"""DP HyperFace as its page wires it: what is clipped, noised, refused and recorded."""

import csv
import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import detect
from fedjax_face import options
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.dp_sgd import gradients
from fedjax_face.dp_sgd.optimizers import adam, averaged, momentum
from fedjax_face.dp_sgd.units import poisson_units
from fedjax_face.draws import Draws
from fedjax_face.losses.multi_task import TASKS
from fedjax_face.losses.tasks import detection, fixed, uncertainty
from fedjax_face.method import Budget, Method, Setting, bind
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.methods import dp_hyperface as page
from fedjax_face.models.task_networks import Network, hyperface_small
from fedjax_face.privacy import accounting, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import is_non_private
from fedjax_face.runs import checkpoint, face_tasks
from fedjax_face.runs.detector import load_detector
from fedjax_face.runs.mesh import clients_mesh
from tests.algorithms import tiny_faces
from tests.flat import calls, dp_hyperface, registry, translate_hyperface
from tests.flat.hparams import replaced
from tests.runs.interruption import Killed, interrupt, undated

ADD = Adjacency.ADD_OR_REMOVE_ONE
KEYS = StepKeys(jax.random.key(1), jax.random.key(2))
PLAIN_SGD = {"model.optimizer": "sgd", "hparams.learning_rate": 1.0,
             "hparams.weight_learning_rate_scale": 1.0}


@pytest.fixture(scope="module", autouse=True)
def tiny():
  with tiny_faces.registered():
    yield


@pytest.fixture(scope="module")
def sources():
  return region_sources.load(tiny_faces.config().data.to_dict(), 0)


@pytest.fixture(scope="module")
def private(sources):
  return build(tiny_faces.config(**PLAIN_SGD), sources)


def method_of(config):
  return options.build(Method, translate_hyperface.section(config), "method")


def build(config, sources, start=None):
  return registry.build(config, sources, clients_mesh(jax.devices()[:1]), start)


def data_of(sources):
  return jax.tree.map(jnp.asarray, Data(sources.train.images, sources.train.targets))


def started(algorithm):
  """The state before the first step."""
  return jax.jit(algorithm.init)(jax.random.key(0))


def stepped(algorithm, sources, cohort=None, **hparams):
  """The state before and after a step, and its metrics."""
  state = started(algorithm)
  cohort = algorithm.cohort(Draws.of(0), 0) if cohort is None else cohort
  after, metrics = jax.jit(algorithm.step)(
      state, data_of(sources), cohort, replaced(algorithm.hparams, hparams), KEYS)
  return state.params, after.params, metrics


def changed(layers):
  """Names of the layers that are not zero."""
  return {name for name, layer in layers.items()
          if any(np.any(leaf) for leaf in jax.tree.leaves(layer))}


# ---- a step ----


def test_the_noise_of_a_step_is_what_its_release_says(private, sources):
  """On an empty batch, and relative to the sensitivity that the release's multiplier means."""
  assert "noise_multiplier=1.0" in repr(private.releases[0].event)
  cohort = private.cohort(Draws.of(0), 0)
  cohort = cohort._replace(mask=np.zeros_like(cohort.mask))
  before, after, metrics = stepped(private, sources, cohort)
  moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(
      jax.tree.map(np.subtract, before, after))])
  assert metrics["units"] == 0 and metrics["signal_to_noise"] == 0
  assert np.std(moved) == pytest.approx(1.0 * .5 / 4, rel=5 / math.sqrt(2 * len(moved)))
  assert np.all(after["weights"] != 0)


@pytest.mark.parametrize("clip, sensitivity", [
    ("grouped", math.sqrt(1.01)), ("per_task", 5), ("stacked", math.sqrt(5))])
def test_every_clip_gets_noise_for_its_sensitivity(sources, monkeypatch, clip,
                                                             sensitivity):
  stddevs = []
  gaussian = noise.gaussian()

  def add(total, state, stddev, key):
    stddevs.append(stddev)
    return gaussian.add(total, state, stddev, key)

  monkeypatch.setattr(noise, "gaussian", lambda: gaussian._replace(add=add))
  algorithm = build(tiny_faces.config(**{"privacy.clip": clip}), sources)
  cohort = algorithm.cohort(Draws.of(0), 0)
  before = jax.eval_shape(algorithm.init, jax.random.key(0))
  after, metrics = jax.eval_shape(lambda state: algorithm.step(
      state, data_of(sources), cohort, algorithm.hparams, KEYS), before)
  assert stddevs == [pytest.approx(1.0 * sensitivity * .5)]
  assert jax.tree.structure(before) == jax.tree.structure(after)
  assert {f"weight_{task}" for task in TASKS} < set(metrics)


def test_without_noise_and_bound_the_step_is_hyperface(private, sources):
  plain = build(tiny_faces.config(**PLAIN_SGD | {"algorithm": "hyperface",
                                                 "hparams.noise_multiplier": None}), sources)
  cohort = private.cohort(Draws.of(3), 0)
  after = [stepped(a, sources, cohort, clip_norm=1e9, noise_multiplier=0.0)[1]
           for a in (private, plain)]
  for mine, theirs in zip(*map(jax.tree.leaves, after), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
  assert is_non_private(plain.releases[0].event)
  assert not is_non_private(private.releases[0].event)


def test_a_detector_of_faces_trains_nothing_else(sources):
  algorithm = build(tiny_faces.config(**{"algorithm": "face_detector",
                                         "hparams.noise_multiplier": None}), sources)
  before, after, _ = stepped(algorithm, sources)
  moved = jax.tree.map(np.subtract, before["network"], after["network"])
  assert changed(moved) == {"shared", "detection"}


@pytest.mark.parametrize("form", ["scanned", "ghost"])
def test_frozen_layers_get_neither_gradient_nor_noise(sources, form):
  """They stay as pre-trained, and the others move as if they were constants."""
  backbone = started(build(tiny_faces.config(**PLAIN_SGD), sources)).params["network"]
  config = tiny_faces.config(**PLAIN_SGD | {"model.frozen": ("shared", "pose"),
                                            "privacy.form": form})
  algorithm = build(config, sources, backbone)
  before, after, _ = stepped(algorithm, sources)
  learned = set(TASKS) - {"pose"}
  assert set(before["network"]) == learned
  assert changed(jax.tree.map(np.subtract, before, after)["network"]) == learned
  state = started(algorithm)._replace(average=after)
  whole = algorithm.start(state)
  for layer in ("shared", "pose"):
    np.testing.assert_array_equal(whole[layer]["kernel"], backbone[layer]["kernel"])
  np.testing.assert_array_equal(whole["gender"]["kernel"], after["network"]["gender"]["kernel"])
  images = sources.train.images[:3]
  moved = algorithm.predict(state, images)
  assert np.any(moved.gender != algorithm.predict(started(algorithm), images).gender)
  np.testing.assert_array_equal(
      moved.pose, algorithm.predict(started(algorithm), images).pose)


# ---- units ----


def test_units_are_photographs_regions_or_people(sources):
  regions = sources.train.regions
  assert build(tiny_faces.config(), sources).population == len(np.unique(regions.image))
  single = tiny_faces.config(**{"cohort.unit": "region"})
  assert build(single, sources).population == len(regions.image)
  with pytest.raises(ValueError, match="shows 2 people in its regions; unit=person needs"):
    build(tiny_faces.config(**{"cohort.unit": "person"}), sources)
  with pytest.raises(ValueError, match="^cohort.unit='face': expected one of image, region, pers"):
    build(tiny_faces.config(**{"cohort.unit": "face"}), sources)


def test_a_person_holds_all_photographs_of_theirs():
  config = tiny_faces.config(**{"cohort.unit": "person", "cohort.regions_per_unit": 40})
  config.data.sources = {"made": {"name": "made", "count": 16, "photographs_each": 2}}
  config.data.public = {}
  sources = region_sources.load(config.data.to_dict(), 0)
  regions = sources.train.regions
  algorithm = build(config, sources)
  assert algorithm.population == len(np.unique(regions.image)) // 2
  assert algorithm.releases[0].unit == "person"
  cohort = algorithm.cohort(Draws.of(0), 0)
  for rows, mask in zip(cohort.examples[0], cohort.mask[0], strict=True):
    if mask.any():
      photographs = np.unique(regions.image[rows[mask]])
      people = set(regions.person[rows[mask]]) - {-1}
      assert len(people) == 1 and len(photographs) == 2
      assert mask.sum() == np.isin(regions.image, photographs).sum()


def test_nobody_is_protected_where_people_are_not_known(sources):
  strangers = sources.train.photographs[0]
  unknown = sources._replace(train=sources.train._replace(
      photographs=(dataclasses.replace(strangers, persons_known=False),)))
  with pytest.raises(ValueError, match="cohort.unit=person: made0 does not say which faces"):
    build(tiny_faces.config(**{"cohort.unit": "person"}), unknown)
  build(tiny_faces.config(), unknown)


def test_intervals_do_not_part_people():
  """Three photographs of each person are one group."""
  config = tiny_faces.config(**{"evaluation.photographs": 12})
  config.data.sources = {"made": {"name": "made", "count": 24, "photographs_each": 3}}
  sources = region_sources.load(config.data.to_dict(), 0)
  algorithm = build(config, sources)
  metrics = face_tasks.FaceTaskEvaluator(
      algorithm, calls.judged(config), sources, config.seed).outcome(
      started(algorithm)).metrics
  people = len(np.unique(sources.evaluation.photographs[0].person))
  assert len(sources.evaluation.photographs[0]) == 3 * people
  assert f"; {people} groups of photographs" in metrics["detection_accuracy"].note


def test_public_photographs_may_show_several_people_whatever_the_unit():
  config = tiny_faces.config(**{"cohort.unit": "person"})
  assert calls.pretraining(config).cohort.unit == "image"


# ---- what is refused ----


@pytest.mark.parametrize("overrides, message", [
    ({"cohort.batch_size": 99}, "cohort.batch_size=99 images a step, but the training set has"),
    ({"privacy.epsilon": 2.0}, "exactly one of privacy.epsilon and hparams.noise_m"),
    ({"hparams.noise_multiplier": None}, "exactly one of privacy.epsilon and hparams.noise_m"),
    ({"hparams.noise_multiplier": -1.0}, "hparams.noise_multiplier=-1.0"),
    ({"hparams.clip_norm": 0.0}, "hparams.clip_norm=0.0: expected a number above 0"),
    ({"hparams.clip_norm": math.inf}, "hparams.clip_norm=inf: expected .* below infinity"),
    ({"privacy.clip": "grouped", "model.task_weights": "fixed"},
     "privacy.clip=grouped with model.task_weights=fixed"),
    ({"model.frozen": ("shared",)}, "model.frozen=\\('shared',\\) without pretrain"),
    ({"privacy.clip": "flat"}, "privacy.clip 'flat' is not one of joint, grouped"),
    ({"privacy.form": "looped"},
     "privacy.form='looped': expected one of vmapped, scanned, ghost"),
    ({"model.task_weights": "equal"}, "model.task_weights 'equal' is not one of fixed, unc"),
    ({"model.optimizer": "lamb"}, "model.optimizer 'lamb' is not one of sgd, momentum, adam"),
    ({"model.network": "resnet9"}, "unknown task network 'resnet9'"),
    ({"algorithm": "hyperface"}, "algorithm=hyperface"),
])
def test_mistakes_are_refused(sources, overrides, message):
  with pytest.raises(ValueError, match=message):
    build(tiny_faces.config(**overrides), sources)


@pytest.mark.parametrize("overrides, words", [
    ({"cohort.capacity": 3}, "^cohort.capacity=3: expected at least cohort.batch_size=4 and a mul"),
    ({"cohort.regions_per_unit": 0}, "^cohort.regions_per_unit=0: expected a whole number"),
    ({"cohort.views": 0}, "^cohort.views=0: expected a whole number, at least 1"),
    ({"cohort.units_at_once": 0}, "^cohort.units_at_once=0: expected a whole number"),
    ({"privacy.weights_share": 0.0, "privacy.clip": "grouped"}, "^privacy.weights_share=0.0: exp"),
    ({"model.fixed_weights": (1.0,), "model.task_weights": "fixed"}, "^model.fixed_weights=\\(1.0"),
    ({"model.weight_scale": 0.0}, "^model.weight_scale=0.0: expected a number above 0"),
    ({"model.network": "hyperface", "model.network_options": {"width": 0.0}},
     "^model.network_options.width=0.0: expected a number above 0"),
    ({"hparams.momentum": 1.0}, "^hparams.momentum=1.0: expected a number in"),
    ({"hparams.average_decay": 1.0}, "^hparams.average_decay=1.0: expected a number in"),
])
def test_an_option_is_refused_by_the_key_of_the_config(sources, overrides, words):
  with pytest.raises(ValueError, match=words):
    build(tiny_faces.config(**overrides), sources)


def test_a_start_from_a_private_set_is_refused_where_privacy_is_promised(sources, private):
  start = started(private).params["network"]
  config = tiny_faces.config(**{"pretrain.public": False})
  with pytest.raises(ValueError, match="^start.public=False: pre-training on private regions"):
    build(config, sources, start)
  plain = tiny_faces.config(**{"pretrain.public": False, "algorithm": "hyperface",
                               "hparams.noise_multiplier": None})
  assert is_non_private(build(plain, sources, start).releases[0].event)


# ---- the same method from Python ----


def test_a_method_from_python_is_that_of_a_config():
  """Of the config as it stands: options.build fills nothing in."""
  by_hand = page.dp_hyperface(
      network=hyperface_small(width=.5), tasks=uncertainty(scale=.1),
      units=poisson_units(batch_size=256, capacity=320, regions_per_unit=3),
      gradient=gradients.joint(clip_norm=.5, form="scanned", units_at_once=32),
      optimizer=averaged(momentum(learning_rate=.01, momentum=.9,
                                  weight_learning_rate_scale=200.0), decay=.95))
  assert by_hand == method_of(dp_hyperface.base())
  config = dp_hyperface.base()
  config.update_from_flattened_dict({
      "algorithm": "face_detector", "model.optimizer": "adam", "model.flip": False,
      "cohort.views": 2, "cohort.unit": "region"})
  other = page.face_detector(
      network=hyperface_small(width=.5), tasks=detection(flip=False),
      units=poisson_units(unit="region"), gradient=gradients.unclipped(views=2),
      optimizer=averaged(adam(learning_rate=.01, weight_learning_rate_scale=200.0)))
  assert other == method_of(config) and other != by_hand
  assert method_of(dp_hyperface.get_config("aflw")).data == "face_tasks"


@pytest.mark.parametrize("name", ["dp_hyperface", "hyperface", "face_detector"])
def test_a_method_is_its_call(name):
  made = options.build(Method, name, "method")
  assert options.build(Method, options.call(made), "method") == made
  assert set(options.call(made)) == {"name", "network", "tasks", "units", "gradient", "optimizer"}


@pytest.mark.parametrize("make, words", [
    (lambda: page.dp_hyperface(gradient=gradients.unclipped()),
     "^dp_hyperface.gradient=unclipped: expected one that clips"),
    (lambda: page.hyperface(gradient=gradients.joint()),
     "^hyperface.gradient=joint: expected unclipped, as no noise is added"),
    (lambda: page.face_detector(tasks=uncertainty()),
     "^face_detector.tasks=uncertainty: expected detection"),
    (lambda: page.dp_hyperface(gradients=gradients.joint()),
     "^dp_hyperface.gradients: dp_hyperface takes no gradients.*gradient"),
    (lambda: page.dp_hyperface(optimizer=momentum()),
     "^dp_hyperface.optimizer=.*expected an averaged optimizer, not a step optimizer"),
])
def test_parts_that_a_method_does_not_take_are_refused(make, words):
  with pytest.raises(options.OptionError, match=words):
    make()


def test_what_a_method_refuses_when_it_is_bound_has_the_whole_path(sources):
  network = Network(lambda landmarks: tiny_faces.Tiny(landmarks))
  setting = Setting(clients_mesh(jax.devices()[:1]), 1)
  small = poisson_units(batch_size=4, capacity=6)
  bound = lambda make, setting=setting, **parts: bind(
      make(**{"network": network, "units": small} | parts), sources.train, setting)
  half = gradients.joint(noise_multiplier=.5, units_at_once=3)
  algorithm = bound(page.dp_hyperface, gradient=half)
  assert algorithm.name == "dp_hyperface"
  assert algorithm.hparams["gradient"] == {"clip_norm": .5, "noise_multiplier": .5}
  with pytest.raises(ValueError, match="one of privacy.epsilon and method.gradient.noise_multipl"):
    bound(page.dp_hyperface)
  with pytest.raises(ValueError, match="^method.gradient=grouped with method.tasks=fixed: fixed w"):
    bound(page.dp_hyperface, tasks=fixed(), gradient=gradients.grouped(noise_multiplier=1.0))
  with pytest.raises(ValueError, match="^method.units.batch_size=99 images a step, but the train"):
    bound(page.dp_hyperface, gradient=half, units=poisson_units(batch_size=99))
  private = setting._replace(privacy=Budget(epsilon=1.0))
  with pytest.raises(ValueError, match="privacy.epsilon=1.0 cannot be had with method=hyperface,"):
    bound(page.hyperface, private)


def test_a_target_epsilon_calibrates_the_noise_of_the_whole_run(sources):
  config = tiny_faces.config(**{"privacy.epsilon": 3.0, "hparams.noise_multiplier": None,
                                "rounds": 7})
  algorithm = build(config, sources)
  multiplier = algorithm.hparams["gradient"]["noise_multiplier"]

  def epsilon(noise_multiplier):
    sampling = options.argument(method_of(config), "units").bind(sources.train, 1, 1)
    event = sampling.event(noise_multiplier)
    return accounting.epsilon_by(
        "pld", accounting.dp_accounting.SelfComposedDpEvent(event, 7), 1e-3, ADD)

  assert epsilon(multiplier) <= 3.0 < epsilon(multiplier - .001)
  assert f"noise_multiplier={multiplier}" in repr(algorithm.releases[0].event)


# ---- a whole run ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of two rounds: its folder, summary.json and privacy.json."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, *calls.run(tiny_faces.config(), folder)


def test_scores_stand_beside_the_constant_predictor(finished):
  _, summary, _ = finished
  assert summary["status"] == "finished" and summary["algorithm"] == "dp_hyperface"
  metrics = summary["metrics"]
  assert {"detection_accuracy", "gender_accuracy", "landmark_nme", "visibility_mse", "yaw_mae",
          "average_precision/made0"} <= set(metrics)
  for name, metric in metrics.items():
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert ("constant" in metric["note"]) == (not name.startswith("average_precision"))
  assert any("taken as public" in note for note in summary["data_notes"])


def test_the_statement_says_whose_epsilon_and_what_is_not_covered(finished):
  folder, summary, privacy = finished
  unit, = privacy["units"]
  assert unit["unit"] == "image" and unit["adjacency"] == "add_or_remove_one"
  ledger = checkpoint.restore(folder / "checkpoints", jax.eval_shape(
      calls.build(tiny_faces.config(), folder, lambda line: None).algorithm.init,
      jax.random.key(0)), pytest.fail).ledger
  assert sum(entry["times"] for entry in ledger["entries"]) == 2
  with open(folder / "metrics.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert float(rows[-1]["epsilon"]) == pytest.approx(unit["epsilon"]["best"])
  assert rows[0]["round"] == "0" and not rows[0]["epsilon"]
  assert float(rows[1]["epsilon"]) < float(rows[2]["epsilon"])
  text = (folder / "PRIVACY.md").read_text()
  for words in ("made1", "independently with probability", "constant predictor", "32-bit"):
    assert words in text, words


def test_a_run_that_stopped_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  whole, _, _ = finished

  with monkeypatch.context() as patch:
    interrupt(patch, checkpoint, "save", 3, before=False)  # of pre-training, of round 0, of round 1
    with pytest.raises(Killed):
      calls.run(tiny_faces.config(), tmp_path / "cut")
  calls.run(tiny_faces.config(), tmp_path / "cut")
  for name in ("metrics.csv", "privacy.json"):
    assert undated(tmp_path / "cut" / name) == undated(whole / name), name
  metrics = [json.loads((folder / "summary.json").read_text())["metrics"]
             for folder in (whole, tmp_path / "cut")]
  assert metrics[0] == metrics[1]


def test_a_finished_run_finds_faces_without_its_private_data(finished, tmp_path, monkeypatch,
                                                            capsys):
  folder, _, _ = finished
  read = []

  @functools.wraps(tiny_faces.made)
  def made(**options):
    read.append(options)
    return tiny_faces.made(**options)

  monkeypatch.setitem(region_sources.SOURCES, "made", made)
  photo = tmp_path / "photo.png"
  picture = tiny_faces.photographs(1).images[0]
  Image.fromarray(picture).save(photo)
  assert detect.main([f"--workdir={folder}", str(photo), f"--out={tmp_path / 'out'}"]) == 0
  assert [options["seed"] for options in read] == [1]
  written = json.loads((tmp_path / "out/photo.png.json").read_text())
  detector = load_detector(folder)
  assert len(read) == 1  # where landmarks lie is kept
  found = detector(picture, np.random.default_rng(0))
  assert found and written["faces"] == [json.loads(json.dumps(one.to_json())) for one in found]
  assert (tmp_path / "out/photo.png.png").exists() and "faces" in capsys.readouterr().out


def test_where_landmarks_lie_is_kept_and_made_anew_where_it_is_cut_off(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / "run")
  kept = tmp_path / "run/mean_landmarks.npy"
  whole = []
  for content in (None, b"", b"\x93NUMPY cut off"):
    if content is None:
      kept.unlink(missing_ok=True)
    else:
      kept.write_bytes(content)
    load_detector(tmp_path / "run")
    whole.append(np.load(kept))
  public = region_sources.load_public(tiny_faces.config().data.to_dict())[0]
  for one in whole:
    np.testing.assert_array_equal(one, face_tasks.mean_landmarks(public, "corner"))


def test_folders_that_are_no_such_run_are_refused(tmp_path, finished):
  with pytest.raises(FileNotFoundError, match="no run is kept there"):
    load_detector(tmp_path)
  config = json.loads((finished[0] / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
    load_detector(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(
      config | {"method": {"name": "dp_fedemb"}, "data": {"name": "lfw"}, "start": None,
                "evaluation": {"name": "protocols"}}))
  with pytest.raises(ValueError, match="finds no faces"):
    load_detector(tmp_path)


def test_a_run_with_frozen_layers_goes_on_and_finds_faces_by_all_of_them(tmp_path, capsys,
                                                                         monkeypatch):
  config = tiny_faces.config(**{"model.frozen": ("shared",), "rounds": 1, "evaluation.every": 0})
  summary, _ = calls.run(config, tmp_path)
  assert summary["status"] == "finished"
  again = calls.build(config, tmp_path, lambda line: None)
  state = checkpoint.restore(tmp_path / "checkpoints", jax.eval_shape(
      again.algorithm.init, jax.random.key(0)), pytest.fail).state
  assert "shared" not in state.params["network"] and "shared" in again.algorithm.start(state)
  capsys.readouterr()
  picture = tiny_faces.photographs(1).images[0]
  read, load_public = [], region_sources.load_public
  monkeypatch.setattr(region_sources, "load_public",
                      lambda data: (read.append(data), load_public(data))[1])
  detector = load_detector(tmp_path)
  assert len(read) == 1
  assert detector(picture, np.random.default_rng(0))
  regions = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  jax.tree.map(np.testing.assert_array_equal, detector.predict(regions),
               jax.jit(again.algorithm.predict)(state, regions))
  assert "pre-training" not in capsys.readouterr().out
  shutil.rmtree(tmp_path / "start")
  with pytest.raises(FileNotFoundError, match="it holds the frozen layers shared"):
    load_detector(tmp_path)
