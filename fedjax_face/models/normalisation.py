"""GroupNorm and PReLU: normalisation and activation that never mix examples."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupNorm(nn.Module):
  """Group normalisation over height, width and the channels of a group.

  The same function and parameters ('scale' [C], 'bias' [C]) as `flax.linen.GroupNorm`, computed
  from per-channel sums and applied as one multiply-add per pixel.

  Attributes:
    groups: number of groups of consecutive channels; must divide the channels.
    epsilon: added to the variance.

  Source: Wu and He, ECCV 2018, equation 7.
  """

  groups: int = 32
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `x` float [B, H, W, C]; raises ValueError if `groups` does not divide C."""
    batch, height, width, channels = x.shape
    if channels % self.groups:
      raise ValueError(f"GroupNorm: groups={self.groups} does not divide {channels} channels")
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    per_group = channels // self.groups

    def group_mean(values: jax.Array) -> jax.Array:
      total = values.sum((1, 2)).reshape(batch, self.groups, per_group).sum(-1)
      return total / (height * width * per_group)

    mean = group_mean(x)
    variance = jnp.maximum(group_mean(x * x) - mean * mean, 0)
    inverse = jax.lax.rsqrt(variance + self.epsilon)
    gain = jnp.repeat(inverse, per_group, axis=1) * scale
    shift = bias - jnp.repeat(mean, per_group, axis=1) * gain
    return x * gain[:, None, None] + shift[:, None, None]


class PReLU(nn.Module):
  """Leaky ReLU with one trainable slope per channel, initially 0.25.

  Source: He et al., ICCV 2015, equation 1 (channel-wise variant).
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the activation to `x` float [..., C]."""
    slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.where(x >= 0, x, slope * x)
