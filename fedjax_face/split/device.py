"""The device's part of the network, as a part of a method: frozen, or trained, and by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from fedjax_face.method.algorithm import HParams
from fedjax_face.options import Traced, above, at_least, register
from fedjax_face.privacy import gradient_clip
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.split import step
from fedjax_face.split.mechanism import ActivationClip
from fedjax_face.split.message import Reply
from fedjax_face.split.network import SplitNetwork
from fedjax_face.split.step import Part

GRADIENT_CLIP = gradient_clip.joint(Adjacency.REPLACE_ONE)

DeviceStep = Callable[
    [SplitNetwork, ActivationClip, HParams, ArrayLike, Part, Any, Reply, jax.Array], Part]


class Device(NamedTuple):
  """How often images are sent, and what the device's part of the network learns.

  Attributes:
    mode: name in `accounting.MODES`, what of it costs privacy.
    learn: (split, clip of activations, own hparams, clip norm of activations, Part, images uint8
      [B, H, W, C], Reply of the server, secret key) -> Part, for one device; None: it is frozen.
    noise_ratio: noise multiplier of the gradients over that of the activations, where it is not
      said itself; None: gradients are not noised.
  """

  mode: str
  learn: DeviceStep | None = None
  noise_ratio: float | None = None


register.kind(Device)


@register.device
def frozen() -> Device:
  """Public and frozen; new noise in every pass, so every pass costs privacy."""
  return Device("frozen_fresh")


@register.device
def frozen_cached() -> Device:
  """Public and frozen; the noise of every image is drawn once, before the first pass, and costs
  once."""
  return Device("frozen_cached")


@register.device
def trained_published(*, learning_rate: Traced = 1e-4) -> Device:
  """Trained by exact gradients: not private, as later activations show them.

  Args:
    learning_rate: of Adam.
  """
  del learning_rate  # traced

  def learn(split, clip, own, clip_norm, part, images, reply, key):
    return step.device_step(split, clip, optimizer(own), part, images, reply, clip_norm)

  return Device("trained_published", learn)


@register.device
def trained_private(*, learning_rate: Traced = 1e-4,
                    clip_norm: Annotated[Traced, above(0)] = 1.0,
                    noise_multiplier: Annotated[Traced, at_least(0)] | None = None,
                    noise_ratio: Annotated[float, at_least(0)] = 1.0) -> Device:
  """Trained by DP-SGD, with new noise on activations in every pass.

  Args:
    learning_rate: of Adam.
    clip_norm: S, largest L2 norm of one example's gradient, above 0.
    noise_multiplier: z_w, noise on a sum of gradients over its sensitivity, at least 0; None:
      `noise_ratio` times that of the activations.
    noise_ratio: z_w over the noise multiplier of the activations, at least 0.
  """
  del learning_rate, clip_norm, noise_multiplier  # traced

  def learn(split, clip, own, clip_norm, part, images, reply, key):
    return step.private_device_step(
        split, clip, GRADIENT_CLIP, optimizer(own), part, images, reply, clip_norm,
        own["clip_norm"], own["noise_multiplier"], key)

  return Device("trained_private", learn, noise_ratio)


def optimizer(own: HParams) -> optax.GradientTransformation:
  """Adam with the device's own rate: activations differ in scale from cut to cut."""
  return optax.adam(own["learning_rate"])
