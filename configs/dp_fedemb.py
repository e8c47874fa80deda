r"""DP-FedEmb (Xu et al., CVPR 2023): user-level private image embeddings.

python -m experiments.train --config=configs/dp_fedemb.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), femnist, lfw, digiface, emnist, gld or inaturalist; what each
reached and cost is in the docstring of its function. The baselines are overrides of the same file:

  non-private           --config.privacy.aggregator=mean --config.privacy.epsilon=None
  global-head FedAvg    --config.algorithm=fedavg --config.cohort.classes=all
  centralised           --config.algorithm=centralized --config.privacy.epsilon=None
  other noise           --config.privacy.epsilon=None --config.hparams.noise_multiplier=0.5
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
          "drift": "none",               # none | fedprox
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
          "proximal_weight": 0.01,       # fedprox
          "clip_norm": 1.0,
          "noise_multiplier": placeholder(float),
      },
      "evaluation": {
          "protocols": ("recall_all_pairs",),
          "fars": (1e-1, 1e-2, 1e-3),
          "every": 50,
          "batch_size": 256,
          "bootstrap": 1000,
          "headline": ("recall_all_pairs@far=0.01",),   # columns of experiments.compare
      },
      "training": {
          "rounds_per_dispatch": 5,
          "clients_per_chunk": 1,        # CPU: one after another; accelerators: side by side
          "checkpoint_every": 25,
          "resident": "auto",
          "wandb": "",
      },
  })



def synthetic() -> ml_collections.ConfigDict:
  """Built-in synthetic faces: the demo.

  Pre-trains on another, public world of 500 rendered people, then epsilon 8 for 1,000 people.

  python -m experiments.train --config=configs/dp_fedemb.py:synthetic --workdir=runs/synthetic
  Recall at FAR 0.1 on 80 unseen people 0.527 [0.487, 0.567] (one seed, interval over people) at
  epsilon 8 (1,000 people, replace-one, delta 1e-5).
  """
  config = base()
  config.data = {
      "name": "synthetic_faces", "num_people": 1000, "evaluation_people": 80,
      "images_per_person": 8, "size": 32, "seed": 1, "grayscale": False,
      "public": {"name": "synthetic_faces", "num_people": 500, "images_per_person": 10,
                 "size": 32, "seed": 2, "grayscale": False},
  }
  config.rounds = 40
  config.pretrain = {"public": True, "rounds": 40,
                     "hparams": {"client_learning_rate": 0.02},
                     "cohort": {"batch_size": 32, "steps": 24, "classes": "all"}}
  config.cohort.update({"virtual_clients": 8, "users_per_client": 8, "batch_size": 16,
                        "epochs": 1, "max_examples": 64, "classes": "own", "steps": 48})
  config.hparams.update({"client_learning_rate": 0.01, "head_learning_rate_scale": 10.0,
                         "server_learning_rate": 0.01, "server_momentum": 0.9,
                         "clip_norm": 0.2})
  config.privacy.epsilon = 8.0
  config.evaluation.update({"protocols": ("recall_all_pairs", "identification"), "every": 20})
  return config


def femnist() -> ml_collections.ConfigDict:
  """Handwritten characters by writer; 36 classes train, the other 26 are unseen.

  python -m experiments.train --config=configs/dp_fedemb.py:femnist --workdir=runs/femnist
  Recall at FAR 1e-2 0.100 [0.086, 0.114] at epsilon 8 (105 writers, replace-one, delta 1e-5) over 3
  seeds; 0.182 [0.173, 0.191] with the noise that a million people need; 1 min on one CPU core.
  """
  config = base()
  config.data = {"name": "femnist"}
  config.rounds = 60
  config.cohort.update({"virtual_clients": 8, "users_per_client": 4, "batch_size": 16,
                        "epochs": 1, "max_examples": 64, "steps": 32})
  config.hparams.update({"client_learning_rate": 0.02, "head_learning_rate_scale": 10.0,
                         "server_learning_rate": 0.001, "server_momentum": 0.9,
                         "clip_norm": 0.5})
  config.privacy.epsilon = 8.0
  config.evaluation.update({"every": 30})
  return config


def lfw() -> ml_collections.ConfigDict:
  """Labeled Faces in the Wild: people outside View-2 folds 1-2 train, those folds evaluate.

  python -m experiments.train --config=configs/dp_fedemb.py:lfw --workdir=runs/lfw
  View-2 accuracy 0.656 [0.645, 0.667] at epsilon 8 (1,358 people, replace-one, delta 1e-5) over 3
  seeds; 0.703 [0.679, 0.727] with the noise that a million people need; 3 min on one CPU core.
  """
  config = base()
  config.data = {"name": "lfw", "size": 32, "grayscale": False, "test_folds": (1, 2),
                 "min_images": 2}
  config.rounds = 60
  config.model.flip = True
  config.cohort.update({"virtual_clients": 8, "users_per_client": 8, "batch_size": 16,
                        "epochs": 4, "max_examples": 96, "max_examples_per_user": 10,
                        "classes": "own", "steps": 48})
  config.hparams.update({"client_learning_rate": 0.02, "head_learning_rate_scale": 10.0,
                         "server_learning_rate": 0.0025, "server_momentum": 0.9,
                         "clip_norm": 0.5})
  config.privacy.epsilon = 8.0
  config.evaluation.update({"protocols": ("lfw_view2", "tar_at_far"), "fars": (1e-1, 1e-2),
                            "every": 30, "headline": ("lfw_view2/accuracy", "tar@far=0.1")})
  return config


def digiface() -> ml_collections.ConfigDict:
  """DigiFace-1M, 10,000 identities of 72 images 112x112, with the published cohort. Not run here.

  Needs the archive: see fedjax_face/data/digiface_builder.py.
  """
  config = base()
  config.data = {"name": "digiface", "data_dir": "", "manual_dir": "", "size": 112,
                 "test_fraction": 0.1, "grayscale": False, "limit": 0}
  config.model.backbone = "mobilenet_v2"
  config.privacy.epsilon = 8.0
  return config


def emnist() -> ml_collections.ConfigDict:
  """EMNIST by 3,400 writers, the published command (spec of the paper). Not run here.

  Reads LEAF FEMNIST json files from data.path; the published noise multiplier is on the mean of
  virtual clients of 8 writers, so the ledger divides it by 2.
  """
  config = base()
  config.data = {"name": "femnist", "path": ""}
  config.hparams.noise_multiplier = 0.62
  return config


def gld() -> ml_collections.ConfigDict:
  """Google Landmarks by 1,262 contributors, from a folder. Not run here."""
  config = base()
  config.data = {"name": "folder", "path": "", "size": 112, "test_fraction": 0.1,
                 "grayscale": False, "min_images": 1, "on_bad": "skip"}
  config.model.backbone = "mobilenet_v2"
  config.privacy.epsilon = 8.0
  return config


def inaturalist() -> ml_collections.ConfigDict:
  """iNaturalist by 9,275 observers, from a folder. Not run here."""
  config = gld()
  config.data.path = ""
  return config


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant.

  `million`: the noise on the mean that a million people would need at epsilon 8 (README, plan).
  `one_user`: the baseline as published, every client one user; else the same virtual clients.
  """
  rates = {"femnist": 0.1, "lfw": 0.15}
  noise = {"femnist": 0.03, "lfw": 0.02}
  if variant not in rates:
    raise ValueError(f"nothing is compared with {variant!r}: {', '.join(rates)}")
  without_noise = {"privacy.epsilon": None, "privacy.aggregator": "mean",
                   "hparams.server_learning_rate": 0.5}
  million = {"privacy.epsilon": None, "hparams.noise_multiplier": noise[variant],
             "hparams.server_learning_rate": rates[variant]}
  global_head = {"algorithm": "fedavg", "cohort.classes": "all"}
  return {
      "dp_fedemb_million": million,
      "fedavg_one_user_million": million | global_head | {"cohort.users_per_client": 1},
      "fedavg_million": million | global_head,
      "dp_fedemb_epsilon8": {},
      "dp_fedemb_non_private": without_noise,
      "centralized": without_noise | {"algorithm": "centralized", "evaluation.bootstrap": 100,
                                      "hparams.client_learning_rate": 0.005},
  }
