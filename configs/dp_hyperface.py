r"""DP HyperFace (Zhang et al., Front. Neurorobotics 2020): face tasks under image-level DP-SGD.

python -m experiments.train --config=configs/dp_hyperface.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), faces, faces_lfw, listing or aflw. Detection on photographs
afterwards:

  python -m experiments.detect --workdir=runs/VARIANT PHOTOGRAPH_OR_FOLDER

What it is held against are overrides; another method keeps what is said of the parts that it takes
too:

  non-private       --config.method=hyperface --config.privacy.epsilon=None
  fixed weights     --config.method.tasks=fixed
  heads alone       --config.method.network.frozen=NAMES, those in CONVOLUTIONS, with commas
  other epsilon     --config.privacy.epsilon=0.7
  other unit        --config.method.units.unit=region (person)
"""

from __future__ import annotations

from typing import Any

import ml_collections

CONVOLUTIONS = ("conv1", "conv1a", "conv2", "conv3", "conv3a", "conv4", "conv5", "conv_all")


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "faces": faces, "faces_lfw": faces_lfw,
              "listing": listing, "aflw": aflw}
  if variant not in variants:
    raise ValueError(f"dp_hyperface has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """Built-in synthetic photographs; all tasks pre-train on another, public world.

  Measured, mean of three seeds at epsilon 5: detection 0.962, gender 0.749, landmark NME 0.125; by
  pre-training alone 0.964, 0.753, 0.113; not private 0.973, 0.753, 0.091.

  python -m experiments.train --config=configs/dp_hyperface.py:synthetic --workdir=runs/hyperface
  """
  return _trained(
      data=dict(name="photographs", sources=dict(scenes=scenes(1600, 800, seed=11)),
                public=dict(scenes=scenes(1600, 800, seed=12))),
      start=_public_start(rounds=800))


def faces() -> dict:
  """AFLW2000-3D, LFW originals and UTKFace together; what a set lacks is masked.

  Needs $FEDJAX_FACE_DATA. The network pre-trains on synthetic photographs, which are public.

  python -m experiments.train --config=configs/dp_hyperface.py:faces --workdir=runs/hyperface_faces
  """
  return _trained(
      data=dict(name="photographs", sources=_faces(),
                public=dict(scenes=scenes(400, 200, seed=12))),
      start=_public_start(rounds=400, tasks="uncertainty"))


def faces_lfw() -> dict:
  """As `faces`; public are also aligned photographs of the people of LFW outside its originals.

  Measured, mean of three seeds at epsilon 5: detection 0.952, gender 0.771; by pre-training alone
  0.881, 0.732; not private 0.985, 0.784. Landmarks get worse (NME 0.216, 0.194, 0.101). Measured
  before one person whom LFW has under two names was left out of the public set.

  python -m experiments.train --config=configs/dp_hyperface.py:faces_lfw --workdir=runs/faces_lfw
  """
  others = dict(name="lfw_aligned", people="others", limit=6000, regions=_parts())
  return _trained(
      data=dict(name="photographs", sources=_faces(),
                public=dict(scenes=scenes(1600, 800, seed=12), lfw=others)),
      start=_public_start(rounds=1600))


def listing() -> dict:
  """Faces that are marked on photographs of your own, by a list; see docs/data.md.

  python -m experiments.train --config=configs/dp_hyperface.py:listing --workdir=runs/marked \\
      --config.data.sources.mine.path=LIST.csv
  What the list does not say (pose, gender, some landmarks) is masked. The network pre-trains on
  synthetic photographs, which are public.
  """
  return _trained(
      data=dict(name="photographs", sources=dict(mine=dict(name="listing")),
                public=dict(scenes=scenes(1600, 800, seed=12))),
      start=_public_start(rounds=800))


def aflw() -> dict:
  """AFLW with the published settings (Zhang et al. 2020). Not run here.

  The paper has more than 40,000 regions, split 70/30 (28,000 train), batches of 32, 437,500 steps;
  the optimiser is SGD. Here, with method.units.unit=image, the N of the sampling probability 32 / N
  is the number of training photographs. The public stage, of all tasks on scenes, is not the
  paper's.
  """
  return _trained(
      method=dict(name="dp_hyperface", network=dict(name="hyperface"), tasks=dict(scale=1.0),
                  units=dict(batch_size=32, capacity=72, regions_per_unit=8),
                  gradient=dict(units_at_once=8),
                  optimizer=dict(decay=0.0, of=dict(name="sgd", learning_rate=0.00015,
                                                    weight_learning_rate_scale=1.0))),
      data=dict(name="photographs", sources=dict(aflw={}),
                regions=dict(size=227, positives_per_face=4, negatives_per_image=4),
                proposer="selective_search", public=dict(scenes=scenes(2000, 1000, seed=12))),
      start=_public_start(rounds=800, gradient=dict(units_at_once=8),
                          units=dict(batch_size=64, capacity=128, regions_per_unit=8),
                          optimizer=dict(of="adam", decay=0.0)),
      rounds=437_500)


def scenes(scenes: int, people: int, seed: int) -> dict:
  """Synthetic photographs of one to three people."""
  return dict(name="synthetic_scenes", scenes=scenes, people=people, seed=seed)


def _parts() -> dict:
  """Regions without a face are parts of a face alone."""
  return dict(negatives_per_image=0, parts_per_face=2)


def _faces() -> dict:
  """Three sets of faces."""
  return dict(
      aflw2000={},
      # Bystanders are not annotated: a region elsewhere may show a face, a part of a face does not.
      lfw=dict(name="lfw_originals", regions=_parts()),
      # A chip is one face, without surroundings to cut negatives from.
      utkface=dict(regions=_parts()))


def _public_start(rounds: int, **parts: Any) -> dict:
  """All tasks of the public set; `face_detector` would be faces and no faces, as published."""
  return dict(name="pretrain", rounds=rounds, method=dict(
      name="hyperface", units=dict(batch_size=64, capacity=128),
      optimizer=dict(of="adam")) | parts)


def _trained(**own: Any) -> dict:
  """The small network at epsilon 5 for each photograph, over fifty steps."""
  return dict(method=dict(name="dp_hyperface", network=dict(name="hyperface_small", width=0.5)),
              privacy=dict(epsilon=5.0), rounds=50, evaluation=dict(name="face_tasks"),
              compute=dict(rounds_per_dispatch=10, checkpoint_every=100)) | own


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant."""
  if variant not in ("synthetic", "faces", "faces_lfw"):
    raise ValueError(f"nothing is compared with {variant!r}: synthetic, faces, faces_lfw")
  # The baseline without privacy has an optimiser, batches and a number of steps of its own.
  non_private = {"method": "hyperface", "privacy.epsilon": None, "method.optimizer.of": "adam",
                 "method.units.batch_size": 64, "method.units.capacity": 128, "rounds": 300}
  settings: dict[str, dict] = {"public_alone": non_private | {
      "method.tasks": "uncertainty", "rounds": 1, "method.optimizer.of.learning_rate": 0.0}}
  for weights in ("uncertainty", "fixed"):
    chosen = {"method.tasks": weights}
    settings[f"non_private_{weights}"] = chosen | non_private
    for epsilon in (10.0, 5.0, 0.7):
      settings[f"epsilon{epsilon:g}_{weights}"] = chosen | {"privacy.epsilon": epsilon}
  for epsilon in (10.0, 5.0, 0.7):
    settings[f"epsilon{epsilon:g}_frozen"] = {"privacy.epsilon": epsilon,
                                              "method.network.frozen": CONVOLUTIONS}
  return settings


def get_equivalence(variant: str) -> dict:
  """The setting that others may equal, and the largest differences that count as equal."""
  del variant
  return {"reference": "non_private_uncertainty",
          "margins": {"detection_accuracy": 0.05, "gender_accuracy": 0.05}}
