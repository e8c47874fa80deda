"""Where a client's head comes from, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

InitHead = Callable[[jax.Array], Any]


class HeadStrategy(NamedTuple):
  """The life of a head over a round.

  Attributes:
    init: key -> (public, private): parts that join the aggregated parameters ({} for none), and
      state that does not.
    start: (public params, private state, client id, key) -> the head that a client starts from.
    released: (head at the start, head at the end) -> what joins the client's clipped update;
      the same structure as `public`.
    finish: (private state, heads [K, ...] kept by the clients, client ids [K]) -> private state.
    keep: head at the end -> what `finish` is to see of it (() for nothing).
  """

  init: Callable[[jax.Array], tuple[dict[str, Any], Any]]
  start: Callable[[dict[str, Any], Any, jax.Array, jax.Array], Any]
  released: Callable[[Any, Any], dict[str, Any]]
  finish: Callable[[Any, Any, jax.Array], Any]
  keep: Callable[[Any], Any]


def _forget(private, heads, clients):
  del heads, clients
  return private


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
      start=lambda public, frame, client, key: starts[start](frame, key),
      released=lambda before, after: {},
      finish=_forget,
      keep=lambda head: (),
  )


def shared(init_head: InitHead) -> HeadStrategy:
  """One global head, trained, clipped, noised and averaged with the backbone (FedAvg)."""
  return HeadStrategy(
      init=lambda key: ({"head": init_head(key)}, ()),
      start=lambda public, private, client, key: public["head"],
      released=lambda before, after: {"head": jax.tree.map(lambda b, a: b - a, before, after)},
      finish=_forget,
      keep=lambda head: (),
  )
