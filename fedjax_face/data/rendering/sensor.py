"""Behind the person and after the lens: background, exposure, tone, blur and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_face.data.rendering.geometry import step, wave
from fedjax_face.data.rendering.variation import Shot


def background(shot: Shot, size: int) -> jax.Array:
  """Two colours in soft and hard shapes, linear RGB `[3, P]`."""
  at = (jnp.arange(size) + .5) / size - .5
  x, y = (v.ravel() for v in jnp.meshgrid(at, at))
  height = wave(jnp.stack([w[0] * x + w[1] * y + w[2] for w in shot.waves])).sum(0)
  mix = step(height, .5 + 2 * shot.waves[0, 2])
  low, high = shot.background[0][:, None], shot.background[1][:, None]
  return (low + mix * (high - low)) * (1 - .5 * y * shot.waves[1, 2])


def tone(shot: Shot, linear: jax.Array) -> jax.Array:
  """Exposure and tone curve: linear light to display values in [0, 1]."""
  exposed = linear * shot.exposure
  return jnp.sqrt(jnp.clip(exposed / (1 + .25 * exposed), 0, 1))


def develop(shot: Shot, tone: jax.Array) -> jax.Array:
  """Blur and noise; display values `[3, H, W]` to uint8 `[H, W, 3]`."""
  p, b = pad(tone), .5 * shot.blur
  rows = (1 - 2 * b) * p[:, 1:-1] + b * (p[:, 2:] + p[:, :-2])
  blurred = (1 - 2 * b) * rows[..., 1:-1] + b * (rows[..., 2:] + rows[..., :-2])
  noisy = blurred + shot.noise * _noise(shot.noise_seed, tone.shape)
  return jnp.transpose(jnp.round(255 * jnp.clip(noisy, 0, 1)).astype(jnp.uint8), (1, 2, 0))


def pad(image: jax.Array) -> jax.Array:
  """`[C, H, W]` with its border repeated once on each side of H and W."""
  return jnp.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")


def _noise(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Unit-variance noise: integer hash (Wellons' lowbias32) of the pixel number and a seed."""
  count = shape[0] * shape[1] * shape[2]
  h = jnp.arange(count, dtype=jnp.uint32).reshape(shape) * jnp.uint32(0x9E3779B9) + seed
  h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
  h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
  h = h ^ (h >> 16)
  total = (h & 0xFFFF).astype(jnp.float32) + (h >> 16).astype(jnp.float32)
  return (total / 65535. - 1) * 6 ** .5
