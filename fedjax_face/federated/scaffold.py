"""SCAFFOLD: control variates against the drift of clients (Karimireddy et al., ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_face.federated import memory
from fedjax_face.federated.client import (
  ClientResult,
  ClientUpdate,
  Loss,
  Optimizers,
  Stage,
  local_training,
)
from fedjax_face.federated.memory import Memory
from fedjax_face.method.algorithm import Communication, HParams, tree_bytes
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import non_private


class _Variates(NamedTuple):
  """`correction` is added to every gradient; `total` sums the gradients before, over `steps`."""

  correction: Any
  total: Any
  steps: jax.Array


def _control() -> optax.GradientTransformation:
  def init(params):
    zero = jax.tree.map(jnp.zeros_like, params)
    return _Variates(zero, zero, jnp.zeros(()))

  def update(gradient, state, params=None):
    del params
    total = jax.tree.map(jnp.add, state.total, gradient)
    corrected = jax.tree.map(jnp.add, gradient, state.correction)
    return corrected, _Variates(state.correction, total, state.steps + 1)

  return optax.GradientTransformation(init, update)


def scaffold(loss: Loss, optimizers: Optimizers, stages: Sequence[Stage],
             num_clients: int) -> ClientUpdate:
  """Local training whose backbone gradients are corrected by c - c_k; heads are left alone.

  A client's control variate c_k becomes the mean of its gradients in the round: the paper's option
  II, which is that under plain SGD. c is the mean of all c_k, from zero.

  Args:
    loss, optimizers, stages: of the local training (`client.local_training`).
    num_clients: N; ids of clients are below it.
  """

  def build(hparams: HParams) -> dict[str, optax.GradientTransformation]:
    plain = optimizers(hparams)
    return plain | {"backbone": optax.chain(_control(), plain["backbone"])}

  training = local_training(loss, build, stages)

  def run(params, common, own, images, batches, hparams, key) -> ClientResult:
    state = training.init(params, hparams)
    variates, rest = state["backbone"]
    correction = jax.tree.map(jnp.subtract, common, own)
    state = state | {"backbone": (variates._replace(correction=correction), rest)}
    params, state, totals = training.run(params, state, images, batches, hparams, key)
    seen = state["backbone"][0]
    entry = jax.tree.map(
        lambda total, old: jnp.where(seen.steps > 0, total / jnp.maximum(seen.steps, 1), old),
        seen.total, own)
    return ClientResult(params, totals, entry)

  return ClientUpdate(
      init=lambda params: jax.tree.map(
          lambda leaf: jnp.zeros((num_clients, *leaf.shape), leaf.dtype), params["backbone"]),
      memory=Memory(
          common=lambda kept: jax.tree.map(lambda leaf: leaf.mean(axis=0), kept),
          own=memory.take,
          finish=lambda kept, entries, clients, ending: (
              memory.put(kept, entries, clients), {})),
      run=run,
      channels={"control variates": lambda params: Communication.equal(
          tree_bytes(params["backbone"]), tree_bytes(params["backbone"]))},
      releases=(non_private(
          "control variates", "person", Adjacency.ADD_OR_REMOVE_ONE, "everyone",
          "SCAFFOLD: every silo sends its mean gradient and receives the mean of all, neither "
          "clipped nor noised"),),
  )
