"""Methods that do not train embeddings, and every method on a set that it can train on."""

import functools

import flax.linen as nn

import fedjax_face as ff
from fedjax_face.method import Budget
from fedjax_face.models.dense import Dense
from fedjax_face.split.holders import devices
from tests.algorithms import tiny_faces
from tests.methods import tiny, tiny_clusters


def dp_hyperface():
  return ff.dp_hyperface(
      **_FACES, gradient=ff.gradients.joint(noise_multiplier=1.0, units_at_once=3))


def hyperface():
  return ff.hyperface(**_FACES, gradient=ff.gradients.unclipped(units_at_once=3))


_FACES = {"network": tiny_faces.tiny(), "units": ff.units.poisson_units(batch_size=4, capacity=6)}


class TwoLayers(nn.Module):
  """A backbone that can be cut."""

  embedding_dim: int = tiny.DIM

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    x = nn.relu(Dense(4, name="hidden")(x.reshape(len(x), -1)))
    return Dense(self.embedding_dim, name="embedding")(x)


def dp_activations(**changes):
  return ff.dp_activations(**{
      "backbone": TwoLayers(), "split": ff.splits.cut(after="hidden", projection=0),
      "activations": ff.activations.clipped_noise(clip_norm=1.0, noise_multiplier=1.0),
      "clients": devices(number=2, batch_size=6)} | changes)


@functools.cache
def _regions():
  with tiny_faces.registered():
    return ff.photographs(
        {"made": ff.photograph_sources.PhotographSource(
            {"name": "made", "count": 12, "people_each": 2})},
        regions=ff.photograph_sources.regions(size=16), proposer=ff.proposers.random(count=10)
        ).train


def bound(method):
  """The method on a set of what it learns, and that set."""
  if method.data == "embeddings":
    return tiny_clusters.bound(method), tiny.people()
  train = _regions() if method.data == "face_tasks" else tiny.people()
  return tiny.bound(method, train, rounds=2, privacy=Budget(None, 1e-3, "image")), train
