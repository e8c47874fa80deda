"""Split learning as its page wires it: parts, the ledger, refusals, evaluation, whole runs."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data import closed_set, pixels
from fedjax_face.draws import Draws
from fedjax_face.federated.optimizers import adam, momentum
from fedjax_face.methods.dp_activations import dp_activations
from fedjax_face.models.lenet import lenet
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import checkpoint, loop, streams
from fedjax_face.runs.classification import ClassificationEvaluator
from fedjax_face.split import round as rounds
from fedjax_face.split import system as split_system
from fedjax_face.split.accounting import MODES
from fedjax_face.split.cuts import cut
from fedjax_face.split.device import frozen_cached, trained_private
from fedjax_face.split.holders import devices
from fedjax_face.split.labels import randomized_response, u_shaped
from fedjax_face.split.mechanism import clipped_noise
from fedjax_face.split.network import merged
from tests.edge.tiny_runs import PEOPLE, SIDE, Tiny, build, config, mesh, system_of
from tests.flat import calls, translate_split
from tests.flat import dp_activations as configs
from tests.runs.interruption import Killed, interrupt, undated
from tests.split import conftest as shared

sources, tiny = shared.sources, shared.tiny  # fixtures
ROOT = bytes(range(32))
COHORTS = streams.public_root(0)


pytestmark = pytest.mark.usefixtures("tiny")


def epsilon_of(algorithm, unit, rounds, delta=1e-3):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger.epsilon(delta, unit).best


# ---- parts ----


BY_HAND = {
    "frozen": ({"split.mode": "frozen_fresh", "split.projection": 16}, lambda: dp_activations(
        split=cut(after="conv1", projection=16), clients=devices(number=2, batch_size=6),
        activations=clipped_noise(clip_norm=1.0, noise_multiplier=1.0))),
    "private": (
        {"split.mode": "trained_private", "privacy.gradient_noise_ratio": 0.5,
         "split.labels": "u_shaped", "split.label_noise_multiplier": 2.0,
         "split.labels_in_clear": False, "hparams.server_learning_rate": 0.1},
        lambda: dp_activations(
            split=cut(after="conv1", projection=0), labels=u_shaped(noise_multiplier=2.0),
            clients=devices(number=2, batch_size=6), device=trained_private(noise_ratio=0.5),
            activations=clipped_noise(clip_norm=1.0, noise_multiplier=1.0),
            server=adam(learning_rate=0.1))),
    "randomised": (
        {"split.labels": "randomized_response", "split.label_epsilon": 0.5, "split.pooling": 4,
         "hparams.clip_norm": None},
        lambda: dp_activations(
            split=cut(after="conv1", pooling=4, projection=0), device=frozen_cached(),
            labels=randomized_response(epsilon=0.5), clients=devices(number=2, batch_size=6),
            activations=clipped_noise(noise_multiplier=1.0))),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_method_from_python_is_that_of_a_config(name):
  overrides, make = BY_HAND[name]
  chosen = config(**{"model.backbone": "lenet"} | overrides)
  translated = options.build(methods.Method, translate_split.section(chosen), "method")
  by_hand = options.replace(make(), backbone=lenet(embedding_dim=16))
  assert translated == by_hand
  for method in (translated, by_hand):
    assert options.build(methods.Method, options.call(method), "method") == method


def setting(**changes):
  return methods.Setting(mesh=mesh(), rounds=2, **changes)


def tiny_method(**parts):
  given = {"split": cut(after="conv1", projection=0),
           "activations": clipped_noise(clip_norm=1.0, noise_multiplier=1.0)}
  return dp_activations(backbone=Tiny(16), **given | parts)


def test_a_method_is_bound_without_a_config(sources):
  algorithm = methods.bind(tiny_method(device=trained_private(noise_ratio=3.0),
                                       server=momentum()), sources.train, setting())
  assert algorithm.name == "dp_activations"
  assert options.made(algorithm.parts.parts.device).mode == "trained_private"
  assert algorithm.hparams["device"]["noise_multiplier"] == 3.0
  assert set(algorithm.hparams["server"]) == {"learning_rate", "momentum"}
  said = methods.bind(tiny_method(device=trained_private(noise_multiplier=7.0)), sources.train,
                      setting())
  assert said.hparams["device"]["noise_multiplier"] == 7.0
  assert [r.event.noise_multiplier for r in said.releases
          if (r.channel, r.unit) == ("device_gradients", "image")] == [7.0]


@pytest.mark.parametrize("parts, changes, refusal", [
    ({"split": cut(after="conv9")}, {}, "method.split.after='conv9': unknown cut 'conv9'"),
    ({"split": cut(after="conv1", pooling=5)}, {}, "method.split.pooling=5: a pooling window"),
    ({"split": cut(after="conv1")}, {}, "method.split.projection comes from public images"),
    ({"clients": devices(number=9)}, {}, "method.clients.number=9: expected 1 to 8"),
    ({"activations": clipped_noise(clip_norm=math.inf, noise_multiplier=1.0)}, {},
     "method.activations.clip_norm=inf: noise is scaled"),
    ({"activations": clipped_noise(clip_norm=1.0)}, {},
     "exactly one of privacy.epsilon and method.activations.noise_multiplier"),
    ({}, {"privacy": methods.Budget(unit="house")}, "privacy.unit='house': expected image or"),
    ({}, {"start": {"params": {}}}, "start: the device part is public"),
], ids=lambda value: "" if isinstance(value, dict) else value[:20])
def test_what_does_not_fit_is_refused_when_bound(sources, parts, changes, refusal):
  with pytest.raises(ValueError, match=refusal):
    methods.bind(tiny_method(**parts), sources.train, setting(**changes))


@pytest.mark.parametrize("section, refusal", [
    ({"head": {"name": "cosface"}}, "method.head: dp_activations takes no head"),
    ({"device": {"name": "frozn"}}, r"method.device=frozn: .*did you mean frozen\?"),
    ({"activations": {"clip": 1.0}}, r"method.activations.clip: .*did you mean clip_norm\?"),
    ({"labels": {"name": "u_shaped", "noise_multiplier": 0}}, "method.labels.noise_multiplier=0: "),
])
def test_sections_are_refused_with_path_and_nearest_name(section, refusal):
  with pytest.raises(options.OptionError, match=refusal):
    options.build(methods.Method, {"name": "dp_activations", **section}, "method")


def test_the_unit_of_a_budget_is_that_of_its_epsilon(sources):
  own = tiny_method(activations=clipped_noise(clip_norm=1.0))
  for unit in ("image", "person"):
    budget = methods.Budget(4.0, 1e-3, unit)
    algorithm = methods.bind(own, sources.train, setting(privacy=budget))
    assert 3.9 < epsilon_of(algorithm, unit, 2) <= 4.0


# ---- equal to ordinary training ----


@pytest.mark.parametrize("mode, labels", [
    ("trained_published", "pseudonym"), ("frozen_cached", "u_shaped")])
def test_without_noise_and_clip_it_is_ordinary_training(sources, mode, labels, monkeypatch):
  """One device; both sides with the same Adam; 14 steps, the last of a pass partly filled."""
  monkeypatch.setattr(rounds, "secret_order", lambda owner, key: jnp.arange(len(owner)))
  chosen = config(**{"split.mode": mode, "split.labels": labels, "split.devices": 1,
                     "hparams.clip_norm": math.inf, "hparams.noise_multiplier": 0.0,
                     "hparams.device_learning_rate": 1e-3, "hparams.server_learning_rate": 1e-3})
  algorithm = build(chosen, sources)
  *_, progress = loop.train(algorithm, sources.train.images, rounds=2, seed=0, noise_root=ROOT,
                            cohort_root=COHORTS, mesh=mesh())
  network = algorithm.parts.parts.cut.network(sources.train.num_labels)
  images, truth = jnp.asarray(sources.train.images), jnp.asarray(sources.train.label)
  frozen = () if mode.startswith("trained") else ("conv1",)
  whole = algorithm.start(algorithm.init(streams.init_key(0)))["params"]
  fixed = {name: whole[name] for name in frozen}
  params = {name: block for name, block in whole.items() if name not in frozen}
  optimizer = optax.adam(1e-3)

  def loss(params, rows, mask):
    logits = network.apply({"params": {**params, **fixed}}, pixels.normalise(images[rows]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, truth[rows])
    return jnp.sum(losses * mask) / jnp.sum(mask)

  @jax.jit
  def ordinary(params, moments, rows, mask):
    moved, moments = optimizer.update(jax.grad(loss)(params, rows, mask), moments)
    return optax.apply_updates(params, moved), moments

  moments = optimizer.init(params)
  for number in range(2):
    cohort = algorithm.cohort(Draws.of(COHORTS), number)
    assert cohort.mask[0].sum(1).tolist() == [6] * 6 + [4]
    for rows, mask in zip(cohort.examples[0], cohort.mask[0], strict=True):
      params, moments = ordinary(params, moments, rows, mask)
  found = algorithm.start(progress.state)["params"]
  jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6),
               found, {**params, **fixed})


def test_a_start_is_split_over_both_sides(sources):
  backbone = Tiny(16).init(jax.random.key(9), jnp.zeros((1, SIDE, SIDE, 1)))
  chosen = config()
  chosen.pretrain = {"public": True, "rounds": 1}
  algorithm = build(chosen, sources, backbone)
  state = algorithm.init(jax.random.key(0))
  whole = merged({"device": state.device.params, "server": state.server.params})["params"]
  whole.pop("classifier")
  jax.tree.map(np.testing.assert_array_equal, whole, dict(backbone["params"]))


# ---- the ledger ----


@pytest.mark.parametrize("mode, unit", [
    ("frozen_cached", "image"), ("frozen_fresh", "person"), ("trained_private", "image")])
def test_a_target_epsilon_is_that_of_its_unit(sources, mode, unit):
  target = {"privacy.epsilon": 4.0, "hparams.noise_multiplier": None}
  chosen = config(**{"split.mode": mode, "privacy.unit": unit, "rounds": 3} | target)
  algorithm = build(chosen, sources)
  multiplier = algorithm.hparams["activations"]["noise_multiplier"]
  assert algorithm.hparams["device"].get("noise_multiplier") == (
      multiplier if mode == "trained_private" else None)
  assert epsilon_of(algorithm, unit, 3) <= 4.0
  chosen.update_from_flattened_dict({"privacy.epsilon": None,
                                     "hparams.noise_multiplier": multiplier - 0.002})
  assert epsilon_of(build(chosen, sources), unit, 3) > 4.0
  assert epsilon_of(algorithm, "person", 3) > epsilon_of(algorithm, "image", 3)


def test_nothing_is_amplified_and_a_cache_costs_once(sources):
  for mode in MODES:
    algorithm = build(config(**{"split.mode": mode, "rounds": 4}), sources)
    assert all(type(release.event).__name__ == "GaussianDpEvent"
               and release.adjacency is Adjacency.REPLACE_ONE for release in algorithm.releases)
    spent = [epsilon_of(algorithm, "image", passes) for passes in (1, 4)]
    assert (spent[0] == spent[1]) == (mode == "frozen_cached")
    assert "nothing is amplified" in algorithm.sampling
    assert algorithm.population == {"image": 40, "person": PEOPLE}


def test_a_published_device_part_is_not_called_rigorous(sources):
  algorithm = build(config(**{"split.mode": "trained_published"}), sources)
  assert all("not rigorous" in release.note for release in algorithm.releases)
  assert epsilon_of(algorithm, "image", 2) == epsilon_of(algorithm, "person", 2)
  assert any("exact gradients" in sentence for sentence in algorithm.not_covered)


def test_without_noise_nothing_is_claimed(sources):
  algorithm = build(config(**{"hparams.noise_multiplier": 0.0}), sources)
  assert all(is_non_private(release.event) for release in algorithm.releases)


# ---- bytes ----


def test_bytes_by_hand(sources):
  """20 images on a device, 4 messages of 6; activations of 12 x 12 x 2 numbers, 8 logits."""
  up, reply, logits = 6 * (4 * 288 + 8) + 4, 6 * (4 * 288 + 4) + 4, 6 * (4 * 8 + 4) + 4
  count = lambda **overrides: build(config(**overrides), sources).communication(None)[:2]
  assert count(**{"split.mode": "frozen_fresh"}) == (0, 4 * up)
  assert count(**{"rounds": 4}) == (0, up)
  assert count(**{"split.mode": "trained_private"}) == (4 * reply, 4 * up)
  assert count(**{"split.mode": "trained_private", "split.labels": "u_shaped"}) == (
      4 * (reply + logits), 4 * (up + logits))


# ---- what is refused ----


@pytest.mark.parametrize("overrides, refusal", [
    ({"split.cut": "conv9"}, "unknown cut 'conv9'; choose one of conv1, embedding, first, mid"),
    ({"split.mode": "frozen"}, "unknown mode 'frozen'; choose one of frozen_cached"),
    ({"split.labels": "clear"}, "unknown label policy 'clear'; choose one of pseudonym"),
    ({"split.labels_in_clear": False}, "without noise shows the server every label"),
    ({"split.labels": "u_shaped", "split.labels_in_clear": False}, "shows the server every label"),
    ({"split.label_epsilon": 1.0}, "label policy 'pseudonym' takes no epsilon"),
    ({"split.devices": 9}, "split.devices=9: expected 1 to 8, the number of people"),
    ({"split.batch_size": 0}, "split.batch_size=0: expected a whole number, at least 1"),
    ({"split.pooling": 5}, "a pooling window of 5 does not divide"),
    ({"split.pooling": 0}, "split.pooling=0: expected a whole number, at least 1"),
    ({"split.projection": 25}, r"dims must be in 1..24"),
    ({"hparams.clip_norm": 0.0}, r"hparams.clip_norm=0.0: expected a number in \(0, inf\]"),
    ({"hparams.clip_norm": -1.0}, "hparams.clip_norm=-1.0"),
    ({"hparams.clip_norm": math.inf}, "hparams.clip_norm=inf: noise is scaled to the clip norm"),
    ({"split.mode": "trained_private", "hparams.gradient_clip_norm": 0.0},
     "hparams.gradient_clip_norm=0.0: expected a number above 0"),
    ({"privacy.unit": "house"}, "privacy.unit='house': expected image or person"),
    ({"privacy.epsilon": 2.0}, "exactly one of privacy.epsilon and hparams.noise_m"),
    ({"hparams.noise_multiplier": None}, "exactly one of privacy.epsilon and hparams.noise_m"),
    ({"hparams.noise_multiplier": -1.0}, "hparams.noise_multiplier=-1.0"),
    ({"pretrain": {"public": False, "rounds": 1}}, "pretrain.public=False: the device part"),
])
def test_mistakes_are_refused(sources, overrides, refusal):
  chosen = config()
  chosen.pretrain = overrides.pop("pretrain", {})
  chosen.update_from_flattened_dict(overrides)
  with pytest.raises(ValueError, match=refusal):
    build(chosen, sources)


@pytest.mark.parametrize("overrides, key", [
    ({"split.projection": 4}, "split.projection"),
    ({"hparams.clip_norm": None}, "hparams.clip_norm=None")])
def test_what_comes_from_public_images_needs_some(sources, overrides, key):
  with pytest.raises(ValueError, match=f"{key} comes from public images: it needs data.public"):
    build(config(**overrides), sources._replace(public=None))


# ---- evaluation ----


@pytest.fixture(scope="module")
def able(sources):
  """A server that learned from activations without noise, and the config of that run."""
  chosen = config(**{"split.cut": "bottleneck", "hparams.noise_multiplier": 0.0,
                     "hparams.clip_norm": 50.0, "hparams.server_learning_rate": 0.02})
  *_, progress = loop.train(
      build(chosen, sources), sources.train.images, rounds=30, seed=0, noise_root=ROOT,
      cohort_root=COHORTS, mesh=mesh(), rounds_per_dispatch=30)
  return chosen, jax.tree.map(np.array, progress.state)


@pytest.fixture(scope="module")
def others(sources):
  """The same people with 96 other images."""
  return sources._replace(evaluation=closed_set.load(
      {**config().data.to_dict(), "images": 60, "public": {}}, 0).evaluation)


def evaluator(chosen, sources, multiplier):
  own = chosen.copy_and_resolve_references()
  own.hparams.noise_multiplier = multiplier
  return ClassificationEvaluator(build(own, sources), calls.judged(own), sources, own.seed)


def test_accuracy_is_of_whole_devices_and_of_noised_activations(able, others):
  chosen, state = able
  without, system = evaluator(chosen, others, 0.0), system_of(chosen, others)
  right = without.right(state)
  logits = system.logits(state.device.params, state.server.params, others.evaluation.images, None,
                         0.0)
  np.testing.assert_array_equal(right["accuracy"],
                                np.argmax(logits, -1) == others.evaluation.label)
  np.testing.assert_array_equal(right["accuracy_noised"], right["accuracy"])
  metrics = without.outcome(state).metrics
  assert set(metrics) == {"accuracy", "accuracy_noised", "accuracy_ceiling"}
  assert metrics["accuracy"].value > 0.9 and metrics["accuracy_ceiling"].value == 1
  assert metrics["accuracy"].note == "96 images of 8 people; the most frequent class 0.125"


def test_forgotten_noise_is_an_accuracy_above_the_ceiling(able, others, monkeypatch):
  chosen, state = able
  metrics = evaluator(chosen, others, 5.0).outcome(state).metrics
  assert metrics["accuracy"].value > 0.9
  ceiling = metrics["accuracy_ceiling"].value
  assert 1 / PEOPLE < ceiling < 0.25
  assert metrics["accuracy_noised"].value < 2 * ceiling
  noised = split_system.noised
  monkeypatch.setattr(
      split_system, "noised", lambda activations, clip, clip_norm, multiplier, keys: noised(
          activations, clip, clip_norm, 0.0, keys))
  with pytest.raises(RuntimeError, match="of 96 noised activations is above"):
    evaluator(chosen, others, 5.0).outcome(state)


def test_people_are_evaluated_on_the_device_that_holds_them(sources):
  chosen = config(**{"split.mode": "trained_published"})
  state = jax.tree.map(np.array, build(chosen, sources).init(jax.random.key(0)))
  kernel = state.device.params["conv1"]["kernel"]
  kernel[0] = -kernel[0]  # so that the devices differ
  right = evaluator(chosen, sources, 1.0).right(state)["accuracy"]
  system = system_of(chosen, sources)
  assert set(system.device_of_person) == {0, 1}
  everywhere = [np.argmax(system.logits(
      system.device_of(state, device), state.server.params, sources.evaluation.images, None, 0.0),
      -1) for device in (0, 1)]
  assert np.any(everywhere[0] != everywhere[1])
  own = np.choose(system.device_of_person[sources.evaluation.person], everywhere)
  np.testing.assert_array_equal(right, own == sources.evaluation.label)


# ---- a whole run ----


def whole():
  chosen = config(**{"rounds": 4, "split.projection": 8, "hparams.clip_norm": None,
                     "evaluation.every": 2, "training.checkpoint_every": 1})
  chosen.pretrain = configs.base().pretrain
  chosen.pretrain.update({"rounds": 1})
  chosen.pretrain.cohort.update({"batch_size": 4, "steps": 2})
  return chosen


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of four passes: its folder, summary.json and privacy.json."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, *calls.run(whole(), folder)


def test_accuracies_stand_beside_the_ceiling(finished):
  folder, summary, _ = finished
  assert summary["status"] == "finished" and summary["algorithm"] == "dp_activations"
  assert set(summary["metrics"]) == {"accuracy", "accuracy_noised", "accuracy_ceiling"}
  assert any("activations of 8 numbers" in note for note in summary["data_notes"])
  assert any("world1: 24 images are taken as public" in note for note in summary["data_notes"])
  with open(folder / "metrics.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [bool(row["accuracy_noised"]) for row in rows] == [True, False, True, False, True]
  assert [bool(row["accuracy"]) for row in rows] == [True, False, True, False, True]
  assert rows[0]["round"] == "0" and not rows[0]["train_accuracy"]
  assert all(0 <= float(row["train_accuracy"]) <= 1 for row in rows[1:])  # of the server, each pass
  assert set(summary["references"]) == {"start"} and set(summary["gains"]) == {
      "accuracy", "accuracy_noised"}
  start = summary["references"]["start"]
  assert start["words"] == "public start"
  assert start["metrics"]["accuracy"]["value"] == float(rows[0]["accuracy"])


def test_the_statement_names_both_units(finished):
  folder, _, privacy = finished
  units = {unit["unit"]: unit for unit in privacy["units"]}
  assert {name: unit["population"] for name, unit in units.items()} == {"image": 40, "person": 8}
  assert units["image"]["epsilon"]["best"] < units["person"]["epsilon"]["best"]
  for unit in units.values():
    assert unit["adjacency"] == "replace_one"
    assert [(channel["channel"], channel["events"]) for channel in unit["channels"]] == [
        ("activations", 1)]
  text = (folder / "PRIVACY.md").read_text()
  for words in ("Each image, one of 40", "Each person, one of 8", "drawn once for every image",
                "labels are sent in clear".capitalize(), "world1", "nothing is amplified"):
    assert words in text, words


def test_a_run_that_stopped_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt(patch, checkpoint, "save", 3, before=False)  # the first is of round 0
    with pytest.raises(Killed):
      calls.run(whole(), tmp_path)
  calls.run(whole(), tmp_path)
  for name in ("metrics.csv", "privacy.json"):
    assert undated(tmp_path / name) == undated(finished[0] / name), name
  metrics = [json.loads((folder / "summary.json").read_text())["metrics"]
             for folder in (finished[0], tmp_path)]
  assert metrics[0] == metrics[1]
