"""What a split run over the wire is made of, and the server's steps from it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr

from fedjax_face.edge.contract import Contract, Exchange, Outcome, largest_norm
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.privacy.ledger import Ledger, Release
from fedjax_face.split import step as steps
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.mechanism import ActivationClip
from fedjax_face.split.message import PADDING, Reply
from fedjax_face.split.network import Params, SplitNetwork
from fedjax_face.split.step import Part


class DeviceData(NamedTuple):
  """What one device holds, in any order: images uint8 [N, H, W, C] and true labels int32 [N]."""

  images: np.ndarray
  labels: np.ndarray


class PrivateGradients(NamedTuple):
  """DP-SGD of the device part: clip, clip norm S and noise multiplier z_w."""

  clip: GradientClip
  clip_norm: float
  noise_multiplier: float


@dataclasses.dataclass(frozen=True)
class EdgeParts:
  """Everything that both programs need; each uses its own side.

  Attributes:
    split: the cut network.
    image_shape: (H, W, C).
    clip_norm: C of the activations.
    noise_multiplier: z of the activations, noise over sensitivity.
    mode: one of `accounting.MODES`.
    passes: over every device's images.
    messages: of one device in a pass; a step is one message of each.
    images: of each device.
    batch: B, rows of a message.
    labels: how labels reach the server.
    num_classes: of the logits.
    devices: K.
    params: {"device": params, "server": params} before the first step.
    server_optimizer: of the server part.
    device_optimizer: of the device part; None where it is frozen.
    private_gradients: of mode `trained_private` alone.
    device_data: device -> its data; ValueError elsewhere than on that device.
    rows: (device, step) -> int32 [B], examples of the message, `PADDING` in rows that hold none;
      no example twice in one pass. ValueError where `device_data` raises it.
    noise_seed: pins every device's noise; None: from the operating system.
    releases: of one pass.
    before: the ledger before the first step: the start, a rehearsal, what is not covered.
    sampling: who takes part when, in words.
    population: unit -> number of them.
    delta: of the statement.
    checkpoint_every: steps between two checkpoints.
  """

  split: SplitNetwork
  image_shape: tuple[int, int, int]
  clip_norm: float
  noise_multiplier: float
  mode: str
  passes: int
  messages: int
  images: tuple[int, ...]
  batch: int
  labels: LabelPolicy
  num_classes: int
  devices: int
  params: dict[str, Params]
  server_optimizer: optax.GradientTransformation
  device_optimizer: optax.GradientTransformation | None
  private_gradients: PrivateGradients | None
  device_data: Callable[[int], DeviceData]
  rows: Callable[[int, int], np.ndarray]
  noise_seed: int | None
  releases: tuple[Release, ...]
  before: Ledger
  sampling: str
  population: dict[str, int]
  delta: float
  checkpoint_every: int

  @property
  def clip(self) -> ActivationClip:
    """Of the activations."""
    return ActivationClip(self.split.non_negative)

  @property
  def steps(self) -> int:
    """Messages of one device in the whole run."""
    return self.passes * self.messages

  @property
  def device_is_trained(self) -> bool:
    """Whether gradients come back to the device."""
    return self.mode.startswith("trained")

  @property
  def is_u_shaped(self) -> bool:
    """Whether the loss is computed on the device."""
    return self.labels.policy == "u_shaped"

  @property
  def repeats_everything(self) -> bool:
    """Whether a device sends the same bytes whenever a step comes again, so that nothing is new."""
    return self.mode == "frozen_cached" and not self.is_u_shaped

  @property
  def answers(self) -> dict[str, str]:
    """Channel that a device sends -> channel that comes back, in the order of a step."""
    last = "activation_gradients" if self.device_is_trained else "receipt"
    return ({"activations": "logits", "logit_gradients": last} if self.is_u_shaped
            else {"activations": last})

  def contract(self) -> Contract:
    """What both sides expect."""
    return Contract(
        shape=self.split.shape, batch=self.batch, num_classes=self.num_classes,
        devices=self.devices, labels_are_sent=not self.is_u_shaped, messages=self.messages,
        images=self.images,
        largest_activation=largest_norm(
            self.clip, self.clip_norm, self.noise_multiplier, math.prod(self.split.shape)),
        largest_logit_gradient=largest_norm(
            ActivationClip(False), math.sqrt(2), self.labels.noise_multiplier, self.num_classes))

  def public_digest(self) -> str:
    """The `public_digest` of these parts."""
    return public_digest(self.split, self.params["device"], self.image_shape, self.clip_norm,
                         self.noise_multiplier)

  def passes_begun(self, steps_begun: int) -> int:
    """Passes that so many steps reach into, those of the run at most."""
    return min(-(-steps_begun // self.messages), self.passes)

  def ledger(self, steps_begun: int) -> Ledger:
    """What is released by so many steps: every pass that has begun counts as a whole.

    Args:
      steps_begun: steps of which anything was sent, or may have been; 0: none.
    """
    ledger = Ledger.from_json(self.before.to_json())
    for release in self.releases:
      ledger.record(release, self.passes_begun(steps_begun))
    return ledger


def public_digest(split: SplitNetwork, device: Params, image_shape: tuple[int, int, int],
                  clip_norm: float, noise_multiplier: float) -> str:
  """Hex digest of what makes an activation of an image, and its noise, beside the config.

  Of the device part before the first step, every array that the cut closes over (a projection),
  clip norm and noise multiplier, all as float32. Processes that built them apart must agree, and so
  must a device with itself after a restart: its noise is the same, and noise on two different
  values of one image reveals their difference.

  Args:
    split: the cut network.
    device: parameters of its device part.
    image_shape: (H, W, C).
    clip_norm: C of the activations.
    noise_multiplier: z of the activations.
  """
  scalars = np.array([clip_norm, noise_multiplier], np.float32)
  named = [(jax.tree_util.keystr(path), leaf)
           for path, leaf in jax.tree_util.tree_leaves_with_path(device)]
  traced = jax.make_jaxpr(split.device)(
      device, jax.ShapeDtypeStruct((1, *image_shape), np.uint8))
  digest = hashlib.sha256(repr(split.non_negative).encode())
  for name, leaf in (*named, *(("constant", c) for c in _constants(traced)), ("", scalars)):
    array = np.asarray(leaf, np.float32)
    digest.update(f"{name} {array.shape} ".encode() + array.tobytes())
  return digest.hexdigest()


def server_part(parts: EdgeParts) -> Part:
  """The server's state before the first step."""
  return steps.start(parts.params["server"], parts.server_optimizer)


def server_exchanges(parts: EdgeParts) -> tuple[Exchange, ...]:
  """What the server does in a step: `split.step` on the messages of all devices at once."""
  channels = list(parts.answers.items())
  if parts.is_u_shaped:
    return Exchange(*channels[0], _logits(parts)), Exchange(*channels[1], _from_gradients(parts))
  return (Exchange(*channels[0], _from_labels(parts)),)


def _constants(traced: ClosedJaxpr) -> Iterator[Any]:
  """Every array that a traced function closes over, also inside the functions that it calls."""
  yield from traced.consts
  for equation in traced.jaxpr.eqns:
    for value in jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr)):
      if isinstance(value, ClosedJaxpr):
        yield from _constants(value)


def _from_labels(parts: EdgeParts) -> Callable[..., Any]:
  @jax.jit
  def step(part, message):
    done = steps.server_step(parts.split, parts.server_optimizer, part, message)
    reply = done.reply if parts.device_is_trained else None
    return done.part, reply, done.metrics, _all_finite(done.part)

  return lambda part, received: _trained(parts, part, received, *step(part, _stacked(received[0])))


def _logits(parts: EdgeParts) -> Callable[..., Any]:
  step = jax.jit(lambda part, message: steps.server_logits(parts.split, part.params, message))

  def run(part, received):
    return part, Outcome(_by_device(parts, step(part, _stacked(received[0]))), {})

  return run


def _from_gradients(parts: EdgeParts) -> Callable[..., Any]:
  @jax.jit
  def step(part, message, gradients):
    done = steps.server_step_from_gradients(
        parts.split, parts.server_optimizer, part, message, gradients)
    reply = done.reply if parts.device_is_trained else None
    return done.part, reply, done.metrics, _all_finite(done.part)

  return lambda part, received: _trained(
      parts, part, received, *step(part, *map(_stacked, received)))


def _trained(parts: EdgeParts, before: Part, received: Sequence[Sequence[Any]], part: Part,
             reply: Reply | None, metrics: dict[str, jax.Array],
             finite: jax.Array) -> tuple[Part, Outcome]:
  """The outcome of a step; one in which no device sent an example leaves the part as it was."""
  if not any((message.example != PADDING).any() for message in received[0]):
    return before, Outcome(_by_device(parts, reply), dict.fromkeys(metrics, math.nan))
  if not finite:
    raise ValueError("a parameter would become NaN or infinite")
  values = {name: float(value) for name, value in metrics.items()}
  return part, Outcome(_by_device(parts, reply), values)


def _stacked(contents: Sequence[Any]) -> Any:
  """Messages or replies [B, ...] of K devices as one, [K, B, ...]."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *contents)


def _by_device(parts: EdgeParts, reply: Reply | None) -> tuple[Reply | None, ...]:
  if reply is None:
    return (None,) * parts.devices
  arrays = jax.tree.map(np.asarray, reply)
  return tuple(jax.tree.map(lambda leaf, k=k: leaf[k], arrays) for k in range(parts.devices))


def _all_finite(part: Part) -> jax.Array:
  floats = [leaf for leaf in jax.tree.leaves(part) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
