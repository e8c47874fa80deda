"""A config and a made-up set small enough to compile and run in a second."""

import flax.linen as nn
import jax
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.sources import Sources
from fedjax_face.runs.mesh import clients_mesh
from tests.flat import dp_fedemb


def config(**overrides):
  made = dp_fedemb.base()
  made.update_from_flattened_dict({
      "model.head": "linear", "model.head_init": "shared_frame", "cohort.classes": "all",
      "local.optimizer": "momentum", "hparams.client_learning_rate": 5e-3,
      "hparams.head_learning_rate_scale": 100.0, "hparams.server_learning_rate": 0.02,
      "hparams.clip_norm": 1.0, "hparams.margin": 0.1, "hparams.scale": 8.0,
      "rounds": 4, "model.embedding_dim": 8, "cohort.virtual_clients": 2,
      "cohort.users_per_client": 2, "cohort.capacity": 4, "cohort.batch_size": 4,
      "cohort.epochs": 1, "cohort.max_examples": 8, "cohort.steps": 2,
      "hparams.noise_multiplier": 0.5,
  } | overrides)
  return made


class OneLayer(nn.Module):
  """A backbone that compiles in no time; tests put it into `registry.BACKBONES` as `one_layer`."""

  embedding_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    return nn.Dense(self.embedding_dim)(x.reshape(len(x), -1))


def people(persons=12, images=4, size=12, seed=0):
  rng = np.random.default_rng(seed)
  person = np.repeat(np.arange(persons, dtype=np.int32), images)
  pixels = rng.integers(0, 256, (len(person), size, size, 1), np.uint8)
  return FaceDataset("tiny", pixels, person, person)


def sources():
  return Sources(people(), people(4, seed=1))


def one_device():
  return clients_mesh(jax.devices()[:1])
