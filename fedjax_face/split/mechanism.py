"""The mechanism at the cut: clip one example's activation, add Gaussian noise, send.

Sources: the analytic Gaussian mechanism of Balle and Wang, ICML 2018; the setting of Mao et al.,
HotEdge 2018, whose own sensitivity and noise are not published, so the mechanism is ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from fedjax_face.options import Traced, at_least, register, within
from fedjax_face.privacy import curves

MECHANISMS = ("gaussian", "classical_gaussian")


@dataclasses.dataclass(frozen=True)
class ActivationClip:
  """Clips the flattened activation of every example to an L2 norm.

  Attributes:
    non_negative: entries below 0 are set to 0 first, which changes nothing after a ReLU.

  Guarantees:
    The clipped activations of any two examples are at most `sensitivity * clip_norm` apart in L2
    norm, up to rounding, whatever the activations are (replace-one, and so local DP). Both values
    are reached: by opposite vectors, and by orthogonal ones where no entry is negative.
  """

  non_negative: bool

  @property
  def sensitivity(self) -> float:
    """Under replace-one, in units of the clip norm."""
    return math.sqrt(2.0) if self.non_negative else 2.0

  def __call__(self, activations: jax.Array, clip_norm: ArrayLike) -> jax.Array:
    """a min(1, C / ||a||) for every example.

    Args:
      activations: float [B, ...]; entries that are not finite count as 0.
      clip_norm: C > 0, may be traced; infinite: nothing is clipped.

    Returns:
      f32 [B, ...] of norm at most C.

    Raises:
      ValueError: C is not positive (unless traced).
    """
    require_clip_norm(clip_norm)
    activations = jnp.asarray(activations, jnp.float32)
    activations = jnp.where(jnp.isfinite(activations), activations, 0)
    if self.non_negative:
      activations = jax.nn.relu(activations)
    squared = jnp.sum(jnp.square(activations), axis=tuple(range(1, activations.ndim)),
                      keepdims=True)
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1))
    longer = (squared > 0) & (norm > clip_norm)
    return activations * jnp.where(longer, clip_norm / jnp.where(longer, norm, 1), 1)

  def noise_stddev(self, clip_norm: ArrayLike, noise_multiplier: ArrayLike) -> jax.Array:
    """Standard deviation of the noise on each entry; 0 for a multiplier of 0."""
    stddev = jnp.asarray(noise_multiplier) * self.sensitivity * jnp.asarray(clip_norm)
    return jnp.where(jnp.asarray(noise_multiplier) > 0, stddev, 0.0)


class Activations(NamedTuple):
  """What is done to an activation before it is sent, beside the noise.

  Attributes:
    clip: whether no activation is ever below 0 -> ActivationClip, which knows its sensitivity.
  """

  clip: Callable[[bool], ActivationClip]


register.kind(Activations)


@register.activations
def clipped_noise(*, clip_norm: Annotated[Traced, within("(0, inf]")] | None = None,
                  noise_multiplier: Annotated[Traced, at_least(0)] | None = None) -> Activations:
  """Every example's activation is clipped to an L2 norm, and Gaussian noise is added; see `noised`.

  Args:
    clip_norm: C, above 0; infinite, where there is no noise: nothing is clipped; None: the median
      norm of the activations of public images.
    noise_multiplier: z, noise over sensitivity, at least 0; 0: none; None: what the budget asks
      for.
  """
  del clip_norm, noise_multiplier  # traced
  return Activations(ActivationClip)


def noised(activations: jax.Array, clip: ActivationClip, clip_norm: ArrayLike,
           noise_multiplier: ArrayLike, keys: jax.Array) -> jax.Array:
  """Clipped activations plus noise N(0, (noise_multiplier * sensitivity * clip_norm)^2).

  Args:
    activations: float [B, ...], of the device part.
    clip: knows the sensitivity.
    clip_norm: C > 0.
    noise_multiplier: z, noise over sensitivity; 0: none.
    keys: [B], one for each example: its noise does not depend on the rest of the batch. A key that
      is used again draws the same noise again.

  Returns:
    f32 [B, ...], what is sent.

  Raises:
    ValueError: C is not positive, z is negative or not finite, or there is noise and no finite C
      to scale it (unless traced).

  Guarantees:
    With fresh keys every row is a Gaussian mechanism of its example with mu = 1 / z.
  """
  _require_scale(clip_norm, noise_multiplier)
  clipped = clip(activations, clip_norm).astype(jnp.float32)
  noise = jax.vmap(lambda key: jax.random.normal(key, clipped.shape[1:]))(keys)
  return clipped + clip.noise_stddev(clip_norm, noise_multiplier) * noise


def example_keys(key: jax.Array, example: jax.Array) -> jax.Array:
  """One key for every example [B], a function of its number alone.

  The same `key` in every pass repeats the noise of an example (cached); a key of its own for every
  pass and device makes it fresh.
  """
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(example)


def gaussian_epsilon(mu: float, delta: float) -> float:
  """Smallest epsilon >= 0 at `delta` of a Gaussian mechanism, exactly.

  Args:
    mu: sensitivity over standard deviation; composition adds squares of mu.
    delta: in (0, 1).

  Raises:
    ValueError: mu is negative or delta outside (0, 1).
  """
  _require_delta(delta)
  if not mu >= 0:
    raise ValueError(f"mu must not be negative, got {mu}")
  if mu == 0 or math.isinf(mu):
    return mu
  excess = lambda epsilon: float(curves.gaussian_delta(epsilon, 1 / mu)) - delta
  if excess(0.0) <= 0:
    return 0.0
  # The loss is N(mu^2 / 2, mu^2), and delta at epsilon is below P(loss > epsilon).
  highest = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
  return float(optimize.brentq(excess, 0.0, highest, xtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
  """Largest mu with `gaussian_epsilon(mu, delta) <= epsilon`.

  Raises:
    ValueError: epsilon is not positive or delta outside (0, 1).
  """
  _require_delta(delta)
  if not epsilon > 0:
    raise ValueError(f"epsilon must be positive, got {epsilon}")
  if math.isinf(epsilon):
    return math.inf
  excess = lambda mu: float(curves.gaussian_delta(epsilon, 1 / mu)) - delta
  # At this mu the loss exceeds epsilon half of the time, and delta is the larger part of that.
  high = 2 * math.sqrt(2 * epsilon) + 8
  while excess(high) <= 0:
    high *= 2
  low = 1e-9
  return float(optimize.brentq(excess, low, high, xtol=1e-15, rtol=1e-14))


def noise_multiplier_for(epsilon: float, delta: float, mechanism: str = "gaussian") -> float:
  """Noise over sensitivity of ONE release with this guarantee.

  Args:
    epsilon: > 0; infinite: no noise.
    delta: in (0, 1).
    mechanism: `gaussian`, by the exact curve; `classical_gaussian`, sqrt(2 ln(1.25 / delta)) /
      epsilon, only to compare with work that used it, and only up to epsilon 1.

  Returns:
    z; 0 for an infinite epsilon.

  Raises:
    ValueError: an argument is out of range; the classical formula above epsilon 1, where it is not
      proved and too small for large epsilon; Laplace noise on every coordinate.
  """
  if mechanism == "laplace":
    raise ValueError(
        "mechanism 'laplace': Laplace noise of one coordinate's budget on each of d coordinates is "
        "not a guarantee for the vector, which spends d times epsilon; use 'gaussian'")
  if mechanism not in MECHANISMS:
    raise ValueError(f"unknown mechanism {mechanism!r}; choose one of {', '.join(MECHANISMS)}")
  if mechanism == "gaussian":
    return 1 / gaussian_mu(epsilon, delta)
  _require_delta(delta)
  if not 0 < epsilon <= 1:
    raise ValueError(f"mechanism 'classical_gaussian' at epsilon {epsilon:g}: its formula is "
                     "proved for epsilon in (0, 1] only; use 'gaussian', the exact curve")
  return math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def require_clip_norm(clip_norm: ArrayLike) -> None:
  """Raises ValueError unless the clip norm is positive; a traced one cannot be checked."""
  value = _known(clip_norm)
  if value is not None and not value > 0:
    raise ValueError(f"clip_norm must be positive, got {value:g}")


def _require_scale(clip_norm: ArrayLike, noise_multiplier: ArrayLike) -> None:
  bound, multiplier = _known(clip_norm), _known(noise_multiplier)
  if multiplier is None:
    return
  if not 0 <= multiplier < math.inf:
    raise ValueError(f"noise_multiplier must be finite and at least 0, got {multiplier:g}")
  if multiplier > 0 and bound == math.inf:
    raise ValueError("clip_norm must be finite where noise_multiplier is positive: noise is scaled "
                     "to it")


def _known(scalar: ArrayLike) -> float | None:
  return None if isinstance(scalar, jax.core.Tracer) else np.asarray(scalar).item()


def _require_delta(delta: float) -> None:
  if not 0 < delta < 1:
    raise ValueError(f"delta must be in (0, 1), got {delta}")
