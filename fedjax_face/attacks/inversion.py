"""White-box inversion: the picture whose activations are nearest to those received.

The attacker knows the device part and its clip norm, not the picture. It descends on

    ||clip(f(x)) - received||^2 / ||received||^2 + total_variation * TV(x)

with Adam. Dividing by the received norm makes the weight of the total variation independent of
the clip norm and of the cut, and lets the prior take over where the noise drowns the signal.

Where clipping binds and the layers have no biases, the activations do not show the contrast of the
picture. A descent that starts from the mean of public pictures keeps about theirs.

Source: Mahendran and Vedaldi, CVPR 2015 (inversion with total variation); He, Zhang and Lee, ACSAC
2019 (on split networks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Pixels float32 [B, H, W, C] as the model sees them, in [-1, 1] -> activations as clipped [B, ...].
Features = Callable[[jax.Array], jax.Array]
# (activations received [B, ...], starts [R, H, W, C]) -> the best of R descents for each picture.
Invert = Callable[[jax.Array, jax.Array], "Inversion"]

# Keeps the gradient of the total variation finite where a picture is flat.
FLAT = 1e-3
# Standard deviation of the noise on a grey start, in pixels of [-1, 1].
GRAIN = 0.1


class Inversion(NamedTuple):
  """Pictures found.

  Attributes:
    pixels: float32 [B, H, W, C], in [-1, 1].
    residual: float32 [B], ||clip(f(x)) - received||^2 / ||received||^2.
  """

  pixels: jax.Array
  residual: jax.Array


def inversion(features: Features, *, steps: int, learning_rate: float, total_variation: float
              ) -> Invert:
  """The attack on a device part, compiled once for all batches of a shape.

  Args:
    features: differentiable; what the device computes before it adds noise.
    steps: of Adam.
    learning_rate: of the first step, in pixels of [-1, 1]; falls to 0 along a cosine.
    total_variation: weight of the prior.

  Returns:
    (received f32 [B, ...], starts f32 [R, H, W, C]) -> Inversion. Every descent starts from the
    same picture for all of the batch, such as `grey_starts` or the mean of public pictures; for
    each picture of the batch the descent with the lowest objective counts.
  """
  if steps < 1:
    raise ValueError(f"steps {steps}: expected at least 1")
  optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

  def invert(received: jax.Array, starts: jax.Array) -> Inversion:
    def descend(start: jax.Array) -> tuple[Inversion, jax.Array]:
      pixels = jnp.broadcast_to(start, (len(received), *start.shape))
      pixels = _descend(lambda x: objective(x).sum(), pixels, optimiser, steps)
      return Inversion(pixels, residual(features(pixels), received)), objective(pixels)

    objective = lambda x: residual(features(x), received) + total_variation * variation(x)
    found, reached = jax.lax.map(descend, starts)
    best = jnp.argmin(reached, axis=0)
    return jax.tree.map(lambda leaf: leaf[best, jnp.arange(len(received))], found)

  return jax.jit(invert)


def grey_starts(key: jax.Array, restarts: int, image_shape: tuple[int, int, int]) -> jax.Array:
  """Grey with a little noise, f32 [restarts, H, W, C].

  On flat grey, pixels of 0, a ReLU layer without biases has no gradient and nothing would move.
  """
  return GRAIN * jax.random.normal(key, (restarts, *image_shape))


def residual(activations: jax.Array, received: jax.Array) -> jax.Array:
  """Squared distance of activations [B, ...] over the squared norm of those received, [B]."""
  over = tuple(range(1, received.ndim))
  norm = jnp.sum(received**2, axis=over)
  return jnp.sum((activations - received) ** 2, axis=over) / jnp.where(norm > 0, norm, 1)


def variation(pixels: jax.Array) -> jax.Array:
  """Isotropic total variation of [B, H, W, C], mean over places and channels, [B]."""
  down = jnp.diff(pixels, axis=1)[:, :, :-1]
  right = jnp.diff(pixels, axis=2)[:, :-1]
  return jnp.mean(jnp.sqrt(down**2 + right**2 + FLAT**2), axis=(1, 2, 3)) - FLAT


def _descend(objective: Callable[[jax.Array], jax.Array], pixels: jax.Array,
             optimiser: optax.GradientTransformation, steps: int) -> jax.Array:
  """Projected descent: pixels stay in [-1, 1]."""

  def step(carry, _):
    pixels, state = carry
    updates, state = optimiser.update(jax.grad(objective)(pixels), state)
    return (jnp.clip(pixels + updates, -1, 1), state), None

  (pixels, _), _ = jax.lax.scan(step, (pixels, optimiser.init(pixels)), length=steps)
  return pixels
