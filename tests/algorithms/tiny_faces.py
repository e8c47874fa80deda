"""Made-up photographs, a network and a config that take a second."""

import contextlib

import flax.linen as nn
import numpy as np
import pytest

from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.models.hyperface import TaskOutputs
from fedjax_face.models.task_networks import Network
from fedjax_face.options import register
from tests.flat import dp_hyperface

LANDMARKS = 21


class Tiny(nn.Module):
  """A network of five tasks with few arrays, so that it compiles quickly."""

  landmarks: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, 16, 16, C] to `TaskOutputs`."""
    x = nn.avg_pool(x, (4, 4), (4, 4)).reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(16, use_bias=False, name="shared")(x))
    sizes = TaskOutputs(detection=2, landmarks=2 * self.landmarks, visibility=self.landmarks,
                        pose=3, gender=2)
    outputs = TaskOutputs(*(nn.Dense(size, use_bias=False, name=task)(x)
                            for task, size in sizes._asdict().items()))
    return outputs._replace(landmarks=outputs.landmarks.reshape(-1, self.landmarks, 2))


@register.network
def tiny(*, frozen: tuple[str, ...] = ()) -> Network:
  """As `Tiny`."""
  return Network(Tiny, frozen)


def photographs(count, people_each=1, size=48, seed=0, known=(True,) * 5, photographs_each=1):
  """Noise with bright squares as faces, each person on `photographs_each` of them."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 100, (count, size, size, 3), np.uint8)
  number = np.repeat(np.arange(count, dtype=np.int32), people_each)
  faces = len(number)
  side = size // 3
  corner = np.stack([np.tile(np.arange(people_each) * size // 2, count),
                     rng.integers(0, size - side, faces)], -1)
  for row, (left, top) in zip(number, corner, strict=True):
    images[row, top:top + side, left:left + side] += np.uint8(150)
  box = np.concatenate([corner, np.full((faces, 2), side)], -1).astype(np.float32)
  points = np.stack(np.meshgrid(np.linspace(.1, .9, 7), [.2, .5, .8]), -1).reshape(-1, 2)
  person = (number // photographs_each) * people_each + np.arange(faces) % people_each
  return Photographs(
      name=f"made{seed}", images=images, image=number, person=person.astype(np.int32), box=box,
      landmarks=(box[:, None, :2] + points * side).astype(np.float32),
      visible=rng.random((faces, LANDMARKS)) < .8, gender=rng.integers(0, 2, faces, np.int32),
      pose=rng.normal(0, .3, (faces, 3)).astype(np.float32),
      known=np.tile(np.array(known, bool), (faces, 1)))


def made(*, count, people_each=1, seed=0, photographs_each=1):
  """The source `made` of configs."""
  return photographs(count, people_each, seed=seed, photographs_each=photographs_each), None


@contextlib.contextmanager
def registered():
  """The source `made` can be named in configs."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(region_sources.SOURCES, "made", made)
    yield


def config(**overrides):
  chosen = dp_hyperface.base()
  chosen.model.network_options = {}
  chosen.data.sources = {"made": {"name": "made", "count": 12, "people_each": 2}}
  chosen.data.public = {"sources": {"other": {"name": "made", "count": 6, "seed": 1}}}
  chosen.update_from_flattened_dict({
      "rounds": 2, "data.regions.size": 16, "data.proposer.count": 10,
      "model.network": "tests.algorithms.tiny_faces:tiny", "pretrain.rounds": 1,
      "pretrain.cohort.batch_size": 4, "pretrain.cohort.capacity": 6, "cohort.batch_size": 4,
      "cohort.capacity": 6, "cohort.units_at_once": 3, "privacy.delta": 1e-3,
      "privacy.noise_seed": 5, "hparams.noise_multiplier": 1.0, "evaluation.every": 2,
      "evaluation.batch_size": 16, "evaluation.bootstrap": 20, "evaluation.photographs": 2,
      "evaluation.detection.threshold": 0.0, "training.rounds_per_dispatch": 1,
      "training.checkpoint_every": 1} | overrides)
  return chosen
