"""The rounds that are timed: made-up data of fixed sizes, and the config that trains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from configs import dp_fedemb, fedgc
from fedjax_face.data.dataset import FaceDataset

_NOISE = ("clipping and noise", {"privacy.aggregator": "mean", "hparams.noise_multiplier": None})


class Workload(NamedTuple):
  """One benchmark.

  Attributes:
    name: for the table.
    config: of a whole run, as `experiments.train` takes it.
    data: the training set.
    asks: what the round is timed with and without.
    without: the overrides that leave it out.
    goal_cpu: CPU seconds a round that are aimed at, on one core.
    goal_wall: wall seconds a round that are aimed at, on two cores.
  """

  name: str
  config: Any
  data: FaceDataset
  asks: str
  without: dict[str, Any]
  goal_cpu: float | None = None
  goal_wall: float | None = None


def w1() -> Workload:
  """DP-FedEmb: 8 virtual clients of 4 users, 16 batches of 16 images, LeNet, momentum SGD."""
  config = _config("dp_fedemb", "lenet", "momentum")
  config.cohort.update({"virtual_clients": 8, "users_per_client": 4, "batch_size": 16,
                        "epochs": 1, "max_examples": 256})
  return Workload("w1: DP-FedEmb, LeNet, 8 x 16 x 16 images", config,
                  _made_up(np.full(64, 64)), *_NOISE, goal_cpu=1.2, goal_wall=0.6)


def w2() -> Workload:
  """User-level private FedAvg: 50 of 3,400 users, one epoch of batches of 10, a 1.2 M CNN."""
  config = _config("fedavg", "reddi_cnn", "sgd")
  config.cohort.update({"virtual_clients": 50, "users_per_client": 1, "batch_size": 10,
                        "epochs": 1, "max_examples": 100})
  config.hparams.client_learning_rate = 0.1
  counts = np.random.default_rng(0).integers(20, 100, size=3400, endpoint=True)
  return Workload("w2: private FedAvg, CNN, 50 of 3,400 users", config, _made_up(counts), *_NOISE,
                  goal_cpu=2.6, goal_wall=1.25)


def fedgc_round() -> Workload:
  """FedGC: 36 silos of 20 people with 8 images each, 4 batches of 40, LeNet; beside FedPE."""
  config = fedgc.base()
  config.cohort.batch_size = 40
  return Workload("fedgc: LeNet, 36 silos x 160 images, 720 classes", config,
                  _made_up(np.full(720, 8), num_classes=None), "the correction",
                  {"algorithm": "fedpe"})


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "w1": w1, "w2": w2, "fedgc": fedgc_round}


def _config(algorithm: str, backbone: str, optimizer: str) -> Any:
  config = dp_fedemb.published()
  config.algorithm = algorithm
  config.model.backbone = backbone
  config.local.optimizer = optimizer
  config.hparams.head_learning_rate_scale = 1.0
  config.hparams.noise_multiplier = 1.0
  return config


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
