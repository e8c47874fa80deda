"""Where a client's head comes from, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from fedjax_face.federated import memory
from fedjax_face.federated.algorithm import NO_COMMUNICATION, Communication
from fedjax_face.federated.client import ClientResult
from fedjax_face.federated.memory import Memory

InitHead = Callable[[jax.Array], Any]


class HeadStrategy(NamedTuple):
  """The life of a head over a round.

  Attributes:
    init: key -> (public, kept): parts that join the aggregated parameters ({} for none), and what
      is kept beside them.
    memory: how `kept` is handed out and taken back.
    start: (public, common, own entry, key) -> the head that a client starts from.
    released: (head at the start, head at the end) -> what joins the client's clipped update;
      the same structure as `public`.
    entry: result of local training -> the client's new own entry.
    communication: what of `kept` a client and the server exchange in a round, in bytes.
    sharding: an array of `kept` -> how it is divided over the devices.
  """

  init: Callable[[jax.Array], tuple[dict[str, Any], Any]]
  memory: Memory
  start: Callable[[dict[str, Any], Any, Any, jax.Array], Any]
  released: Callable[[Any, Any], dict[str, Any]]
  entry: Callable[[ClientResult], Any]
  communication: Communication = NO_COMMUNICATION
  sharding: Callable[[jax.Array], PartitionSpec] = lambda leaf: PartitionSpec()


def fresh(init_head: InitHead, start: str) -> HeadStrategy:
  """A throw-away head: never sent, stored or averaged (DP-FedEmb's partial aggregation).

  Args:
    init_head: key -> head parameters.
    start: `shared_frame`, one fixed random head for all clients and rounds (what the authors'
      released code does: class i starts at the same vector everywhere), or `per_client`, a new
      random head each time (what the paper says).

  Raises:
    ValueError: another `start`.
  """
  starts = {
      "shared_frame": lambda frame, key: frame,
      "per_client": lambda frame, key: init_head(key),
  }
  if start not in starts:
    raise ValueError(f"head_init {start!r} is not one of {', '.join(sorted(starts))}")
  keeps_frame = start == "shared_frame"
  return HeadStrategy(
      init=lambda key: ({}, init_head(key) if keeps_frame else ()),
      memory=memory.constant(kept_by_all=True),
      start=lambda public, frame, own, key: starts[start](frame, key),
      released=lambda before, after: {},
      entry=lambda result: (),
  )


def shared(init_head: InitHead) -> HeadStrategy:
  """One global head, trained, clipped, noised and averaged with the backbone (FedAvg)."""
  return HeadStrategy(
      init=lambda key: ({"head": init_head(key)}, ()),
      memory=memory.constant(kept_by_all=False),
      start=lambda public, common, own, key: public["head"],
      released=lambda before, after: {"head": jax.tree.map(lambda b, a: b - a, before, after)},
      entry=lambda result: (),
  )
