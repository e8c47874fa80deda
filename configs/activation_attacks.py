r"""Attacks on what an edge server receives, over cuts and epsilons (configs/dp_activations.py).

python -m experiments.attack --config=configs/activation_attacks.py --workdir=runs/attacks

Trains every setting (or goes on with what the workdir holds), attacks it, and writes attack.json, a
table, attack.png and a grid of reconstructions for each cut.
"""

from __future__ import annotations

import ml_collections


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant of configs/dp_activations.py."""
  return ml_collections.ConfigDict({
      "attack": "activations",
      "config": "configs/dp_activations.py",
      "variant": variant,
      "seed": 0,
      "cuts": ("first", "middle", "bottleneck"),
      "epsilons": (1.0, 4.0, 8.0, 16.0, 50.0),
      "without_noise": True,             # also a run without any
      "decoder": {"width": 32, "code": 128, "epochs": 12, "batch_size": 64,
                  "learning_rate": 2e-3},
      "inversion": {"pictures": 8, "steps": 300, "learning_rate": 0.1, "total_variation": 1e-3},
      "trials": 20_000,
      "shadows": 0,                      # servers for likelihood ratios: slow but at the bottleneck
      "shadow_learning_rate": 1e-3,
      "ridge": 0.1,
      "label_noise": (0.0, 1.0, 4.0),    # of the gradients that u_shaped sends
      "people_in_grid": 4,
  })
