"""Split learning as its page wires it: parts, the ledger, refusals, evaluation, whole runs."""

import csv
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data import pixels
from fedjax_face.draws import Draws
from fedjax_face.federated.optimizers import adam, momentum
from fedjax_face.method import Budget
from fedjax_face.methods.dp_activations import dp_activations
from fedjax_face.models.lenet import lenet
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import checkpoint, loop, streams
from fedjax_face.runs.evaluators import evaluator_of
from fedjax_face.split import round as rounds
from fedjax_face.split import system as split_system
from fedjax_face.split.accounting import MODES
from fedjax_face.split.cuts import cut
from fedjax_face.split.device import frozen, trained_private, trained_published
from fedjax_face.split.holders import devices
from fedjax_face.split.labels import u_shaped
from fedjax_face.split.mechanism import clipped_noise
from fedjax_face.split.network import merged
from tests.edge import tiny_runs
from tests.edge.tiny_runs import (
    DEVICES,
    PEOPLE,
    SIDE,
    Tiny,
    activations,
    bound,
    mesh,
    method,
    split,
)
from tests.runs.interruption import Killed, interrupt, undated
from tests.split import conftest as shared

sources = shared.sources  # a fixture
ROOT = bytes(range(32))
COHORTS = streams.public_root(0)


def epsilon_of(algorithm, unit, rounds, delta=1e-3):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger.epsilon(delta, unit).best


# ---- parts ----


WRITTEN = {
    "frozen": (
        {"split": {"after": "conv1", "projection": 16},
         "activations": {"clip_norm": 1.0, "noise_multiplier": 1.0},
         "clients": {"number": 2, "batch_size": 6}},
        lambda: {"split": cut(after="conv1", projection=16),
                 "activations": clipped_noise(clip_norm=1.0, noise_multiplier=1.0),
                 "clients": devices(number=2, batch_size=6)}),
    "private": (
        {"device": {"name": "trained_private", "noise_ratio": 0.5},
         "labels": {"name": "u_shaped", "noise_multiplier": 2.0}, "server": {"learning_rate": 0.1}},
        lambda: {"device": trained_private(noise_ratio=0.5), "labels": u_shaped(
            noise_multiplier=2.0), "server": adam(learning_rate=0.1)}),
    "randomised": (
        {"device": "frozen_cached", "labels": {"name": "randomized_response", "epsilon": 0.5},
         "split": {"pooling": 4}, "backbone": {"name": "lenet", "embedding_dim": 16}},
        lambda: {"device": ff.devices.frozen_cached(), "split": cut(pooling=4),
                 "labels": ff.labels.randomized_response(epsilon=0.5),
                 "backbone": lenet(embedding_dim=16)}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_method_is_its_call_written_down(name):
  section, parts = WRITTEN[name]
  made = dp_activations(**parts())
  assert options.build(methods.Method, {"name": "dp_activations", **section}, "method") == made
  assert options.build(methods.Method, options.call(made), "method") == made


def test_a_method_of_parts_is_bound(sources):
  algorithm = bound(method(device=trained_private(noise_ratio=3.0), server=momentum()), sources)
  assert algorithm.name == "dp_activations"
  assert options.made(algorithm.parts.parts.device).mode == "trained_private"
  assert algorithm.hparams["device"]["noise_multiplier"] == 3.0
  assert set(algorithm.hparams["server"]) == {"learning_rate", "momentum"}
  said = bound(method(device=trained_private(noise_multiplier=7.0)), sources)
  assert said.hparams["device"]["noise_multiplier"] == 7.0
  assert [r.event.noise_multiplier for r in said.releases
          if (r.channel, r.unit) == ("device_gradients", "image")] == [7.0]


@pytest.mark.parametrize("parts, changes, refusal", [
    ({"split": cut(after="conv9")}, {},
     "method.split.after='conv9': unknown cut 'conv9'; choose one of conv1, embedding, first, mid"),
    ({"split": split(pooling=5)}, {}, "method.split.pooling=5: a pooling window of 5 does not div"),
    ({"split": split(projection=25)}, {}, r"method.split.projection=25: .*dims must be in 1..24"),
    ({"split": split(projection=4)}, {"public": None},
     "method.split.projection comes from public images: it needs data.public"),
    ({"activations": activations(None)}, {"public": None},
     "method.activations.clip_norm=None comes from public images: it needs data.public"),
    ({"clients": devices(number=9)}, {}, "method.clients.number=9: expected 1 to 8, the number of"),
    ({"activations": activations(math.inf)}, {},
     "method.activations.clip_norm=inf: noise is scaled to the clip norm"),
    ({"activations": activations(1.0, None)}, {},
     "exactly one of privacy.epsilon and method.activations.noise_multiplier"),
    ({}, {"privacy": Budget(2.0)},
     "exactly one of privacy.epsilon and method.activations.noise_multiplier"),
    ({}, {"privacy": Budget(unit="house")}, "privacy.unit='house': expected image or person"),
    ({}, {"start": {"params": {}}}, "start: the device part is public"),
], ids=lambda value: "" if isinstance(value, dict) else value[:20])
def test_what_does_not_fit_is_refused_when_bound(sources, parts, changes, refusal):
  with pytest.raises(ValueError, match=refusal):
    bound(method(**parts), sources, **changes)


@pytest.mark.parametrize("section, refusal", [
    ({"head": {"name": "cosface"}}, "method.head: dp_activations takes no head"),
    ({"device": {"name": "frozn"}}, r"method.device=frozn: .*did you mean frozen\?"),
    ({"activations": {"clip": 1.0}}, r"method.activations.clip: .*did you mean clip_norm\?"),
    ({"labels": {"name": "clear"}}, "method.labels=clear: no labels has this name.* pseudonym"),
    ({"labels": {"name": "pseudonym", "epsilon": 1.0}},
     "method.labels.epsilon: pseudonym takes no epsilon"),
    ({"labels": {"name": "u_shaped", "noise_multiplier": 0}}, "method.labels.noise_multiplier=0: "),
])
def test_sections_are_refused_with_path_and_nearest_name(section, refusal):
  with pytest.raises(options.OptionError, match=refusal):
    options.build(methods.Method, {"name": "dp_activations", **section}, "method")


def test_the_unit_of_a_budget_is_that_of_its_epsilon(sources):
  for unit in ("image", "person"):
    algorithm = bound(method(device=frozen(), activations=activations(1.0, None)), sources,
                      privacy=Budget(4.0, 1e-3, unit))
    assert 3.9 < epsilon_of(algorithm, unit, 2) <= 4.0


# ---- equal to ordinary training ----


@pytest.mark.parametrize("parts, trained", [
    ({"device": trained_published(learning_rate=1e-3)}, True),
    ({"labels": u_shaped(noise_multiplier=0.0, acknowledged=True)}, False)],
    ids=["trained", "u_shaped"])
def test_without_noise_and_clip_it_is_ordinary_training(sources, parts, trained, monkeypatch):
  """One device; both sides with the same Adam; 14 steps, the last of a pass partly filled."""
  monkeypatch.setattr(rounds, "secret_order", lambda owner, key: jnp.arange(len(owner)))
  algorithm = bound(method(clients=devices(batch_size=6), activations=activations(math.inf, 0.0),
                           server=adam(learning_rate=1e-3), **parts), sources)
  *_, progress = loop.train(algorithm, sources.train.images, rounds=2, seed=0, noise_root=ROOT,
                            cohort_root=COHORTS, mesh=mesh())
  network = algorithm.parts.parts.cut.network(sources.train.num_labels)
  images, truth = jnp.asarray(sources.train.images), jnp.asarray(sources.train.label)
  kept = () if trained else ("conv1",)
  whole = algorithm.start(algorithm.init(streams.init_key(0)))["params"]
  fixed = {name: whole[name] for name in kept}
  params = {name: block for name, block in whole.items() if name not in kept}
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
  algorithm = bound(method(), sources, start=backbone, start_is_public=True)
  state = algorithm.init(jax.random.key(0))
  whole = merged({"device": state.device.params, "server": state.server.params})["params"]
  whole.pop("classifier")
  jax.tree.map(np.testing.assert_array_equal, whole, dict(backbone["params"]))


# ---- the ledger ----


@pytest.mark.parametrize("mode, unit", [
    ("frozen_cached", "image"), ("frozen_fresh", "person"), ("trained_private", "image")])
def test_a_target_epsilon_is_that_of_its_unit(sources, mode, unit):
  algorithm = bound(method(device=DEVICES[mode], activations=activations(1.0, None)), sources, 3,
                    privacy=Budget(4.0, 1e-3, unit))
  multiplier = algorithm.hparams["activations"]["noise_multiplier"]
  assert algorithm.hparams["device"].get("noise_multiplier") == (
      multiplier if mode == "trained_private" else None)
  assert epsilon_of(algorithm, unit, 3) <= 4.0
  less = method(device=DEVICES[mode], activations=activations(1.0, multiplier - 0.002))
  assert epsilon_of(bound(less, sources, 3), unit, 3) > 4.0
  assert epsilon_of(algorithm, "person", 3) > epsilon_of(algorithm, "image", 3)


def test_nothing_is_amplified_and_a_cache_costs_once(sources):
  for mode in MODES:
    algorithm = bound(method(device=DEVICES[mode]), sources, 4)
    assert all(type(release.event).__name__ == "GaussianDpEvent"
               and release.adjacency is Adjacency.REPLACE_ONE for release in algorithm.releases)
    spent = [epsilon_of(algorithm, "image", passes) for passes in (1, 4)]
    assert (spent[0] == spent[1]) == (mode == "frozen_cached")
    assert "nothing is amplified" in algorithm.sampling
    assert algorithm.population == {"image": 40, "person": PEOPLE}


def test_a_published_device_part_is_not_called_rigorous(sources):
  algorithm = bound(method(device=trained_published()), sources)
  assert all("not rigorous" in release.note for release in algorithm.releases)
  assert epsilon_of(algorithm, "image", 2) == epsilon_of(algorithm, "person", 2)
  assert any("exact gradients" in sentence for sentence in algorithm.not_covered)


def test_without_noise_nothing_is_claimed(sources):
  algorithm = bound(method(activations=activations(1.0, 0.0)), sources)
  assert all(is_non_private(release.event) for release in algorithm.releases)


# ---- bytes ----


def test_bytes_by_hand(sources):
  """20 images on a device, 4 messages of 6; activations of 12 x 12 x 2 numbers, 8 logits."""
  up, reply, logits = 6 * (4 * 288 + 8) + 4, 6 * (4 * 288 + 4) + 4, 6 * (4 * 8 + 4) + 4
  count = lambda rounds=2, **parts: bound(method(**parts), sources, rounds).communication(None)[:2]
  assert count(device=frozen()) == (0, 4 * up)
  assert count(rounds=4) == (0, up)
  assert count(device=trained_private()) == (4 * reply, 4 * up)
  assert count(device=trained_private(), labels=u_shaped()) == (
      4 * (reply + logits), 4 * (up + logits))


# ---- evaluation ----


JUDGED = ff.evaluations.classification(every=2, batch_size=7, bootstrap=20)


@pytest.fixture(scope="module")
def able(sources):
  """A server that learned from activations without noise, and the method of that run."""
  chosen = method(split=split("bottleneck"), activations=activations(50.0, 0.0),
                  server=adam(learning_rate=0.02))
  *_, progress = loop.train(
      bound(chosen, sources), sources.train.images, rounds=30, seed=0, noise_root=ROOT,
      cohort_root=COHORTS, mesh=mesh(), rounds_per_dispatch=30)
  return chosen, jax.tree.map(np.array, progress.state)


@pytest.fixture(scope="module")
def others(sources):
  """The same people with 96 other images."""
  return sources._replace(evaluation=tiny_runs.sources(images=60, evaluation=12).evaluation)


def evaluator(chosen, sources, multiplier):
  noised = options.replace(chosen, activations=options.replace(
      options.argument(chosen, "activations"), noise_multiplier=multiplier))
  return evaluator_of(options.made(JUDGED), bound(noised, sources), sources, 0)


def test_accuracy_is_of_whole_devices_and_of_noised_activations(able, others):
  chosen, state = able
  without, system = evaluator(chosen, others, 0.0), bound(chosen, others).parts
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
  chosen = method(device=trained_published())
  algorithm = bound(chosen, sources)
  state = jax.tree.map(np.array, algorithm.init(jax.random.key(0)))
  kernel = state.device.params["conv1"]["kernel"]
  kernel[0] = -kernel[0]  # so that the devices differ
  right = evaluator(chosen, sources, 1.0).right(state)["accuracy"]
  system = algorithm.parts
  assert set(system.device_of_person) == {0, 1}
  everywhere = [np.argmax(system.logits(
      system.device_of(state, device), state.server.params, sources.evaluation.images, None, 0.0),
      -1) for device in (0, 1)]
  assert np.any(everywhere[0] != everywhere[1])
  own = np.choose(system.device_of_person[sources.evaluation.person], everywhere)
  np.testing.assert_array_equal(right, own == sources.evaluation.label)


# ---- a whole run ----


def run(folder):
  """Four passes after a public start; noise that anybody can draw again."""
  before = ff.centralized(steps=2, local=ff.local_steps(
      learning_rate=.02, optimizer="momentum", batch_size=4))
  ff.fit(method(split=split(projection=8), activations=activations(None)),
         tiny_runs.people_of_tiny_runs(), rounds=4, start=ff.pretrain(before, rounds=1),
         privacy=ff.budget(delta=1e-3, noise_seed=5), evaluation=JUDGED,
         compute=ff.compute(rounds_per_dispatch=1, checkpoint_every=1), workdir=folder)
  return [json.loads((folder / name).read_text()) for name in ("summary.json", "privacy.json")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of four passes: its folder, summary.json and privacy.json."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, *run(folder)


def test_accuracies_stand_beside_the_ceiling(finished):
  folder, summary, _ = finished
  assert summary["status"] == "finished" and summary["algorithm"] == "dp_activations"
  assert set(summary["metrics"]) == {"accuracy", "accuracy_noised", "accuracy_ceiling"}
  assert any("activations of 8 numbers" in note for note in summary["data_notes"])
  part = summary["device_part"]
  assert part["shape"] == [8] and part["message_bytes"] == 4 * 8 + 8 + 4
  assert part["parameters"] > 0 and part["flops"] > 0 and "seconds" not in part
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
      run(tmp_path)
  run(tmp_path)
  for name in ("metrics.csv", "privacy.json"):
    assert undated(tmp_path / name) == undated(finished[0] / name), name
  metrics = [json.loads((folder / "summary.json").read_text())["metrics"]
             for folder in (finished[0], tmp_path)]
  assert metrics[0] == metrics[1]
