"""Server optimisers as parts: what is made of a round's mean update, which serves as a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_face.federated.round import ServerOptimizer
from fedjax_face.method.algorithm import HParams
from fedjax_face.options import Traced, above, at_least, register, within


class Optimizer(NamedTuple):
  """An optimiser whose scalars are traced.

  Attributes:
    transform: own hparams -> optax.GradientTransformation.
  """

  transform: ServerOptimizer


register.kind(Optimizer)

Rate = Annotated[Traced, at_least(0)]
Share = Annotated[Traced, within("[0, 1)")]
Adaptivity = Annotated[Traced, above(0)]


@register.optimizer
def momentum(*, learning_rate: Rate = 0.5, momentum: Share = 0.9) -> Optimizer:
  """Gradient descent with momentum: v = mu v + g, w -= lr v.

  Args:
    learning_rate: lr, a factor on the mean update g; in the long run a round moves by
      lr / (1 - mu) mean updates.
    momentum: mu, share of v that a round keeps, 0 to below 1.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), the server's optimiser.
  """
  del learning_rate, momentum  # traced
  return Optimizer(_momentum)


def _momentum(own: HParams) -> optax.GradientTransformation:
  return optax.sgd(own["learning_rate"], momentum=own["momentum"])


@register.optimizer
def averaging() -> Optimizer:
  """The mean of the clients' models becomes the global model: w -= g.

  Source: McMahan et al., AISTATS 2017 (FedAvg), Algorithm 1.
  """
  return Optimizer(lambda own: optax.sgd(1.0))


@register.optimizer
def adam(*, learning_rate: Rate = 1e-3) -> Optimizer:
  """Adam with b1 = 0.9, b2 = 0.999 and epsilon = 1e-8.

  Args:
    learning_rate: of the step in units of Adam, about what a weight moves by.

  Source: Kingma and Ba, ICLR 2015, Algorithm 1.
  """
  del learning_rate  # traced
  return Optimizer(lambda own: optax.adam(own["learning_rate"]))


@register.optimizer
def fedadagrad(*, learning_rate: Rate = 0.01, b1: Share = 0.0, tau: Adaptivity = 1e-3
               ) -> Optimizer:
  """FedAdagrad: steps shrink with all that a weight has moved by, v = v + g^2.

  With m = b1 m + (1 - b1) g a round is w -= lr m / (sqrt(v) + tau), from m = 0 and v = tau^2.

  Args:
    learning_rate: lr, about what a weight moves by in a round.
    b1: of the mean update, 0 to below 1.
    tau: adaptivity, the optimiser's epsilon, in units of g; above 0.

  Source: Reddi et al., ICLR 2021, Algorithm 2 (FedAdagrad); the defaults are ours.
  """
  del learning_rate, b1, tau  # traced
  return Optimizer(lambda own: _adaptive(own, lambda v, squared: v + squared))


@register.optimizer
def fedadam(*, learning_rate: Rate = 0.01, b1: Share = 0.9, b2: Share = 0.99,
            tau: Adaptivity = 1e-3) -> Optimizer:
  """FedAdam: v = b2 v + (1 - b2) g^2. Unlike in `adam`, m and v are not corrected for their start.

  Otherwise as `fedadagrad`.

  Args:
    learning_rate, b1, tau: as of `fedadagrad`.
    b2: of the square of the mean update, 0 to below 1.

  Source: Reddi et al., ICLR 2021, Algorithm 2 (FedAdam); b1, b2 and tau are the defaults of Flower
    (`flwr.serverapp.strategy.FedAdam`).
  """
  del learning_rate, b1, b2, tau  # traced
  return Optimizer(lambda own: _adaptive(
      own, lambda v, squared: own["b2"] * v + (1 - own["b2"]) * squared))


@register.optimizer
def fedyogi(*, learning_rate: Rate = 0.01, b1: Share = 0.9, b2: Share = 0.99,
            tau: Adaptivity = 1e-3) -> Optimizer:
  """FedYogi: v = v - (1 - b2) g^2 sign(v - g^2), which forgets a large g slowly.

  Otherwise as `fedadagrad`.

  Args:
    learning_rate, b1, b2, tau: as of `fedadam`.

  Source: Reddi et al., ICLR 2021, Algorithm 2 (FedYogi); the defaults are those of Flower
    (`flwr.serverapp.strategy.FedYogi`).
  """
  del learning_rate, b1, b2, tau  # traced
  return Optimizer(lambda own: _adaptive(
      own, lambda v, squared: v - (1 - own["b2"]) * squared * jnp.sign(v - squared)))


class Moments(NamedTuple):
  """Moving means of the mean update (m) and of its square (v)."""

  first: Any
  second: Any


def _adaptive(own: HParams, second: Callable[[jax.Array, jax.Array], jax.Array]
              ) -> optax.GradientTransformation:
  """m / (sqrt(v) + tau) times the learning rate, `second` being (v, g^2) -> v."""

  def init(params: Any) -> Moments:
    return Moments(optax.tree.zeros_like(params), optax.tree.full_like(params, own["tau"] ** 2))

  def update(mean: Any, moments: Moments, params: Any = None):
    moments = Moments(
        optax.tree.update_moment(mean, moments.first, own["b1"], 1),
        jax.tree.map(lambda v, g: second(v, g ** 2), moments.second, mean))
    step = jax.tree.map(
        lambda m, v: -own["learning_rate"] * m / (jnp.sqrt(v) + own["tau"]), *moments)
    return step, moments

  return optax.GradientTransformation(init, update)
