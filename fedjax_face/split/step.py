"""One step of split learning, as functions of what each side holds; only messages pass between.

The device owns images, labels, its parameters and its keys; the server owns its parameters and
sees a `Message` or `Reply`. A step is

    device_message -> server_step                          the server sees labels
    device_message -> server_logits -> logit_gradients -> server_step_from_gradients    u_shaped

followed, where the device part is trained, by `device_step` (exact gradients) or
`private_device_step` (DP-SGD). A device's functions are for one device; `jax.vmap` makes the
messages of K devices, [K, B, ...], and the server trains on all K B examples at once.

Setting: Mao et al., HotEdge 2018; u-shaped: Vepakomma et al., arXiv 1812.00564.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from fedjax_face.privacy import per_example
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.split.mechanism import ActivationClip, example_keys, noised
from fedjax_face.split.message import NO_LABEL, PADDING, Message, Reply
from fedjax_face.split.network import Params, SplitNetwork


class Part(NamedTuple):
  """One side's parameters and its optimiser's state."""

  params: Params
  optimizer: optax.OptState


class ServerStep(NamedTuple):
  """What a step leaves on the server.

  Attributes:
    part: the server's, updated.
    reply: of every example the gradient of ITS loss to its activation, shaped like the message.
    metrics: scalars `loss` and `train_accuracy`, means over real examples.
  """

  part: Part
  reply: Reply
  metrics: dict[str, jax.Array]


def start(params: Params, optimizer: optax.GradientTransformation) -> Part:
  """A side before the first step."""
  return Part(params, optimizer.init(params))


# ---- device ----


def device_message(split: SplitNetwork, clip: ActivationClip, params: Params, images: jax.Array,
                   labels: jax.Array, example: jax.Array, device: ArrayLike, clip_norm: ArrayLike,
                   noise_multiplier: ArrayLike, key: jax.Array) -> Message:
  """Runs the device part on a batch, clips, adds noise.

  Args:
    split: the cut network.
    clip: of activations; `ActivationClip(split.non_negative)`.
    params: of the device part.
    images: uint8 [B, H, W, C].
    labels: int32 [B] as the label policy sends them.
    example: int32 [B], the device's own numbers; `PADDING` for rows that hold none.
    device: number of this device.
    clip_norm: C > 0.
    noise_multiplier: z, noise over sensitivity.
    key: secret of this device. The same key in every pass sends the same noise of an example again
      (cached); fold in the pass to make it fresh.
  """
  keys = example_keys(key, example)
  activations = noised(split.device(params, images), clip, clip_norm, noise_multiplier, keys)
  return Message(_real_rows(activations, example),
                 jnp.where(example == PADDING, NO_LABEL, labels).astype(jnp.int32),
                 example.astype(jnp.int32), jnp.asarray(device, jnp.int32))


def cached_message(split: SplitNetwork, clip: ActivationClip, params: Params, images: np.ndarray,
                   labels: np.ndarray, device: int, clip_norm: float, noise_multiplier: float,
                   key: jax.Array, batch: int) -> Message:
  """Everything that a device with a frozen part ever sends: one noised activation for each image.

  Args:
    split, clip, params, device, clip_norm, noise_multiplier, key: as in `device_message`.
    images: uint8 [N, H, W, C]; image i is example i.
    labels: int32 [N] as the label policy sends them.
    batch: images at once.

  Returns:
    A message of N rows, numpy; `select_rows` takes batches out of it.
  """
  send = jax.jit(lambda images, labels, example: device_message(
      split, clip, params, images, labels, example, device, clip_norm, noise_multiplier, key))
  parts = []
  for begin in range(0, len(images), batch):
    rows = np.arange(begin, begin + batch)
    inside = np.minimum(rows, len(images) - 1)
    example = np.where(rows < len(images), rows, PADDING)
    parts.append(jax.tree.map(np.asarray, send(images[inside], labels[inside], example)))

  def joined(field: str) -> Any:
    return np.concatenate([getattr(part, field) for part in parts])[:len(images)]

  return Message(joined("activations"), joined("labels"), joined("example"), parts[0].device)


def select_rows(message: Message, rows: Any) -> Message:
  """The message of some rows, an index array [B]."""
  return Message(message.activations[rows], message.labels[rows], message.example[rows],
                 message.device)


def logit_gradients(logits: Reply, labels: jax.Array, noise_multiplier: ArrayLike,
                    key: jax.Array) -> Reply:
  """On the device, u_shaped: gradient of every example's cross-entropy to its logits, noised.

  Args:
    logits: from `server_logits`, values f32 [B, classes].
    labels: int32 [B], true; they do not leave, but a gradient without noise shows them.
    noise_multiplier: noise over sensitivity; a gradient is never longer than sqrt(2).
    key: secret of this device and of this step.
  """
  _, gradients = _cross_entropy(logits.values, labels)
  values = noised(gradients, ActivationClip(non_negative=False), math.sqrt(2), noise_multiplier,
                  example_keys(key, logits.example))
  return logits._replace(values=_real_rows(values, logits.example))


def device_step(split: SplitNetwork, clip: ActivationClip, optimizer: optax.GradientTransformation,
                part: Part, images: jax.Array, reply: Reply, clip_norm: ArrayLike) -> Part:
  """Trains the device part by the exact gradient of the mean loss; nothing hides the images.

  Args:
    split, clip, images, clip_norm: as in `device_message`.
    optimizer: of the device part.
    part: the device's.
    reply: of the server, for the same rows.
  """
  def mean_loss(params: Params) -> jax.Array:
    real = reply.example != PADDING
    losses = _linearised_losses(split, clip, clip_norm, params, images, reply.values)
    return jnp.where(real, losses, 0).sum() / jnp.maximum(real.sum(), 1)

  return _updated(optimizer, part, jax.grad(mean_loss)(part.params))


def private_device_step(split: SplitNetwork, clip: ActivationClip,
                        gradient_clip: GradientClip,
                        optimizer: optax.GradientTransformation, part: Part, images: jax.Array,
                        reply: Reply, clip_norm: ArrayLike, gradient_clip_norm: ArrayLike,
                        noise_multiplier: ArrayLike, key: jax.Array) -> Part:
  """Trains the device part by DP-SGD: per-example gradients clipped, summed, noised.

  Args:
    split, clip, images, clip_norm: as in `device_message`.
    gradient_clip: e.g. `gradient_clip.joint(Adjacency.REPLACE_ONE)`; knows the sensitivity.
    optimizer: of the device part.
    part: the device's.
    reply: of the server, for the same rows.
    gradient_clip_norm: S, of one example's gradient.
    noise_multiplier: z_w, noise over sensitivity of the sum.
    key: secret of this device and of this step.
  """
  def losses(params: Params, rows: Any) -> jax.Array:
    return _linearised_losses(split, clip, clip_norm, params, rows["images"], rows["gradients"])

  rows = {"images": images[:, None], "gradients": reply.values[:, None]}
  real = (reply.example != PADDING)[:, None]
  clipped_sum = per_example.clipped_gradient_sum(losses, gradient_clip, "vmapped")
  total = clipped_sum(part.params, rows, real, gradient_clip_norm).gradient
  stddev = jnp.asarray(noise_multiplier) * gradient_clip.sensitivity * gradient_clip_norm
  noise = optax.tree.random_like(key, total, jax.random.normal)
  gradient = jax.tree.map(lambda t, n: (t + stddev * n) / images.shape[0], total, noise)
  return _updated(optimizer, part, gradient)


def _real_rows(values: jax.Array, example: jax.Array) -> jax.Array:
  """Zeros in padded rows: what stands there may be an image, and is not accounted for."""
  real = (example != PADDING).reshape(-1, *[1] * (values.ndim - 1))
  return jnp.where(real, values, 0)


def _linearised_losses(split, clip, clip_norm, params, images, gradients) -> jax.Array:
  """[B] whose gradient is that of each example's loss, given its gradient to what was sent."""
  sent = clip(split.device(params, images), clip_norm)
  return (sent * gradients).reshape(sent.shape[0], -1).sum(1)


# ---- server ----


def server_step(split: SplitNetwork, optimizer: optax.GradientTransformation, part: Part,
                message: Message) -> ServerStep:
  """Trains the server part on the labels of the message by the mean cross-entropy.

  Where the device part is frozen, drop the reply inside `jax.jit`: what nobody reads is then not
  computed.

  Args:
    split: only its server part is run.
    optimizer: of the server part.
    part: the server's.
    message: of one device, arrays [B, ...], or of several, [K, B, ...].
  """
  activations, labels, real = _rows(split, message)
  logits, backward = _forward(split, part.params, activations)
  losses, gradients = _cross_entropy(logits, labels)
  part, values = _trained(optimizer, part, backward, gradients, real)
  metrics = {"loss": _mean(losses, real),
             "train_accuracy": _mean(logits.argmax(-1) == labels, real)}
  return ServerStep(part, _reply(message, values), metrics)


def server_logits(split: SplitNetwork, params: Params, message: Message) -> Reply:
  """U_shaped: the logits f32 [..., B, classes] that go back to the devices."""
  activations, _, _ = _rows(split, message)
  return _reply(message, split.server(params, activations))


def server_step_from_gradients(split: SplitNetwork, optimizer: optax.GradientTransformation,
                               part: Part, message: Message, gradients: Reply) -> ServerStep:
  """U_shaped: trains the server part by the devices' gradients of the logits; no metrics.

  Args:
    split, optimizer, part, message: as in `server_step`; labels are not read.
    gradients: from `logit_gradients`, for the same rows.
  """
  activations, _, real = _rows(split, message)
  logits, backward = _forward(split, part.params, activations)
  part, values = _trained(optimizer, part, backward, gradients.values.reshape(logits.shape), real)
  return ServerStep(part, _reply(message, values), {})


def _rows(split: SplitNetwork, message: Message) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Activations [R, ...], labels [R] and which rows are real [R], of all devices."""
  return (message.activations.reshape(-1, *split.shape), message.labels.reshape(-1),
          message.example.reshape(-1) != PADDING)


def _forward(split: SplitNetwork, params: Params, activations: jax.Array) -> tuple[jax.Array, Any]:
  """Logits and their VJP, to parameters and to activations."""
  return jax.vjp(split.server, params, activations)


def _trained(optimizer, part, backward, gradients, real) -> tuple[Part, jax.Array]:
  """The part after a step on the mean loss, and each example's own gradient to its activation."""
  count = jnp.maximum(real.sum(), 1)
  to_params, to_activations = backward(jnp.where(real[:, None], gradients, 0) / count)
  return _updated(optimizer, part, to_params), to_activations * count


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Losses [R] and their gradients to the logits [R, classes], from one exponential of each."""
  shifted = logits - logits.max(-1, keepdims=True)
  exponentials, one_hot = jnp.exp(shifted), jax.nn.one_hot(labels, logits.shape[-1])
  total = exponentials.sum(-1, keepdims=True)
  return (jnp.log(total[:, 0]) - (shifted * one_hot).sum(-1), exponentials / total - one_hot)


def _reply(message: Message, values: jax.Array) -> Reply:
  shaped = values.reshape(*message.example.shape, *values.shape[1:])
  return Reply(shaped, message.example, message.device)


def _mean(values: jax.Array, real: jax.Array) -> jax.Array:
  return jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)


def _updated(optimizer: optax.GradientTransformation, part: Part, gradient: Params) -> Part:
  updates, state = optimizer.update(gradient, part.optimizer, part.params)
  return Part(optax.apply_updates(part.params, updates), state)
