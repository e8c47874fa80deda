r"""PrivacyFace (Meng et al., ICLR 2022): silos exchange differentially private clusters of people.

python -m experiments.train --config=configs/privacyface.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), silos36, lfw, folder or bupt. What it is held against are overrides;
another method keeps what is said of the parts that it takes too:

  FedPE                --config.method=fedpe
  noiseless clusters   --config.method.exchange.mechanism=kmeans \
                       --config.method.exchange.epsilon=None
  all foreign people   --config.method.exchange.mechanism=all_rows \
                       --config.method.exchange.epsilon=None
  as published         --config.method.exchange.mechanism=dplc_published
  other mechanisms     --config.method.exchange.mechanism=client_mean (dp_lloyd, exponential_caps)
  secure aggregation   --config.method.exchange.mechanism.pooled=True
  other epsilon        --config.method.exchange.epsilon=1

The epsilon is that of the clusters, over the whole run and for each person, conditional on the
backbone, whose averaging adds no noise; configs/composed.py noises that too.
"""

from __future__ import annotations

from typing import Any

import ml_collections


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "silos36": silos36, "lfw": lfw, "folder": folder,
              "bupt": bupt}
  if variant not in variants:
    raise ValueError(f"privacyface has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """4,000 built-in synthetic people, a thousand in each of four silos, cut by skin tone.

  python -m experiments.train --config=configs/privacyface.py:synthetic --workdir=runs/privacyface
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.617 [0.592, 0.642] over 3
  seeds (FedPE 0.614 [0.580, 0.647]) at epsilon 4 for the clusters (4,000 people,
  add-or-remove-one, delta 1e-5); 80 s on a CPU core after rendering and pre-training.
  """
  return dict(
      method=_method(
          partition=dict(name="by_attribute", attribute="skin_tone", num_silos=4)),
      data=_rendered(people=4000), start=_public_start(), rounds=10, evaluation=_judged())


def silos36() -> dict:
  """720 synthetic people in 36 random silos of 20 on average.

  python -m experiments.train --config=configs/privacyface.py:silos36 --workdir=runs/silos36
  True accept rate at a false accept rate of 0.1 on 200 unseen people 0.555 [0.526, 0.584] over 3
  seeds (FedPE 0.564 [0.545, 0.584]) at epsilon 4 for the clusters (720 people, add-or-remove-one,
  delta 1e-5). Measured with silos of exactly 20.
  """
  return dict(
      method=_method(partition=dict(name="random", num_silos=36), max_examples=48,
                     local=dict(batch_size=8)),
      data=_rendered(people=720), start=_public_start(), rounds=10, evaluation=_judged())


def lfw() -> dict:
  """LFW people with two or more images, outside View-2 folds 1-2, in four random silos.

  Pre-trained on rendered people. Needs the LFW folder of $FEDJAX_FACE_DATA.

  python -m experiments.train --config=configs/privacyface.py:lfw --workdir=runs/privacyface_lfw
  View-2 accuracy 0.749 [0.740, 0.759] over 3 seeds (FedPE 0.759 [0.724, 0.795]) at epsilon 4 for
  the clusters (add-or-remove-one, delta 1e-5).
  """
  return dict(
      method=_method(partition=dict(name="random", num_silos=4), local=dict(flip=True)),
      data=dict(name="lfw", size=28, grayscale=True, min_images=2,
                public=dict(name="synthetic_faces", people=300, domain="street", seed=4)),
      start=_public_start(local=dict(flip=True)), rounds=10,
      evaluation=_judged(names=("lfw_view2", "tar_at_far"),
                         headline=("lfw_view2/accuracy", "tar@far=0.1")))


def folder() -> dict:
  """Your own people in four random silos, a random third evaluates; rendered people pre-train.

  python -m experiments.train --config=configs/privacyface.py:folder --workdir=runs/pf_folder \\
      --config.data.path=PHOTOGRAPHS
  The public people are rendered at the size of yours: say both, data.size and data.public.size.
  """
  return dict(
      method=_method(partition=dict(name="random", num_silos=4), local=dict(flip=True)),
      data=dict(name="folder", size=64, evaluation=1 / 3, min_images=2,
                public=dict(name="synthetic_faces", people=300, size=64, grayscale=False, seed=4)),
      start=_public_start(local=dict(flip=True)), rounds=10, evaluation=_judged())


def bupt() -> dict:
  """BUPT-Balancedface by a list of clients, as in the paper, from an InsightFace .rec folder.

  Not run here. method.clients.partition.path is a CSV that puts every person into one of the four
  groups; data.path is the folder, data.public.path that of CASIA-WebFace, which pre-trains.
  """
  margins = dict(margin=0.4, scale=30.0)
  return dict(
      method=_method(partition=dict(name="by_file"), max_examples=0,
                     backbone=dict(name="iresnet18", embedding_dim=512), head=margins,
                     local=dict(batch_size=128, flip=True),
                     exchange=dict(mechanism=dict(clusters=16), projection=64)),
      data=dict(name="insightface_rec", evaluation=0.05,
                public=dict(name="insightface_rec")),
      start=_public_start(head=margins, local=dict(flip=True)), rounds=10, evaluation=_judged())


_HEAD = dict(name="cosface", margin=0.1)


def _method(partition: dict, max_examples: int = 512, head: Any = (), local: Any = (),
            exchange: Any = (), **parts: Any) -> dict:
  """PrivacyFace with clusters at epsilon 4, and heads that learn ten times as slowly."""
  return dict(
      name="privacyface", start_head="public_prototypes",
      clients=dict(name="silos", partition=partition, max_examples=max_examples),
      local=dict(learning_rate=0.02, head_learning_rate_scale=0.1, optimizer="momentum", epochs=1,
                 batch_size=32) | dict(local),
      head=_HEAD | dict(head), exchange=dict(epsilon=4.0) | dict(exchange), **parts)


def _rendered(people: int) -> dict:
  """Rendered people, and public ones of another world."""
  return dict(name="synthetic_faces", people=people, evaluation=200, images_per_person=6, seed=3,
              public=300, public_domain="street", public_seed=4)


def _public_start(head: Any = (), local: Any = ()) -> dict:
  """Centralised pre-training on the public people, with the head of the silos."""
  return dict(name="pretrain", rounds=20, method=dict(
      name="centralized", head=_HEAD | dict(head), local=dict(local), steps=24))


def _judged(names: tuple[str, ...] = ("recall_all_pairs",), headline: tuple[str, ...] = (
    "recall_all_pairs@far=0.01", "recall_all_pairs@far=0.1")) -> dict:
  """True accept rates at false accept rates."""
  return dict(names=names, every=5, bootstrap=200, headline=headline)


PRIVATE = ("client_mean", "anchor_table", "dp_lloyd", "exponential_caps")
WITHOUT_NOISE = {"method.exchange.epsilon": None}


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant.

  A number at the end of a name is the epsilon of the clusters over the whole run.
  """
  mechanisms = {"synthetic": PRIVATE, "silos36": ("anchor_table",), "lfw": ("anchor_table",)}
  if variant not in mechanisms:
    raise ValueError(f"nothing is compared with {variant!r}: {', '.join(mechanisms)}")
  settings: dict[str, dict] = {
      "fedpe": {"method": "fedpe"},
      "shared_head": {"method": "fedavg", "method.aggregate": "mean",
                      "method.server": "averaging"},
      "all_people": WITHOUT_NOISE | {"method.exchange.mechanism": "all_rows"},
      "all_classes_each_round": WITHOUT_NOISE | {
          "method.exchange.mechanism": "all_rows", "method.exchange.rows": "class_embeddings",
          "method.exchange.every": 1},
      "kmeans": WITHOUT_NOISE | {"method.exchange.mechanism": "kmeans"},
      "dplc_published": {"method.exchange.mechanism": "dplc_published"},
  }
  for mechanism in mechanisms[variant]:
    for epsilon in (1.0, 4.0, 8.0):
      settings[f"{mechanism}_{epsilon:g}"] = {
          "method.exchange.mechanism": mechanism, "method.exchange.epsilon": epsilon}
  return settings


def get_gap(variant: str) -> tuple[str, str]:
  """The two settings whose difference the others close in part."""
  del variant
  return "fedpe", "shared_head"
