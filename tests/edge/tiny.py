"""The parts of a tiny split run over the wire."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax

from fedjax_face.data import pixels
from fedjax_face.edge.halves import DeviceData, EdgeParts, PrivateGradients
from fedjax_face.privacy import gradient_clip, statement
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.split import accounting
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.mechanism import ActivationClip
from fedjax_face.split.message import PADDING
from fedjax_face.split.network import SplitNetwork
from tests.split import tiny

B, MESSAGES, PASSES, IMAGES = 2, 2, 2, 3
PSEUDONYM = LabelPolicy("pseudonym", acknowledged=True)
OPTIMIZER = optax.sgd(0.1, 0.9)
PARAMS = {side: {"kernel": np.random.default_rng(3).normal(0, 0.3, shape).astype(np.float32)}
          for side, shape in (("device", (64, 6)), ("server", (6, tiny.CLASSES)))}
SPLIT = SplitNetwork(
    init=lambda key: PARAMS, shape=(6,), non_negative=True,
    device=lambda params, images: jax.nn.relu(
        pixels.normalise(images).reshape(len(images), -1) @ params["kernel"]),
    server=lambda params, activations: activations @ params["kernel"])
CLIP = ActivationClip(True)
DEFAULT = gradient_clip.joint(Adjacency.REPLACE_ONE)


def rows(device, step):
  """Examples 0 1 2 in messages of two."""
  return np.array([[0, 1], [2, PADDING]], np.int32)[step % MESSAGES]


def data(device):
  images, labels, _ = tiny.batch(IMAGES, seed=device)
  return DeviceData(images, labels)


def make_parts(mode="frozen_cached", labels=PSEUDONYM, noise=0.5, devices=2):
  trained = mode.startswith("trained")
  private = PrivateGradients(DEFAULT, 1.0, 0.5) if mode == "trained_private" else None
  schedule = accounting.Schedule(mode, PASSES, 1, IMAGES, 1, B)
  before = Ledger()
  before.declare_not_covered("a sentence")
  return EdgeParts(
      split=SPLIT, image_shape=tiny.SHAPE, clip_norm=1.0, noise_multiplier=noise, mode=mode,
      passes=PASSES, messages=MESSAGES, images=(IMAGES,) * devices, batch=B, labels=labels,
      num_classes=tiny.CLASSES, devices=devices, params=PARAMS, server_optimizer=OPTIMIZER,
      device_optimizer=OPTIMIZER if trained else None,
      private_gradients=private, device_data=data, rows=rows, noise_seed=3,
      releases=accounting.releases(schedule, noise, labels, 0.5 if private else None),
      before=before, sampling="in words",
      population={"image": 2 * IMAGES, "person": 4}, delta=1e-5, checkpoint_every=1)


_ACCOUNTED, _privacy_json = {}, statement.privacy_json


def accounted_once(ledger, **named):
  """`statement.privacy_json`; the numbers of a ledger are always the same, and take long."""
  key = json.dumps(ledger.to_json(), sort_keys=True) + repr(named)
  if key not in _ACCOUNTED:
    _ACCOUNTED[key] = _privacy_json(ledger, **named)
  return _ACCOUNTED[key]
