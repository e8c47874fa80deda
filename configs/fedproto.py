"""FedProto (Tan et al., AAAI 2022): writers who share characters share prototypes of them.

python -m experiments.train --config=configs/fedproto.py:VARIANT --workdir=runs/VARIANT

VARIANT is femnist (default), synthetic or folder. The config is the arguments of
`fedjax_face.fit`: what it does not say is the default of a signature. Not private. Overrides:

  no prototypes   --config.method.prototypes.weight=0
  another head    --config.method.head=cosface
"""

from __future__ import annotations

import ml_collections


def get_config(variant: str = "femnist") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"femnist": femnist, "synthetic": synthetic, "folder": folder}
  if variant not in variants:
    raise ValueError(f"fedproto has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def femnist() -> dict:
  """105 writers dealt to 15 silos; 36 characters train, the other 26 are unseen. Not run here."""
  return dict(
      method=dict(name="fedproto",
                  clients=dict(partition=dict(name="random", num_silos=15), max_examples=512),
                  local=dict(learning_rate=0.02, optimizer="momentum", epochs=1, batch_size=16)),
      data=dict(name="femnist"), rounds=24,
      evaluation=dict(every=12, headline=("recall_all_pairs@far=0.01", "recall_all_pairs/auc")))


def synthetic() -> dict:
  """Rendered faces in four silos: nobody shares a class, so each prototype is of one silo."""
  return dict(
      method=dict(name="fedproto", backbone="lenet_small",
                  clients=dict(partition=dict(name="random", num_silos=4)),
                  local=dict(learning_rate=0.02, optimizer="momentum", epochs=1, batch_size=16)),
      data=dict(name="synthetic_faces", people=80, evaluation=40), rounds=8,
      evaluation=dict(every=4, fars=(0.1,), headline=("recall_all_pairs@far=0.1",)))


def folder() -> dict:
  """Your own people in four silos; a random third evaluates.

  python -m experiments.train --config=configs/fedproto.py:folder --workdir=runs/fedproto_folder \\
      --config.data.path=PHOTOGRAPHS
  """
  own = synthetic()
  return own | dict(data=dict(name="folder", size=64, evaluation=1 / 3, min_images=2))
