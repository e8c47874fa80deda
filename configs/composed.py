r"""The parts of three systems in one run, every channel private, one epsilon for each person.

python -m experiments.train --config=configs/composed.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default) or folder. From DP-FedEmb the clipped and noised sum of the silos'
backbone updates; from PrivacyFace the clusters that silos publish once, as negatives of the loss;
from FedGC the correction of class embeddings, which each silo makes at home with the clusters of
the others as anchors. `privacy.epsilon` is the total over both channels, `method.exchange.epsilon`
what the clusters may take of it. Overrides, where another method keeps what is said of what it
takes too:

  without the correction   --config.method=privacyface
  without the clusters     --config.method=fedpe
  no noise on the backbone --config.method.aggregate=clipped \
                           --config.method.aggregate.clip_norm=0.2 --config.privacy.epsilon=None
  other noise              --config.privacy.epsilon=None \
                           --config.method.aggregate.noise_multiplier=0.5
"""

from __future__ import annotations

import ml_collections

from configs import privacyface


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "folder": folder}
  if variant not in variants:
    raise ValueError(f"composed has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """36 random silos of 20 synthetic people on average.

  python -m experiments.train --config=configs/composed.py --workdir=runs/composed
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.493 [0.465, 0.515] (one
  seed, interval over people) at a total epsilon of 8 (720 people, add-or-remove-one, delta 1e-5);
  the public backbone alone 0.531. Measured with silos of exactly 20.
  """
  return _composed(privacyface.silos36())


def folder() -> dict:
  """Your own people in four random silos, a random third evaluates; rendered people pre-train.

  python -m experiments.train --config=configs/composed.py:folder --workdir=runs/composed_folder \\
      --config.data.path=PHOTOGRAPHS
  """
  return _composed(privacyface.folder())


def _composed(own: dict) -> dict:
  """A variant of PrivacyFace with all channels private."""
  parts = dict(name="composed", exchange=dict(epsilon=2.0),
               aggregate=dict(name="gaussian", clip_norm=0.2))
  return own | dict(method=own["method"] | parts, privacy=dict(epsilon=8.0))
