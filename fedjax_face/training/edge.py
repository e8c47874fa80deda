"""A split run over the wire from a config: what the two programs need of it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax

from fedjax_face.algorithms.dp_activations import GRADIENT_CLIP, split_system
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.split.edge_parts import DeviceData, EdgeParts, PrivateGradients
from fedjax_face.split.message import PADDING
from fedjax_face.training import experiment
from fedjax_face.training.streams import cohort_generator, init_key


def build(config: Any) -> EdgeParts:
  """The parts of a config of `dp_activations`, the same in every process.

  Each process loads the data section and pre-trains on its public set for itself. Of the private
  set the server uses the numbers of people and of images, and a device its own images.

  Raises:
    ValueError: another algorithm, or a config that is refused.
    FileNotFoundError: data that is not there.
  """
  if config.algorithm != "dp_activations":
    raise ValueError(f"config.algorithm={config.algorithm!r}: the edge programs run "
                     "dp_activations, e.g. --config=configs/dp_activations.py")
  built = experiment.build(config, say=lambda line: None)
  train, algorithm = built.sources.train, built.algorithm
  system = split_system(Ingredients(config, train, built.mesh, built.backbone,
                                    built.sources.public))
  scalars, mode = algorithm.hparams, system.schedule.mode
  owner = system.device_of_person[train.person]
  own_rows = [np.flatnonzero(owner == device) for device in range(system.devices)]
  messages = -(-max(map(len, own_rows)) // system.schedule.batch)
  number = np.zeros(len(train), np.int32)
  for rows in own_rows:
    number[rows] = np.arange(len(rows))

  @functools.lru_cache(maxsize=2)
  def order(epoch: int) -> np.ndarray:
    """int32 [K, messages, B], the devices' own numbers."""
    cohort = system.cohort(cohort_generator((config.seed,), epoch), epoch)
    return np.where(cohort.mask, number[cohort.examples], PADDING).astype(np.int32)

  trained = system.schedule.device_is_trained
  return EdgeParts(
      split=system.split,
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
      device_data=lambda device: DeviceData(
          train.images[own_rows[device]], train.label[own_rows[device]].astype(np.int32)),
      rows=lambda device, step: order(step // messages)[device, step % messages],
      noise_seed=config.privacy.get("noise_seed"),
      releases=algorithm.releases,
      not_covered=(*algorithm.not_covered, *built.sources.not_covered),
      sampling=algorithm.sampling,
      population={"image": len(train), "person": train.num_persons},
      delta=config.privacy.delta,
      checkpoint_every=messages,
  )
