"""A round of split learning: every device sends each of its images once, the server trains on all.

In mode `frozen_cached` all messages are sent before the first round, and a round repeats them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.method.algorithm import Data, HParams, Metrics, StepKeys
from fedjax_face.split import device as device_part
from fedjax_face.split import step
from fedjax_face.split.mechanism import example_keys, noised
from fedjax_face.split.message import PADDING, Message, Reply
from fedjax_face.split.step import Part, ServerStep
from fedjax_face.split.system import SplitState, SplitSystem


def initial_state(system: SplitSystem, hparams: HParams, key: jax.Array) -> SplitState:
  """Both sides before the first round; each device starts alike."""
  part = Part(system.device, ())
  if system.schedule.device_is_trained:
    each = jax.tree.map(lambda leaf: jnp.stack([leaf] * system.devices), system.device)
    part = jax.vmap(lambda p: step.start(p, device_part.optimizer(hparams["device"])))(each)
  return SplitState(part, step.start(system.init_server(key),
                                     system.parts.server(hparams["server"])))


def prepared(system: SplitSystem, train: FaceDataset, data: Data, hparams: HParams,
             keys: StepKeys) -> Data:
  """What the rounds get: images, or all messages at once, in an order that the server cannot know.

  Args:
    system: of the method.
    train: whose labels and people these are.
    data: images uint8 [N, H, W, C].
    hparams: of the method.
    keys: for what is drawn before the first round.

  Returns:
    Data with targets `label`, int32 [N] as devices work with them, and `number`, the row that each
    example is, which stays with the devices: no step reads it.
  """
  order = secret_order(system.device_of_person[train.person], jax.random.fold_in(keys.noise, 2))
  images, labels = data.images[order], jnp.asarray(train.label, jnp.int32)[order]
  labels = system.parts.labels.sent(labels, train.num_labels, jax.random.fold_in(keys.noise, 1))
  if system.schedule.mode == "frozen_cached":
    images = all_messages(system, images, hparams["activations"], keys)
  return Data(images, {"label": labels, "number": order})


def secret_order(owner: np.ndarray, key: jax.Array) -> jax.Array:
  """A permutation of the rows int32 [N] that keeps each on its device, `owner` [N].

  Data sets are often sorted by person: the number of an example, which the server sees, would then
  tell its label, whatever the label policy hides.
  """
  shuffled = jnp.lexsort((jax.random.uniform(key, owner.shape), owner))
  return jnp.zeros(len(owner), jnp.int32).at[jnp.argsort(owner, stable=True)].set(shuffled)


def all_messages(system: SplitSystem, images: jax.Array, own: HParams,
                 keys: StepKeys) -> jax.Array:
  """Noised activations f32 [N, ...] of all images, the noise of each drawn once."""
  batch = system.schedule.batch
  rows = jnp.arange(-(-len(images) // batch) * batch).reshape(-1, batch)

  def some(numbers: jax.Array) -> jax.Array:
    activations = system.split.device(system.device, images[jnp.minimum(numbers, len(images) - 1)])
    each = example_keys(jax.random.fold_in(keys.noise, 0), numbers)
    return noised(activations, system.clip, own["clip_norm"], own["noise_multiplier"], each)

  sent = jax.lax.map(some, rows)
  return sent.reshape(-1, *sent.shape[2:])[:len(images)]


def training_pass(system: SplitSystem, state: SplitState, data: Data, cohort: Cohort,
                  hparams: HParams, keys: StepKeys) -> tuple[SplitState, Metrics]:
  """A round: message after message of all devices; metrics are means over the messages."""

  def one(state: SplitState, number: jax.Array) -> tuple[SplitState, Metrics]:
    return _exchange(system, state, data, cohort, number, hparams, keys)

  state, metrics = jax.lax.scan(one, state, jnp.arange(cohort.examples.shape[1]))
  return state, jax.tree.map(jnp.mean, metrics)


def _exchange(system: SplitSystem, state: SplitState, data: Data, cohort: Cohort,
              number: jax.Array, hparams: HParams,
              keys: StepKeys) -> tuple[SplitState, Metrics]:
  """One message of every device, the server's step on all, and the devices' own where they learn.
  """
  rows = cohort.examples[:, number]
  example = jnp.where(cohort.mask[:, number], rows, PADDING)
  noise_key, label_key, gradient_key = (
      jax.random.fold_in(jax.random.fold_in(keys.noise, use), number) for use in (2, 3, 4))
  inputs, labels = data.images[rows], data.targets["label"][rows]
  send = kept_messages if system.schedule.mode == "frozen_cached" else new_messages
  messages = send(system, state.device, inputs, labels, example, hparams, noise_key)
  done = server_step(system, state.server, messages, labels, hparams, label_key)
  state = state._replace(server=done.part)
  if system.parts.device.learn is not None:
    state = state._replace(device=device_steps(
        system, state.device, inputs, done.reply, hparams, gradient_key))
  return state, done.metrics


def kept_messages(system: SplitSystem, devices: Part, inputs: jax.Array, labels: jax.Array,
                  example: jax.Array, hparams: HParams, key: jax.Array) -> Message:
  """Of activations f32 [K, B, ...] that were noised before the first round."""
  real = (example != PADDING).reshape(*example.shape, *[1] * (inputs.ndim - 2))
  return Message(jnp.where(real, inputs, 0), labels, example, jnp.arange(system.devices))


def new_messages(system: SplitSystem, devices: Part, inputs: jax.Array, labels: jax.Array,
                 example: jax.Array, hparams: HParams, key: jax.Array) -> Message:
  """Of images uint8 [K, B, H, W, C], with new noise."""
  own = hparams["activations"]
  return jax.vmap(
      lambda params, images, labels, numbers, device: step.device_message(
          system.split, system.clip, params, images, labels, numbers, device,
          own["clip_norm"], own["noise_multiplier"], key),
      in_axes=(0 if system.schedule.device_is_trained else None, 0, 0, 0, 0),
  )(devices.params, inputs, labels, example, jnp.arange(system.devices))


def server_step(system: SplitSystem, part: Part, messages: Message, labels: jax.Array,
                hparams: HParams, key: jax.Array) -> ServerStep:
  """The server's step, with as much of it on the devices as the label policy keeps there."""
  return system.parts.labels.server_step(
      system.split, system.parts.server(hparams["server"]), part, messages, labels, key)


def device_steps(system: SplitSystem, devices: Part, images: jax.Array, reply: Reply,
                 hparams: HParams, key: jax.Array) -> Part:
  """Every device's own step on its own images [K, B, H, W, C]."""
  learn, own = system.parts.device.learn, hparams["device"]
  assert learn is not None
  return jax.vmap(lambda part, images, reply, key: learn(
      system.split, system.clip, own, hparams["activations"]["clip_norm"], part, images, reply,
      key))(devices, images, reply, jax.random.split(key, system.devices))
