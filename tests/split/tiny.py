"""A small cut network, images and labels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.split.mechanism import ActivationClip
from fedjax_face.split.network import Classifier, split_network

CLASSES = 5
SHAPE = (8, 8, 1)


class Small(nn.Module):
  """The layout of ReddiCNN with few channels: a ReLU after, inside, and at the end of a block."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(Conv(4, (3, 3), padding="VALID", name="conv0")(x))
    x = ConvReluMaxPool(8, (3, 3), "VALID", name="conv1")(x)
    return nn.relu(Dense(6, name="embedding")(x.reshape(x.shape[0], -1)))


NETWORK = Classifier(Small(), CLASSES)


def network(cut="conv0"):
  """The split network, its parameters and the clip of its activations."""
  split = split_network(NETWORK, cut, SHAPE)
  return split, drawn(split), ActivationClip(split.non_negative)


def drawn(split):
  """Parameters drawn on the host: no initialiser to compile."""
  rng = np.random.default_rng(3)
  shapes = jax.eval_shape(split.init, jax.random.key(0))
  return jax.tree.map(lambda s: jnp.asarray(rng.normal(0.05, 0.2, s.shape), s.dtype), shapes)


def batch(size=4, seed=0):
  """Images uint8 [size, 8, 8, 1], labels int32 [size], numbers int32 [size]."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (size, *SHAPE)).astype(np.uint8)
  return images, rng.integers(0, CLASSES, size).astype(np.int32), np.arange(size, dtype=np.int32)
