"""Made-up photographs, a network and a method of face tasks that take a second."""

import contextlib

import flax.linen as nn
import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.data.photograph_sets import PhotographSource
from fedjax_face.data.photographs import Photographs
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.method import Setting, bind
from fedjax_face.models.hyperface import TaskOutputs
from fedjax_face.models.task_networks import Network
from fedjax_face.options import register
from fedjax_face.runs.mesh import clients_mesh

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
  """The reader `made` of regions."""
  return photographs(count, people_each, seed=seed, photographs_each=photographs_each), None


@register.photograph_source
def bright_squares(*, count: int, people_each: int = 1, photographs_each: int = 1,
                   seed: int = 0) -> PhotographSource:
  """As `photographs`, read by `made`."""
  return PhotographSource({"name": "made", "count": count, "people_each": people_each,
                           "photographs_each": photographs_each, "seed": seed})


@contextlib.contextmanager
def registered():
  """Sets of `bright_squares` can be loaded."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(region_sources.SOURCES, "made", made)
    yield


def data(private=None, public=True):
  """Twelve photographs of two people each, and six public ones."""
  return ff.photographs(
      {"made": private or bright_squares(count=12, people_each=2)},
      regions=ff.photograph_sources.regions(size=16), proposer=ff.proposers.random(count=10),
      public={"other": bright_squares(count=6, seed=1)} if public else None)


def sources(private=None, public=True):
  """The sets of `data`, loaded."""
  with registered():
    return options.made(data(private, public)).sources


def units(**changes):
  return ff.units.poisson_units(**{"batch_size": 4, "capacity": 6} | changes)


def gradient(make=ff.gradients.joint, **changes):
  return make(**{"noise_multiplier": 1.0, "units_at_once": 3} | changes)


def method(make=ff.dp_hyperface, **parts):
  """The tiny network, few units a step, noise 1 where there is any; `parts` in their place."""
  own = gradient() if make is ff.dp_hyperface else ff.gradients.unclipped(units_at_once=3)
  return make(**{"network": tiny(), "units": units(), "gradient": own} | parts)


def bound(chosen, sources, rounds=2, **changes):
  """The method on the training set, on one device; `changes` are of the `Setting`."""
  return bind(chosen, sources.train, Setting(
      **{"mesh": clients_mesh(jax.devices()[:1]), "rounds": rounds, "start_is_public": True}
      | changes))


def start():
  """A round of all tasks on the public photographs."""
  return ff.pretrain(ff.hyperface(
      units=units(), gradient=ff.gradients.unclipped(units_at_once=3),
      optimizer=ff.optimizers.averaged(ff.optimizers.adam())), rounds=1)


def evaluation(**changes):
  return ff.evaluations.face_tasks(**{
      "every": 2, "batch_size": 16, "bootstrap": 20, "photographs": 2,
      "detections": ff.evaluations.detections(threshold=0.0)} | changes)
