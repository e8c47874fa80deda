"""What a client does with its data: local training of a backbone and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_face.federated import memory
from fedjax_face.federated.memory import Memory
from fedjax_face.method.algorithm import NOTHING, Communication, HParams, Measure, part_of
from fedjax_face.privacy.ledger import Release

Params = dict[str, Any]


class ClientBatches(NamedTuple):
  """One client's local steps: indices into `Data.images`, and its labels.

  Attributes:
    examples: int32 [S, B].
    labels: int32 [S, B], classes of the client's head.
    mask: bool [S, B]; batches without a real example lie at the end and are not run.
    num_classes: int32 scalar, classes in use in the client's head.
    first_pass: int32 scalar, examples of the first pass over the client's data, which come first;
      None where every example is visited once.
  """

  examples: jax.Array
  labels: jax.Array
  mask: jax.Array
  num_classes: jax.Array
  first_pass: jax.Array | None = None

  def of_first_pass(self) -> jax.Array:
    """bool [S, B], the real examples of the first pass: each of the client's images once."""
    if self.first_pass is None:
      return self.mask
    place = jnp.arange(self.mask.size).reshape(self.mask.shape)
    return self.mask & (place < self.first_pass)


class Batch(NamedTuple):
  """One local step: images uint8 [B, H, W, C], labels int32 [B], mask bool [B], num_classes."""

  images: jax.Array
  labels: jax.Array
  mask: jax.Array
  num_classes: jax.Array


class Totals(NamedTuple):
  """Sums over the examples that a client trained on, counted once per visit.

  Attributes:
    loss, correct: of the softmax over the client's classes.
    cosine: of embedding and class embedding of the true class, without any margin.
    examples: how many.
    sums: what else adds up over examples, of a loss that has something.
  """

  loss: jax.Array
  correct: jax.Array
  cosine: jax.Array
  examples: jax.Array
  sums: Any = ()

  @classmethod
  def zero(cls) -> Totals:
    """The sums before any example."""
    return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


class Stage(NamedTuple):
  """A stretch of local steps and the parts of the model that it trains.

  Attributes:
    trains: some of `backbone`, `head`.
    steps: length of the stretch; None: until the data ends.
  """

  trains: tuple[str, ...]
  steps: int | None = None


JOINT = (Stage(("backbone", "head")),)


def head_first(steps: int) -> tuple[Stage, ...]:
  """Trains only a new head for `steps` batches, then only the backbone (DP-FedEmb, section 3)."""
  if steps < 1:
    raise ValueError(f"head_steps must be at least 1, got {steps}")
  return (Stage(("head",), steps), Stage(("backbone",)))


_SMALLEST_NORM = 1e-3

Loss = Callable[[Params, Batch, HParams, jax.Array], tuple[jax.Array, Totals]]
Optimizers = Callable[[HParams], dict[str, optax.GradientTransformation]]


class LocalTraining(NamedTuple):
  """Local steps as a pair (init, run), so that the optimiser's state can outlive a call or not.

  Attributes:
    init: (params, hparams) -> optimiser state.
    run: (params, optimiser state, images, ClientBatches, hparams, key) ->
      (params, optimiser state, Totals).
  """

  init: Callable[..., Any]
  run: Callable[..., tuple[Params, Any, Totals]]


def local_training(loss: Loss, optimizers: Optimizers, stages: Sequence[Stage]) -> LocalTraining:
  """Stochastic gradient steps over a client's batches, one pass, stage by stage.

  Both functions take the hparams of the whole method: those of `local` go to the optimisers, all
  of them to the loss, which holds a head.

  Args:
    loss: (params, Batch, hparams, key) -> (mean loss over real examples, Totals).
    optimizers: own hparams -> an optimiser for each of `backbone` and `head`.
    stages: what is trained when.
  """

  def init(params: Params, hparams: HParams) -> Any:
    transforms = optimizers(part_of(hparams, "local"))
    return {name: tx.init(params[name]) for name, tx in transforms.items()}

  def run(params, opt_state, images, batches, hparams, key):
    transforms = optimizers(part_of(hparams, "local"))

    def local_step(trains: tuple[str, ...], index, carry):
      params, opt_state, totals = carry
      batch = Batch(images[batches.examples[index]], batches.labels[index], batches.mask[index],
                    batches.num_classes)
      step_key = jax.random.fold_in(key, index)
      loss_of = lambda trained: loss({**params, **trained}, batch, hparams, step_key)
      trained = {name: params[name] for name in trains}
      grads, seen = jax.grad(loss_of, has_aux=True)(trained)
      for name in trains:
        update, state = transforms[name].update(grads[name], opt_state[name], params[name])
        params = {**params, name: optax.apply_updates(params[name], update)}
        opt_state = {**opt_state, name: state}
      return params, opt_state, jax.tree.map(jnp.add, totals, seen)

    num_steps = batches.mask.any(axis=1).sum()
    sums = jax.eval_shape(lambda: loss(params, Batch(
        images[batches.examples[0]], batches.labels[0], batches.mask[0], batches.num_classes),
                                       hparams, key)[1].sums)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)
    carry = (params, opt_state, Totals.zero()._replace(sums=nothing))
    start = 0
    for stage in stages:
      stop = num_steps if stage.steps is None else jnp.minimum(start + stage.steps, num_steps)
      body = lambda index, carry, trains=stage.trains: local_step(trains, index, carry)
      carry = jax.lax.fori_loop(start, stop, body, carry)
      start = stop
    return carry

  return LocalTraining(init, run)


class ClientResult(NamedTuple):
  """What local training yields.

  Attributes:
    params: the trained parts.
    totals: sums for the metrics.
    entry: what is to be kept of the client, in the structure of its own entry.
  """

  params: Params
  totals: Totals
  entry: Any = ()


class ClientUpdate(NamedTuple):
  """What a client does in a round.

  Attributes:
    init: params -> what is kept of the clients.
    memory: how that is handed out and taken back.
    run: (params, common, own entry, images, ClientBatches, hparams, key) -> ClientResult.
    channels: what is exchanged beside the parameters and their update: name -> (params -> bytes).
    metrics: what its memory measures when a round ends.
    releases: what leaves a client in a round beside its update.
  """

  init: Callable[[Params], Any]
  memory: Memory
  run: Callable[..., ClientResult]
  channels: Mapping[str, Callable[[Params], Communication]] = NOTHING
  metrics: Mapping[str, Measure] = NOTHING
  releases: tuple[Release, ...] = ()


def forgetful(run: Callable[..., ClientResult]) -> ClientUpdate:
  """A client update without memory: run is (params, images, batches, hparams, key) -> result."""
  return ClientUpdate(
      init=lambda params: (),
      memory=memory.constant(kept_by_all=False),
      run=lambda params, common, own, *inputs: run(params, *inputs),
  )


def fresh_optimizer(training: LocalTraining) -> ClientUpdate:
  """A client update whose optimiser state starts anew for every client and round."""

  def run(params, images, batches, hparams, key) -> ClientResult:
    params, _, totals = training.run(
        params, training.init(params, hparams), images, batches, hparams, key)
    return ClientResult(params, totals)

  return forgetful(run)


def optimizers(name: str) -> Optimizers:
  """The local optimisers of DP-FedEmb, from traced hyperparameters.

  The head's learning rate is hparams `learning_rate * head_learning_rate_scale`. Adam uses
  b2 = 0.99 and eps = 1e-3, as in the authors' released code.

  `normalised` takes the direction from momentum and the length of a step from the weights: every
  array of parameters moves by `learning_rate` times its own norm (times `_SMALLEST_NORM`
  where that is smaller, as for biases of a new network), and by less where the norm of its momentum
  is below `_SMALLEST_NORM`, so that what is learned is left alone. Its rate is a relative change,
  without the units of loss, images or width, so one value serves many data sets, and updates of
  clients have much the same norm, which suits clipping.

  Args:
    name: `sgd`, `momentum` (uses hparams `momentum`), `adam` or `normalised` (uses `momentum`).

  Source of `normalised`: Cutkosky and Mehta, ICML 2020 (momentum before normalisation); You,
  Gitman, Ginsburg, arXiv 1708.03888 (LARS: a step for each layer in units of its norm).

  Raises:
    ValueError: another name.
  """
  factories = {
      "sgd": lambda rate, hparams: optax.sgd(rate),
      "momentum": lambda rate, hparams: optax.sgd(rate, momentum=hparams["momentum"]),
      "adam": lambda rate, hparams: optax.adam(rate, b2=0.99, eps=1e-3),
      "normalised": lambda rate, hparams: optax.chain(
          optax.trace(hparams["momentum"]), optax.scale_by_trust_ratio(_SMALLEST_NORM),
          optax.scale_by_learning_rate(rate)),
  }
  if name not in factories:
    raise ValueError(f"local.optimizer {name!r} is not one of {', '.join(sorted(factories))}")

  def build(hparams):
    rate = hparams["learning_rate"]
    return {
        "backbone": factories[name](rate, hparams),
        "head": factories[name](rate * hparams["head_learning_rate_scale"], hparams),
    }

  return build


def proximal(optimizers: Optimizers) -> Optimizers:
  """FedProx: adds hparams `drift.weight` times (backbone - global backbone) to its gradient.

  Source: Li et al., MLSys 2020 (FedProx), equation 2.
  """

  def pull(weight) -> optax.GradientTransformation:
    def update(gradient, start, params=None):
      return jax.tree.map(lambda g, w, w0: g + weight * (w - w0), gradient, params, start), start
    return optax.GradientTransformation(lambda params: params, update)

  def build(hparams):
    plain = optimizers(hparams)
    weight = hparams["drift"]["weight"]
    return plain | {"backbone": optax.chain(pull(weight), plain["backbone"])}

  return build
