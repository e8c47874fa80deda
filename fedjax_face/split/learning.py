"""Split learning as a method: parts bound to data, with the noise that a budget asks for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import dp_accounting
import jax
import optax

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.method import Method, Setting, noise_multiplier
from fedjax_face.method.algorithm import Algorithm, HParams, always, with_values
from fedjax_face.options import OptionError
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, events_used
from fedjax_face.split import accounting, channels, cost
from fedjax_face.split import round as rounds
from fedjax_face.split.cuts import Cut
from fedjax_face.split.device import Device
from fedjax_face.split.holders import Devices
from fedjax_face.split.labels import Labels
from fedjax_face.split.mechanism import Activations
from fedjax_face.split.network import merged
from fedjax_face.split.system import SplitParts, SplitState, SplitSystem, split_system

UNITS = ("image", "person")
_NOISE = "method.activations.noise_multiplier"


def split_learning(clients: Devices, cut: Cut, activations: Activations, labels: Labels,
                   device: Device,
                   server: Callable[[HParams], optax.GradientTransformation]) -> Method:
  """Devices send clipped and noised activations of their images, and a server trains on them.

  A round is a pass over all images. Bound, `Algorithm.parts` is a `SplitSystem`, and hparams are
  the method's, `activations` and `device` filled.

  Args:
    clients: who holds whose images.
    cut: a backbone and where it is cut.
    activations: what is done to an activation before the noise.
    labels: what the server learns of labels.
    device: what the device part learns.
    server: own hparams -> optimiser of the server part.
  """
  parts = SplitParts(clients, cut, activations, labels, device, server)
  return Method(functools.partial(_bound, parts), data="classes", unit="image")


class _Noise(NamedTuple):
  """Noise multipliers of activations and of the device's gradients; None: there are none."""

  activations: float
  gradients: float | None


def _bound(parts: SplitParts, train: FaceDataset, setting: Setting, hparams: HParams) -> Algorithm:
  _check(setting)
  system = split_system(parts, train, setting, hparams)
  noise = _noise(system, setting, hparams)
  hparams = with_values(hparams, {
      "activations": {"noise_multiplier": noise.activations, "clip_norm": system.clip_norm},
      "device": {} if noise.gradients is None else {"noise_multiplier": noise.gradients}})
  policy = parts.labels.policy
  return Algorithm(
      name=setting.method,
      init=lambda key: rounds.initial_state(system, hparams, key),
      cohort=system.cohort,
      step=functools.partial(rounds.training_pass, system),
      hparams=hparams,
      releases=_releases(system, noise),
      channels={name: always(moved) for name, moved in system.channels.items()},
      metrics=channels.METRICS,
      not_covered=channels.not_covered(system.schedule, policy, system.devices),
      uncovered=channels.uncovered(system.channels, policy),
      predict=functools.partial(_predict, system),
      parts=system,
      start=lambda state: merged({"device": system.device_of(state, 0),
                                  "server": state.server.params}),
      sampling=f"every image of {system.devices} device(s) once in each of {setting.rounds} passes;"
               " the server sees which, so nothing is amplified",
      population={"image": len(train), "person": train.num_persons},
      needs_all_images=True,
      prepare=functools.partial(rounds.prepared, system, train),
      notes=system.notes,
      record=lambda: {"device_part": cost.recorded(cost.device_cost(
          parts.cut.after, system.split, system.image_shape))},
  )


def _check(setting: Setting) -> None:
  """Refuses what would make the accounting wrong."""
  if setting.privacy.unit not in UNITS:
    raise ValueError(f"privacy.unit={setting.privacy.unit!r}: expected {' or '.join(UNITS)}")
  if setting.start is not None and not setting.start_is_public:
    raise ValueError("start: the device part is public, so it must not come from private images; "
                     "expected a start that was trained on public ones alone")


def _noise(system: SplitSystem, setting: Setting, hparams: HParams) -> _Noise:
  """What is said, or the least with which a unit's epsilon is that of the budget."""
  said, ratio = hparams["device"].get("noise_multiplier"), system.parts.device.noise_ratio

  def beside(multiplier: float) -> _Noise:
    return _Noise(multiplier, None if ratio is None else
                  ratio * multiplier if said is None else said)

  def run_event(multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(r.event, events_used(setting.rounds, r.covers))
        for r in _releases(system, beside(multiplier)) if r.unit == setting.privacy.unit])

  multiplier = noise_multiplier(hparams["activations"].get("noise_multiplier"), setting,
                                Adjacency.REPLACE_ONE, run_event, _NOISE)
  if multiplier and math.isinf(system.clip_norm):
    raise OptionError("method.activations.clip_norm=inf: noise is scaled to the clip norm; "
                      "expected a finite number where there is noise")
  return beside(multiplier)


def _releases(system: SplitSystem, noise: _Noise) -> tuple[Release, ...]:
  return accounting.releases(
      system.schedule, noise.activations, system.parts.labels.policy, noise.gradients)


def _predict(system: SplitSystem, state: SplitState, images: jax.Array) -> jax.Array:
  """Logits [B, classes] of the first device with the server, without noise."""
  return system.logits(system.device_of(state, 0), state.server.params, images, None, 0.0)
