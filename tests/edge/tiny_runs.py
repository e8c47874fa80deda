"""Runs of split learning that cost no time: data, a network, configs, the method that they make."""

import flax.linen as nn
import jax
import numpy as np

from fedjax_face.data import sources as data_sources
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.models import registry as models
from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.split.accounting import MODES
from tests.flat import dp_activations as configs
from tests.flat import registry

PEOPLE, SIDE = 8, 12


class Tiny(nn.Module):
  """A backbone of two blocks that compiles in no time."""

  embedding_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    x = nn.avg_pool(nn.relu(Conv(2, (3, 3), name="conv1")(x)), (3, 3), (3, 3))
    return Dense(self.embedding_dim, name="embedding")(x.reshape(len(x), -1))


def made(*, world=0, images=6, people=PEOPLE):
  """Every person a pattern, every image that pattern with a little noise."""
  rng = np.random.default_rng(world)
  person = np.repeat(np.arange(people, dtype=np.int32), images)
  pattern = rng.integers(40, 216, (people, SIDE, SIDE, 1))
  noise = rng.integers(-40, 40, (len(person), SIDE, SIDE, 1))
  names = tuple(f"world{world}-{p}" for p in range(people))
  return FaceDataset(f"world{world}", (pattern[person] + noise).astype(np.uint8), person, person,
                     names=names), ()


def known(patch):
  """Lets configs name the data and the network."""
  patch.setitem(data_sources.PUBLIC, "made", made)
  patch.setitem(models.BACKBONES, "tiny", Tiny)


def config(**overrides):
  """5 images of each of 8 people train; two devices, noise 1, the clip given; no pre-training."""
  chosen = configs.base()
  chosen.data = {"name": "made", "test_fraction": 0.2,
                 "public": {"name": "made", "world": 1, "images": 3}}
  chosen.pretrain = {}
  chosen.update_from_flattened_dict({
      "rounds": 2, "split.cut": "conv1", "split.projection": 0, "split.devices": 2,
      "split.batch_size": 6, "model.backbone": "tiny", "model.embedding_dim": 16,
      "privacy.delta": 1e-3, "privacy.noise_seed": 5, "hparams.clip_norm": 1.0,
      "hparams.noise_multiplier": 1.0, "evaluation.bootstrap": 20, "evaluation.batch_size": 7,
      "training.rounds_per_dispatch": 1} | overrides)
  return chosen


def mesh():
  return clients_mesh(jax.devices()[:1])


def build(chosen, sources, backbone=None):
  return registry.build(chosen, sources, mesh(), backbone)


def system_of(chosen, sources):
  return build(chosen, sources).parts


U_SHAPED = {"mode": "trained_private", "labels": "u_shaped", "labels_in_clear": False,
            "label_noise_multiplier": 2.0}
RANDOMISED = {"mode": "frozen_fresh", "labels": "randomized_response", "label_epsilon": 0.5,
              "labels_in_clear": False}
RUNS = [*({"mode": mode} for mode in MODES), U_SHAPED, RANDOMISED]
