"""The rounds that are timed: made-up data of fixed sizes, and the method that trains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fedjax_face as ff
from fedjax_face.data.dataset import FaceDataset

_HEAD = {"head": ff.linear(), "aggregate": ff.gaussian(clip_norm=1.0, noise_multiplier=1.0),
         "server": ff.momentum(learning_rate=0.02)}


class Workload(NamedTuple):
  """One benchmark.

  Attributes:
    name: for the table.
    method: that trains.
    data: the training set.
    asks: what the round is timed with and without.
    without: the method that leaves it out.
    goal_cpu: CPU seconds a round that are aimed at, on one core.
    goal_wall: wall seconds a round that are aimed at, on two cores.
  """

  name: str
  method: Any
  data: FaceDataset
  asks: str
  without: Any
  goal_cpu: float | None = None
  goal_wall: float | None = None


def w1() -> Workload:
  """DP-FedEmb: 8 virtual clients of 4 users, 16 batches of 16 images, LeNet, momentum SGD."""
  method = ff.dp_fedemb(
      **_HEAD, start_head="shared_frame", classes="all",
      clients=ff.virtual_clients(per_round=8, users_per_client=4, max_examples=256),
      local=_steps(learning_rate=5e-3, batch_size=16))
  return Workload("w1: DP-FedEmb, LeNet, 8 x 16 x 16 images", method,
                  _made_up(np.full(64, 64)), "clipping and noise",
                  ff.replace(method, aggregate=ff.mean()), goal_cpu=1.2, goal_wall=0.6)


def w2() -> Workload:
  """User-level private FedAvg: 50 of 3,400 users, one epoch of batches of 10, a 1.2 M CNN."""
  method = ff.fedavg(
      **_HEAD, backbone=ff.reddi_cnn(embedding_dim=128),
      clients=ff.virtual_clients(per_round=50, users_per_client=1, max_examples=100),
      local=_steps(learning_rate=0.1, batch_size=10, optimizer="sgd"))
  counts = np.random.default_rng(0).integers(20, 100, size=3400, endpoint=True)
  return Workload("w2: private FedAvg, CNN, 50 of 3,400 users", method, _made_up(counts),
                  "clipping and noise", ff.replace(method, aggregate=ff.mean()), goal_cpu=2.6,
                  goal_wall=1.25)


def fedgc_round() -> Workload:
  """FedGC: 36 silos of 20 people with 8 images each, 4 batches of 40, LeNet; beside FedPE."""
  shared = {
      "head": ff.cosface(margin=0.1, scale=16.0), "start_head": "shared_frame",
      "clients": ff.silos(partition=ff.partitions.random(num_silos=36)),
      "local": ff.local_steps(learning_rate=0.02, optimizer="momentum", batch_size=40, epochs=1,
                              head_learning_rate_scale=0.1)}
  return Workload("fedgc: LeNet, 36 silos x 160 images, 720 classes", ff.fedgc(**shared),
                  _made_up(np.full(720, 8), num_classes=None), "the correction",
                  ff.fedpe(**shared))


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "w1": w1, "w2": w2, "fedgc": fedgc_round}


def _steps(learning_rate: float, batch_size: int, optimizer: str = "momentum") -> Any:
  return ff.local_steps(learning_rate=learning_rate, optimizer=optimizer, batch_size=batch_size,
                        epochs=1)


def _made_up(images_per_user: np.ndarray, num_classes: int | None = 62) -> FaceDataset:
  """Random pixels and classes (None: the user is the class); a round's work depends on neither."""
  rng = np.random.default_rng(1)
  total = int(images_per_user.sum())
  person = np.repeat(np.arange(len(images_per_user), dtype=np.int32), images_per_user)
  return FaceDataset(
      name="made_up",
      images=rng.integers(0, 256, (total, 28, 28, 1), np.uint8),
      label=person if num_classes is None else
      rng.permutation(np.arange(total, dtype=np.int32) % num_classes),
      person=person)
