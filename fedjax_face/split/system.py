"""A split network on its devices: what training, evaluation, attacks and the programs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.method import Setting
from fedjax_face.method.algorithm import Communication, HParams
from fedjax_face.options import OptionError
from fedjax_face.split import accounting
from fedjax_face.split.channels import bytes_of
from fedjax_face.split.cuts import Cut, halves, public_activations
from fedjax_face.split.device import Device
from fedjax_face.split.holders import Devices
from fedjax_face.split.labels import Labels
from fedjax_face.split.mechanism import ActivationClip, Activations, noised
from fedjax_face.split.network import Params, SplitNetwork
from fedjax_face.split.step import Part

_CLIP_NORM = "method.activations.clip_norm"


class SplitParts(NamedTuple):
  """What a method of split learning is made of.

  Attributes:
    clients: who holds whose images.
    cut: the backbone and where it is cut.
    activations: what is done to an activation.
    labels: what the server learns of labels.
    device: what the device part learns.
    server: own hparams -> optimiser of the server part.
  """

  clients: Devices
  cut: Cut
  activations: Activations
  labels: Labels
  device: Device
  server: Callable[[HParams], optax.GradientTransformation]


class SplitState(NamedTuple):
  """The devices' parts, arrays [K, ...] (one for all where it is frozen), and the server's."""

  device: Part
  server: Part


class SplitSystem(NamedTuple):
  """The parts of a method on a training set, of which it keeps no image.

  Attributes:
    parts: of the method.
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
    channels: bytes of a device in a round: name -> what crosses.
    notes: sentences for the record.
  """

  parts: SplitParts
  split: SplitNetwork
  image_shape: tuple[int, int, int]
  clip: ActivationClip
  clip_norm: float
  device: Params
  init_server: Callable[[jax.Array], Params]
  cohort: Callable[[Draws, int], Cohort]
  devices: int
  device_of_person: np.ndarray
  schedule: accounting.Schedule
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


def split_system(parts: SplitParts, train: FaceDataset, setting: Setting,
                 hparams: HParams) -> SplitSystem:
  """A method's parts on a training set.

  Args:
    parts: of the method.
    train: people, labels and images, of which the shape counts.
    setting: of the run; `public` where something comes from public images.
    hparams: of the method; `activations.clip_norm` where it is said.

  Raises:
    ValueError: parts that the data do not fit, or nothing public to take from what is public.
  """
  held, shape = parts.clients.holding(train, setting.seed), tuple(train.images.shape[1:])
  split, device, init_server = halves(parts.cut, train.num_labels, shape, setting)
  clip = parts.activations.clip(split.non_negative)
  clip_norm = hparams.get("activations", {}).get("clip_norm")
  if clip_norm is None:
    clip_norm = _median_norm(clip, public_activations(
        setting.public, split, device, f"{_CLIP_NORM}=None"))
  schedule = accounting.Schedule(
      parts.device.mode, setting.rounds, 1, int(held.images.max()),
      int(np.bincount(train.person).max()), parts.clients.batch_size)
  note = (f"cut after {parts.cut.after!r}: activations of {math.prod(split.shape)} numbers, clip "
          f"norm {clip_norm:.4g}, sensitivity {clip.sensitivity:.4g} of it")
  return SplitSystem(
      parts, split, shape, clip, clip_norm, device, init_server, held.cohort,
      parts.clients.number, held.owner, schedule,
      bytes_of(split, schedule, parts.labels.policy, held.messages, train.num_labels), (note,))


def _median_norm(clip: ActivationClip, activations: np.ndarray) -> float:
  """The clip norm that half of some public activations [P, d] lie within."""
  norms = np.linalg.norm(clip(jnp.asarray(activations), math.inf), axis=1)
  median = float(np.median(norms))
  if not median > 0:
    raise OptionError(f"{_CLIP_NORM}=None: the median norm of public activations is {median:g}; "
                      "expected a number above 0, said or found")
  return median
