"""DP HyperFace as its page wires it: what is clipped, noised, refused and recorded."""

import csv
import dataclasses
import functools
import json
import math
import shutil

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fedjax_face as ff
from configs import dp_hyperface as configs
from experiments import detect
from fedjax_face import options
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.dp_sgd import gradients
from fedjax_face.dp_sgd.optimizers import adam, averaged, momentum, sgd
from fedjax_face.dp_sgd.units import poisson_units
from fedjax_face.draws import Draws
from fedjax_face.losses.multi_task import TASKS
from fedjax_face.losses.tasks import detection, fixed, uncertainty
from fedjax_face.method import Budget, Method
from fedjax_face.method.algorithm import Data, StepKeys, with_values
from fedjax_face.methods import dp_hyperface as page
from fedjax_face.models.task_networks import hyperface_small
from fedjax_face.privacy import accounting, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import is_non_private
from fedjax_face.runs import checkpoint, face_tasks
from fedjax_face.runs.detector import load_detector
from fedjax_face.runs.evaluators import evaluator_of
from tests.methods import tiny_faces
from tests.methods.tiny_faces import bound, gradient, method, units
from tests.runs.interruption import Killed, interrupt, undated

ADD = Adjacency.ADD_OR_REMOVE_ONE
KEYS = StepKeys(jax.random.key(1), jax.random.key(2))
PLAIN_SGD = averaged(sgd(learning_rate=1.0, weight_learning_rate_scale=1.0))


@pytest.fixture(scope="module")
def sources():
  return tiny_faces.sources()


@pytest.fixture(scope="module")
def private(sources):
  return bound(method(optimizer=PLAIN_SGD), sources)


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
      state, data_of(sources), cohort, with_values(algorithm.hparams, {"gradient": hparams}), KEYS)
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
    (gradients.grouped, math.sqrt(1.01)), (gradients.per_task, 5),
    (gradients.stacked, math.sqrt(5))], ids=["grouped", "per_task", "stacked"])
def test_every_clip_gets_noise_for_its_sensitivity(sources, monkeypatch, clip, sensitivity):
  stddevs = []
  gaussian = noise.gaussian()

  def add(total, state, stddev, key):
    stddevs.append(stddev)
    return gaussian.add(total, state, stddev, key)

  monkeypatch.setattr(noise, "gaussian", lambda: gaussian._replace(add=add))
  algorithm = bound(method(gradient=gradient(clip)), sources)
  cohort = algorithm.cohort(Draws.of(0), 0)
  before = jax.eval_shape(algorithm.init, jax.random.key(0))
  after, metrics = jax.eval_shape(lambda state: algorithm.step(
      state, data_of(sources), cohort, algorithm.hparams, KEYS), before)
  assert stddevs == [pytest.approx(1.0 * sensitivity * .5)]
  assert jax.tree.structure(before) == jax.tree.structure(after)
  assert {f"weight_{task}" for task in TASKS} < set(metrics)


def test_without_noise_and_bound_the_step_is_hyperface(private, sources):
  plain = bound(method(page.hyperface, tasks=uncertainty(), optimizer=PLAIN_SGD), sources)
  cohort = private.cohort(Draws.of(3), 0)
  after = [stepped(a, sources, cohort, clip_norm=1e9, noise_multiplier=0.0)[1]
           for a in (private, plain)]
  for mine, theirs in zip(*map(jax.tree.leaves, after), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
  assert is_non_private(plain.releases[0].event)
  assert not is_non_private(private.releases[0].event)


def test_a_detector_of_faces_trains_nothing_else(sources):
  algorithm = bound(method(page.face_detector), sources)
  before, after, _ = stepped(algorithm, sources)
  moved = jax.tree.map(np.subtract, before["network"], after["network"])
  assert changed(moved) == {"shared", "detection"}


@pytest.mark.parametrize("form", ["scanned", "ghost"])
def test_frozen_layers_get_neither_gradient_nor_noise(private, sources, form):
  """They stay as pre-trained, and the others move as if they were constants."""
  backbone = started(private).params["network"]
  chosen = method(network=tiny_faces.tiny(frozen=("shared", "pose")), optimizer=PLAIN_SGD,
                  gradient=gradient(form=form))
  algorithm = bound(chosen, sources, start=backbone)
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
  assert bound(method(), sources).population == len(np.unique(regions.image))
  single = method(units=units(unit="region"))
  assert bound(single, sources).population == len(regions.image)
  with pytest.raises(ValueError, match="shows 2 people in its regions; unit=person needs"):
    bound(method(units=units(unit="person")), sources)


def test_a_person_holds_all_photographs_of_theirs():
  twice = tiny_faces.bright_squares(count=16, photographs_each=2)
  sources = tiny_faces.sources(twice, public=False)
  regions = sources.train.regions
  algorithm = bound(method(units=units(unit="person", regions_per_unit=40)), sources)
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
  with pytest.raises(ValueError, match="method.units.unit=person: made0 does not say which"):
    bound(method(units=units(unit="person")), unknown)
  bound(method(), unknown)


def test_intervals_do_not_part_people():
  """Three photographs of each person are one group."""
  sources = tiny_faces.sources(tiny_faces.bright_squares(count=24, photographs_each=3))
  algorithm = bound(method(), sources)
  judged = options.made(tiny_faces.evaluation(photographs=12))
  metrics = evaluator_of(judged, algorithm, sources, 0).outcome(started(algorithm)).metrics
  people = len(np.unique(sources.evaluation.photographs[0].person))
  assert len(sources.evaluation.photographs[0]) == 3 * people
  assert f"; {people} groups of photographs" in metrics["detection_accuracy"].note


# ---- what is refused ----


def test_a_start_from_a_private_set_is_refused_where_privacy_is_promised(sources, private):
  start = started(private).params["network"]
  with pytest.raises(ValueError, match="^start.public=False: pre-training on private regions"):
    bound(method(), sources, start=start, start_is_public=False)
  plain = bound(method(page.hyperface), sources, start=start, start_is_public=False)
  assert is_non_private(plain.releases[0].event)


# ---- the same method from Python ----


def test_a_method_from_python_is_that_of_a_config():
  by_hand = page.dp_hyperface(
      network=hyperface_small(width=.5), tasks=uncertainty(scale=.1),
      units=poisson_units(batch_size=256, capacity=320, regions_per_unit=3),
      gradient=gradients.joint(clip_norm=.5, form="scanned", units_at_once=32),
      optimizer=averaged(momentum(learning_rate=.01, momentum=.9,
                                  weight_learning_rate_scale=200.0), decay=.95))
  config = configs.get_config()
  assert by_hand == ff.from_config(config)["method"]
  section = config.method.to_dict() | {
      "name": "face_detector", "tasks": {"flip": False}, "units": {"unit": "region"},
      "gradient": {"views": 2}, "optimizer": {"of": {"name": "adam", "learning_rate": .01}}}
  other = page.face_detector(
      network=hyperface_small(width=.5), tasks=detection(flip=False),
      units=poisson_units(unit="region"), gradient=gradients.unclipped(views=2),
      optimizer=averaged(adam(learning_rate=.01)))
  assert other == options.build(Method, section, "method") and other != by_hand
  assert ff.from_config(configs.get_config("aflw"))["method"].data == "face_tasks"


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


@pytest.mark.parametrize("chosen, changes, words", [
    (lambda: method(gradient=gradients.joint()), {},
     "exactly one of privacy.epsilon and method.gradient.noise_multipl"),
    (method, {"privacy": Budget(2.0)},
     "exactly one of privacy.epsilon and method.gradient.noise_multipl"),
    (lambda: method(tasks=fixed(), gradient=gradient(gradients.grouped)), {},
     "^method.gradient=grouped with method.tasks=fixed: fixed w"),
    (lambda: method(units=units(batch_size=99, capacity=100)), {},
     "^method.units.batch_size=99 images a step, but the training set has"),
    (lambda: method(units=units(capacity=3)), {},
     "^method.units.capacity=3: expected at least method.units.batch_size=4 and a mul"),
    (lambda: method(network=tiny_faces.tiny(frozen=("shared",))), {},
     r"^method.network.frozen=\('shared',\) without pretrain"),
    (lambda: method(page.hyperface), {"privacy": Budget(1.0)},
     "privacy.epsilon=1.0 cannot be had with method=hyperface,"),
])
def test_what_a_method_refuses_when_it_is_bound_has_the_whole_path(sources, chosen, changes, words):
  with pytest.raises(ValueError, match=words):
    bound(chosen(), sources, **changes)


def test_a_method_of_parts_is_bound(sources):
  algorithm = bound(method(gradient=gradient(noise_multiplier=.5)), sources)
  assert algorithm.name == "dp_hyperface"
  assert algorithm.hparams["gradient"] == {"clip_norm": .5, "noise_multiplier": .5}


def test_a_target_epsilon_calibrates_the_noise_of_the_whole_run(sources):
  chosen = method(gradient=gradient(noise_multiplier=None))
  algorithm = bound(chosen, sources, 7, privacy=Budget(3.0, 1e-3))
  multiplier = algorithm.hparams["gradient"]["noise_multiplier"]

  def epsilon(noise_multiplier):
    sampling = options.argument(chosen, "units").bind(sources.train, 1, 1)
    event = sampling.event(noise_multiplier)
    return accounting.epsilon_by(
        "pld", dp_accounting.SelfComposedDpEvent(event, 7), 1e-3, ADD)

  assert epsilon(multiplier) <= 3.0 < epsilon(multiplier - .001)
  assert f"noise_multiplier={multiplier}" in repr(algorithm.releases[0].event)


# ---- a whole run ----


@pytest.fixture(scope="module", autouse=True)
def made():
  with tiny_faces.registered():
    yield


def run(folder):
  """Two rounds after a public start; noise that anybody can draw again."""
  return ff.fit(method(), tiny_faces.data(), rounds=2, start=tiny_faces.start(),
                privacy=ff.budget(delta=1e-3, noise_seed=5), evaluation=tiny_faces.evaluation(),
                compute=ff.compute(rounds_per_dispatch=1, checkpoint_every=1), workdir=folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return run(tmp_path_factory.mktemp("runs") / "whole")


def held(folder, name):
  return json.loads((folder / name).read_text())


def test_scores_stand_beside_the_constant_predictor(finished):
  summary = held(finished.workdir, "summary.json")
  assert summary["status"] == "finished" and summary["algorithm"] == "dp_hyperface"
  metrics = summary["metrics"]
  assert {"detection_accuracy", "gender_accuracy", "landmark_nme", "visibility_mse", "yaw_mae",
          "average_precision/made0"} <= set(metrics)
  for name, metric in metrics.items():
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert ("constant" in metric["note"]) == (not name.startswith("average_precision"))
  assert any("taken as public" in note for note in summary["data_notes"])


def test_the_statement_says_whose_epsilon_and_what_is_not_covered(finished):
  folder = finished.workdir
  unit, = held(folder, "privacy.json")["units"]
  assert unit["unit"] == "image" and unit["adjacency"] == "add_or_remove_one"
  assert sum(times for _, times in finished.ledger.entries) == 2
  with open(folder / "metrics.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert float(rows[-1]["epsilon"]) == pytest.approx(unit["epsilon"]["best"])
  assert rows[0]["round"] == "0" and not rows[0]["epsilon"]
  assert float(rows[1]["epsilon"]) < float(rows[2]["epsilon"])
  text = (folder / "PRIVACY.md").read_text()
  for words in ("made1", "independently with probability", "constant predictor", "32-bit"):
    assert words in text, words


def test_a_run_that_stopped_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt(patch, checkpoint, "save", 3, before=False)  # of pre-training, of round 0, of round 1
    with pytest.raises(Killed):
      run(tmp_path / "cut")
  run(tmp_path / "cut")
  for name in ("metrics.csv", "privacy.json"):
    assert undated(tmp_path / "cut" / name) == undated(finished.workdir / name), name
  metrics = [held(folder, "summary.json")["metrics"]
             for folder in (finished.workdir, tmp_path / "cut")]
  assert metrics[0] == metrics[1]


def test_a_finished_run_finds_faces_without_its_private_data(finished, tmp_path, monkeypatch,
                                                            capsys):
  folder, read = finished.workdir, []

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
  shutil.copytree(finished.workdir, tmp_path / "run")
  kept = tmp_path / "run/mean_landmarks.npy"
  whole = []
  for content in (None, b"", b"\x93NUMPY cut off"):
    if content is None:
      kept.unlink(missing_ok=True)
    else:
      kept.write_bytes(content)
    load_detector(tmp_path / "run")
    whole.append(np.load(kept))
  public = options.made(tiny_faces.data()).public
  for one in whole:
    np.testing.assert_array_equal(one, face_tasks.mean_landmarks(public, "corner"))
