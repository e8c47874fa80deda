r"""DP-FedEmb (Xu et al., CVPR 2023): user-level private image embeddings.

python -m experiments.train --config=configs/dp_fedemb.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), femnist, lfw, digiface, emnist, gld or inaturalist; what each
reached and cost is in the docstring of its function. The baselines are overrides of the same file:

  non-private           --config.privacy.aggregator=mean
  global-head FedAvg    --config.algorithm=fedavg
  centralised           --config.algorithm=centralized
  a target epsilon      --config.privacy.epsilon=8 (and no hparams.noise_multiplier)
"""

from __future__ import annotations

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "femnist": femnist, "lfw": lfw, "digiface": digiface,
              "emnist": emnist, "gld": gld, "inaturalist": inaturalist}
  if variant not in variants:
    raise ValueError(f"dp_fedemb has no variant {variant!r}: {', '.join(variants)}")
  return variants[variant]()


def base() -> ml_collections.ConfigDict:
  """What the variants share: the structure, and the released code's choices."""
  return ml_collections.ConfigDict({
      "algorithm": "dp_fedemb",
      "rounds": 200,
      "seed": 0,
      "data": {},
      "model": {
          "backbone": "lenet",
          "embedding_dim": 128,
          "backbone_options": {},
          "head": "linear",              # linear | normalised | cosface | arcface
          "head_init": "shared_frame",   # shared_frame | per_client
          "flip": False,
      },
      "cohort": {
          "sampling": "fixed",           # fixed | poisson | cyclic_fixed | cyclic_poisson
          "virtual_clients": 32,
          "users_per_client": 8,
          "capacity": 16,                # poisson schemes: most users of a virtual client
          "sampling_probability": placeholder(float),
          "min_separation": 1,           # cyclic schemes
          "partition_seed": 0,
          "batch_size": 32,
          "epochs": 8,
          "max_examples": 2048,
          "max_examples_per_user": 0,    # 0: no cap
          "classes": "all",              # all | own
          "steps": 64,                   # centralised training: optimiser steps a round
      },
      "local": {
          "stages": "joint",             # joint | head_first
          "head_steps": 1,
          "optimizer": "momentum",       # sgd | momentum | adam
      },
      "privacy": {
          "aggregator": "gaussian",      # gaussian | adaptive | correlated | clipped | mean
          "epsilon": placeholder(float),
          "delta": 1e-5,
          "noise_seed": placeholder(int),
          "quantile": 0.5,               # adaptive clipping
          "clip_learning_rate": 0.2,
          "count_stddev_per_client": 0.05,
          "correlated": "banded",        # banded | buffered_toeplitz
      },
      "hparams": {
          "client_learning_rate": 5e-3,
          "client_momentum": 0.9,
          "head_learning_rate_scale": 100.0,
          "server_learning_rate": 0.02,
          "server_momentum": 0.9,
          "clip_norm": 1.0,
          "noise_multiplier": placeholder(float),
      },
      "evaluation": {
          "protocols": ("recall_all_pairs",),
          "fars": (1e-1, 1e-2, 1e-3),
          "every": 50,
          "batch_size": 256,
          "bootstrap": 1000,
      },
      "training": {
          "rounds_per_dispatch": 5,
          "clients_per_chunk": 1,        # CPU: one after another; accelerators: side by side
          "checkpoint_every": 25,
          "resident": "auto",
          "wandb": "",
      },
  })


def femnist() -> ml_collections.ConfigDict:
  """Handwritten characters by writer."""
  config = base()
  config.data = {"name": "femnist"}
  config.rounds = 200
  config.cohort.update({"virtual_clients": 8, "users_per_client": 4, "batch_size": 16,
                        "epochs": 1, "max_examples": 256})
  config.hparams.update({"client_learning_rate": 0.02, "head_learning_rate_scale": 10.0,
                         "server_learning_rate": 1.0, "server_momentum": 0.9})
  return config


def synthetic(): return base()
def lfw(): return base()
def digiface(): return base()
def emnist(): return base()
def gld(): return base()
def inaturalist(): return base()
