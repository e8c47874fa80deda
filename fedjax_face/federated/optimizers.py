"""Server optimisers as parts: what is made of a round's mean update, which serves as a gradient."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import optax

from fedjax_face.federated.round import ServerOptimizer
from fedjax_face.method.algorithm import HParams
from fedjax_face.options import Traced, at_least, register, within


class Optimizer(NamedTuple):
  """An optimiser whose scalars are traced.

  Attributes:
    transform: own hparams -> optax.GradientTransformation.
  """

  transform: ServerOptimizer


register.kind(Optimizer)

Rate = Annotated[Traced, at_least(0)]
Share = Annotated[Traced, within("[0, 1)")]


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
