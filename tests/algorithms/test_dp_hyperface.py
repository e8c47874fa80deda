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
from fedjax_face.algorithms import dp_hyperface, registry
from fedjax_face.algorithms.hparams import replaced
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data import region_sources
from fedjax_face.draws import Draws
from fedjax_face.federated.algorithm import Data, StepKeys
from fedjax_face.losses import multi_task
from fedjax_face.losses.multi_task import TASKS, Targets
from fedjax_face.privacy import accounting, noise, per_example
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import is_non_private
from fedjax_face.training import checkpoint, experiment, face_tasks, run
from fedjax_face.training.mesh import clients_mesh
from tests.algorithms import tiny_faces
from tests.training.interruption import Killed, interrupt, undated

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


def given(config, sources):
  return Ingredients(config, sources.train, clients_mesh(jax.devices()[:1]))


def build(config, sources):
  return registry.build(config, sources, clients_mesh(jax.devices()[:1]))


def data_of(sources):
  return jax.tree.map(jnp.asarray, Data(sources.train.images, sources.train.targets))


def loss_of(config, sources):
  """The page's own loss, and parameters for it."""
  weighting = dp_hyperface.task_weighting(config.model)
  algorithm = build(config, sources)
  return (dp_hyperface._loss(given(config, sources), weighting), started(algorithm).params)


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


# ---- the loss ----


def test_regions_without_a_face_train_detection_only(sources):
  """Not the heads of the other tasks, not their weights."""
  loss, params = loss_of(tiny_faces.config(), sources)
  rows = jax.tree.map(lambda leaf: leaf[np.flatnonzero(sources.train.regions.face == 0)],
                      data_of(sources))
  rows = rows._replace(targets=rows.targets | {"known": jnp.ones_like(rows.targets["known"])})
  gradient = jax.jit(jax.grad(lambda p: loss(p, rows).sum()))(params)
  assert changed(gradient["network"]) == {"shared", "detection"}
  assert np.flatnonzero(gradient["weights"]).tolist() == [0]


def test_unknown_tasks_do_not_train_their_heads(sources):
  loss, params = loss_of(tiny_faces.config(), sources)
  rows = data_of(sources)
  known = rows.targets["known"].at[:, TASKS.index("gender")].set(False)
  rows = rows._replace(targets=rows.targets | {"known": known})
  gradient = jax.jit(jax.grad(lambda p: loss(p, rows).sum()))(params)
  assert changed(gradient["network"]) == {"shared", *TASKS} - {"gender"}
  assert np.flatnonzero(gradient["weights"]).tolist() == [0, 1, 2, 3]


def test_a_unit_moves_network_and_weights_together_by_at_most_the_clip_norm(sources):
  """A batch of one unit each: whatever is released beyond noise has this length."""
  config = tiny_faces.config(**{"hparams.clip_norm": .05})
  loss, params = loss_of(config, sources)
  clip = dp_hyperface.gradient_clip(config.privacy)
  total = jax.jit(per_example.clipped_gradient_sum(loss, clip, config.privacy.form))
  lengths, data = [], data_of(sources)
  for image in np.unique(sources.train.regions.image)[:6]:
    rows = np.resize(np.flatnonzero(sources.train.regions.image == image), 6)
    unit = jax.tree.map(lambda leaf, rows=rows: leaf[rows][None], data)
    found = total(params, unit, jnp.ones((1, 6), bool), .05)
    assert set(found.gradient) == {"network", "weights"} and np.any(found.gradient["weights"])
    lengths.append(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(found.gradient))))
    assert found.norm[0] > .05
  np.testing.assert_allclose(lengths, .05, rtol=1e-5)


def test_mirrored_regions_keep_their_labels(sources):
  augment = dp_hyperface._augment(given(tiny_faces.config(), sources))
  data = data_of(sources)
  once = augment(data, jax.random.split(jax.random.key(0), len(data.images)))
  mirrored, targets = multi_task.mirror(data.images, Targets(**data.targets),
                                        multi_task.AFLW_MIRROR)
  flipped = (once.images != data.images).any((1, 2, 3))
  assert 0 < flipped.sum() < len(flipped)
  for row in range(len(flipped)):
    images, labels = ((mirrored, targets) if flipped[row] else
                      (data.images, Targets(**data.targets)))
    np.testing.assert_array_equal(once.images[row], images[row])
    for name, field in once.targets.items():
      np.testing.assert_array_equal(field[row], getattr(labels, name)[row])
  assert dp_hyperface._augment(
      given(tiny_faces.config(**{"model.flip": False}), sources)) is None


def test_points_of_a_mirror_are_those_of_the_frame(sources):
  config = tiny_faces.config(**{"data.regions.frame": "centre"})
  data = data_of(sources)
  keys = jax.random.split(jax.random.key(0), len(data.images))
  once = dp_hyperface._augment(given(config, sources))(data, keys)
  row = int(np.flatnonzero((once.images != data.images).any((1, 2, 3))
                           & (data.targets["face"] == 1))[0])
  x = data.targets["landmarks"][row, list(multi_task.AFLW_MIRROR), 0]
  np.testing.assert_allclose(once.targets["landmarks"][row, :, 0], -x)


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
  algorithm = dp_hyperface.dp_hyperface(given(config, sources)._replace(backbone=backbone))
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


def test_the_clip_and_both_forms_see_only_what_trains(sources):
  """Gradients of the frozen layers neither fill the clip norm nor appear in a ghost norm."""
  backbone = started(build(tiny_faces.config(), sources)).params["network"]
  config = tiny_faces.config(**{"model.frozen": ("shared",)})
  ingredients = given(config, sources)._replace(backbone=backbone)
  loss = dp_hyperface._loss(ingredients, dp_hyperface.task_weighting(config.model))
  params = started(dp_hyperface.dp_hyperface(ingredients)).params
  batch = jax.tree.map(lambda leaf: leaf[:12].reshape(4, 3, *leaf.shape[1:]), data_of(sources))
  found = {form: jax.jit(per_example.clipped_gradient_sum(loss, per_example.joint(ADD), form))(
      params, batch, jnp.ones((4, 3), bool), .05) for form in ("vmapped", "scanned", "ghost")}
  unfrozen, everything = loss_of(tiny_faces.config(), sources)
  full = jax.jit(per_example.clipped_gradient_sum(unfrozen, per_example.joint(ADD), "vmapped"))(
      everything | {"network": backbone}, batch, jnp.ones((4, 3), bool), .05)
  for form in ("scanned", "ghost"):
    np.testing.assert_allclose(found[form].norm, found["vmapped"].norm, rtol=1e-4)
    for mine, theirs in zip(*map(jax.tree.leaves, (found[form].gradient,
                                                   found["vmapped"].gradient)), strict=True):
      np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)
  assert np.all(found["vmapped"].norm < full.norm)


# ---- units ----


def test_units_are_photographs_regions_or_people(sources):
  regions = sources.train.regions
  assert build(tiny_faces.config(), sources).population == len(np.unique(regions.image))
  single = tiny_faces.config(**{"cohort.unit": "region"})
  assert build(single, sources).population == len(regions.image)
  with pytest.raises(ValueError, match="shows 2 people in its regions; unit=person needs"):
    build(tiny_faces.config(**{"cohort.unit": "person"}), sources)
  with pytest.raises(ValueError, match="unit 'face' is not one of image, region, person"):
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
  metrics = face_tasks.FaceTaskEvaluator(algorithm, config, sources).outcome(
      started(algorithm)).metrics
  people = len(np.unique(sources.evaluation.photographs[0].person))
  assert len(sources.evaluation.photographs[0]) == 3 * people
  assert f"; {people} groups of photographs" in metrics["detection_accuracy"].note


def test_public_photographs_may_show_several_people_whatever_the_unit():
  config = tiny_faces.config(**{"cohort.unit": "person"})
  assert experiment._pretraining_config(config).cohort.unit == "image"


# ---- what is refused ----


@pytest.mark.parametrize("overrides, message", [
    ({"pretrain.public": False}, "pretrain.public=False: pre-training on private regions"),
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
    ({"privacy.form": "looped"}, "form 'looped' is not one of vmapped, scanned, ghost"),
    ({"model.task_weights": "equal"}, "model.task_weights 'equal' is not one of fixed, unc"),
    ({"model.optimizer": "lamb"}, "model.optimizer 'lamb' is not one of sgd, momentum, adam"),
    ({"model.network": "resnet9"}, "unknown task network 'resnet9'"),
    ({"algorithm": "hyperface"}, "algorithm=hyperface"),
])
def test_mistakes_are_refused(sources, overrides, message):
  with pytest.raises(ValueError, match=message):
    build(tiny_faces.config(**overrides), sources)


def test_a_target_epsilon_calibrates_the_noise_of_the_whole_run(sources):
  config = tiny_faces.config(**{"privacy.epsilon": 3.0, "hparams.noise_multiplier": None,
                                "rounds": 7})
  algorithm = build(config, sources)
  multiplier = algorithm.hparams["gradient"]["noise_multiplier"]

  def epsilon(noise_multiplier):
    event = dp_hyperface._sampling(given(config, sources)).event(noise_multiplier)
    return accounting.epsilon_by(
        "pld", accounting.dp_accounting.SelfComposedDpEvent(event, 7), 1e-3, ADD)

  assert epsilon(multiplier) <= 3.0 < epsilon(multiplier - .001)
  assert f"noise_multiplier={multiplier}" in repr(algorithm.releases[0].event)


# ---- a whole run ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of two rounds: its folder, summary.json and privacy.json."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, *run.run(tiny_faces.config(), folder)


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
      experiment.build(tiny_faces.config(), folder, lambda line: None).algorithm.init,
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
      run.run(tiny_faces.config(), tmp_path / "cut")
  run.run(tiny_faces.config(), tmp_path / "cut")
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
  detector = face_tasks.load_detector(folder)
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
    face_tasks.load_detector(tmp_path / "run")
    whole.append(np.load(kept))
  public = region_sources.load_public(json.loads(
      (finished[0] / "config.json").read_text())["data"])[0]
  for one in whole:
    np.testing.assert_array_equal(one, face_tasks.mean_landmarks(public, "corner"))


def test_folders_that_are_no_such_run_are_refused(tmp_path, finished):
  with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
    face_tasks.load_detector(tmp_path)
  config = json.loads((finished[0] / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
    face_tasks.load_detector(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(config | {"data": {"name": "lfw"}}))
  with pytest.raises(ValueError, match="finds no faces"):
    face_tasks.load_detector(tmp_path)


def test_a_run_with_frozen_layers_goes_on_and_finds_faces_by_all_of_them(tmp_path, capsys,
                                                                         monkeypatch):
  config = tiny_faces.config(**{"model.frozen": ("shared",), "rounds": 1, "evaluation.every": 0})
  summary, _ = run.run(config, tmp_path)
  assert summary["status"] == "finished"
  again = experiment.build(config, tmp_path, lambda line: None)
  state = checkpoint.restore(tmp_path / "checkpoints", jax.eval_shape(
      again.algorithm.init, jax.random.key(0)), pytest.fail).state
  assert "shared" not in state.params["network"] and "shared" in again.algorithm.start(state)
  capsys.readouterr()
  picture = tiny_faces.photographs(1).images[0]
  read, load_public = [], region_sources.load_public
  monkeypatch.setattr(region_sources, "load_public",
                      lambda data: (read.append(data), load_public(data))[1])
  detector = face_tasks.load_detector(tmp_path)
  assert len(read) == 1
  assert detector(picture, np.random.default_rng(0))
  regions = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  jax.tree.map(np.testing.assert_array_equal, detector.predict(regions),
               jax.jit(again.algorithm.predict)(state, regions))
  assert "pre-training" not in capsys.readouterr().out
  shutil.rmtree(tmp_path / "pretrained")
  with pytest.raises(FileNotFoundError, match="it holds the frozen layers shared"):
    face_tasks.load_detector(tmp_path)
