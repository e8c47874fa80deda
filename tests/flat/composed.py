r"""The parts of three systems in one run, every channel private, one epsilon for each person.

python -m experiments.train --config=configs/composed.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default). From DP-FedEmb the clipped and noised sum of the silos' backbone
updates; from PrivacyFace the clusters that silos publish once, as negatives of the loss; from FedGC
the correction of class embeddings, which each silo makes at home with the clusters of the others as
anchors. `privacy.epsilon` is the total over both channels, `exchange.epsilon` what the clusters may
take of it. Overrides:

  without the correction   --config.algorithm=privacyface
  without the clusters     --config.algorithm=fedpe
  no noise on the backbone --config.privacy.aggregator=clipped --config.privacy.epsilon=None
  other noise              --config.privacy.epsilon=None --config.hparams.noise_multiplier=0.5
"""

from __future__ import annotations

import ml_collections

from tests.flat import privacyface


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic}
  if variant not in variants:
    raise ValueError(f"composed has no variant {variant!r}: {', '.join(variants)}")
  return variants[variant]()


def synthetic() -> ml_collections.ConfigDict:
  """36 random silos of 20 synthetic people on average.

  python -m experiments.train --config=configs/composed.py --workdir=runs/composed
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.493 [0.465, 0.515] (one
  seed, interval over people) at a total epsilon of 8 (720 people, add-or-remove-one, delta 1e-5);
  the public backbone alone 0.531. Measured with silos of exactly 20.
  """
  config = privacyface.silos36()
  config.algorithm = "composed"
  config.correction = {
      "form": "calibrated",            # as_written | calibrated
      "steps": 1,                      # server steps a round
      "block": 512,                    # anchors at a time
  }
  config.privacy.update({
      "aggregator": "gaussian",        # gaussian | adaptive | clipped | mean
      "epsilon": 8.0,
      "quantile": 0.5,                 # adaptive clipping
      "clip_learning_rate": 0.2,
      "count_stddev_per_client": 0.05,
  })
  config.exchange.epsilon = 2.0
  config.hparams.update({
      "correction_strength": 7.5,
      "correction_learning_rate": 0.02,
      "clip_norm": 0.2,
  })
  return config
