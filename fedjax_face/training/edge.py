"""A split run over the wire from a config: what the two programs need of it."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from fedjax_face.algorithms.dp_activations import GRADIENT_CLIP, SplitState, split_system
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.split.edge_parts import DeviceData, EdgeParts, PrivateGradients
from fedjax_face.split.message import PADDING
from fedjax_face.split.step import Part
from fedjax_face.training import checkpoint, experiment
from fedjax_face.training.streams import cohort_generator, init_key


def build(config: Any, device: int | None = None) -> EdgeParts:
  """The parts of a config of `dp_activations`, the same in every process.

  Each process loads the whole data section, the private set too, whose people and images it counts,
  and pre-trains on the public set for itself. All images are dropped before this returns, but those
  of the device: for the server only counts of the private set are left, and a device keeps its own
  images and labels, and who of the others is where.

  Args:
    config: the whole config.
    device: whose parts these are; None: the server's, whose `device_data` and `rows` raise
      ValueError.

  Raises:
    ValueError: another algorithm, a config that is refused, or a device that there is not.
    FileNotFoundError: data that is not there.
  """
  if config.algorithm != "dp_activations":
    raise ValueError(f"config.algorithm={config.algorithm!r}: the edge programs run "
                     "dp_activations, e.g. --config=configs/dp_activations.py")
  built = experiment.build(config, say=lambda line: None)
  train, algorithm = built.sources.train, built.algorithm
  system = split_system(Ingredients(config, _counted(train), built.mesh, built.backbone,
                                    built.sources.public))
  if device is not None and not 0 <= device < system.devices:
    raise ValueError(f"device {device}: devices are numbered 0 to {system.devices - 1}")
  scalars, mode = algorithm.hparams, system.schedule.mode
  owner = system.device_of_person[train.person]
  messages = -(-int(np.bincount(owner).max()) // system.schedule.batch)
  own = np.flatnonzero(owner == device)  # none on the server
  data = DeviceData(train.images[own], train.label[own].astype(np.int32))
  trained = system.schedule.device_is_trained
  return EdgeParts(
      split=system.split,
      image_shape=tuple(train.images.shape[1:]),
      clip_norm=system.clip_norm,
      noise_multiplier=scalars["noise_multiplier"],
      mode=mode,
      passes=config.rounds,
      messages=messages,
      batch=system.schedule.batch,
      labels=system.labels,
      num_classes=train.num_labels,
      devices=system.devices,
      params={"device": system.device,
              "server": jax.jit(system.init_server)(init_key(config.seed))},
      server_optimizer=optax.adam(scalars["server_learning_rate"]),
      device_optimizer=optax.adam(scalars["device_learning_rate"]) if trained else None,
      private_gradients=PrivateGradients(
          GRADIENT_CLIP, scalars["gradient_clip_norm"], scalars["gradient_noise_multiplier"])
      if mode == "trained_private" else None,
      device_data=_of_device(device, lambda number: data),
      rows=_of_device(device, _rows(config.seed, system.cohort, own, messages)),
      noise_seed=config.privacy.get("noise_seed"),
      releases=algorithm.releases,
      not_covered=(*algorithm.not_covered, *built.sources.not_covered),
      sampling=algorithm.sampling,
      population={"image": len(train), "person": train.num_persons},
      delta=config.privacy.delta,
      checkpoint_every=messages,
  )


def restored_state(algorithm: Algorithm, workdir: pathlib.Path,
                   say: Callable[[str], None]) -> tuple[int, SplitState] | None:
  """Steps done and the state of a run that a server kept in its workdir; None before the first.

  Raises:
    ValueError: the device parts were trained, so they are on the devices.
  """
  schedule = algorithm.parts.schedule
  if schedule.device_is_trained:
    raise ValueError(f"split.mode={schedule.mode}: the trained parts of the network are on the "
                     f"devices, and {workdir} holds the server's alone")
  whole = jax.eval_shape(algorithm.init, jax.random.key(0))
  found = checkpoint.restore(workdir / "checkpoints", whole.server, say)
  if found is None:
    return None
  return found.round, SplitState(Part(algorithm.parts.device, ()), found.state)


def _counted(train: FaceDataset) -> FaceDataset:
  """The set without its images and labels: as many of each, all zero."""
  return FaceDataset(
      train.name, np.broadcast_to(np.uint8(0), train.images.shape), np.zeros_like(train.label),
      train.person, names=("",) * train.num_labels)


def _rows(seed: int, cohort: Callable[[np.random.Generator, int], Cohort], own: np.ndarray,
          messages: int) -> Callable[[int, int], np.ndarray]:
  """(device, step) -> int32 [B], the device's own numbers; `own` are its rows of the whole set."""

  @functools.lru_cache(maxsize=2)
  def order(device: int, epoch: int) -> np.ndarray:
    drawn = cohort(cohort_generator((seed,), epoch), epoch)
    numbers = np.searchsorted(own, drawn.examples[device])
    return np.where(drawn.mask[device], numbers, PADDING).astype(np.int32)

  return lambda device, step: order(device, step // messages)[step % messages]


def _of_device(own: int | None, call: Callable[..., Any]) -> Callable[..., Any]:
  """`call` for one device's number, refused for others; the server does not even keep it."""

  def refuse(device: int, *more: Any) -> Any:
    raise ValueError(f"data of device {device}: these parts are those of "
                     + ("the server" if own is None else f"device {own}"))

  if own is None:
    return refuse
  return lambda device, *more: (call if device == own else refuse)(device, *more)
