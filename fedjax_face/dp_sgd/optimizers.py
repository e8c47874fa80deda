"""Optimisers of DP-SGD's steps, as parts: their own rate for the tasks' weights, and an average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import optax

from fedjax_face.method.algorithm import HParams
from fedjax_face.options import Traced, at_least, register, within

Transform = Callable[[HParams], optax.GradientTransformation]


class StepOptimizer(NamedTuple):
  """What is made of a step's noisy mean gradient {"network": ..., "weights": ...}.

  Attributes:
    transform: own hparams -> optax.GradientTransformation.
  """

  transform: Transform


class AveragedOptimizer(NamedTuple):
  """An optimiser beside which an average of the parameters is kept, which is what is evaluated.

  Attributes:
    transform: of the optimiser: its hparams, `of`, -> optax.GradientTransformation.
  """

  transform: Transform


register.kind(StepOptimizer)
register.kind(AveragedOptimizer)

Rate = Annotated[Traced, at_least(0)]


def _stepping(direction: Transform) -> StepOptimizer:
  """Steps along a direction, with a learning rate for each of network and weights."""
  def transform(own: HParams) -> optax.GradientTransformation:
    rates = {"network": own["learning_rate"],
             "weights": own["learning_rate"] * own["weight_learning_rate_scale"]}
    descend = optax.stateless(lambda updates, _: {
        part: optax.tree.scale(-rates[part], update) for part, update in updates.items()})
    return optax.chain(direction(own), descend)

  return StepOptimizer(transform)


@register.step_optimizer
def sgd(*, learning_rate: Rate = 0.01, weight_learning_rate_scale: Rate = 200.0) -> StepOptimizer:
  """Gradient descent: w -= lr g.

  Args:
    learning_rate: lr of the network.
    weight_learning_rate_scale: learning rate of the tasks' weights over that of the network.
  """
  del learning_rate, weight_learning_rate_scale  # traced
  return _stepping(lambda own: optax.identity())


@register.step_optimizer
def momentum(*, learning_rate: Rate = 0.01, momentum: Annotated[Traced, within("[0, 1)")] = 0.9,
             weight_learning_rate_scale: Rate = 200.0) -> StepOptimizer:
  """Gradient descent with momentum: v = mu v + g, w -= lr v.

  Args:
    learning_rate: lr of the network; in the long run a step moves by lr / (1 - mu) gradients.
    momentum: mu, share of v that a step keeps.
    weight_learning_rate_scale: as of `sgd`.
  """
  del learning_rate, momentum, weight_learning_rate_scale  # traced
  return _stepping(lambda own: optax.trace(own["momentum"]))


@register.step_optimizer
def adam(*, learning_rate: Rate = 1e-3, weight_learning_rate_scale: Rate = 300.0) -> StepOptimizer:
  """Adam with b1 = 0.9, b2 = 0.999 and epsilon = 1e-8.

  Args:
    learning_rate: of the network, about what one of its parameters moves by in a step.
    weight_learning_rate_scale: as of `sgd`.

  Source: Kingma and Ba, ICLR 2015, Algorithm 1.
  """
  del learning_rate, weight_learning_rate_scale  # traced
  return _stepping(lambda own: optax.scale_by_adam())


@register.averaged_optimizer
def averaged(of: StepOptimizer = momentum(), *,
             decay: Annotated[Traced, within("[0, 1)")] = 0.95) -> AveragedOptimizer:
  """An optimiser, and an exponential average of the parameters that it goes through.

  Args:
    of: the optimiser.
    decay: weight of the past in the average, 0 for none; after t steps at most (1 + t) / (10 + t).

  Source: De et al., arXiv 2204.13650.
  """
  del decay  # traced
  return AveragedOptimizer(of.transform)
