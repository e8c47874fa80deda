"""Runs of split learning that cost no time: data, a network, a method, what it is bound in."""

import flax.linen as nn
import jax
import numpy as np

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import check_public
from fedjax_face.method import Setting
from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.split.holders import devices

PEOPLE, SIDE = 8, 12


class Tiny(nn.Module):
  """A backbone of two blocks that compiles in no time."""

  embedding_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    x = nn.avg_pool(nn.relu(Conv(2, (3, 3), name="conv1")(x)), (3, 3), (3, 3))
    return Dense(self.embedding_dim, name="embedding")(x.reshape(len(x), -1))


def people_of(world, images=6):
  """Every person a pattern, every image that pattern with a little noise."""
  rng = np.random.default_rng(world)
  person = np.repeat(np.arange(PEOPLE), images)
  pattern = rng.integers(40, 216, (PEOPLE, SIDE, SIDE, 1))
  noise = rng.integers(-40, 40, (len(person), SIDE, SIDE, 1))
  return ff.faces((pattern[person] + noise).astype(np.uint8),
                  [f"world{world}-{p}" for p in person], name=f"world{world}")


def known_people(whole, public, evaluation=1):
  """Of every person the first so many images evaluate, the others train."""
  place = np.arange(len(whole)) - np.searchsorted(whole.person, whole.person)
  train, judges = (whole.select(rows) for rows in (place >= evaluation, place < evaluation))
  return ff.Sources(train, judges, public, notes=check_public(public, whole),
                    evaluates_training_people=True)


def sources(images=6, evaluation=1):
  """Of 8 people 5 images each train and 1 evaluates; 24 images of another world are public."""
  return known_people(people_of(0, images), people_of(1, 3), evaluation)


@ff.register.data
def people_of_tiny_runs() -> Data:
  """As `sources`."""
  return Data(sources, feeds="classes")


def activations(clip_norm=1.0, noise_multiplier=1.0):
  """Clip and noise, which a budget or public images decide where they are None."""
  return ff.activations.clipped_noise(clip_norm=clip_norm, noise_multiplier=noise_multiplier)


def split(after="conv1", projection=0, **more):
  """After the first block, and all of the activation."""
  return ff.splits.cut(after=after, projection=projection, **more)


def method(**parts):
  """Two devices, clip and noise 1, noise drawn once for every image; `parts` in their place."""
  return ff.dp_activations(**{
      "backbone": Tiny(16), "split": split(), "activations": activations(),
      "device": ff.devices.frozen_cached(), "clients": devices(number=2, batch_size=6)} | parts)


def mesh():
  return clients_mesh(jax.devices()[:1])


def bound(chosen, sources, rounds=2, **changes):
  """The method on the training set, on one device; `changes` are of the `Setting`."""
  return methods.bind(chosen, sources.train, Setting(
      **{"mesh": mesh(), "rounds": rounds, "public": sources.public} | changes))


DEVICES = {"frozen_cached": ff.devices.frozen_cached(), "frozen_fresh": ff.devices.frozen(),
           "trained_private": ff.devices.trained_private(),
           "trained_published": ff.devices.trained_published()}
"""Mode of the accounting -> what does it."""

RUNS = {
    **{mode: {"device": device} for mode, device in DEVICES.items()},
    "u_shaped": {"device": DEVICES["trained_private"],
                 "labels": ff.labels.u_shaped(noise_multiplier=2.0)},
    "randomised": {"device": DEVICES["frozen_fresh"],
                   "labels": ff.labels.randomized_response(epsilon=0.5)}}
"""Parts of methods that differ in what crosses the cut."""
