"""Do the default rates of dp_fedemb transfer: non-private training beside tuned rates.

python -m experiments.compare --config=configs/dp_fedemb_rates.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), orl, femnist, lfw or lfw64. Rates, margin and epochs are those of
the signatures, and every setting changes one of them; "share of the non-private gain" of a table is
then the gain over that of the defaults, so a setting above 125 % is one that leaves the defaults
below 80 % of it. Results: docs/results/dp_fedemb.md.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from configs import dp_fedemb


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The defaults, without privacy, on one set."""
  variants = {"synthetic": _synthetic, "orl": _orl, "femnist": _femnist, "lfw": _lfw,
              "lfw64": _lfw64}
  if variant not in variants:
    raise ValueError(f"dp_fedemb_rates has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def get_comparison(variant: str = "synthetic") -> dict[str, dict]:
  """The defaults, and one rate changed at a time."""
  del variant
  return {
      "defaults": {},
      "client rate 0.001": {"method.local.learning_rate": 0.001},
      "client rate 0.01": {"method.local.learning_rate": 0.01},
      "server rate 0.07": {"method.server.learning_rate": 0.07},
      "server rate 0.2": {"method.server.learning_rate": 0.2},
      "1 local epoch": {"method.local.epochs": 1},
  }


def get_non_private(variant: str = "synthetic") -> str:
  """The setting whose gain over the start is 100 %."""
  del variant
  return "defaults"


def _synthetic() -> dict:
  """1,000 rendered people from a public start."""
  return _defaults(dp_fedemb.heads(), backbone="lenet_small", clients=dict(per_round=32))


def _orl() -> dict:
  return dict(
      method=dict(name="dp_fedemb", clients=dict(per_round=4, users_per_client=5),
                  aggregate="mean"),
      data=dict(name="orl"), rounds=24,
      evaluation=dict(bootstrap=0, headline=("recall_all_pairs@far=0.1", "recall_all_pairs/auc")))


def _femnist() -> dict:
  return _defaults(dp_fedemb.femnist(),
                   clients=dict(per_round=8, users_per_client=4, max_examples=128))


def _lfw() -> dict:
  return _defaults(dp_fedemb.lfw(), clients=dict(per_round=16, max_examples_per_user=10),
                   local=dict(flip=True))


def _lfw64() -> dict:
  own = _defaults(dp_fedemb.lfw(), clients=dict(per_round=8, max_examples_per_user=10),
                  local=dict(flip=True))
  return own | dict(data=own["data"] | dict(size=64), rounds=12)


def _defaults(own: dict, **parts: Any) -> dict:
  """A variant of dp_fedemb with these parts alone, not private, judged at the end."""
  return own | dict(
      method=dict(name="dp_fedemb", aggregate="mean", **parts), privacy=dict(epsilon=None),
      evaluation=own["evaluation"] | dict(every=0, bootstrap=0))
