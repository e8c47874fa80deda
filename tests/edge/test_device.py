"""Devices and server over bytes: the steps of `split.step`, and noise that is never used twice."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.device import USES, Device, shuffled
from fedjax_face.edge.halves import DeviceData, server_exchanges, server_part
from fedjax_face.edge.wire import Frame
from fedjax_face.split import step as steps
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.message import NO_LABEL, PADDING, Message
from fedjax_face.split.network import projected
from tests.edge.tiny import (
  CLIP,
  MESSAGES,
  OPTIMIZER,
  PARAMS,
  PASSES,
  PSEUDONYM,
  SPLIT,
  B,
  data,
  make_parts,
  rows,
)
from tests.split import tiny

KEY = jax.random.key(7)


class Journal:
  """Which steps were claimed, as after any number of restarts."""

  def __init__(self):
    self.last = dict.fromkeys(USES, -1)

  def __call__(self, use, step):
    fresh, self.last[use] = step > self.last[use], max(step, self.last[use])
    return fresh


def device_of(parts, number=0, journal=None, part=None):
  return Device(parts, number, data(number), KEY, journal or Journal(), part)


class Wire:
  """The server's steps behind the bytes of every frame; keeps what devices sent."""

  def __init__(self, parts):
    self.parts, self.part, self.sent = parts, server_part(parts), []
    self._exchanges, self._received = server_exchanges(parts), []

  def step(self, step, devices):
    """One step of all devices, in lock step as coroutines would do it."""
    runs = [self._Run(device, step) for device in devices]
    self._received = []
    for exchange in self._exchanges:
      contents = tuple(self._crossed(run.next_content(exchange.channel), k)
                       for k, run in enumerate(runs))
      self._received.append(contents)
      self.part, outcome = exchange.run(self.part, self._received)
      for run, content in zip(runs, outcome.contents, strict=True):
        run.answers.append(Frame(exchange.answer, bytes(16), step, content,
                                 outcome.metrics.get("loss", float("nan"))))
    return [run.finish() for run in runs]

  def _crossed(self, frame, number):
    whole = wire.encode(frame)
    contract, header = self.parts.contract(), wire.read_header(whole)
    contract.check_sizes(header)
    content = wire.decode(whole)
    contract.check(content, number, self._received[0][number] if self._received else None)
    self.sent.append(content.content)
    return content.content

  class _Run:
    """Replays a device's step from its beginning until it lacks an answer."""

    def __init__(self, device, step):
      self.device, self.step, self.answers = device, step, []

    def next_content(self, channel):
      class Lacking(Exception):
        pass

      pending = iter(self.answers)

      def exchange(name, step, content):
        answer = next(pending, None)
        if answer is None:
          raise Lacking(Frame(name, bytes(16), step, content))
        return answer

      with pytest.raises(Lacking) as lacking:
        self.device.train(self.step, exchange)
      (frame,) = lacking.value.args
      assert frame.channel == channel
      return frame

    def finish(self):
      answers = iter(self.answers)
      return self.device.train(self.step, lambda *sent: next(answers))


def assert_close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def by_hand(parts, passes=PASSES):
  """Server and device parts after training by the functions of `split.step` alone, one device."""
  server = server_part(parts)
  device = steps.start(PARAMS["device"], parts.device_optimizer or optax.identity())
  images, labels = shuffled(data(0), 0, KEY)
  send = jax.jit(lambda params, *own: steps.device_message(
      SPLIT, CLIP, params, *own, 0, 1.0, 0.0, KEY))
  serve = jax.jit(lambda part, sent: steps.server_step(SPLIT, OPTIMIZER, part, sent))
  learn = jax.jit(lambda part, images, reply: steps.device_step(
      SPLIT, CLIP, OPTIMIZER, part, images, reply, 1.0))
  for step in range(passes * MESSAGES):
    example = rows(0, step)
    inside = np.maximum(example, 0)
    sent = send(device.params, images[inside], labels[inside], example)
    done = serve(server, sent)
    server = done.part
    if parts.device_is_trained:
      device = learn(device, images[inside], done.reply)
  return server, device


@pytest.mark.parametrize("mode, labels", [
    ("frozen_cached", PSEUDONYM),
    ("frozen_cached", LabelPolicy("u_shaped", acknowledged=True)),
    ("trained_published", PSEUDONYM),
    ("trained_published", LabelPolicy("u_shaped", acknowledged=True))])
def test_without_noise_it_is_the_same_training(mode, labels):
  parts = make_parts(mode, labels, noise=0.0, devices=1)
  link, device = Wire(parts), device_of(parts)
  for step in range(parts.steps):
    (loss,) = link.step(step, [device])
    assert np.isfinite(loss)
  server, expected = by_hand(parts)
  assert_close(link.part, server)
  assert_close(device.part, expected)


def test_several_devices_train_one_server_part():
  parts = make_parts(noise=0.0)
  link, devices = Wire(parts), [device_of(parts, number) for number in (0, 1)]
  link.step(0, devices)
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *link.sent)
  assert stacked.activations.shape == (2, B, *SPLIT.shape) and list(stacked.device) == [0, 1]
  assert not np.array_equal(stacked.activations[0], stacked.activations[1])
  serve = jax.jit(lambda part: steps.server_step(SPLIT, OPTIMIZER, part, stacked).part)
  assert_close(link.part, serve(server_part(parts)))


def messages(device, numbers):
  """What a device sends at steps whose answers never come."""
  sent = []

  def exchange(channel, step, content):
    sent.append(content)
    raise ConnectionError

  for number in numbers:
    with pytest.raises(ConnectionError):
      device.train(number, exchange)
  return sent


def assert_equal(a, b):
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)


def is_blank(message):
  return (not np.any(message.activations) and (message.example == PADDING).all()
          and (message.labels == NO_LABEL).all())


def test_cached_noise_is_the_same_in_every_pass_and_after_a_restart():
  parts = make_parts()
  first, second, again = messages(device_of(parts), [0, 1, 2])
  assert_equal(first, again)
  assert_equal(messages(device_of(parts), [1])[0], second)
  np.testing.assert_array_equal(second.example, [2, PADDING])
  assert not np.any(second.activations[1]) and second.labels[1] == NO_LABEL
  assert not np.array_equal(first.activations,
                            messages(device_of(make_parts(noise=0.0)), [0])[0].activations)


@pytest.mark.parametrize("mode", ["frozen_cached", "frozen_fresh"])
def test_a_step_is_on_account_before_anything_of_it_is_sent(mode):
  journal, seen = Journal(), []
  device = device_of(make_parts(mode), journal=journal)

  def exchange(channel, step, content):
    seen.append(journal.last["send"])
    raise ConnectionError

  for step in (0, 1):
    with pytest.raises(ConnectionError):
      device.train(step, exchange)
  assert seen == [0, 1]


def test_fresh_noise_is_new_in_every_pass_and_repeated_only_bit_for_bit():
  device = device_of(make_parts("frozen_fresh"))
  first, repeated, _, later = messages(device, [0, 0, 1, 2])
  assert_equal(first, repeated)
  np.testing.assert_array_equal(first.example, later.example)
  assert np.abs(first.activations - later.activations).min() > 0


@pytest.mark.parametrize("mode", ["frozen_fresh", "trained_private", "trained_published"])
def test_a_step_that_may_have_been_sent_is_padding_after_a_restart(mode):
  parts, journal = make_parts(mode), Journal()
  assert not is_blank(messages(device_of(parts, journal=journal), [0, 1])[0])
  sent = messages(device_of(parts, journal=journal), [0, 1, 2, 1])
  assert [is_blank(message) for message in sent] == [True, True, False, True]


def test_a_step_is_padding_when_the_server_went_back_and_came_again():
  device = device_of(make_parts("trained_published"))
  assert [is_blank(m) for m in messages(device, [0, 1, 0, 1, 2])] == [
      False, False, True, True, False]


@pytest.mark.parametrize("mode", ["trained_private", "trained_published"])
def test_a_step_updates_the_device_once_whatever_the_server_answers(mode):
  parts = make_parts(mode, noise=0.0, devices=1)
  device, link = device_of(parts), Wire(parts)
  link.step(0, [device])
  after = device.part
  link.part = server_part(dataclasses.replace(parts, params=jax.tree.map(np.negative, PARAMS)))
  link.step(0, [device])
  assert_equal(link.sent[0], link.sent[1])
  assert_equal(jax.tree.leaves(device.part), jax.tree.leaves(after))
  link.step(1, [device])
  assert not np.array_equal(device.part.params["kernel"], after.params["kernel"])


def test_an_update_is_not_repeated_after_a_restart():
  parts, journal = make_parts("trained_published", noise=0.0, devices=1), Journal()
  Wire(parts).step(0, [device_of(parts, journal=journal)])
  journal.last["send"] = -1  # only the update is known
  device = device_of(parts, journal=journal)
  Wire(parts).step(0, [device])
  assert_equal(jax.tree.leaves(device.part.params), jax.tree.leaves(PARAMS["device"]))


@pytest.mark.parametrize("step", [-1, MESSAGES * PASSES, 10**9])
def test_there_are_no_steps_but_those_of_the_run(step):
  with pytest.raises(ValueError, match=f"step {step}: this run has steps 0 to 3"):
    device_of(make_parts("frozen_fresh")).train(step, lambda *sent: pytest.fail("sent"))


def test_the_order_on_the_wire_is_secret_and_labels_follow_images():
  images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, *tiny.SHAPE))
  sorted_by_person = DeviceData(images, np.arange(60, dtype=np.int32) // 15)
  orders = []
  for root in (7, 7, 8):
    seen, labels = shuffled(sorted_by_person, 0, jax.random.key(root))
    orders.append(seen[:, 0, 0, 0].astype(int))
    np.testing.assert_array_equal(labels, orders[-1] // 15)
    assert sorted(orders[-1]) == list(range(60))
  np.testing.assert_array_equal(orders[0], orders[1])
  assert (orders[0] == orders[2]).mean() < 0.3 and (orders[0] == np.arange(60)).mean() < 0.3
  device = Device(make_parts(noise=0.0), 0, sorted_by_person, KEY, Journal())
  first = orders[0][:B]
  (sent,) = messages(device, [0])
  np.testing.assert_array_equal(sent.labels, first // 15)
  clean = CLIP(SPLIT.device(PARAMS["device"], images[first]), 1.0)
  np.testing.assert_allclose(sent.activations, clean, rtol=1e-5, atol=1e-6)


def test_the_digest_tells_what_makes_a_value_from_anything_else():
  parts = make_parts()
  flat = np.eye(6, 2, dtype=np.float32)
  through = projected(SPLIT, flat)
  def with_(**others):
    return dataclasses.replace(parts, **others).public_digest()
  moved = {**PARAMS, "device": {"kernel": PARAMS["device"]["kernel"] + np.float32(1e-7)}}
  digests = [parts.public_digest(), with_(clip_norm=1.1), with_(noise_multiplier=0.6),
             with_(params=moved), with_(split=through), with_(split=projected(SPLIT, 2 * flat)),
             with_(split=through._replace(device=jax.jit(projected(SPLIT, 3 * flat).device)))]
  assert len(set(digests)) == len(digests) and {len(bytes.fromhex(d)) for d in digests} == {32}
  server_moved = {**PARAMS, "server": {"kernel": PARAMS["server"]["kernel"] + 1}}
  assert with_(params=server_moved) == make_parts().public_digest() == digests[0]
  assert with_(split=projected(SPLIT, flat.copy())) == digests[4]


def test_the_digest_of_a_device_is_of_its_images_in_order():
  images, labels = data(0)
  of = functools.partial(Device, make_parts("frozen_fresh"), 0)
  same = of(DeviceData(images, labels), KEY, Journal()).data_digest()
  assert device_of(make_parts("frozen_fresh")).data_digest() == same
  others = [of(DeviceData(images + 1, labels), KEY, Journal()),
            of(DeviceData(images, (labels + 1) % tiny.CLASSES), KEY, Journal()),
            of(DeviceData(images, labels), jax.random.key(1), Journal())]
  assert same not in [device.data_digest() for device in others]


def test_padding_trains_nothing():
  parts, journal = make_parts("trained_private", devices=1), Journal()
  messages(device_of(parts, journal=journal), [0])
  device, link = device_of(parts, journal=journal), Wire(parts)
  link.step(0, [device])
  assert_equal(jax.tree.leaves(device.part.params), jax.tree.leaves(PARAMS["device"]))
  assert_equal(jax.tree.leaves(link.part.params), jax.tree.leaves(PARAMS["server"]))


def test_a_step_of_padding_alone_leaves_the_server_as_it_was_whatever_it_has_learnt():
  """Momentum moves a part without any gradient; a step that nobody sent an example for must not."""
  for labels in (PSEUDONYM, LabelPolicy("u_shaped", acknowledged=True)):
    parts, journal = make_parts("frozen_fresh", labels, noise=0.0, devices=1), Journal()
    device, link = device_of(parts, journal=journal), Wire(parts)
    link.step(0, [device])
    after = link.part
    (loss,) = link.step(0, [device_of(parts, journal=journal)])
    assert not any(np.any(content[0]) for content in link.sent[len(link.sent) // 2:])
    assert np.isnan(loss)
    assert_equal(jax.tree.leaves(link.part), jax.tree.leaves(after))
    link.step(1, [device])
    assert not np.array_equal(link.part.params["kernel"], after.params["kernel"])


def test_private_training_adds_noise_to_the_device_part():
  parts = make_parts("trained_private", noise=0.0, devices=1)
  device, link = device_of(parts), Wire(parts)
  link.step(0, [device])
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), device.part.params, PARAMS["device"])
  assert min(jax.tree.leaves(moved)) > 0


def test_gradients_of_logits_are_drawn_once():
  labels = LabelPolicy("u_shaped", noise_multiplier=1.0)
  parts, journal = make_parts(labels=labels, devices=1), Journal()
  device = device_of(parts, journal=journal)
  link = Wire(parts)
  link.step(0, [device])
  first, gradients = link.sent
  assert (first.labels == NO_LABEL).all() and np.any(gradients.values)
  link.step(0, [device])
  assert_equal(link.sent[3], gradients)
  link.step(0, [device_of(parts, journal=journal)])
  assert_equal(link.sent[4], first)
  assert not np.any(link.sent[5].values)


def test_labels_are_randomised_once():
  labels = LabelPolicy("randomized_response", epsilon=0.01)
  parts = make_parts(labels=labels)
  first = messages(device_of(parts), [0, 1, 2])
  assert_equal([m.labels for m in first[:2]],
               [m.labels for m in messages(device_of(parts), [2, 1])])
  many = DeviceData(*tiny.batch(60)[:2])
  noisy = Device(parts, 0, many, KEY, Journal())._sent_labels
  assert 0.05 < (noisy == shuffled(many, 0, KEY).labels).mean() < 0.5


def test_devices_have_noise_of_their_own():
  parts = make_parts()
  same = [Device(parts, number, data(0), KEY, Journal()) for number in (0, 1)]
  a, b = (messages(device, [0])[0].activations for device in same)
  assert not np.array_equal(a, b)


def test_no_image_no_clean_activation_and_no_parameter_crosses():
  parts = make_parts("trained_private", devices=1)
  device, link = device_of(parts), Wire(parts)
  images = data(0).images
  for step in range(2):
    link.step(step, [device])
  crossed = b"".join(leaf.tobytes() for content in link.sent for leaf in jax.tree.leaves(content))
  clean = np.asarray(CLIP(SPLIT.device(PARAMS["device"], images), 1.0), np.float32)
  for secret in (*images, *clean, *map(np.asarray, jax.tree.leaves(device.part.params))):
    assert secret.tobytes() not in crossed
  assert {type(content) for content in link.sent} == {Message}


def test_an_update_that_is_not_finite_is_refused():
  parts = make_parts(noise=0.0, devices=1)
  (exchange,) = server_exchanges(parts)
  part = server_part(parts)
  (sent,) = messages(device_of(parts), [0])
  huge = sent._replace(activations=np.full_like(sent.activations, np.inf))
  with pytest.raises(ValueError, match="would become NaN or infinite"):
    exchange.run(part, [(huge,)])


def test_the_ledger_counts_a_pass_that_has_begun():
  parts = make_parts("frozen_fresh")
  counts = [parts.ledger(begun).entries[0][1] for begun in range(parts.steps + 2)]
  assert counts == [0, 1, 1, 2, 2, 2]
  assert parts.ledger(0).not_covered == ("a sentence",)
