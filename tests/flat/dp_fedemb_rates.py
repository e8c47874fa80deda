"""Do the default rates of dp_fedemb.py transfer: non-private training beside tuned rates.

python -m experiments.compare --config=configs/dp_fedemb_rates.py:VARIANT --workdir=runs/VARIANT

VARIANT is orl, femnist, lfw, lfw64 or synthetic. Every setting changes one rate of the defaults;
"share of the non-private gain" of a table is then the gain over that of the defaults, so a setting
above 125 % is one that leaves the defaults below 80 % of it. Results: docs/results/dp_fedemb.md.
"""

from __future__ import annotations

import ml_collections

from tests.flat import dp_fedemb


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The defaults, without privacy, on one set."""
  variants = {"orl": _orl, "femnist": _femnist, "lfw": _lfw, "lfw64": _lfw64,
              "synthetic": _synthetic}
  if variant not in variants:
    raise ValueError(f"dp_fedemb_rates has no variant {variant!r}: {', '.join(variants)}")
  config = variants[variant]()
  config.privacy.update({"aggregator": "mean", "epsilon": None})
  default = dp_fedemb.base()
  for name in ("client_learning_rate", "server_learning_rate", "clip_norm", "margin"):
    config.hparams[name] = default.hparams[name]
  config.cohort.epochs = default.cohort.epochs
  config.evaluation.update({"every": 0, "bootstrap": 0})
  return config


def get_comparison(variant: str = "synthetic") -> dict[str, dict]:
  """The defaults, and one rate changed at a time."""
  del variant
  return {
      "defaults": {},
      "client rate 0.001": {"hparams.client_learning_rate": 0.001},
      "client rate 0.01": {"hparams.client_learning_rate": 0.01},
      "server rate 0.07": {"hparams.server_learning_rate": 0.07},
      "server rate 0.2": {"hparams.server_learning_rate": 0.2},
      "1 local epoch": {"cohort.epochs": 1},
  }


def get_non_private(variant: str = "synthetic") -> str:
  """The setting whose gain over the start is 100 %."""
  del variant
  return "defaults"


def _orl() -> ml_collections.ConfigDict:
  config = dp_fedemb.base()
  config.data = {"name": "orl", "size": 32, "grayscale": True, "test_fraction": 0.4}
  config.rounds = 24
  config.cohort.update({"virtual_clients": 4, "users_per_client": 5})
  config.evaluation.headline = ("recall_all_pairs@far=0.1", "recall_all_pairs/auc")
  return config


def _femnist() -> ml_collections.ConfigDict:
  return dp_fedemb.femnist()


def _lfw() -> ml_collections.ConfigDict:
  return dp_fedemb.lfw()


def _lfw64() -> ml_collections.ConfigDict:
  config = dp_fedemb.lfw()
  config.data.size = 64
  config.rounds = 12
  config.cohort.virtual_clients = 8
  return config


def _synthetic() -> ml_collections.ConfigDict:
  """1,000 rendered people from a public start."""
  config = dp_fedemb.heads()
  config.cohort.virtual_clients = 32
  return config
