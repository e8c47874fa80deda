"""What the server learns of labels: pseudonyms, randomised labels, or gradients of the logits."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

POLICIES = ("pseudonym", "randomized_response", "u_shaped")


@dataclasses.dataclass(frozen=True)
class LabelPolicy:
  """How labels reach the server.

  Attributes:
    policy: `pseudonym`: class numbers in clear. `randomized_response`: each image's label is
      randomised once, on the device. `u_shaped`: logits come back, the loss is computed on the
      device, and the gradient of the logits is sent; without noise it shows the label.
    epsilon: of `randomized_response`, for one label.
    noise_multiplier: of `u_shaped`, noise over sensitivity of one gradient; 0: none.
    acknowledged: the user knows that the server sees labels; needed where nothing hides them.

  Raises:
    ValueError: unknown policy, a missing or superfluous number, or labels in clear that nobody
      acknowledged.
  """

  policy: str
  epsilon: float | None = None
  noise_multiplier: float = 0.0
  acknowledged: bool = False

  def __post_init__(self) -> None:
    if self.policy not in POLICIES:
      raise ValueError(f"unknown label policy {self.policy!r}; choose one of {', '.join(POLICIES)}")
    randomised = self.policy == "randomized_response"
    if randomised and not (self.epsilon is not None and 0 < self.epsilon < math.inf):
      raise ValueError("label policy 'randomized_response' needs a finite epsilon above 0, got "
                       f"{self.epsilon}")
    if not randomised and self.epsilon is not None:
      raise ValueError(f"label policy {self.policy!r} takes no epsilon, got {self.epsilon}")
    if not 0 <= self.noise_multiplier < math.inf:
      raise ValueError("noise_multiplier of labels must be finite and at least 0, got "
                       f"{self.noise_multiplier}")
    if self.noise_multiplier and self.policy != "u_shaped":
      raise ValueError(f"label policy {self.policy!r} takes no noise_multiplier, got "
                       f"{self.noise_multiplier}")
    if self.in_clear and not self.acknowledged:
      raise ValueError(f"label policy {self.policy!r} without noise shows the server every label; "
                       "set acknowledged=True, or choose randomized_response or u_shaped with a "
                       "noise_multiplier")

  @property
  def in_clear(self) -> bool:
    """Whether the server can read every label."""
    return self.policy != "randomized_response" and not self.noise_multiplier


def redraw_probability(epsilon: float, num_classes: int) -> float:
  """Probability that K-ary randomised response draws a label anew, uniformly from all K classes.

  The true label is then sent e^epsilon times as often as any other (Kairouz, Oh and Viswanath, JMLR
  2016, equation 7).
  """
  return num_classes / (math.expm1(epsilon) + num_classes)


def randomised_labels(labels: jax.Array, epsilon: float, num_classes: int,
                      keys: jax.Array) -> jax.Array:
  """Labels int32 [B] after K-ary randomised response, one key for each."""

  def one(label: jax.Array, key: jax.Array) -> jax.Array:
    choice, draw = jax.random.split(key)
    redraw = jax.random.bernoulli(choice, redraw_probability(epsilon, num_classes))
    return jnp.where(redraw, jax.random.randint(draw, (), 0, num_classes), label)

  return jax.vmap(one)(labels, keys).astype(jnp.int32)
