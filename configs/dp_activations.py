r"""DP-A (Mao et al., HotEdge 2018): a device sends noised activations, an edge server learns.

python -m experiments.train --config=configs/dp_activations.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), lfw, folder or vgg_face. Choices are overrides:

  where to cut      --config.method.split.after=first (middle, bottleneck, or a block's name)
  mode              --config.method.device=frozen (trained_private, trained_published)
  labels            --config.method.labels=u_shaped
  other epsilon     --config.privacy.epsilon=1
  no noise          --config.privacy.epsilon=None \
                    --config.method.activations.noise_multiplier=0.0

The attacks on what the server sees: configs/activation_attacks.py.
"""

from __future__ import annotations

import ml_collections


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "lfw": lfw, "folder": folder, "vgg_face": vgg_face}
  if variant not in variants:
    raise ValueError(f"dp_activations has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """62 built-in synthetic people of 40 images; the device part comes from another, public world.

  Measured, seed 0, accuracy on the device: 0.016, 0.042, 0.087, 0.147 and 0.308 at epsilon 1, 4, 8,
  16 and 50, and 0.456 without noise.

  python -m experiments.train --config=configs/dp_activations.py:synthetic --workdir=runs/split
  """
  return _of(dict(name="synthetic_faces", people=62, images_per_person=40, size=32, grayscale=False,
                  domain="street", seed=21))


def lfw() -> dict:
  """The 62 people of LFW with 20 images or more; the device part comes from synthetic faces.

  Needs the LFW folder of $FEDJAX_FACE_DATA. Measured, seed 0, accuracy on the device: 0.175 at
  epsilon 1 to 16, the share of the most frequent person, 0.216 at 50, and 0.433 without noise.

  python -m experiments.train --config=configs/dp_activations.py:lfw --workdir=runs/split_lfw
  """
  return _of(dict(name="lfw", size=32, min_images=20))


def folder() -> dict:
  """Your own people, everybody with two images or more; the device part comes from rendered ones.

  python -m experiments.train --config=configs/dp_activations.py:folder --workdir=runs/split_own \\
      --config.data.path=PHOTOGRAPHS
  """
  config = _of({})
  return config | dict(data=dict(
      name="folder", size=32, min_images=2, evaluation=0.25, held_out="images_of_everybody",
      public=config["data"]["public"]))


def vgg_face() -> dict:
  """VGG-Face cut after its first convolution, the paper's network and cut, at 224x224 on LFW.

  The device part has 1,792 parameters and takes 173 MFLOP an image; an activation has 224x224x64
  numbers, 12.8 MB, and those of all training images, which are kept, have 29 GB. Needs an
  accelerator and the LFW folder of $FEDJAX_FACE_DATA; no run of it has been measured.

  python -m experiments.train --config=configs/dp_activations.py:vgg_face --workdir=runs/vgg_face
  """
  config = _of(dict(name="lfw", size=224, min_images=20), size=224)
  return config | dict(method=config["method"] | dict(
      backbone="vgg_face", split=dict(after="conv1_1", projection=0)))


def _of(people: dict, size: int = 32) -> dict:
  """A quarter of everybody's images evaluates; noise is drawn once an image."""
  public = dict(name="synthetic_faces", people=300, size=size, grayscale=False, domain="street",
                seed=22)
  return dict(
      method=dict(name="dp_activations", device="frozen_cached"),
      data=dict(name="closed_set", people=people, public=public),
      start=dict(name="pretrain", method=dict(name="centralized", steps=24), rounds=20),
      privacy=dict(epsilon=8.0), rounds=30, evaluation=dict(name="classification"))


CUTS = {"first": {"method.split.after": "first", "method.split.projection": 0},
        "middle": {"method.split.after": "middle", "method.split.projection": 0},
        "bottleneck": {"method.split.after": "bottleneck", "method.split.projection": 32}}


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant."""
  if variant not in ("synthetic", "lfw"):
    raise ValueError(f"nothing is compared with {variant!r}: synthetic, lfw")
  settings: dict[str, dict] = {}
  for name, cut in CUTS.items():
    for epsilon in (1.0, 4.0, 8.0, 16.0, 50.0):
      settings[f"{name}_{epsilon:g}"] = cut | {"privacy.epsilon": epsilon}
    settings[f"{name}_none"] = cut | {"privacy.epsilon": None,
                                      "method.activations.noise_multiplier": 0.0}
  return settings
