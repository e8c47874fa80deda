"""Methods, and a made-up set that they train on, small enough to compile and run in a second."""

import functools

import flax.linen as nn
import jax
import numpy as np

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.method import Setting
from fedjax_face.method.algorithm import Data, StepKeys, with_values
from fedjax_face.runs.loop import initial_state
from fedjax_face.runs.mesh import clients_mesh

DIM = 8


class OneLayer(nn.Module):
  """A backbone that compiles in no time."""

  embedding_dim: int = DIM

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    return nn.Dense(self.embedding_dim)(x.reshape(len(x), -1))


def people(persons=12, images=4, size=12, seed=0):
  rng = np.random.default_rng(seed)
  person = np.repeat(np.arange(persons, dtype=np.int32), images)
  pixels = rng.integers(0, 256, (len(person), size, size, 1), np.uint8)
  return FaceDataset("tiny", pixels, person, person)


def one_device():
  return clients_mesh(jax.devices()[:1])


# ---- virtual clients ----

CLIENTS = ff.virtual_clients(per_round=2, users_per_client=2, max_examples=8)
LOCAL = ff.local_steps(learning_rate=5e-3, head_learning_rate_scale=100.0, optimizer="momentum",
                       epochs=1, batch_size=4)
NOISED = ff.gaussian(clip_norm=1.0, noise_multiplier=0.5)
PARTS = {"backbone": OneLayer(), "head": ff.linear(), "clients": CLIENTS, "local": LOCAL,
         "aggregate": NOISED, "server": ff.momentum(learning_rate=0.02)}


def cyclic(separation):
  """Fixed groups that take turns."""
  return ff.replace(CLIENTS, sampling=ff.samplings.cyclic_fixed(min_separation=separation))


def dp_fedemb(**changes):
  return ff.dp_fedemb(**PARTS | {"start_head": "shared_frame", "classes": "all"} | changes)


def fedavg(**changes):
  return ff.fedavg(**PARTS | changes)


def centralized(batch_size=4, steps=2):
  return ff.centralized(backbone=OneLayer(), steps=steps,
                        local=ff.replace(LOCAL, batch_size=batch_size))


# ---- silos ----

def silos(num_silos=3, **changes):
  return ff.silos(**{"partition": ff.partitions.random(num_silos=num_silos)} | changes)


SILO_LOCAL = ff.local_steps(learning_rate=0.02, head_learning_rate_scale=0.1, optimizer="momentum",
                            epochs=1, batch_size=4)
SILO_PARTS = {"backbone": OneLayer(), "head": ff.cosface(margin=0.1, scale=16.0),
              "clients": silos(), "local": SILO_LOCAL,
              "server": ff.momentum(learning_rate=1.0, momentum=0.0)}


def fedpe(**changes):
  return ff.fedpe(**SILO_PARTS | changes)


def fedgc(**changes):
  return ff.fedgc(**SILO_PARTS | {"correction": ff.gradient_correction(block=5)} | changes)


def fedaws(**changes):
  return ff.fedaws(**SILO_PARTS | {"correction": ff.spreadout(block=5)} | changes)


# ---- runs ----

def bound(method, train=None, rounds=4, **setting):
  """The method on a training set; with `people()` and no more of a setting bound, and so compiled,
  but once.
  """
  if train is None and not setting:
    return _bound_once(method, rounds)
  return methods.bind(method, people() if train is None else train, Setting(
      **{"mesh": one_device(), "rounds": rounds} | setting))


@functools.cache
def _bound_once(method, rounds):
  return methods.bind(method, people(), Setting(one_device(), rounds))


def start(algorithm):
  """The state before the first round."""
  return initial_state(algorithm, 0, one_device(), people().images)


def steps(algorithm, rounds=1, noise=100, images=None, **hparams):
  """State and metrics after each round, with some of the nested hparams replaced."""
  step, state = jax.jit(algorithm.step), start(algorithm)
  data = Data(people().images if images is None else images)
  scalars = with_values(algorithm.hparams, hparams)
  for number in range(rounds):
    cohort = algorithm.cohort(Draws.of(number), number)
    keys = StepKeys(jax.random.key(number), jax.random.key(noise + number))
    state, metrics = step(state, data, cohort, scalars, keys)
    yield state, metrics


def run(algorithm, rounds=1, **given):
  """What `steps` ends with."""
  *_, last = steps(algorithm, rounds, **given)
  return last
