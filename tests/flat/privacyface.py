r"""PrivacyFace (Meng et al., ICLR 2022): silos exchange differentially private clusters of people.

python -m experiments.train --config=configs/privacyface.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), silos36, lfw or bupt. What it is held against are overrides:

  FedPE                --config.algorithm=fedpe
  noiseless clusters   --config.exchange.mechanism=kmeans --config.exchange.epsilon=None
  all foreign people   --config.exchange.mechanism=all_rows --config.exchange.epsilon=None
  as published         --config.exchange.mechanism=dplc_published
  other mechanisms     --config.exchange.mechanism=client_mean (dp_lloyd, exponential_caps)
  secure aggregation   --config.exchange.pooled=True
  other epsilon        --config.exchange.epsilon=1

The epsilon is that of the clusters, over the whole run and for each person, conditional on the
backbone, whose averaging adds no noise; configs/composed.py noises that too.
"""

from __future__ import annotations

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "silos36": silos36, "lfw": lfw, "bupt": bupt}
  if variant not in variants:
    raise ValueError(f"privacyface has no variant {variant!r}: {', '.join(variants)}")
  return variants[variant]()


def base() -> ml_collections.ConfigDict:
  """What the variants share."""
  return ml_collections.ConfigDict({
      "algorithm": "privacyface",
      "rounds": 10,
      "seed": 0,
      "data": {},
      "silos": {
          "by": "attribute",             # random | dirichlet | attribute | file
          "num_silos": 4,
          "concentration": 1.0,          # dirichlet
          "attribute": "skin_tone",
          "path": "",                    # file: CSV with header person,client
      },
      "model": {
          "backbone": "lenet",
          "embedding_dim": 128,
          "backbone_options": {},
          "head": "cosface",             # cosface | arcface
          "head_init": "prototypes",     # shared_frame | prototypes
          "flip": False,
      },
      "pretrain": {"public": True, "rounds": 20,
                   "hparams": {"client_learning_rate": 0.02, "head_learning_rate_scale": 1.0},
                   "cohort": {"batch_size": 32, "steps": 24, "classes": "all"}},
      "cohort": {
          "silos_per_round": 0,          # 0: all
          "batch_size": 32,
          "epochs": 1,
          "max_examples": 512,           # of a silo in a round; 0: all
          "classes": "own",
          "steps": 64,                   # centralised: optimiser steps a round
          "only_silo": 0,                # local_only
      },
      "local": {
          "stages": "joint",
          "head_steps": 1,
          "optimizer": "momentum",       # sgd | momentum | adam
          "drift": "none",               # none | fedprox | scaffold
      },
      "exchange": {
          # client_mean | anchor_table | dp_lloyd | exponential_caps, and without guarantee
          # dplc_published | kmeans | all_rows
          "mechanism": "anchor_table",
          "rows": "prototypes",          # prototypes | class_embeddings (no guarantee)
          "every": 0,                    # rounds between publications; 0: once, public backbone
          "clusters": 8,                 # of a silo
          "candidates": 64,              # exponential_caps: public centres to choose from
          "angle": 0.8,                  # caps: radians
          "selection_share": 0.2,        # exponential_caps: of the budget
          "smallest": 5,                 # dplc_published
          "iterations": 3,               # dp_lloyd, kmeans
          "pooled": False,               # secure aggregation over silos
          "count_weight": 0.5,           # of people counted beside the sums; 0: no counts
          "significance": 2.0,           # weaker clusters are dropped
          "projection": 0,               # public principal directions; 0: all dimensions
          "public_iterations": 20,       # of the clustering of public people
          "loss": "v0",                  # v0 | v1 | v2 | v3
          "epsilon": placeholder(float),
      },
      "privacy": {
          "aggregator": "mean",
          "epsilon": placeholder(float),
          "delta": 1e-5,
          "noise_seed": placeholder(int),
      },
      "hparams": {
          "client_learning_rate": 0.02,
          "client_momentum": 0.9,
          "head_learning_rate_scale": 0.1,
          "server_learning_rate": 1.0,
          "server_momentum": 0.0,
          "scale": 16.0,
          "margin": 0.1,
          "foreign_weight": 0.1,         # of clusters beside a silo's own classes; the paper: 1
          "cap_angle": 0.2,              # v1, v2: radians
          "hinge_weight": 1.0,           # v2
          "anchor_cosine": 0.6,
          "proximal_weight": 0.01,
          "clip_norm": 1.0,
          "noise_multiplier": placeholder(float),
          "cluster_noise_multiplier": placeholder(float),
      },
      "evaluation": {
          "protocols": ("recall_all_pairs",),   # true accept rate at a false accept rate
          "fars": (1e-1, 1e-2, 1e-3),
          "every": 5,
          "batch_size": 256,
          "bootstrap": 200,
          "headline": ("recall_all_pairs@far=0.01", "recall_all_pairs@far=0.1"),
      },
      "training": {
          "rounds_per_dispatch": 5,
          "clients_per_chunk": 1,
          "checkpoint_every": 20,
          "resident": "auto",
          "wandb": "",
      },
  })


def synthetic() -> ml_collections.ConfigDict:
  """4,000 built-in synthetic people, a thousand in each of four silos, cut by skin tone.

  python -m experiments.train --config=configs/privacyface.py:synthetic --workdir=runs/privacyface
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.617 [0.592, 0.642] over 3
  seeds (FedPE 0.614 [0.580, 0.647]) at epsilon 4 for the clusters (4,000 people,
  add-or-remove-one, delta 1e-5); 80 s on a CPU core after rendering and pre-training.
  """
  config = base()
  config.data = {
      "name": "synthetic_faces", "num_people": 4000, "evaluation_people": 200,
      "images_per_person": 6, "size": 28, "seed": 3, "grayscale": True,
      "public": {"name": "synthetic_faces", "num_people": 300, "images_per_person": 8, "size": 28,
                 "seed": 4, "grayscale": True}}
  config.exchange.epsilon = 4.0
  return config


def silos36() -> ml_collections.ConfigDict:
  """720 synthetic people in 36 random silos of 20 on average.

  python -m experiments.train --config=configs/privacyface.py:silos36 --workdir=runs/silos36
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.555 [0.526, 0.584] over 3
  seeds (FedPE 0.564 [0.545, 0.584]) at epsilon 4 for the clusters (720 people, add-or-remove-one,
  delta 1e-5). Measured with silos of exactly 20.
  """
  config = synthetic()
  config.data.num_people = 720
  config.silos.update({"by": "random", "num_silos": 36})
  config.cohort.update({"batch_size": 8, "max_examples": 48})
  return config


def lfw() -> ml_collections.ConfigDict:
  """LFW people with two or more images, outside View-2 folds 1-2, in four random silos.

  Pre-trained on rendered people. Needs the LFW folder of $FEDJAX_FACE_DATA.

  python -m experiments.train --config=configs/privacyface.py:lfw --workdir=runs/privacyface_lfw
  View-2 accuracy 0.749 [0.740, 0.759] over 3 seeds (FedPE 0.759 [0.724, 0.795]) at epsilon 4 for
  the clusters (add-or-remove-one, delta 1e-5).
  """
  config = base()
  config.data = {
      "name": "lfw", "size": 28, "grayscale": True, "test_folds": (1, 2), "min_images": 2,
      "public": {"name": "synthetic_faces", "num_people": 300, "images_per_person": 8, "size": 28,
                 "seed": 4, "grayscale": True}}
  config.silos.by = "random"
  config.model.flip = True
  config.evaluation.update({"protocols": ("lfw_view2", "tar_at_far"),
                            "headline": ("lfw_view2/accuracy", "tar@far=0.1")})
  config.exchange.epsilon = 4.0
  return config


def bupt() -> ml_collections.ConfigDict:
  """BUPT-Balancedface by a list of clients, as in the paper, from an InsightFace .rec folder.

  Not run here. silos.path is a CSV that puts every person into one of the four groups;
  data.public is CASIA-WebFace, which pre-trains.
  """
  config = base()
  config.data = {"name": "insightface_rec", "path": "", "size": 112, "test_fraction": 0.05,
                 "grayscale": False,
                 "public": {"name": "insightface_rec", "path": "", "size": 112,
                            "grayscale": False}}
  config.silos.update({"by": "file", "path": ""})
  config.model.update({"backbone": "iresnet18", "embedding_dim": 512, "flip": True})
  config.cohort.update({"batch_size": 128, "max_examples": 0})
  config.exchange.update({"clusters": 16, "candidates": 256, "projection": 64, "epsilon": 4.0})
  config.hparams.update({"scale": 30.0, "margin": 0.4})
  return config
