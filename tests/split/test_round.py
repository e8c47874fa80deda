"""Rounds of split learning under the loop: what crosses the cut, and with what keys."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.data import pixels
from fedjax_face.method.algorithm import Data
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import loop, streams
from fedjax_face.split import message, step
from fedjax_face.split import round as rounds
from fedjax_face.split.holders import devices
from fedjax_face.split.labels import randomized_response
from tests.edge.tiny_runs import DEVICES, PEOPLE, RUNS, bound, mesh, method

ROOT = bytes(range(32))
COHORTS = streams.public_root(0)


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
  """Secrets that a round hands out, by the name of the function that gets them last."""
  found = {"server_step": [], "device_steps": []}

  def watched(name, function):
    def call(*given):
      jax.debug.callback(lambda words: found[name].append(tuple(map(int, words))),
                         jax.random.key_data(given[-1]))
      return function(*given)
    return call

  with pytest.MonkeyPatch.context() as patch:
    for name in found:
      patch.setattr(rounds, name, watched(name, getattr(rounds, name)))
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
  """A function from a name in `RUNS` to the record of that run, each made once."""
  made = {}

  def record(name):
    if name not in made:
      made[name] = record_of(bound(method(**RUNS[name]), sources), sources.train.images, wire, keys)
    return made[name]

  return record


def epsilon_of(algorithm, unit, rounds, delta=1e-3):
  ledger = Ledger()
  for release in algorithm.releases:
    ledger.record(release, rounds)
  return ledger.epsilon(delta, unit).best


# ---- every mode ----


@pytest.mark.parametrize("name", RUNS)
def test_every_mode_trains_under_the_loop(sources, recorded, name):
  record = recorded(name)
  algorithm, (before, _, after) = record.algorithm, record.states
  for leaf, old in zip(*map(jax.tree.leaves, (after.server.params, before.server.params)),
                       strict=True):
    assert np.isfinite(leaf).all() and np.any(leaf != old)
  first = record.metrics[0]
  assert set(first) == {"loss", "train_accuracy"} and 0 < first["loss"][0] < 9
  kernel, old = (state.device.params["conv1"]["kernel"] for state in (after, before))
  if name.startswith("trained") or name == "u_shaped":
    assert kernel.shape == (2, 3, 3, 1, 2)
    assert np.any(kernel[0] != old[0]) and np.any(kernel[0] != kernel[1])
  else:
    assert kernel.shape == (3, 3, 1, 2) and np.all(kernel == old)
  logits = algorithm.predict(after, sources.evaluation.images[:3])
  assert logits.shape == (3, PEOPLE)
  assert set(algorithm.start(after)["params"]) == {"conv1", "embedding", "classifier"}


# ---- what crosses ----


def prepared(algorithm, images, key=7):
  keys = streams.step_keys(0, streams.public_root(key), streams.BEFORE_ROUNDS)
  make = jax.jit(lambda *given: algorithm.prepare(*given))  # traced anew
  return make(Data(jnp.asarray(images)), algorithm.hparams, keys)


def test_cached_activations_are_drawn_once_each_for_itself(sources):
  algorithm = bound(method(), sources)
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
  real, calls = rounds.example_keys, itertools.count()
  monkeypatch.setattr(rounds, "example_keys", lambda key, example: real(
      jax.random.fold_in(key, next(calls)), example))
  with pytest.raises(AssertionError):
    test_cached_activations_are_drawn_once_each_for_itself(sources)


@pytest.mark.parametrize("mode", ["frozen_cached", "frozen_fresh"])
def test_an_image_is_sent_once_a_pass(sources, recorded, mode):
  found = recorded(mode).sent()
  padding = found.pop(message.PADDING)
  assert set(found) == set(range(len(sources.train)))
  assert all(not np.any(row) for row, _ in padding)
  labels = []
  for (first, label), (second, again) in found.values():
    assert label == again and np.array_equal(first, second) == (mode == "frozen_cached")
    labels.append(label)
  np.testing.assert_array_equal(np.sort(labels), np.sort(sources.train.label))


def test_a_resumed_run_sends_the_same_messages(sources, recorded, wire, keys):
  whole = recorded("frozen_cached")
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
  before = recorded("frozen_fresh")
  after = record_of(before.algorithm, images, wire, keys).sent()
  changed = {number for number, times in before.sent().items()
             for (row, _), (again, _) in zip(times, after[number], strict=True)
             if not np.array_equal(row, again)}
  assert len(changed) == 1


@pytest.mark.parametrize("name", [*DEVICES, "u_shaped"])
def test_no_image_and_no_clean_activation_crosses(sources, recorded, name):
  record = recorded(name)
  system = bound(method(), sources).parts
  images = sources.train.images
  clean = system.split.device(system.device, images)
  for array in (images, pixels.normalise(images), clean, system.clip(clean, system.clip_norm)):
    assert not record.wire.holds(np.asarray(array).reshape(len(images), -1))
  assert not record.wire.holds(record.states[-1].device.params["conv1"]["kernel"].reshape(-1, 18))
  assert record.wire.holds(np.stack([row for row, _ in record.sent()[3]]))


def test_noise_has_the_size_that_the_ledger_means(sources, recorded):
  """z = 1, C = 1 of a ReLU: standard deviation sqrt(2) on every entry."""
  record, system = recorded("frozen_fresh"), bound(method(), sources).parts
  assert system.split.non_negative
  clean = np.asarray(system.clip(system.split.device(system.device, sources.train.images), 1.0))
  clean = clean.reshape(len(clean), -1)
  np.testing.assert_allclose(np.linalg.norm(clean, axis=1), 1, rtol=1e-5)
  found = record.sent()
  noise = np.stack([found[number][0][0] for number in range(len(clean))]) - clean
  assert noise.std() == pytest.approx(math.sqrt(2), rel=5 / math.sqrt(2 * noise.size))


def test_randomised_labels_are_drawn_once_and_on_the_ledger(sources, recorded):
  record = recorded("randomised")
  found = record.sent()
  found.pop(message.PADDING)
  assert all(first == second for (_, first), (_, second) in found.values())
  wrong = np.mean([times[0][1] != sources.train.label[number] for number, times in found.items()])
  assert 0.5 < wrong < 1  # 7 / (e^0.5 + 7) = 0.81 is expected
  labels = [release for release in record.algorithm.releases if release.channel == "labels"]
  assert [release.unit for release in labels] == ["image", "person"]
  clear = recorded("frozen_fresh").algorithm
  assert epsilon_of(record.algorithm, "image", 2) > epsilon_of(clear, "image", 2)


@pytest.mark.parametrize("number", [1, 2])
def test_private_labels_are_narrowed_by_the_device(sources, number):
  chosen = method(clients=devices(number=number, batch_size=6),
                  labels=randomized_response(epsilon=0.5))
  said = [line for line in bound(chosen, sources).not_covered if "names its device" in line]
  assert len(said) == number - 1


@pytest.mark.parametrize("number", [2, 3])
def test_the_secret_order_keeps_rows_on_their_devices(number):
  owner = np.random.default_rng(number).integers(0, number, 60)
  orders = [np.asarray(rounds.secret_order(owner, jax.random.key(root))) for root in (1, 2)]
  for order in orders:
    assert order.dtype == np.int32 and sorted(order) == list(range(60))
    np.testing.assert_array_equal(owner[order], owner)
    for device in range(number):
      own = np.flatnonzero(owner == device)
      assert (order[own] != own).mean() > 0.5
  assert (orders[0] != orders[1]).mean() > 0.5


def test_u_shaped_labels_stay_on_the_device(recorded):
  record = recorded("u_shaped")
  messages = record.wire.select("to_server", "activations")
  assert messages and all(
      (crossing.content.labels == message.NO_LABEL).all() for crossing in messages)
  assert record.wire.select("to_server", "logit_gradients")
  assert {release.channel for release in record.algorithm.releases} == {
      "activations", "device_gradients", "logit_gradients"}


def test_label_and_gradient_noise_have_keys_of_their_own(recorded):
  """From a key that both use, who knows one noise could compute the other."""
  keys = recorded("u_shaped").keys
  assert [len(keys[name]) for name in ("server_step", "device_steps")] == [8, 8]
  assert len({key for names in keys.values() for key in names}) == 16


# ---- bytes ----


@pytest.mark.parametrize("mode", ["frozen_fresh", "trained_published"])
def test_bytes_are_those_that_crossed(recorded, mode):
  record = recorded(mode)
  counted = record.algorithm.communication(record.states[-1])
  passes_and_devices = 4
  assert record.wire.bytes("to_server") == passes_and_devices * counted.up
  down = record.wire.bytes("to_device") if mode == "trained_published" else 0
  assert down == passes_and_devices * counted.down
