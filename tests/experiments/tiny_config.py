"""A config of a few seconds: DP-FedEmb on tiny synthetic faces."""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(variant: str = "resident"):
  if variant not in ("resident", "gathered", "pretrain"):
    raise ValueError(f"no variant {variant!r}: resident, gathered, pretrain")
  config = ml_collections.ConfigDict({
      "algorithm": "dp_fedemb",
      "rounds": 6,
      "seed": 0,
      "data": {"name": "synthetic_faces", "num_people": 8, "evaluation_people": 6,
               "images_per_person": 4, "size": 28, "seed": 0, "grayscale": True},
      "model": {"backbone": "lenet", "embedding_dim": 8, "backbone_options": {}, "head": "linear",
                "head_init": "shared_frame", "flip": False},
      "cohort": {"sampling": "fixed", "virtual_clients": 4, "users_per_client": 2, "capacity": 4,
                 "sampling_probability": placeholder(float), "min_separation": 1,
                 "partition_seed": 0, "batch_size": 4, "epochs": 1, "max_examples": 8,
                 "max_examples_per_user": 0, "classes": "all", "steps": 2},
      "local": {"stages": "joint", "head_steps": 1, "optimizer": "sgd", "drift": "none"},
      "privacy": {"aggregator": "gaussian", "epsilon": placeholder(float), "delta": 1e-3,
                  "noise_seed": 7, "quantile": 0.5, "clip_learning_rate": 0.2,
                  "count_stddev_per_client": 0.05, "correlated": "banded"},
      "hparams": {"client_learning_rate": 0.05, "client_momentum": 0.9,
                  "head_learning_rate_scale": 1.0, "server_learning_rate": 0.01,
                  "server_momentum": 0.9, "proximal_weight": 0.01, "clip_norm": 1.0,
                  "noise_multiplier": 2.0},
      "evaluation": {"protocols": ("recall_all_pairs",), "fars": (0.1,), "every": 4,
                     "batch_size": 16, "bootstrap": 20},
      "training": {"rounds_per_dispatch": 2, "clients_per_chunk": 1, "checkpoint_every": 3,
                   "resident": "true", "wandb": ""},
  })
  if variant == "gathered":
    config.training.resident = "false"
  if variant == "pretrain":
    config.data.public = {"name": "synthetic_faces", "num_people": 5, "images_per_person": 4,
                          "size": 28, "seed": 99, "grayscale": True}
    config.pretrain = {"rounds": 2, "public": True, "cohort": {"batch_size": 8}}
  return config
