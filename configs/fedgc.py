r"""FedGC (Niu and Deng, AAAI 2022): silos with private class embeddings, corrected by the server.

python -m experiments.train --config=configs/fedgc.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), lfw, folder or casia. The methods that it is held against are
overrides of the same file; another method keeps what is said of the parts that it takes too:

  FedPE           --config.method=fedpe
  FedAwS          --config.method=fedaws --config.method.correction.form=cosine \
                  --config.method.correction.strength=10000
  FedGC, paper    --config.method.correction.form=as_written
  FedProx         --config.method=fedpe --config.method.local.drift=fedprox \
                  --config.method.local.drift.weight=0.01
  SCAFFOLD        --config.method=fedpe --config.method.local.drift=scaffold
  shared head     --config.method=fedavg --config.method.aggregate=mean \
                  --config.method.server=averaging
  one silo alone  --config.method=local_only --config.method.only_silo=0
  centralised     --config.method=centralized --config.method.steps=4
"""

from __future__ import annotations

from typing import Any

import ml_collections

# Lambda. E N / B is 0.75 for the synthetic set; as eta, 0.02, is ten times the heads' learning
# rate (4.4 times with four steps of momentum), all push harder than centralised training would.
STRENGTHS = (0.75, 2.5, 7.5, 25.0, 75.0)


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "lfw": lfw, "folder": folder, "casia": casia}
  if variant not in variants:
    raise ValueError(f"fedgc has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """180 built-in synthetic people over 36 silos; 100 other people evaluate.

  python -m experiments.train --config=configs/fedgc.py:synthetic --workdir=runs/fedgc
  Recall at FAR 0.1 0.411 [0.334, 0.488] over 3 seeds (FedPE 0.357 [0.317, 0.397], centralised 0.459
  [0.430, 0.488]); not private; about 50 s on one CPU core. Measured with silos of exactly five.
  """
  return dict(
      method=_method(),
      data=dict(name="synthetic_faces", people=180, evaluation=100, images_per_person=6, seed=3),
      rounds=30,
      evaluation=_judged("recall_all_pairs", "identification",
                         headline=("recall_all_pairs@far=0.1", "recall_all_pairs@far=0.01")))


def lfw() -> dict:
  """LFW people with three or more images, outside View-2 folds 1-2, over 36 silos.

  python -m experiments.train --config=configs/fedgc.py:lfw --workdir=runs/fedgc_lfw
  View-2 accuracy 0.712 [0.698, 0.727] over 3 seeds (FedPE 0.707 [0.696, 0.719], centralised 0.847
  [0.837, 0.856]); not private; about 1 min on one CPU core.
  """
  return dict(
      method=_method(local=dict(flip=True), clients=dict(max_examples=48)),
      data=dict(name="lfw", size=28, grayscale=True, min_images=3), rounds=25,
      evaluation=_judged("lfw_view2", "tar_at_far",
                         headline=("lfw_view2/accuracy", "tar@far=0.1")))


def folder() -> dict:
  """Your own people over four silos; a random third evaluates. See docs/data.md.

  python -m experiments.train --config=configs/fedgc.py:folder --workdir=runs/fedgc_folder \\
      --config.data.path=PHOTOGRAPHS
  Which silo holds whom can be said: --config.method.clients.partition=by_file \\
      --config.method.clients.partition.path=SILOS.csv
  """
  return dict(
      method=_method(local=dict(flip=True), clients=dict(
          partition=dict(name="random", num_silos=4), max_examples=512)),
      data=dict(name="folder", size=64, evaluation=1 / 3, min_images=2), rounds=25,
      evaluation=_judged("recall_all_pairs", headline=("recall_all_pairs@far=0.1",)))


def casia() -> dict:
  """CASIA-WebFace over 36 silos, as in the paper, from an InsightFace .rec folder (data.path).

  Not run here.
  """
  return dict(
      method=_method(backbone=dict(name="iresnet18", embedding_dim=512),
                     head=dict(margin=0.4, scale=30.0), local=dict(batch_size=128, flip=True)),
      data=dict(name="insightface_rec", evaluation=0.05), rounds=30,
      evaluation=_judged("tar_at_far", "recall_all_pairs",
                         headline=("recall_all_pairs@far=0.01",)))


def _method(clients: Any = (), head: Any = (), local: Any = (), **parts: Any) -> dict:
  """FedGC over 36 silos, with heads that learn ten times as slowly as the backbone."""
  return dict(
      name="fedgc",
      clients=dict(name="silos", partition=dict(name="random", num_silos=36)) | dict(clients),
      head=dict(name="cosface", margin=0.1) | dict(head),
      local=dict(learning_rate=0.02, head_learning_rate_scale=0.1, optimizer="momentum", epochs=1,
                 batch_size=8) | dict(local), **parts)


def _judged(*names: str, headline: tuple[str, ...]) -> dict:
  return dict(names=names, fars=(1e-1, 1e-2), every=10, bootstrap=200, headline=headline)


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant.

  All have the same rounds and see about as many images in each. `centralized` makes as many
  optimiser steps as a silo, on batches as large as all silos' together; `centralized_passes` keeps
  the silos' batch size and so makes as many steps as all silos together. Both fill the last batches
  of a round, so where silos' batches are not full they draw with replacement.
  """
  steps = {"synthetic": 4, "lfw": 6}
  if variant not in steps:
    raise ValueError(f"nothing is compared with {variant!r}: {', '.join(steps)}")
  settings: dict[str, dict] = {
      "fedpe": {"method": "fedpe"},
      "centralized": {"method": "centralized", "method.steps": steps[variant],
                      "method.local.batch_size": 288},
      "shared_head": {"method": "fedavg", "method.aggregate": "mean",
                      "method.server": "averaging"},
      "fedaws": {"method": "fedaws", "method.correction.form": "cosine",
                 "method.correction.strength": 10_000.0},
  }
  for strength in STRENGTHS:
    for form in ("calibrated", "as_written"):
      settings[f"fedgc_{form}_{strength:g}"] = {
          "method.correction.form": form, "method.correction.strength": strength}
  settings["centralized_passes"] = {"method": "centralized", "method.steps": 36 * steps[variant]}
  if variant == "lfw":
    return settings
  return settings | {
      "fedprox": {"method": "fedpe", "method.local.drift": "fedprox"},
      "scaffold": {"method": "fedpe", "method.local.drift": "scaffold"},
      "local_only": {"method": "local_only"},
  }


def get_gap(variant: str) -> tuple[str, str]:
  """The two settings whose difference the others close in part."""
  del variant
  return "fedpe", "centralized_passes"
