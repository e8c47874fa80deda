r"""DP-A (Mao et al., HotEdge 2018): a device sends noised activations, an edge server learns.

python -m experiments.train --config=configs/dp_activations.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default) or lfw. Choices are overrides:

  where to cut      --config.split.cut=first (middle, bottleneck, or a block's name)
  mode              --config.split.mode=frozen_fresh (trained_private, trained_published)
  labels            --config.split.labels=u_shaped
  other epsilon     --config.privacy.epsilon=1
  no noise          --config.privacy.epsilon=None --config.hparams.noise_multiplier=0.0

The attacks on what the server sees: configs/activation_attacks.py.
"""

from __future__ import annotations

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "lfw": lfw}
  if variant not in variants:
    raise ValueError(f"dp_activations has no variant {variant!r}: {', '.join(variants)}")
  return variants[variant]()


def base() -> ml_collections.ConfigDict:
  """What the variants share."""
  return ml_collections.ConfigDict({
      "algorithm": "dp_activations",
      "rounds": 30,                      # passes over the images
      "seed": 0,
      "data": {},
      "split": {
          "cut": "bottleneck",           # first | middle | bottleneck | a block's name
          # frozen_cached | frozen_fresh | trained_private | trained_published (no guarantee)
          "mode": "frozen_cached",
          "devices": 1,
          "batch_size": 32,              # images in a message
          "pooling": 1,                  # window of a mean-pooling before the clip
          "projection": 32,              # public principal directions before the clip; 0: none
          "labels": "pseudonym",         # pseudonym | randomized_response | u_shaped
          "labels_in_clear": True,       # the server sees labels, and the user knows
          "label_epsilon": placeholder(float),
          "label_noise_multiplier": 0.0,
      },
      "model": {
          "backbone": "lenet",
          "embedding_dim": 128,
          "backbone_options": {},
          "head": "linear",              # of the pre-training
          "flip": False,
      },
      "pretrain": {"public": True, "rounds": 20,
                   "cohort": {"batch_size": 32, "steps": 24, "classes": "all"}},
      "cohort": {"batch_size": 32, "steps": 24, "classes": "all"},   # of the pre-training
      "local": {"optimizer": "momentum"},
      "privacy": {
          "unit": "image",               # image | person, whose epsilon the target is
          "epsilon": placeholder(float),
          "delta": 1e-5,
          "gradient_noise_ratio": 1.0,   # trained_private: z_w over z
          "noise_seed": placeholder(int),
      },
      "hparams": {
          "client_learning_rate": 0.02,  # these three: of the pre-training
          "client_momentum": 0.9,
          "head_learning_rate_scale": 1.0,
          "server_learning_rate": 1e-3,
          "device_learning_rate": 1e-4,
          "clip_norm": placeholder(float),  # None: the median norm of the public activations
          "gradient_clip_norm": 1.0,
          "noise_multiplier": placeholder(float),
      },
      "evaluation": {
          "every": 10,
          "batch_size": 128,
          "bootstrap": 300,
          "headline": ("accuracy", "accuracy_noised", "accuracy_ceiling"),
      },
      "training": {
          "rounds_per_dispatch": 5,
          "checkpoint_every": 50,
          "resident": "auto",
          "wandb": "",
      },
  })


def synthetic() -> ml_collections.ConfigDict:
  """62 built-in synthetic people of 40 images; the device part comes from another, public world.

  Measured, seed 0, accuracy on the device: 0.016, 0.042, 0.087, 0.147 and 0.308 at epsilon 1, 4, 8,
  16 and 50, and 0.456 without noise.

  python -m experiments.train --config=configs/dp_activations.py:synthetic --workdir=runs/split
  """
  config = base()
  config.data = {
      "name": "synthetic_faces", "num_people": 62, "images_per_person": 40, "size": 32, "seed": 21,
      "grayscale": False, "test_fraction": 0.25,
      "public": {"name": "synthetic_faces", "num_people": 300, "images_per_person": 8, "size": 32,
                 "seed": 22, "grayscale": False}}
  config.privacy.epsilon = 8.0
  return config


def lfw() -> ml_collections.ConfigDict:
  """The 62 people of LFW with 20 images or more; the device part comes from synthetic faces.

  Needs the LFW folder of $FEDJAX_FACE_DATA. Measured, seed 0, accuracy on the device: 0.175 at
  epsilon 1 to 16, the share of the most frequent person, 0.216 at 50, and 0.433 without noise.

  python -m experiments.train --config=configs/dp_activations.py:lfw --workdir=runs/split_lfw
  """
  config = base()
  config.data = {
      "name": "lfw", "size": 32, "grayscale": False, "min_images": 20, "test_fraction": 0.25,
      "public": {"name": "synthetic_faces", "num_people": 300, "images_per_person": 8, "size": 32,
                 "seed": 22, "grayscale": False}}
  config.privacy.epsilon = 8.0
  return config
