"""A device whose image or person differs: what the edge server tells apart, against the claim.

One unit (an image, or a person with several) is replaced by the one that lies as far from it as the
clip lets it: its activations, the gradients of the device part and the gradients of its logits
turn round, and its label is another. All other images are known. The adversary is the server: it
sees every message in full, knows which row is whose, and guesses by the log-likelihood ratio
(Neyman-Pearson). The device's side is that of a run: clipping, noise, keys, randomised labels.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.attacks.audit import STRENGTH, Audit, judged
from fedjax_face.attacks.distinguishing import canaries
from fedjax_face.privacy import accounting, gradient_clip
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import events_used, is_non_private
from fedjax_face.split import step
from fedjax_face.split.accounting import Schedule, releases
from fedjax_face.split.labels import LabelPolicy, randomised_labels
from fedjax_face.split.mechanism import ActivationClip, example_keys
from fedjax_face.split.message import Reply
from fedjax_face.split.network import SplitNetwork

ADJACENCY = Adjacency.REPLACE_ONE
GRADIENT_CLIP = gradient_clip.joint(ADJACENCY)
PLACES = ("first", "last")
CLASSES = 4
_WIDTH = 6                  # numbers of an activation, and parameters of the device part
_CLIP_NORM = 0.7
_LABELS, _LOGITS, _GRADIENTS = 1001, 1002, 1003     # uses of a trial's key, beside its passes


class SplitNoise(NamedTuple):
  """How far the device's messages are noised.

  Attributes:
    activations: z, noise over sensitivity.
    gradients: z_w of the device part's gradients, in mode `trained_private` alone.
  """

  activations: float
  gradients: float | None = None

  def scaled(self, factor: float) -> SplitNoise:
    """Both times a factor."""
    return SplitNoise(factor * self.activations,
                      None if self.gradients is None else factor * self.gradients)


def event(schedule: Schedule, noise: SplitNoise, labels: LabelPolicy, unit: str
          ) -> dp_accounting.DpEvent:
  """What the ledger of a run holds for a unit (`image` or `person`)."""
  made = releases(schedule, noise.activations, labels, noise.gradients)
  return dp_accounting.ComposedDpEvent([
      dp_accounting.SelfComposedDpEvent(r.event, events_used(schedule.steps, r.covers))
      for r in made if r.unit == unit and not is_non_private(r.event)])


def audit(schedule: Schedule, noise: SplitNoise, labels: LabelPolicy, claimed: float, *, unit: str,
          non_negative: bool, trials: int, delta: float, confidence: float, seed: int,
          place: str = "first") -> Audit:
  """Sends both data sets `trials` times and bounds epsilon from below.

  Args:
    schedule: of the game, one message a pass, so its images are those of a batch.
    noise: that is really added.
    labels: how they are sent.
    claimed: epsilon to hold the result against.
    unit: `image` or `person`, which is replaced.
    non_negative: whether activations are those of a ReLU.
    trials: of each data set; half of them choose the threshold, half measure.
    delta: of claim and measurement.
    confidence: of the lower bound (Clopper-Pearson); either data set may be the first.
    seed: of the devices' keys.
    place: of the unit among the device's images, `first` or `last`.

  Raises:
    ValueError: another place, or several messages a pass.
  """
  if place not in PLACES:
    raise ValueError(f"place {place!r} is not one of {', '.join(PLACES)}")
  if schedule.steps_per_epoch != 1:
    raise ValueError(f"the game has one message a pass, not {schedule.steps_per_epoch}")
  own = schedule.images_per_person if unit == "person" else 1
  moved = schedule.images if schedule.mode == "trained_published" else own
  rows = np.arange(schedule.images)
  moves = rows < moved if place == "first" else rows >= schedule.images - moved
  score = functools.partial(_score, schedule, noise, labels, moves, non_negative)
  play = jax.jit(jax.vmap(score, in_axes=(None, 0)))
  scores = [np.asarray(play(world, jax.random.split(jax.random.key(seed + world), trials)))
            for world in (0, 1)]
  first, second = scores
  return judged(first, second, claimed=claimed, delta=delta, confidence=confidence, seed=seed)


def claim(schedule: Schedule, noise: SplitNoise, labels: LabelPolicy, unit: str, delta: float
          ) -> float:
  """Epsilon of the accountant for a run of this schedule."""
  return accounting.epsilon(event(schedule, noise, labels, unit), delta, ADJACENCY).best


def _score(schedule: Schedule, noise: SplitNoise, labels: LabelPolicy, moves: np.ndarray,
           non_negative: bool, world: jax.Array, key: jax.Array) -> jax.Array:
  """Log-likelihood ratio of everything that one device sends: first data set over second."""
  example, total = jnp.arange(len(moves)), jnp.zeros(())
  clip = ActivationClip(non_negative)
  sent_as = canaries((_WIDTH,), _CLIP_NORM, non_negative)
  of_rows = lambda pair: [jnp.where(moves[:, None], side, 0) for side in pair]

  def of_world(pair) -> jax.Array:
    first, second = of_rows(pair)
    return jnp.where(world == 0, first, second)

  device = jnp.int32(0)
  network = SplitNetwork(_absent, lambda params, images: images + params, _absent, (_WIDTH,),
                         non_negative)
  params = jnp.zeros(_WIDTH)
  label = jnp.where(moves, jnp.where(world == 0, 0, 1), 2)
  cached = schedule.mode == "frozen_cached"
  for number in range(1 if cached else schedule.epochs):
    message = step.device_message(
        network, clip, params, of_world([STRENGTH * a for a in sent_as]), label, example, device,
        _CLIP_NORM, noise.activations, jax.random.fold_in(key, number))
    first, second = of_rows(sent_as)
    total += gaussian_ratio(message.activations, first, second,
                            clip.noise_stddev(_CLIP_NORM, noise.activations))
  for number in range(schedule.epochs):
    if labels.noise_multiplier:
      total += _of_logit_gradients(labels, moves, of_world, of_rows, label, example,
                                   _key(key, _LOGITS, number))
    if noise.gradients is not None:
      total += _of_device_gradients(network, noise.gradients, moves, world, example,
                                    _key(key, _GRADIENTS, number))
  if labels.epsilon is not None:
    seen = randomised_labels(label, labels.epsilon, CLASSES,
                             example_keys(jax.random.fold_in(key, _LABELS), example))
    likelier = (seen == 0).astype(jnp.float32) - (seen == 1)
    total += labels.epsilon * jnp.where(moves, likelier, 0).sum()
  return total


def gaussian_ratio(seen: jax.Array, first: jax.Array, second: jax.Array,
                   stddev: jax.typing.ArrayLike) -> jax.Array:
  """Log-likelihood ratio of N(first, stddev^2) over N(second, stddev^2), summed over entries."""
  return ((first - second) * (seen - (first + second) / 2)).sum() / jnp.square(stddev)


def _of_logit_gradients(labels, moves, of_world, of_rows, label, example, key) -> jax.Array:
  """Logits all but certain of the other label: the gradient is as long as one gets."""
  wrong_by = 60.0
  logits = of_world([wrong_by * jax.nn.one_hot(k, CLASSES) for k in (1, 0)])
  gradients = step.logit_gradients(Reply(logits, example, jnp.int32(0)), label,
                                   labels.noise_multiplier, key)
  apart = jnp.array([-1.0, 1.0, 0, 0])
  stddev = ActivationClip(non_negative=False).noise_stddev(math.sqrt(2), labels.noise_multiplier)
  first, second = of_rows([apart, -apart])
  return gaussian_ratio(gradients.values, first, second, stddev)


def _of_device_gradients(network, multiplier, moves, world, example, key) -> jax.Array:
  """One step of the device part by a server that publishes it; the unit's gradients all agree."""
  bound, count = 0.3, len(moves)
  along = jnp.zeros(_WIDTH).at[0].set(1.0)
  values = jnp.where(moves[:, None], jnp.where(world == 0, 1, -1) * STRENGTH * along, 0)
  optimizer = optax.sgd(1.0)
  before = step.start(jnp.zeros(_WIDTH), optimizer)
  reply = Reply(values, example, jnp.int32(0))
  after = step.private_device_step(
      network, ActivationClip(network.non_negative), GRADIENT_CLIP, optimizer, before,
      jnp.ones((count, _WIDTH)), reply, jnp.inf, bound, multiplier, key)
  seen = count * (before.params - after.params)
  reach = moves.sum() * bound * along
  return gaussian_ratio(seen, reach, -reach, multiplier * GRADIENT_CLIP.sensitivity * bound)


def _key(key: jax.Array, use: int, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.fold_in(key, use), number)


def _absent(*given: Any) -> Any:
  raise AssertionError("the game has no server part")
