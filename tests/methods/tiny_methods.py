"""Methods that do not train embeddings, and every method on a set that it can train on."""

import functools

import flax.linen as nn

import fedjax_face as ff
from fedjax_face.method import Budget
from fedjax_face.models.dense import Dense
from fedjax_face.split.holders import devices
from tests.methods import tiny, tiny_clusters, tiny_faces

dp_hyperface = tiny_faces.method
hyperface = functools.partial(tiny_faces.method, ff.hyperface)


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
  return tiny_faces.sources(public=False).train


def bound(method):
  """The method on a set of what it learns, and that set."""
  if method.data == "embeddings":
    return tiny_clusters.bound(method), tiny.people()
  train = _regions() if method.data == "face_tasks" else tiny.people()
  return tiny.bound(method, train, rounds=2, privacy=Budget(None, 1e-3, "image")), train
