"""A decoder from activations back to pictures, trained on public pictures.

The attacker runs the device part on public pictures and adds the mechanism's noise itself, anew in
every step. The network adds to the mean public picture, so that it is never worse for knowing
nothing. One path reads the activations as a whole, as the noise can only be averaged out over all
of them; where they are laid out as an image, another keeps what is local.

Source: Dosovitskiy and Brox, CVPR 2016 (inverting representations with a network).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.attacks.reconstruction import grey_values
from fedjax_face.data import pixels
from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense

# Sides of the global path's picture are this many times shorter.
COARSE = 4


class DecoderNetwork(nn.Module):
  """Activations f32 [B, d] or [B, h, w, c] -> pixels f32 [B, H, W, C], less the mean picture.

  Attributes:
    image_shape: (H, W, C).
    width: channels of the convolutions.
    code: units of the global path.
  """

  image_shape: tuple[int, int, int]
  width: int
  code: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Both paths at the picture's size, side by side, then two convolutions."""
    height, width, channels = self.image_shape
    coarse = (-(-height // COARSE), -(-width // COARSE), self.width)
    code = nn.relu(Dense(self.code, name="code")(x.reshape(len(x), -1)))
    paths = [Dense(int(np.prod(coarse)), name="coarse")(code).reshape(-1, *coarse)]
    if x.ndim == 4:
      paths.append(Conv(self.width, (3, 3), name="local")(x))
    resize = lambda path: jax.image.resize(
        path, (len(x), height, width, self.width), "bilinear")
    y = nn.relu(jnp.concatenate([resize(path) for path in paths], axis=-1))
    y = nn.relu(Conv(self.width, (3, 3), name="mix")(y))
    return Conv(channels, (3, 3), name="picture")(y)


class Decoder(NamedTuple):
  """A trained decoder.

  Attributes:
    reconstruct: activations received f32 [B, ...] -> uint8 [B, H, W, C].
    loss: float32 [epochs], mean squared error of pixels in [-1, 1] while training.
  """

  reconstruct: Callable[[jax.Array], np.ndarray]
  loss: np.ndarray


def train_decoder(features: jax.Array, images: np.ndarray, sigma: float, key: jax.Array, *,
                  width: int, code: int, epochs: int, batch_size: int, learning_rate: float
                  ) -> Decoder:
  """Trains a decoder with Adam against noise of a known size.

  Args:
    features: float32 [N, d] or [N, h, w, c], clipped activations of the public pictures, before
      noise.
    images: uint8 [N, H, W, C], the public pictures.
    sigma: standard deviation of the mechanism's noise.
    key: of initial parameters, order and noise.
    width: channels of the convolutions.
    code: units of the global path.
    epochs: over the public pictures; the last pictures of each that fill no batch are left out.
    batch_size: of a step.
    learning_rate: of the first step; falls to 0 along a cosine.

  Raises:
    ValueError: features and images differ in number, or there are too few for a batch.
  """
  _check(features, images, epochs, batch_size)
  network = DecoderNetwork(images.shape[1:], width, code)
  features, public = jnp.asarray(features), jnp.asarray(images)
  frame = _Frame(jnp.sqrt(jnp.mean(features**2) + sigma**2), pixels.normalise(public).mean(axis=0))
  params, losses = _train(network, epochs, batch_size, features, public, frame, sigma,
                          learning_rate, key)
  decode = functools.partial(jax.jit(_decode, static_argnums=0), network, params, frame)
  return Decoder(lambda received: grey_values(decode(received)), np.asarray(losses))


class _Frame(NamedTuple):
  """Size of one noised activation, a scalar, and the mean of the public pixels [H, W, C]."""

  scale: jax.Array
  mean: jax.Array


def _decode(network: DecoderNetwork, params: Any, frame: _Frame, received: jax.Array) -> jax.Array:
  """Pixels f32 [B, H, W, C]."""
  return frame.mean + cast(jax.Array, network.apply(params, received / frame.scale))


# Noise, learning rate and pictures are arguments, so that one compilation serves every epsilon.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(network: DecoderNetwork, epochs: int, batch_size: int, features: jax.Array,
           images: jax.Array, frame: _Frame, sigma: jax.Array, learning_rate: jax.Array,
           key: jax.Array) -> tuple[Any, jax.Array]:
  """Parameters, and the loss of each epoch."""
  of_params, of_epochs = jax.random.split(key)
  batches = len(images) // batch_size
  optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, epochs * batches))

  def loss(params: Any, rows: jax.Array, key: jax.Array) -> jax.Array:
    clean, target = features[rows], pixels.normalise(images[rows])
    noised = clean + sigma * jax.random.normal(key, clean.shape)
    return jnp.mean((_decode(network, params, frame, noised) - target) ** 2)

  def step(carry, inputs):
    params, state = carry
    value, gradient = jax.value_and_grad(loss)(params, *inputs)
    updates, state = optimiser.update(gradient, state)
    return (optax.apply_updates(params, updates), state), value

  def epoch(carry, key):
    of_order, of_noise = jax.random.split(key)
    order = jax.random.permutation(of_order, len(images))[:batches * batch_size]
    keys = jax.random.split(of_noise, batches)
    carry, values = jax.lax.scan(step, carry, (order.reshape(batches, batch_size), keys))
    return carry, values.mean()

  params = network.init(of_params, features[:1])
  (params, _), losses = jax.lax.scan(
      epoch, (params, optimiser.init(params)), jax.random.split(of_epochs, epochs))
  return params, losses


def _check(features: jax.Array, images: np.ndarray, epochs: int, batch_size: int) -> None:
  if np.ndim(features) not in (2, 4):
    raise ValueError(f"features of shape {list(np.shape(features))}; expected [N, d] or "
                     "[N, h, w, c]")
  if len(features) != len(images):
    raise ValueError(f"{len(features)} features of {len(images)} images; expected as many")
  if not 1 <= batch_size <= len(images):
    raise ValueError(f"batch_size {batch_size}: expected 1 to the {len(images)} public images")
  if epochs < 1:
    raise ValueError(f"epochs {epochs}: expected at least 1")
