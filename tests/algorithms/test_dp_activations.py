"""Split learning as its page wires it: what crosses the cut, the ledger, refusals, whole runs."""

import csv
import itertools
import json
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dp_activations as configs
from fedjax_face.algorithms import dp_activations as page
from fedjax_face.algorithms import registry
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data import closed_set, pixels
from fedjax_face.data import sources as data_sources
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.federated.algorithm import Data
from fedjax_face.models import registry as models
from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.split import message, step
from fedjax_face.split.accounting import MODES
from fedjax_face.split.network import merged
from fedjax_face.training import checkpoint, loop, run, streams
from fedjax_face.training.classification import ClassificationEvaluator
from fedjax_face.training.mesh import clients_mesh
from tests.training.interruption import Killed, interrupt, undated

PEOPLE, SIDE = 8, 12
ROOT = bytes(range(32))
COHORTS = streams.public_root(0)


class Tiny(nn.Module):
  """A backbone of two blocks that compiles in no time."""

  embedding_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    x = nn.avg_pool(nn.relu(Conv(2, (3, 3), name="conv1")(x)), (3, 3), (3, 3))
    return Dense(self.embedding_dim, name="embedding")(x.reshape(len(x), -1))


def made(*, world=0, images=6, people=PEOPLE):
  """Every person a pattern, every image that pattern with a little noise."""
  rng = np.random.default_rng(world)
  person = np.repeat(np.arange(people, dtype=np.int32), images)
  pattern = rng.integers(40, 216, (people, SIDE, SIDE, 1))
  noise = rng.integers(-40, 40, (len(person), SIDE, SIDE, 1))
  names = tuple(f"world{world}-{p}" for p in range(people))
  return FaceDataset(f"world{world}", (pattern[person] + noise).astype(np.uint8), person, person,
                     names=names), ()


@pytest.fixture(scope="module", autouse=True)
def tiny():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(data_sources.PUBLIC, "made", made)
    patch.setitem(models.BACKBONES, "tiny", Tiny)
    yield


def config(**overrides):
  """5 images of each of 8 people train; two devices, noise 1, the clip given; no pre-training."""
  chosen = configs.base()
  chosen.data = {"name": "made", "test_fraction": 0.2,
                 "public": {"name": "made", "world": 1, "images": 3}}
  chosen.pretrain = {}
  chosen.update_from_flattened_dict({
      "rounds": 2, "split.cut": "conv1", "split.projection": 0, "split.devices": 2,
      "split.batch_size": 6, "model.backbone": "tiny", "model.embedding_dim": 16,
      "privacy.delta": 1e-3, "privacy.noise_seed": 5, "hparams.clip_norm": 1.0,
      "hparams.noise_multiplier": 1.0, "evaluation.bootstrap": 20, "evaluation.batch_size": 7,
      "training.rounds_per_dispatch": 1} | overrides)
  return chosen


@pytest.fixture(scope="module")
def sources():
  return closed_set.load(config().data.to_dict(), 0)


def mesh():
  return clients_mesh(jax.devices()[:1])


def build(chosen, sources):
  return registry.build(chosen, sources, mesh())


def system_of(chosen, sources):
  return page.split_system(Ingredients(chosen, sources.train, mesh(), None, sources.public))


@pytest.fixture(scope="module")
def wire():
  """A transcript of what reaches the server's functions and of the gradients that they answer."""
  transcript = message.Transcript()

  def record(direction, channel, content):
    jax.debug.callback(lambda content: transcript.record(0, direction, channel, content), content,
                       ordered=True)

  def watched(name, channel):
    function = getattr(step, name)

    def call(split, *given):
      for content in given:
        if isinstance(content, message.Message | message.Reply):
          kind = "activations" if isinstance(content, message.Message) else channel
          record("to_server", kind, content)
      done = function(split, *given)
      if isinstance(done, step.ServerStep):
        record("to_device", "gradients", done.reply)
      return done

    patch.setattr(step, name, call)

  with pytest.MonkeyPatch.context() as patch:
    for name in ("server_step", "server_logits", "server_step_from_gradients"):
      watched(name, "logit_gradients")
    yield transcript


@pytest.fixture(scope="module")
def keys():
  """Secrets that the page hands out, by the name of the function that gets them last."""
  found = {"_server_step": [], "_device_steps": []}

  def watched(name, function):
    def call(*given):
      jax.debug.callback(lambda words: found[name].append(tuple(map(int, words))),
                         jax.random.key_data(given[-1]))
      return function(*given)
    return call

  with pytest.MonkeyPatch.context() as patch:
    for name in found:
      patch.setattr(page, name, watched(name, getattr(page, name)))
    yield found


class Record(NamedTuple):
  """Two rounds under the loop: states before, between and after, what crossed, secret keys."""

  algorithm: Any
  states: list
  metrics: list
  wire: message.Transcript
  keys: dict

  def sent(self):
    """Example -> (activation, label) of every time that it was sent, in order."""
    found = {}
    for crossing in self.wire.select("to_server", "activations"):
      content = crossing.content
      for number, row, label in zip(
          content.example.reshape(-1), content.activations.reshape(content.example.size, -1),
          content.labels.reshape(-1), strict=True):
        found.setdefault(int(number), []).append((row, int(label)))
    return found


def record_of(algorithm, images, transcript, keys, **options):
  """Trains two rounds; everything is copied."""
  for kept in (transcript.crossings, *keys.values()):
    kept.clear()
  before = options.pop("state", None)
  states = [jax.tree.map(np.array, algorithm.init(streams.init_key(0)))]
  metrics = []
  for progress in loop.train(algorithm, images, rounds=2, seed=0, noise_root=ROOT,
                             cohort_root=COHORTS, mesh=mesh(),
                             state=jax.tree.map(jnp.array, before), **options):
    states.append(jax.tree.map(np.array, progress.state))
    metrics.append(progress.metrics)
  jax.effects_barrier()
  kept = message.Transcript()
  kept.crossings += transcript.crossings
  return Record(algorithm, states, metrics, kept, {name: list(own) for name, own in keys.items()})


@pytest.fixture(scope="module")
def recorded(sources, wire, keys):
  """A function from the `split` section's changes to the record of such a run, each made once."""
  made = {}

  def record(**split):
    name = tuple(split.items())
    if name not in made:
      algorithm = build(config(**{f"split.{name}": value for name, value in split.items()}),
                        sources)
      made[name] = record_of(algorithm, sources.train.images, wire, keys)
    return made[name]

  return record


U_SHAPED = {"mode": "trained_private", "labels": "u_shaped", "labels_in_clear": False,
            "label_noise_multiplier": 2.0}
RANDOMISED = {"mode": "frozen_fresh", "labels": "randomized_response", "label_epsilon": 0.5,
              "labels_in_clear": False}
RUNS = [*({"mode": mode} for mode in MODES), U_SHAPED, RANDOMISED]


def epsilon_of(algorithm, unit, rounds, delta=1e-3):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger.epsilon(delta, unit).best


# ---- every mode ----


@pytest.mark.parametrize("split", RUNS, ids=lambda split: "-".join(map(str, split.values())))
def test_every_mode_trains_under_the_loop(sources, recorded, split):
  record = recorded(**split)
  algorithm, (before, _, after) = record.algorithm, record.states
  for leaf, old in zip(*map(jax.tree.leaves, (after.server.params, before.server.params)),
                       strict=True):
    assert np.isfinite(leaf).all() and np.any(leaf != old)
  first = record.metrics[0]
  assert set(first) == {"loss", "train_accuracy"} and 0 < first["loss"][0] < 9
  kernel, old = (state.device.params["conv1"]["kernel"] for state in (after, before))
  if split["mode"].startswith("trained"):
    assert kernel.shape == (2, 3, 3, 1, 2)
    assert np.any(kernel[0] != old[0]) and np.any(kernel[0] != kernel[1])
  else:
    assert kernel.shape == (3, 3, 1, 2) and np.all(kernel == old)
  logits = algorithm.predict(after, sources.evaluation.images[:3])
  assert logits.shape == (3, PEOPLE)
  assert set(algorithm.start(after)["params"]) == {"conv1", "embedding", "classifier"}


@pytest.mark.parametrize("cut, projection, dimensions", [
    ("conv1", 0, 288), ("first", 16, 16), ("bottleneck", 0, 16), ("embedding", 4, 4)])
def test_cuts_projections_and_the_public_clip(sources, cut, projection, dimensions):
  system = system_of(config(**{"split.cut": cut, "split.projection": projection,
                               "hparams.clip_norm": None}), sources)
  assert math.prod(system.split.shape) == dimensions
  assert system.split.non_negative == (cut == "conv1")
  public = system.split.device(system.device, sources.public.images).reshape(24, -1)
  assert system.clip_norm == pytest.approx(
      np.median(np.linalg.norm(public, axis=1)), rel=1e-4)
  assert f"activations of {dimensions} numbers" in system.notes[0]


def test_the_device_part_takes_floats_that_are_normalised_already(sources):
  system = system_of(config(**{"split.pooling": 4}), sources)
  assert system.split.shape == (3, 3, 2)
  images = jnp.asarray(sources.train.images[:3])
  np.testing.assert_array_equal(system.split.device(system.device, images),
                                system.split.device(system.device, pixels.normalise(images)))


# ---- what crosses ----


def prepared(algorithm, images, key=7):
  keys = streams.step_keys(0, streams.public_root(key), streams.BEFORE_ROUNDS)
  make = jax.jit(lambda *given: algorithm.prepare(*given))  # traced anew
  return make(Data(jnp.asarray(images)), algorithm.hparams, keys)


def test_cached_activations_are_drawn_once_each_for_itself(sources):
  algorithm = build(config(), sources)
  images = sources.train.images
  once = prepared(algorithm, images)
  np.testing.assert_array_equal(once.images, prepared(algorithm, images).images)
  elsewhere = prepared(algorithm, images, key=8)
  assert (once.images != elsewhere.images).all()
  assert (once.targets["number"] != elsewhere.targets["number"]).any()  # the order is secret too
  other = images.copy()
  other[0] = 255 - other[0]
  moved = np.any(prepared(algorithm, other).images != once.images, axis=(1, 2, 3))
  np.testing.assert_array_equal(moved, once.targets["number"] == 0)


def test_cached_activations_drawn_anew_are_noticed(sources, monkeypatch):
  real, calls = page.example_keys, itertools.count()
  monkeypatch.setattr(page, "example_keys", lambda key, example: real(
      jax.random.fold_in(key, next(calls)), example))
  with pytest.raises(AssertionError):
    test_cached_activations_are_drawn_once_each_for_itself(sources)


@pytest.mark.parametrize("mode", ["frozen_cached", "frozen_fresh"])
def test_an_image_is_sent_once_a_pass(sources, recorded, mode):
  found = recorded(mode=mode).sent()
  padding = found.pop(message.PADDING)
  assert set(found) == set(range(len(sources.train)))
  assert all(not np.any(row) for row, _ in padding)
  labels = []
  for (first, label), (second, again) in found.values():
    assert label == again and np.array_equal(first, second) == (mode == "frozen_cached")
    labels.append(label)
  np.testing.assert_array_equal(np.sort(labels), np.sort(sources.train.label))


def test_a_resumed_run_sends_the_same_messages(sources, recorded, wire, keys):
  whole = recorded(mode="frozen_cached")
  resumed = record_of(whole.algorithm, sources.train.images, wire, keys,
                      state=whole.states[1], start=1)
  found = whole.sent()
  for number, times in resumed.sent().items():
    if number != message.PADDING:
      (row, _), = times
      np.testing.assert_array_equal(row, found[number][1][0])
  jax.tree.map(np.testing.assert_array_equal, resumed.states[-1], whole.states[-1])


def test_changing_an_image_leaves_the_messages_of_others(sources, recorded, wire, keys):
  images = sources.train.images.copy()
  images[0] = 255 - images[0]
  before = recorded(mode="frozen_fresh")
  after = record_of(before.algorithm, images, wire, keys).sent()
  changed = {number for number, times in before.sent().items()
             for (row, _), (again, _) in zip(times, after[number], strict=True)
             if not np.array_equal(row, again)}
  assert len(changed) == 1


@pytest.mark.parametrize("split", [{"mode": mode} for mode in MODES] + [U_SHAPED],
                         ids=lambda split: split["mode"])
def test_no_image_and_no_clean_activation_crosses(sources, recorded, split):
  record = recorded(**split)
  system = system_of(config(), sources)
  images = sources.train.images
  clean = system.split.device(system.device, images)
  for array in (images, pixels.normalise(images), clean, system.clip(clean, system.clip_norm)):
    assert not record.wire.holds(np.asarray(array).reshape(len(images), -1))
  assert not record.wire.holds(record.states[-1].device.params["conv1"]["kernel"].reshape(-1, 18))
  assert record.wire.holds(np.stack([row for row, _ in record.sent()[3]]))


def test_noise_has_the_size_that_the_ledger_means(sources, recorded):
  """z = 1, C = 1 of a ReLU: standard deviation sqrt(2) on every entry."""
  record, system = recorded(mode="frozen_fresh"), system_of(config(), sources)
  assert system.split.non_negative
  clean = np.asarray(system.clip(system.split.device(system.device, sources.train.images), 1.0))
  clean = clean.reshape(len(clean), -1)
  np.testing.assert_allclose(np.linalg.norm(clean, axis=1), 1, rtol=1e-5)
  found = record.sent()
  noise = np.stack([found[number][0][0] for number in range(len(clean))]) - clean
  assert noise.std() == pytest.approx(math.sqrt(2), rel=5 / math.sqrt(2 * noise.size))


def test_randomised_labels_are_drawn_once_and_on_the_ledger(sources, recorded):
  record = recorded(**RANDOMISED)
  found = record.sent()
  found.pop(message.PADDING)
  assert all(first == second for (_, first), (_, second) in found.values())
  wrong = np.mean([times[0][1] != sources.train.label[number] for number, times in found.items()])
  assert 0.5 < wrong < 1  # 7 / (e^0.5 + 7) = 0.81 is expected
  labels = [release for release in record.algorithm.releases if release.channel == "labels"]
  assert [release.unit for release in labels] == ["image", "person"]
  clear = recorded(mode="frozen_fresh").algorithm
  assert epsilon_of(record.algorithm, "image", 2) > epsilon_of(clear, "image", 2)


@pytest.mark.parametrize("devices", [1, 2])
def test_private_labels_are_narrowed_by_the_device(sources, devices):
  chosen = config(**{"split.devices": devices, "split.labels": "randomized_response",
                     "split.label_epsilon": 0.5})
  said = [line for line in build(chosen, sources).not_covered if "names its device" in line]
  assert len(said) == devices - 1


@pytest.mark.parametrize("devices", [2, 3])
def test_the_secret_order_keeps_rows_on_their_devices(devices):
  owner = np.random.default_rng(devices).integers(0, devices, 60)
  orders = [np.asarray(page._secret_order(owner, jax.random.key(root))) for root in (1, 2)]
  for order in orders:
    assert order.dtype == np.int32 and sorted(order) == list(range(60))
    np.testing.assert_array_equal(owner[order], owner)
    for device in range(devices):
      own = np.flatnonzero(owner == device)
      assert (order[own] != own).mean() > 0.5
  assert (orders[0] != orders[1]).mean() > 0.5


def test_u_shaped_labels_stay_on_the_device(recorded):
  record = recorded(**U_SHAPED)
  messages = record.wire.select("to_server", "activations")
  assert messages and all(
      (crossing.content.labels == message.NO_LABEL).all() for crossing in messages)
  assert record.wire.select("to_server", "logit_gradients")
  assert {release.channel for release in record.algorithm.releases} == {
      "activations", "device_gradients", "logit_gradients"}


def test_label_and_gradient_noise_have_keys_of_their_own(recorded):
  """From a key that both use, who knows one noise could compute the other."""
  keys = recorded(**U_SHAPED).keys
  assert [len(keys[name]) for name in ("_server_step", "_device_steps")] == [8, 8]
  assert len({key for names in keys.values() for key in names}) == 16


# ---- equal to ordinary training ----


@pytest.mark.parametrize("mode, labels", [
    ("trained_published", "pseudonym"), ("frozen_cached", "u_shaped")])
def test_without_noise_and_clip_it_is_ordinary_training(sources, mode, labels, monkeypatch):
  """One device; both sides with the same Adam; 14 steps, the last of a pass partly filled."""
  monkeypatch.setattr(page, "_secret_order", lambda owner, key: jnp.arange(len(owner)))
  chosen = config(**{"split.mode": mode, "split.labels": labels, "split.devices": 1,
                     "hparams.clip_norm": math.inf, "hparams.noise_multiplier": 0.0,
                     "hparams.device_learning_rate": 1e-3, "hparams.server_learning_rate": 1e-3})
  algorithm = build(chosen, sources)
  *_, progress = loop.train(algorithm, sources.train.images, rounds=2, seed=0, noise_root=ROOT,
                            cohort_root=COHORTS, mesh=mesh())
  network = page.classifier(chosen, sources.train)
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
  algorithm = registry.build(config(), sources, mesh(), backbone)
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
  assert algorithm.hparams["device"]["noise_multiplier"] == multiplier
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


@pytest.mark.parametrize("mode", ["frozen_fresh", "trained_published"])
def test_bytes_are_those_that_crossed(recorded, mode):
  record = recorded(mode=mode)
  counted = record.algorithm.communication(record.states[-1])
  passes_and_devices = 4
  assert record.wire.bytes("to_server") == passes_and_devices * counted.up
  down = record.wire.bytes("to_device") if mode == "trained_published" else 0
  assert down == passes_and_devices * counted.down


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
    ({"split.batch_size": 0}, "split.batch_size=0: expected at least 1"),
    ({"split.pooling": 5}, "a pooling window of 5 does not divide"),
    ({"split.pooling": 0}, "a pooling window of 0 does not divide"),
    ({"split.projection": 25}, r"dims must be in 1..24"),
    ({"hparams.clip_norm": 0.0}, "hparams.clip_norm=0.0: expected a number above 0"),
    ({"hparams.clip_norm": -1.0}, "hparams.clip_norm=-1.0"),
    ({"hparams.clip_norm": math.inf}, "hparams.clip_norm=inf: noise is scaled to the clip norm"),
    ({"split.mode": "trained_private", "hparams.gradient_clip_norm": 0.0},
     "hparams.gradient_clip_norm=0.0: expected a finite number above 0"),
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
  return ClassificationEvaluator(build(own, sources), own, sources)


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
  noised = page.noised
  monkeypatch.setattr(page, "noised", lambda activations, clip, clip_norm, multiplier, keys: noised(
      activations, clip, clip_norm, 0.0, keys))
  with pytest.raises(RuntimeError, match="of 96 noised activations is above"):
    evaluator(chosen, others, 5.0).outcome(state)


def test_people_are_evaluated_on_the_device_that_holds_them(sources, recorded):
  chosen, state = config(**{"split.mode": "trained_published"}), recorded(
      mode="trained_published").states[-1]
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
  return folder, *run.run(whole(), folder)


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
      run.run(whole(), tmp_path)
  run.run(whole(), tmp_path)
  for name in ("metrics.csv", "privacy.json"):
    assert undated(tmp_path / name) == undated(finished[0] / name), name
  metrics = [json.loads((folder / "summary.json").read_text())["metrics"]
             for folder in (finished[0], tmp_path)]
  assert metrics[0] == metrics[1]
