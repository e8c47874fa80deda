"""DP-A: split learning with an untrusted edge server that sees noised activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.hparams import nested, with_values
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated.algorithm import (
    Algorithm,
    Communication,
    Data,
    HParams,
    Measure,
    always,
)
from fedjax_face.federated.optimizers import adam
from fedjax_face.privacy import per_example
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import events_used
from fedjax_face.privacy.public_directions import principal_directions
from fedjax_face.split import accounting, message, step
from fedjax_face.split.labels import LabelPolicy, randomised_labels
from fedjax_face.split.mechanism import ActivationClip, example_keys, noised
from fedjax_face.split.message import PADDING, Message, Reply
from fedjax_face.split.network import (
    Classifier,
    SplitNetwork,
    divided,
    merged,
    pooled,
    projected,
    split_network,
)
from fedjax_face.split.step import Part

PUBLIC_IMAGES = 1024  # of which directions and norms are taken
UNITS = ("image", "person")
GRADIENT_CLIP = per_example.joint(Adjacency.REPLACE_ONE)


class SplitState(NamedTuple):
  """The devices' parts, arrays [K, ...] (one for all where it is frozen), and the server's."""

  device: Part
  server: Part


def dp_activations(given: Ingredients) -> Algorithm:
  """Split learning on clipped and noised activations (Mao et al., HotEdge 2018).

  A round is a pass: every device sends each of its images once, and the server trains on the
  messages of all devices together. In mode `frozen_cached` all messages are sent before the first
  round.
  """
  config = given.config
  _check(config)
  system = split_system(given)
  schedule, labels = system.schedule, system.labels

  def releases(noise_multiplier: float):
    return accounting.releases(
        schedule, noise_multiplier, labels,
        config.privacy.gradient_noise_ratio * noise_multiplier
        if schedule.mode == "trained_private" else None)

  def run_event(noise_multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(r.event, events_used(config.rounds, r.covers))
        for r in releases(noise_multiplier) if r.unit == config.privacy.unit])

  multiplier = parts.noise_multiplier(config, run_event, Adjacency.REPLACE_ONE, given.progress)
  if multiplier and math.isinf(system.clip_norm):
    raise ValueError("hparams.clip_norm=inf: noise is scaled to the clip norm; expected a finite "
                     "number where there is noise")
  hparams = with_values(nested(config.hparams, clips="activations"), {
      "activations": {"noise_multiplier": multiplier, "clip_norm": system.clip_norm},
      "device": {"noise_multiplier": config.privacy.gradient_noise_ratio * multiplier}})
  cached = schedule.mode == "frozen_cached"

  def init(key: jax.Array) -> SplitState:
    part = Part(system.device, ())
    if schedule.device_is_trained:
      each = jax.tree.map(lambda leaf: jnp.stack([leaf] * system.devices), system.device)
      part = jax.vmap(lambda p: step.start(p, _adam(hparams, "device")))(each)
    return SplitState(part, step.start(system.init_server(key), _adam(hparams, "server")))

  def prepare(data: Data, hparams, keys) -> Data:
    order = _secret_order(system.device_of_person[given.train.person],
                          jax.random.fold_in(keys.noise, 2))
    images, sent = data.images[order], jnp.asarray(given.train.label, jnp.int32)[order]
    numbers = jnp.arange(len(sent))
    if labels.epsilon is not None:
      own = example_keys(jax.random.fold_in(keys.noise, 1), numbers)
      sent = randomised_labels(sent, labels.epsilon, given.train.num_labels, own)
    if cached:
      images = _all_messages(system, images, hparams["activations"], keys)
    # `number`, the row that each example is, stays with the devices; no step reads it.
    return Data(images, {"label": sent, "number": order})

  def round_(state: SplitState, data: Data, cohort: Cohort, hparams, keys):
    count, activations = cohort.examples.shape[1], hparams["activations"]
    example = jnp.where(cohort.mask, cohort.examples, PADDING)
    places = jnp.arange(system.devices)

    def one(state: SplitState, number: jax.Array):
      rows, rows_sent = cohort.examples[:, number], example[:, number]
      noise_key, label_key, gradient_key = (
          jax.random.fold_in(jax.random.fold_in(keys.noise, use), number) for use in (2, 3, 4))
      images, sent = data.images[rows], data.targets["label"][rows]
      if cached:
        real = (rows_sent != PADDING).reshape(*rows_sent.shape, *[1] * (images.ndim - 2))
        messages = Message(jnp.where(real, images, 0), sent, rows_sent, places)
      else:
        messages = jax.vmap(
            lambda params, images, labels, numbers, device: step.device_message(
                system.split, system.clip, params, images, labels, numbers, device,
                activations["clip_norm"], activations["noise_multiplier"], noise_key),
            in_axes=(0 if schedule.device_is_trained else None, 0, 0, 0, 0),
        )(state.device.params, images, sent, rows_sent, places)
      done = _server_step(system, state.server, messages, sent, hparams, label_key)
      state = state._replace(server=done.part)
      if schedule.device_is_trained:
        state = state._replace(device=_device_steps(
            system, state.device, images, done.reply, hparams, gradient_key))
      return state, done.metrics

    state, metrics = jax.lax.scan(one, state, jnp.arange(count))
    return state, jax.tree.map(jnp.mean, metrics)

  return Algorithm(
      name="dp_activations",
      init=init,
      cohort=system.cohort,
      step=round_,
      hparams=hparams,
      releases=releases(multiplier),
      channels={name: always(moved) for name, moved in system.channels.items()},
      metrics=METRICS,
      not_covered=(*map(_sentence, accounting.not_covered(schedule, labels, system.devices)),
                   *NOT_COVERED),
      uncovered=_uncovered(system),
      predict=lambda state, images: system.logits(system.device_of(state, 0), state.server.params,
                                                  images, None, 0.0),
      parts=system,
      start=lambda state: merged({"device": system.device_of(state, 0),
                                  "server": state.server.params}),
      sampling=f"every image of {system.devices} device(s) once in each of {config.rounds} passes; "
               "the server sees which, so nothing is amplified",
      population={"image": len(given.train), "person": given.train.num_persons},
      needs_all_images=True,
      prepare=prepare,
      notes=system.notes,
  )


class SplitSystem(NamedTuple):
  """The parts that training, evaluation, attacks and the two programs share.

  Attributes:
    split: the cut network.
    image_shape: (H, W, C).
    clip: of activations.
    clip_norm: C.
    device: public parameters that the device part starts with, and keeps where it is frozen.
    init_server: key -> parameters of the server part.
    cohort: (draws, round) -> Cohort of examples [devices, messages, batch].
    devices: K.
    device_of_person: int [P].
    schedule: how often images are sent.
    labels: how labels are sent.
    channels: bytes of a device in a round: name -> what crosses.
    notes: sentences for the record.
  """

  split: SplitNetwork
  image_shape: tuple[int, int, int]
  clip: ActivationClip
  clip_norm: float
  device: Any
  init_server: Callable[[jax.Array], Any]
  cohort: Callable[[Draws, int], Cohort]
  devices: int
  device_of_person: np.ndarray
  schedule: accounting.Schedule
  labels: LabelPolicy
  channels: dict[str, Communication]
  notes: tuple[str, ...]

  def device_of(self, state: SplitState, number: int) -> Any:
    """Parameters of one device's part."""
    if not self.schedule.device_is_trained:
      return state.device.params
    return jax.tree.map(lambda leaf: leaf[number], state.device.params)

  def logits(self, device: Any, server: Any, images: jax.Array, key: jax.Array | None,
             noise_multiplier: jax.typing.ArrayLike) -> jax.Array:
    """Logits [B, classes] of images uint8 [B, H, W, C]; without noise where `key` is None."""
    activations = self.split.device(device, images)
    if key is None:
      return self.split.server(server, self.clip(activations, self.clip_norm))
    keys = jax.random.split(key, len(activations))
    return self.split.server(server, noised(
        activations, self.clip, self.clip_norm, noise_multiplier, keys))


def split_system(given: Ingredients) -> SplitSystem:
  """Reads the config's `split` section.

  Raises:
    ValueError: an unknown cut, mode or label policy, labels in clear that nobody acknowledged, a
      clip norm that is not positive, or nothing public to take it from.
  """
  config, options = given.config, given.config.split
  network = classifier(config, given.train)
  shape = tuple(given.train.images.shape[1:])
  whole = split_network(network, options.cut, shape)

  def init(key: jax.Array) -> dict[str, Any]:
    params = network.init(key, jnp.zeros((1, *shape)))["params"]
    if given.backbone is not None:
      params = {**params, **given.backbone["params"]}
    return divided(network, options.cut, shape, {"params": params})

  device = init(jax.random.key(config.seed))["device"]
  split = whole if options.pooling == 1 else pooled(whole, options.pooling)
  clip_norm = config.hparams.clip_norm
  if options.projection:
    split = projected(split, principal_directions(
        _public_activations(given, split, device, "split.projection"), options.projection))
  clip = ActivationClip(split.non_negative)
  if clip_norm is None:
    flat = _public_activations(given, split, device, "hparams.clip_norm=None")
    clip_norm = float(np.median(np.linalg.norm(clip(jnp.asarray(flat), math.inf), axis=1)))
  if not clip_norm > 0:
    raise ValueError(f"hparams.clip_norm={clip_norm}: expected a number above 0")
  labels = LabelPolicy(options.labels, options.label_epsilon, options.label_noise_multiplier,
                       options.labels_in_clear)
  owner, cohort = _devices(config, given.train)
  images = np.bincount(owner[given.train.person], minlength=options.devices)
  messages = -(-int(images.max()) // options.batch_size)
  schedule = accounting.Schedule(
      options.mode, config.rounds, 1, int(images.max()),
      int(np.bincount(given.train.person).max()), options.batch_size)
  note = (f"cut after {options.cut!r}: activations of {math.prod(split.shape)} numbers, clip norm "
          f"{clip_norm:.4g}, sensitivity {clip.sensitivity:.4g} of it")
  return SplitSystem(
      split, shape, clip, clip_norm, device, lambda key: init(key)["server"], cohort,
      options.devices, owner, schedule, labels,
      _bytes(split, schedule, labels, messages, given.train.num_labels), (note,))


def _check(config: Any) -> None:
  """Refuses what would make the accounting wrong."""
  if config.privacy.unit not in UNITS:
    raise ValueError(f"privacy.unit={config.privacy.unit!r}: expected {' or '.join(UNITS)}")
  if config.get("pretrain") and not config.pretrain.get("public", False):
    raise ValueError("pretrain.public=False: the device part must be public, so its pre-training "
                     "needs a set that pretrain.public declares public")
  bound = config.hparams.gradient_clip_norm
  if config.split.mode == "trained_private" and not 0 < bound < math.inf:
    raise ValueError(f"hparams.gradient_clip_norm={bound}: expected a finite number above 0")


def classifier(config: Any, train: FaceDataset) -> Classifier:
  """The config's backbone with a linear classifier for the people of `train`."""
  return Classifier(parts.backbone(config.model), train.num_labels)


def _public_activations(given: Ingredients, split: SplitNetwork, device: Any,
                        key: str) -> np.ndarray:
  """f32 [P, d] of some public images, which a key of the config asks for."""
  if given.public is None:
    raise ValueError(f"{key} comes from public images: it needs data.public")
  run = jax.jit(split.device)
  chosen = given.public.images[:PUBLIC_IMAGES]
  found = [np.asarray(run(device, chosen[i:i + 64])) for i in range(0, len(chosen), 64)]
  return np.concatenate(found).reshape(len(chosen), -1)


def _devices(config: Any, train: FaceDataset):
  """Which device holds each person, and the messages of a pass.

  Devices hold equal numbers of people, by rank: a replaced person's replacement goes where that
  person was, and the claim is for replace-one alone.
  """
  devices, batch = config.split.devices, config.split.batch_size
  if not 1 <= devices <= train.num_persons:
    raise ValueError(f"split.devices={devices}: expected 1 to {train.num_persons}, the number of "
                     "people")
  if batch < 1:
    raise ValueError(f"split.batch_size={batch}: expected at least 1")
  persons, first = np.unique(train.person, return_index=True)
  order = Draws.of((config.seed, devices)).order(train.identities[first], "device")
  owner = np.zeros(int(train.person.max()) + 1, np.int64)
  owner[persons[order]] = np.arange(len(persons)) % devices
  identity = part_identities(train.identities)
  rows_of = [np.flatnonzero(owner[train.person] == device) for device in range(devices)]
  count = -(-max(map(len, rows_of)) // batch)

  def cohort(draws: Draws, round_number: int) -> Cohort:
    examples = np.zeros((devices, count * batch), np.int32)
    mask = np.zeros_like(examples, bool)
    for device, rows in enumerate(rows_of):
      order = draws.order(identity[rows], "order", round_number)
      examples[device, :len(rows)], mask[device, :len(rows)] = rows[order], True
    shape = (devices, count, batch)
    return Cohort(examples.reshape(shape), train.label[examples].astype(np.int32).reshape(shape),
                  mask.reshape(shape), np.full(devices, train.num_labels, np.int32),
                  np.arange(devices, dtype=np.int32))

  return owner, cohort


def _secret_order(owner: np.ndarray, key: jax.Array) -> jax.Array:
  """A permutation of the rows int32 [N] that keeps each on its device, `owner` [N].

  Data sets are often sorted by person: the number of an example, which the server sees, would then
  tell its label, whatever the label policy hides.
  """
  shuffled = jnp.lexsort((jax.random.uniform(key, owner.shape), owner))
  return jnp.zeros(len(owner), jnp.int32).at[jnp.argsort(owner, stable=True)].set(shuffled)


def _all_messages(system: SplitSystem, images: jax.Array, scalars, keys) -> jax.Array:
  """Noised activations f32 [N, ...] of all images, the noise of each drawn once."""
  batch = system.schedule.batch
  rows = jnp.arange(-(-len(images) // batch) * batch).reshape(-1, batch)

  def some(numbers: jax.Array) -> jax.Array:
    activations = system.split.device(system.device, images[jnp.minimum(numbers, len(images) - 1)])
    own = example_keys(jax.random.fold_in(keys.noise, 0), numbers)
    return noised(activations, system.clip, scalars["clip_norm"], scalars["noise_multiplier"], own)

  sent = jax.lax.map(some, rows)
  return sent.reshape(-1, *sent.shape[2:])[:len(images)]


def _server_step(system: SplitSystem, part: Part, messages: Message, true_labels: jax.Array,
                 hparams, key: jax.Array) -> step.ServerStep:
  """The server's step; u_shaped: with the loss and its gradient on the devices."""
  split, optimizer = system.split, _adam(hparams, "server")
  if system.labels.policy != "u_shaped":
    return step.server_step(split, optimizer, part, messages)
  messages = messages._replace(labels=jnp.full_like(messages.labels, message.NO_LABEL))
  logits = step.server_logits(split, part.params, messages)
  gradients = step.logit_gradients(
      Reply(logits.values.reshape(-1, logits.values.shape[-1]), logits.example.reshape(-1),
            logits.device), true_labels.reshape(-1), system.labels.noise_multiplier, key)
  done = step.server_step_from_gradients(split, optimizer, part, messages, Reply(
      gradients.values.reshape(logits.values.shape), logits.example, logits.device))
  real = messages.example != PADDING
  right = (logits.values.argmax(-1) == true_labels) & real
  losses = optax.softmax_cross_entropy_with_integer_labels(logits.values, true_labels)
  count = jnp.maximum(real.sum(), 1)
  return done._replace(metrics={"loss": jnp.where(real, losses, 0).sum() / count,
                                "train_accuracy": right.sum() / count})


def _device_steps(system: SplitSystem, devices: Part, images: jax.Array, reply: Reply, hparams,
                  key: jax.Array) -> Part:
  """Every device's own step on its own images."""
  split, clip, optimizer = system.split, system.clip, _adam(hparams, "device")
  clip_norm, own = hparams["activations"]["clip_norm"], hparams["device"]
  if system.schedule.mode == "trained_published":
    return jax.vmap(lambda part, images, reply: step.device_step(
        split, clip, optimizer, part, images, reply, clip_norm))(devices, images, reply)
  keys = jax.random.split(key, system.devices)
  return jax.vmap(lambda part, images, reply, key: step.private_device_step(
      split, clip, GRADIENT_CLIP, optimizer, part, images, reply, clip_norm,
      own["clip_norm"], own["noise_multiplier"], key))(devices, images, reply, keys)


def _adam(hparams: HParams, side: str) -> optax.GradientTransformation:
  """Adam, with a learning rate for each side: activations differ in scale from cut to cut."""
  return adam().transform(hparams[side])


def _bytes(split: SplitNetwork, schedule: accounting.Schedule, labels: LabelPolicy, messages: int,
           classes: int) -> dict[str, Communication]:
  """Of one device in a pass; what is sent once counts as spread over the passes."""
  of_labels = 0 if labels.policy == "u_shaped" else messages * schedule.batch * message.LABEL_BYTES
  of_activations = messages * message.message_bytes(split.shape, schedule.batch) - of_labels
  passes = schedule.epochs if schedule.mode == "frozen_cached" else 1
  channels = {"activations": Communication.equal(0, -(-of_activations // passes))}
  if labels.policy == "u_shaped":
    logits = messages * message.reply_bytes((classes,), schedule.batch)
    channels |= {"logits": Communication.equal(logits, 0),
                 "logit_gradients": Communication.equal(0, logits)}
  else:
    channels["labels"] = Communication.equal(0, -(-of_labels // passes))
  if schedule.device_is_trained:
    channels["activation_gradients"] = Communication.equal(
        messages * message.reply_bytes(split.shape, schedule.batch), 0)
  return channels


def _uncovered(system: SplitSystem) -> dict[str, str]:
  """Channels without a release: labels in clear, and what the server makes of what it has seen."""
  said = {"logits": accounting.REPLIES, "activation_gradients": accounting.REPLIES}
  if system.labels.policy == "pseudonym":
    said["labels"] = accounting.LABELS_IN_CLEAR
  elif system.labels.in_clear:
    said["logit_gradients"] = accounting.LOGIT_GRADIENTS_IN_CLEAR
  return {name: _sentence(words) for name, words in said.items() if name in system.channels}


def _sentence(words: str) -> str:
  return f"{words[0].upper()}{words[1:]}."


METRICS = {"loss": Measure("training loss"), "train_accuracy": Measure("training accuracy")}

NOT_COVERED = (
    "Training loss and accuracy are those of the server (u_shaped: of the devices); accuracies of "
    "the evaluation are computed on other images of the same people, un-noised ones on the "
    "devices.",
    "The number of people, their classes, the largest number of images of one, and the clip norm "
    "where it is given are taken as public.",
)
