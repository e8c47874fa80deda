r"""The leak-back attack on FedGC: a silo recovers the class embeddings of others from corrections.

python -m experiments.attack --config=configs/leak_back.py --workdir=runs/leak_back

Made-up class embeddings in uniform directions; the attacker knows a probe for every target, such as
the embedding of one public photograph.
"""

from __future__ import annotations

import ml_collections


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant: `synthetic`, or `noised` with Gaussian noise on returned rows."""
  noise = {"synthetic": 0.0, "noised": 0.001}
  if variant not in noise:
    raise ValueError(f"leak_back has no variant {variant!r}: {', '.join(noise)}")
  return ml_collections.ConfigDict({
      "attack": "leak_back",
      "seed": 0,
      "population": {
          "clients": 10, "classes": 300, "dim": 128, "targets": 8,
          "probe_cosine": 0.6, "training_cosine": 0.7,
      },
      "server": {
          "forms": ("as_written", "calibrated"),
          "scales": (8.0, 16.0, 30.0, 64.0),
          "strengths": (0.0, 0.01, 0.1, 1.0, 10.0, 100.0),  # lambda
          "margin": 0.4,
          "learning_rate": 0.1,                             # eta
          "steps": 1,
          "noise_std": noise[variant],                      # on every entry of a returned row
      },
      "attacker": {
          "rounds": 40,
          "decoys": 32,
          "length": 1.0,                                    # of the rows that it sends
      },
  })
