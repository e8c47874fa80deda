"""Local training as a part: what a client does with its own images, and against its drift.

A drift is what keeps a client's model near the global one; it is chosen with the steps and bound
with them to a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

from fedjax_face.data import pixels
from fedjax_face.federated import client
from fedjax_face.federated import scaffold as control_variates
from fedjax_face.federated.client import ClientUpdate, LocalTraining, Loss, Optimizers, Stage
from fedjax_face.federated.embedding_model import Augment, no_augmentation
from fedjax_face.federated.optimizers import Rate, Share
from fedjax_face.options import OptionError, Traced, at_least, register


class Drift(NamedTuple):
  """What is done against the drift of clients whose data differ.

  Attributes:
    bind: (loss, optimisers, stages, number of clients that last from round to round, 0 where they
      are drawn anew) -> ClientUpdate.
    present: whether anything is done.
  """

  bind: Callable[[Loss, Optimizers, Sequence[Stage], int], ClientUpdate]
  present: bool = True


class Local(NamedTuple):
  """What a client does in a round.

  Attributes:
    bind: (loss, number of clients that last from round to round, 0 where they are drawn anew) ->
      ClientUpdate.
    epochs: passes over the client's images.
    batch_size: images of a local step.
    augment: (uint8 [B, H, W, C], key) -> images of the same shape, in training only.
    alone: loss -> the same steps of one who trains alone; None where the part has what only a
      client has: a drift, or stages of a head of its own.
  """

  bind: Callable[[Loss, int], ClientUpdate]
  epochs: int
  batch_size: int
  augment: Augment
  alone: Callable[[Loss], LocalTraining] | None


register.kind(Drift)
register.kind(Local)


@register.drift
def none() -> Drift:
  """Nothing: plain local steps."""
  return Drift(lambda loss, optimizers, stages, lasting: client.fresh_optimizer(
      client.local_training(loss, optimizers, stages)), present=False)


@register.drift
def fedprox(*, weight: Annotated[Traced, at_least(0)] = 0.01) -> Drift:
  """FedProx: pulls the backbone back to the global one.

  Args:
    weight: times (backbone - global backbone), added to the backbone's gradient; at least 0.

  Source: Li et al., MLSys 2020 (FedProx), equation 2.
  """
  del weight  # traced
  return Drift(lambda loss, optimizers, stages, lasting: client.fresh_optimizer(
      client.local_training(loss, client.proximal(optimizers), stages)))


@register.drift
def scaffold() -> Drift:
  """SCAFFOLD: control variates, which silos keep and send; nothing of that is private.

  Binding it raises ValueError where clients are drawn anew every round.

  Source: Karimireddy et al., ICML 2020 (SCAFFOLD), option II.
  """
  def bind(loss: Loss, optimizers: Optimizers, stages: Sequence[Stage],
           lasting: int) -> ClientUpdate:
    if not lasting:
      raise ValueError("method.local.drift=scaffold keeps a control variate of every client, and "
                       "virtual clients are drawn anew each round: it needs silos")
    return control_variates.scaffold(loss, optimizers, stages, lasting)

  return Drift(bind)


@register.local
def local_steps(*, learning_rate: Rate = 0.003, momentum: Share = 0.9,
                head_learning_rate_scale: Rate = 1.0,
                optimizer: Literal["sgd", "momentum", "adam", "normalised"] = "normalised",
                stages: Literal["joint", "head_first"] = "joint", head_steps: int = 1,
                epochs: Annotated[int, at_least(1)] = 4,
                batch_size: Annotated[int, at_least(1)] = 8, flip: bool = False,
                drift: Drift = none()) -> Local:
  """Steps of an optimiser over the client's batches; its state starts anew every round.

  Args:
    learning_rate: of the backbone; `normalised`: relative change of an array of weights a step.
    momentum: share of the direction that a step keeps, 0 to below 1; `momentum` and `normalised`
      use it.
    head_learning_rate_scale: the head's learning rate over the backbone's.
    optimizer: see `client.optimizers`.
    stages: `joint` trains backbone and head together; `head_first` trains the head alone for
      `head_steps` batches, then the backbone alone (Xu et al., CVPR 2023, section 3).
    head_steps: of `head_first`, at least 1.
    epochs: passes over the client's images.
    batch_size: images of a step.
    flip: mirrors every image with probability one half.
    drift: what is done against the drift of clients.
  """
  del learning_rate, momentum, head_learning_rate_scale  # traced
  if stages == "head_first" and head_steps < 1:
    raise OptionError(f"head_steps={head_steps}: expected at least 1")
  optimizers = client.optimizers(optimizer)
  stretches = client.JOINT if stages == "joint" else client.head_first(head_steps)
  plain = stages == "joint" and not drift.present
  return Local(
      lambda loss, lasting: drift.bind(loss, optimizers, stretches, lasting), epochs, batch_size,
      pixels.random_flip if flip else no_augmentation,
      (lambda loss: client.local_training(loss, optimizers, client.JOINT)) if plain else None)
