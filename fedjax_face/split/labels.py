"""What the server learns of labels: pseudonyms, randomised labels, or gradients of the logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_face.options import OptionError, above, at_least, register
from fedjax_face.split import step
from fedjax_face.split.mechanism import example_keys
from fedjax_face.split.message import NO_LABEL, PADDING, Message, Reply
from fedjax_face.split.network import SplitNetwork
from fedjax_face.split.step import Part, ServerStep

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


class Labels(NamedTuple):
  """How labels reach the server, as both sides carry it out.

  Attributes:
    policy: for accounting, and for devices over the wire.
    sent: (labels int32 [N], number of classes, secret key) -> int32 [N], what devices work with
      from then on; drawn once for every image.
    server_step: (split, optimiser, the server's Part, Message of K devices, those labels int32
      [K, B], secret key of the devices for this step) -> ServerStep.
  """

  policy: LabelPolicy
  sent: Callable[[jax.Array, int, jax.Array], jax.Array]
  server_step: Callable[[SplitNetwork, optax.GradientTransformation, Part, Message, jax.Array,
                         jax.Array], ServerStep]


register.kind(Labels)


@register.labels
def pseudonym() -> Labels:
  """Class numbers in clear: the server knows which images are of the same person.

  Nothing protects labels; the privacy statement says so.
  """
  return Labels(LabelPolicy("pseudonym", acknowledged=True), _as_they_are, _labelled_step)


@register.labels
def randomized_response(*, epsilon: Annotated[float, above(0)]) -> Labels:
  """Every image's label is randomised once, on the device; on the ledger.

  Args:
    epsilon: of one label.

  Source: K-ary randomised response (Kairouz, Oh and Viswanath, JMLR 2016, equation 7).
  """
  def sent(labels: jax.Array, classes: int, key: jax.Array) -> jax.Array:
    return randomised_labels(labels, epsilon, classes, example_keys(key, jnp.arange(len(labels))))

  return Labels(LabelPolicy("randomized_response", epsilon), sent, _labelled_step)


@register.labels
def u_shaped(*, noise_multiplier: Annotated[float, at_least(0)] = 1.0,
             acknowledged: bool = False) -> Labels:
  """Labels stay on the devices: logits come back, and gradients of the logits are sent.

  Args:
    noise_multiplier: of the gradients, noise over sensitivity, new in every pass, on the ledger; 0:
      none, and the one negative entry of a gradient is the label's.
    acknowledged: the user knows that the server can read labels; needed without noise.

  Source: Vepakomma et al., arXiv 1812.00564.
  """
  if not noise_multiplier and not acknowledged:
    raise OptionError("noise_multiplier=0: gradients without noise show the server every label; "
                      "expected noise, or acknowledged=True")
  policy = LabelPolicy("u_shaped", None, noise_multiplier, acknowledged)

  def server_step(split: SplitNetwork, optimizer: optax.GradientTransformation, part: Part,
                  messages: Message, labels: jax.Array, key: jax.Array) -> ServerStep:
    return _u_shaped_step(split, optimizer, part, messages, labels, noise_multiplier, key)

  return Labels(policy, _as_they_are, server_step)


def _as_they_are(labels: jax.Array, classes: int, key: jax.Array) -> jax.Array:
  return labels


def _labelled_step(split: SplitNetwork, optimizer: optax.GradientTransformation, part: Part,
                   messages: Message, labels: jax.Array, key: jax.Array) -> ServerStep:
  """The server sees labels and computes the loss itself."""
  return step.server_step(split, optimizer, part, messages)


def _u_shaped_step(split: SplitNetwork, optimizer: optax.GradientTransformation, part: Part,
                   messages: Message, labels: jax.Array, noise_multiplier: float,
                   key: jax.Array) -> ServerStep:
  """The loss and its gradient are computed on the devices."""
  messages = messages._replace(labels=jnp.full_like(messages.labels, NO_LABEL))
  logits = step.server_logits(split, part.params, messages)
  gradients = step.logit_gradients(
      Reply(logits.values.reshape(-1, logits.values.shape[-1]), logits.example.reshape(-1),
            logits.device), labels.reshape(-1), noise_multiplier, key)
  done = step.server_step_from_gradients(split, optimizer, part, messages, Reply(
      gradients.values.reshape(logits.values.shape), logits.example, logits.device))
  real = messages.example != PADDING
  right = (logits.values.argmax(-1) == labels) & real
  losses = optax.softmax_cross_entropy_with_integer_labels(logits.values, labels)
  count = jnp.maximum(real.sum(), 1)
  return done._replace(metrics={"loss": jnp.where(real, losses, 0).sum() / count,
                                "train_accuracy": right.sum() / count})
