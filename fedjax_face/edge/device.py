"""One device of a split run over the wire: its images, its keys, its part of the network.

Noise hides an image only while it is never used for two different values. So a device computes what
it sends for a step once, repeats the same bytes when it must send it again, and sends rows of
padding, which hold nothing, for a step that it may have sent before it was restarted. Its part is
updated once for a step, whatever the server answers when the step comes again.

Images are numbered on the wire. A device puts them in a secret order first, for numbers that follow
the order of its files could tell people, and labels, apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.edge.contract import ExchangeCall
from fedjax_face.edge.halves import DeviceData, EdgeParts
from fedjax_face.split import step as steps
from fedjax_face.split.labels import randomised_labels
from fedjax_face.split.mechanism import example_keys
from fedjax_face.split.message import NO_LABEL, PADDING, Message, Reply
from fedjax_face.split.step import Part

Claim = Callable[[str, int], bool]

USES = ("send", "update")
"""What a step is claimed for."""

_LABELS, _ACTIVATIONS, _LOGIT_GRADIENTS, _DEVICE_GRADIENTS, _ORDER = range(5)


class Device:
  """A device's side of every step.

  Args:
    parts: of the run.
    number: of this device.
    data: of this device; example i on the wire is image i of `shuffled(data, number, key)`.
    key: root of its noise; secret, the same after a restart.
    claim: (one of `USES`, step) -> whether noise may be drawn for it: True once for each step, and
      lasting, so that it answers False for that step, and those before it, after a restart. Called
      before anything of a step is sent, also where noise is drawn once for the whole run, so that
      it knows how far the device may have come.
    part: of the device, to go on from; None: before the first step.
  """

  def __init__(self, parts: EdgeParts, number: int, data: DeviceData, key: jax.Array, claim: Claim,
               part: Part | None = None):
    self._parts, self._number, self._claim = parts, number, claim
    self._keys = _keys(key, number)
    self._images, self._labels = shuffled(data, number, key)
    self._sent_labels = self._as_sent(self._labels)
    self.part = part or device_part(parts)
    self._made: tuple[int, dict[str, Any]] = (-1, {})  # step, what was made for it
    self._claimed = -1
    self._cached = self._all_messages() if parts.mode == "frozen_cached" else None
    self._message = jax.jit(lambda params, images, labels, example, key: steps.device_message(
        parts.split, parts.clip, params, images, labels, example, number, parts.clip_norm,
        parts.noise_multiplier, key))
    self._logit_gradients = jax.jit(lambda logits, labels, key: steps.logit_gradients(
        logits, labels, parts.labels.noise_multiplier, key))
    self._learnt = jax.jit(self._learn)

  def train(self, step: int, exchange: ExchangeCall) -> float:
    """Does one step through exchange(channel, step, content) -> answer, and returns its loss.

    The loss is the mean over all devices where the server computes it, else this device's own.

    Raises:
      ValueError: the run has no such step.
    """
    if not 0 <= step < self._parts.steps:
      raise ValueError(f"step {step}: this run has steps 0 to {self._parts.steps - 1}")
    answer = exchange("activations", step, self._once(step, "activations", self._new_message))
    loss: float = answer.loss
    if self._parts.is_u_shaped:
      logits: Any = answer.content
      loss = self._loss(logits)
      answer = exchange("logit_gradients", step, self._once(
          step, "logit_gradients", lambda step: self._gradients(step, logits)))
    if self._parts.device_is_trained:
      self._update(step, answer.content)
    return loss

  def data_digest(self) -> str:
    """Hex digest of images and labels in their order on the wire; it stays on the device."""
    digest = hashlib.sha256(repr(self._images.shape).encode())
    for array in (self._images, self._labels):
      digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

  def _new_message(self, step: int) -> Message:
    """The message of a step: nothing but padding if that step's noise is used up."""
    rows = self._rows(step)
    may_draw = self._may_draw(step)
    if self._cached is not None:
      return _padded(steps.select_rows(self._cached, np.maximum(rows, 0)), rows)
    if not may_draw:
      rows = np.full_like(rows, PADDING)
    inside = np.maximum(rows, 0)
    key = jax.random.fold_in(self._keys[_ACTIVATIONS], step // self._parts.messages)
    return jax.tree.map(np.asarray, self._message(
        self.part.params, self._images[inside], self._sent_labels[inside], rows, key))

  def _rows(self, step: int) -> np.ndarray:
    return np.asarray(self._parts.rows(self._number, step), np.int32)

  def _once(self, step: int, channel: str, make: Callable[[int], Any]) -> Any:
    """What is sent for a step: made the first time, repeated later."""
    if self._made[0] != step:
      self._made, self._claimed = (step, {}), -1
    made = self._made[1]
    if channel not in made:
      made[channel] = make(step)
    return made[channel]

  def _may_draw(self, step: int) -> bool:
    if self._claimed != step and self._claim("send", step):
      self._claimed = step
    return self._claimed == step

  def _as_sent(self, labels: np.ndarray) -> np.ndarray:
    """Labels as the policy sends them, drawn once for each image."""
    policy = self._parts.labels
    if self._parts.is_u_shaped:
      return np.full_like(labels, NO_LABEL)
    if policy.epsilon is None:
      return labels
    keys = example_keys(self._keys[_LABELS], jnp.arange(len(labels)))
    return np.asarray(randomised_labels(
        jnp.asarray(labels), policy.epsilon, self._parts.num_classes, keys))

  def _all_messages(self) -> Message:
    parts = self._parts
    return steps.cached_message(
        parts.split, parts.clip, self.part.params, self._images, self._sent_labels, self._number,
        parts.clip_norm, parts.noise_multiplier, self._keys[_ACTIVATIONS], parts.batch)

  def _gradients(self, step: int, logits: Any) -> Reply:
    if not self._may_draw(step):
      return logits._replace(values=np.zeros_like(logits.values))
    labels = self._labels[np.maximum(logits.example, 0)]
    key = jax.random.fold_in(self._keys[_LOGIT_GRADIENTS], step)
    return jax.tree.map(np.asarray, self._logit_gradients(logits, labels, key))

  def _loss(self, logits: Reply) -> float:
    real = logits.example != PADDING
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits.values, self._labels[np.maximum(logits.example, 0)])
    return float(np.asarray(losses)[real].mean()) if real.any() else float("nan")

  def _update(self, step: int, reply: Any) -> None:
    if (reply.example == PADDING).all() or not self._claim("update", step):
      return
    key = jax.random.fold_in(self._keys[_DEVICE_GRADIENTS], step)
    self.part = self._learnt(self.part, self._images[np.maximum(reply.example, 0)], reply, key)

  def _learn(self, part: Part, images: jax.Array, reply: Reply, key: jax.Array) -> Part:
    parts, private = self._parts, self._parts.private_gradients
    if private is None:
      return steps.device_step(parts.split, parts.clip, parts.device_optimizer, part, images,
                               reply, parts.clip_norm)
    return steps.private_device_step(
        parts.split, parts.clip, private.clip, parts.device_optimizer, part, images, reply,
        parts.clip_norm, private.clip_norm, private.noise_multiplier, key)


def shuffled(data: DeviceData, number: int, key: jax.Array) -> DeviceData:
  """Images with their labels in the order that the root of a device's noise gives.

  Args:
    data: of the device.
    number: of the device.
    key: root of its noise.
  """
  order = np.asarray(jax.random.permutation(_keys(key, number)[_ORDER], len(data.labels)))
  return DeviceData(data.images[order], np.asarray(data.labels, np.int32)[order])


def device_part(parts: EdgeParts) -> Part:
  """A device's state before the first step."""
  return steps.start(parts.params["device"], parts.device_optimizer or optax.identity())


def _keys(key: jax.Array, number: int) -> list[jax.Array]:
  """One key for each use."""
  key = jax.random.fold_in(key, number)
  return [jax.random.fold_in(key, use) for use in range(_ORDER + 1)]


def _padded(message: Any, rows: np.ndarray) -> Message:
  """The message with padding where no example is asked for."""
  real = rows != PADDING
  shaped = real.reshape(-1, *[1] * (message.activations.ndim - 1))
  return message._replace(activations=np.where(shaped, message.activations, np.float32(0)),
                          labels=np.where(real, message.labels, np.int32(NO_LABEL)),
                          example=np.where(real, message.example, np.int32(PADDING)))
