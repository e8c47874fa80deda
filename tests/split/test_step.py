"""Split training: equal to whole training without noise, and what crosses the cut."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.data import pixels
from fedjax_face.privacy import gradient_clip
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.split import step
from fedjax_face.split.message import NO_LABEL, PADDING, Transcript, message_bytes, reply_bytes
from fedjax_face.split.network import merged
from tests.split import tiny

SPLIT, PARAMS, CLIP = tiny.network("conv0")
IMAGES, LABELS, EXAMPLE = tiny.batch(4)
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
KEY = jax.random.key(0)
STEPS = 3

send = jax.jit(functools.partial(step.device_message, SPLIT, CLIP))
train = jax.jit(functools.partial(step.server_step, SPLIT, OPTIMIZER))
server_logits = jax.jit(functools.partial(step.server_logits, SPLIT))
train_from_gradients = jax.jit(functools.partial(step.server_step_from_gradients, SPLIT, OPTIMIZER))
train_device = jax.jit(functools.partial(step.device_step, SPLIT, CLIP, OPTIMIZER))
train_device_privately = jax.jit(functools.partial(
    step.private_device_step, SPLIT, CLIP, gradient_clip.joint(Adjacency.REPLACE_ONE), OPTIMIZER))


def message(params=PARAMS["device"], clip_norm=1.0, noise=1.0, key=KEY, images=IMAGES,
            example=EXAMPLE, device=0, labels=LABELS):
  return send(params, images, labels, example, device, clip_norm, noise, key)


def started():
  return (step.start(PARAMS["device"], OPTIMIZER), step.start(PARAMS["server"], OPTIMIZER))


@functools.cache
def whole_training(device_is_trained):
  """Parameters after STEPS steps of the uncut network on the same batch."""
  def loss(trained, fixed):
    logits = tiny.NETWORK.apply(merged({**trained, **fixed}), pixels.normalise(IMAGES))
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

  names = ("device", "server") if device_is_trained else ("server",)
  trained = {name: PARAMS[name] for name in names}
  fixed = {name: PARAMS[name] for name in PARAMS if name not in names}
  @jax.jit
  def one(trained, state):
    updates, state = OPTIMIZER.update(jax.grad(loss)(trained, fixed), state)
    return optax.apply_updates(trained, updates), state

  state = OPTIMIZER.init(trained)
  for _ in range(STEPS):
    trained, state = one(trained, state)
  return {**trained, **fixed}


def assert_equal(one, other, tolerance=1e-6):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, float(jnp.abs(b).max())))


def test_without_noise_a_frozen_device_gives_whole_training_of_the_server_part():
  _, server = started()
  for _ in range(STEPS):
    server = train(server, message(clip_norm=math.inf, noise=0.0)).part
  assert_equal(server.params, whole_training(False)["server"])


def test_without_noise_split_training_equals_whole_training():
  device, server = started()
  for _ in range(STEPS):
    done = train(server, message(device.params, math.inf, 0.0))
    device = train_device(device, IMAGES, done.reply, math.inf)
    server = done.part
  assert_equal({"device": device.params, "server": server.params}, whole_training(True))


def test_private_training_without_noise_and_clip_equals_whole_training():
  device, server = started()
  for _ in range(STEPS):
    done = train(server, message(device.params, math.inf, 0.0))
    device = train_device_privately(device, IMAGES, done.reply, math.inf, 1e9, 0.0, KEY)
    server = done.part
  assert_equal({"device": device.params, "server": server.params}, whole_training(True))


def test_u_shaped_training_without_noise_equals_whole_training():
  device, server = started()
  for _ in range(STEPS):
    sent = message(device.params, math.inf, 0.0, labels=np.full(4, NO_LABEL, np.int32))
    logits = server_logits(server.params, sent)
    gradients = step.logit_gradients(logits, LABELS, 0.0, KEY)
    done = train_from_gradients(server, sent, gradients)
    device = train_device(device, IMAGES, done.reply, math.inf)
    server = done.part
  assert_equal({"device": device.params, "server": server.params}, whole_training(True))


def test_two_devices_train_the_server_like_one_with_both_batches():
  _, server = started()
  both = jax.jit(jax.vmap(lambda images, labels, example, device: step.device_message(
      SPLIT, CLIP, PARAMS["device"], images, labels, example, device, 1.0, 0.0, KEY)))
  halves = both(IMAGES.reshape(2, 2, *tiny.SHAPE), LABELS.reshape(2, 2), EXAMPLE.reshape(2, 2),
                jnp.arange(2))
  together = train(server, message(noise=0.0))
  apart = train(server, halves)
  assert_equal(apart.part.params, together.part.params)
  assert apart.reply.values.shape == (2, 2, *SPLIT.shape)
  assert_equal(apart.reply.values.reshape(4, *SPLIT.shape), together.reply.values, 1e-5)
  np.testing.assert_allclose(apart.metrics["loss"], together.metrics["loss"], rtol=1e-5)


def test_metrics_are_those_of_the_real_rows():
  _, server = started()
  padded = message(example=np.array([*EXAMPLE[:3], PADDING], np.int32), noise=0.0, clip_norm=100.0)
  metrics = train(server, padded).metrics
  logits = server_logits(server.params, padded).values[:3]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:3])
  np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["train_accuracy"], (logits.argmax(-1) == LABELS[:3]).mean())


def test_a_sure_network_has_a_finite_loss_and_gradient():
  losses, gradients = step._cross_entropy(jnp.array([[500.0, -500.0], [-500.0, 500.0]]),
                                          jnp.array([0, 0]))
  np.testing.assert_array_equal(losses, [0, 1000])
  np.testing.assert_array_equal(gradients, [[0, 0], [-1, 1]])


def test_replies_hold_each_examples_own_gradient():
  _, server = started()
  two = lambda rows: message(images=IMAGES[rows], labels=LABELS[rows], example=EXAMPLE[rows])
  first = train(server, two(np.array([0, 1]))).reply.values[0]
  other = train(server, two(np.array([0, 3]))).reply.values[0]
  assert_equal(first, other, 1e-5)


def test_padded_rows_send_nothing_and_train_nothing():
  _, server = started()
  padded = message(images=np.concatenate([IMAGES[:2], IMAGES[:2]]), noise=0.5,
                   example=np.array([0, 1, PADDING, PADDING], np.int32))
  assert (padded.activations[2:] == 0).all()
  assert (padded.labels[2:] == NO_LABEL).all()
  short = message(images=IMAGES[:2], labels=LABELS[:2], example=EXAMPLE[:2], noise=0.5)
  assert_equal(train(server, padded).part.params, train(server, short).part.params)
  assert (train(server, padded).reply.values[2:] == 0).all()
  logits = server_logits(server.params, padded)
  assert (step.logit_gradients(logits, LABELS, 1.0, KEY).values[2:] == 0).all()


def test_cached_sends_are_bit_identical_and_fresh_ones_differ():
  first, again, fresh = message(), message(), message(key=jax.random.fold_in(KEY, 1))
  np.testing.assert_array_equal(first.activations, again.activations)
  assert (first.activations != fresh.activations).mean() > 0.99


def test_changing_an_image_leaves_other_examples_transcripts_alone():
  changed = IMAGES.copy()
  changed[0] = 255 - changed[0]
  one, other = message(), message(images=changed)
  np.testing.assert_array_equal(one.activations[1:], other.activations[1:])
  assert (one.activations[0] != other.activations[0]).any()


def test_every_sent_activation_is_within_the_clip_norm():
  norms = jnp.linalg.norm(message(clip_norm=0.1, noise=0.0).activations.reshape(4, -1), axis=1)
  np.testing.assert_allclose(norms, 0.1, rtol=1e-6)


def test_cached_message_is_what_single_batches_send():
  cached = step.cached_message(SPLIT, CLIP, PARAMS["device"], IMAGES, LABELS, 2, 1.0, 1.0, KEY, 3)
  rows = np.array([3, 1])
  alone = message(images=IMAGES[rows], labels=LABELS[rows], example=rows, device=2)
  chosen = step.select_rows(cached, rows)
  assert cached.activations.shape == (4, *SPLIT.shape)
  assert_equal(chosen.activations, alone.activations, 1e-5)
  np.testing.assert_array_equal(chosen.labels, LABELS[rows])
  np.testing.assert_array_equal(chosen.example, rows)
  assert chosen.device == 2


def test_private_device_step_clips_every_example_and_adds_the_stated_noise():
  _, server = started()
  plain = step.start(PARAMS["device"], optax.sgd(1.0))
  reply = train(server, message()).reply
  reply = reply._replace(values=reply.values.at[0].multiply(1e6))
  update = jax.jit(functools.partial(
      step.private_device_step, SPLIT, CLIP, gradient_clip.joint(Adjacency.REPLACE_ONE),
      optax.sgd(1.0)))
  moved = lambda reply, z, key: jax.tree.map(
      lambda a, b: a - b, update(plain, IMAGES, reply, 1.0, 0.01, z, key).params, plain.params)
  norm = lambda tree: float(optax.tree.norm(tree))
  others = reply._replace(values=reply.values.at[0].multiply(-1.0))
  change = jax.tree.map(lambda a, b: a - b, moved(reply, 0.0, KEY), moved(others, 0.0, KEY))
  # Replacing one example's gradient moves the mean of 4 by at most 2 S / 4.
  assert norm(change) == pytest.approx(2 * 0.01 / 4, rel=1e-4)
  noise = jax.tree.map(lambda a, b: a - b, moved(reply, 3.0, KEY), moved(reply, 0.0, KEY))
  entries = sum(leaf.size for leaf in jax.tree.leaves(noise))
  expected = 3 * 2 * 0.01 / 4
  assert norm(noise) / math.sqrt(entries) == pytest.approx(expected, rel=4 / math.sqrt(2 * entries))


def test_logit_gradients_show_the_label_without_noise():
  logits = server_logits(PARAMS["server"], message())
  gradients = step.logit_gradients(logits, LABELS, 0.0, KEY).values
  np.testing.assert_array_equal(gradients.argmin(-1), LABELS)
  assert jnp.linalg.norm(gradients, axis=-1).max() <= math.sqrt(2)
  noise = step.logit_gradients(logits, LABELS, 2.0, KEY).values - gradients
  assert 0.5 < noise.std() / (2 * 2 * math.sqrt(2)) < 1.6


@pytest.fixture(scope="module")
def transcript():
  """Two u_shaped steps of a trained device, everything that crosses recorded."""
  device, server = started()
  recorded = Transcript()
  clean, own = [], []
  for number in range(2):
    key = jax.random.fold_in(KEY, number)
    clean.append(np.asarray(message(device.params, math.inf, 0.0).activations))
    own.append(np.asarray(message(device.params, 1.0, 0.0).activations))
    sent = message(device.params, key=key, labels=np.full(4, NO_LABEL, np.int32))
    recorded.record(number, "to_server", "activations", sent)
    logits = server_logits(server.params, sent)
    recorded.record(number, "to_device", "logits", logits)
    gradients = step.logit_gradients(logits, LABELS, 1.0, key)
    recorded.record(number, "to_server", "logit_gradients", gradients)
    done = train_from_gradients(server, sent, gradients)
    recorded.record(number, "to_device", "activation_gradients", done.reply)
    before = device.params
    device, server = train_device(device, IMAGES, done.reply, 1.0), done.part
    own += [np.asarray(leaf) for leaf in jax.tree.leaves(
        [before, device.params, jax.tree.map(jnp.subtract, before, device.params)])]
  return recorded, clean, own


def test_nothing_raw_crosses_the_cut(transcript):
  recorded, clean, own = transcript
  pixel_values = np.asarray(pixels.normalise(IMAGES))
  for private in (IMAGES, pixel_values, *clean, *own):
    assert not recorded.holds(private)
  assert not any(np.array_equal(crossing.content.labels, LABELS)
                 for crossing in recorded.select("to_server", "activations"))


def test_the_search_finds_what_does_cross(transcript):
  recorded, _, _ = transcript
  assert recorded.holds(np.asarray(message(labels=LABELS, key=jax.random.fold_in(KEY, 0)
                                           ).activations[1:2]))
  recorded = Transcript()
  recorded.record(0, "to_server", "activations", message(clip_norm=math.inf, noise=0.0))
  assert recorded.holds(np.asarray(message(clip_norm=math.inf, noise=0.0).activations))


def test_bytes_that_cross_are_those_of_the_formula(transcript):
  recorded, _, _ = transcript
  assert recorded.bytes("to_server") == 2 * (message_bytes(SPLIT.shape, 4)
                                             + reply_bytes((tiny.CLASSES,), 4))
  assert recorded.bytes("to_device") == 2 * (reply_bytes(SPLIT.shape, 4)
                                             + reply_bytes((tiny.CLASSES,), 4))
  assert recorded.bytes() == recorded.bytes("to_server") + recorded.bytes("to_device")
