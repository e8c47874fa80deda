"""A dense layer whose weight gradient costs one pass over the weights on a CPU."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

_FEW_ROWS = 16  # batch up to which the gradient is written as a sum of outer products


class Dense(nn.Module):
  """A dense layer with the parameters of `flax.linen.Dense`: names, shapes, initial values.

  With a small batch the weight gradient is limited by memory, not arithmetic. On a CPU it is then
  a sum of outer products, which XLA fuses into the optimiser's update, so that the gradient is
  never stored.

  Attributes:
    features: size of the output.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, C] to [B, features]."""
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    fused = jax.default_backend() == "cpu" and x.shape[0] <= _FEW_ROWS
    return (few_rows_product(x, kernel) if fused else x @ kernel) + bias


@jax.custom_vjp
def few_rows_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [B, C] times kernel [C, D] for a small B."""
  return x @ kernel


def _forward(x, kernel):
  return x @ kernel, (x, kernel)


def _backward(residuals, cotangent):
  x, kernel = residuals
  products = [row[:, None] * g[None, :] for row, g in zip(x, cotangent, strict=True)]
  return cotangent @ kernel.T, functools.reduce(jnp.add, products)


few_rows_product.defvjp(_forward, _backward)
