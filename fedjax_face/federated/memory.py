"""What is kept of every client from one round to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Ending(NamedTuple):
  """What is at hand when a round ends.

  Attributes:
    params: what the server has just arrived at and sends to every client next.
    images: uint8 [N, H, W, C], the images that the round's cohort points into.
    hparams: of the step; what ends a round hands each part its own.
    key: for noise, of this use alone.
  """

  params: Mapping[str, Any]
  images: jax.Array
  hparams: Mapping[str, Any]
  key: jax.Array


class Memory(NamedTuple):
  """How entries of clients are handed out for a round and taken back after it.

  Attributes:
    common: kept -> what every client of a round gets.
    own: (kept, client ids [K]) -> what each of them gets alone, arrays [K, ...].
    finish: (kept, entries [K, ...] in the structure of `own`, client ids [K], Ending) ->
      (kept, metrics). The entry of a client that did not take part is what it was given; a client
      id of -1 is an empty slot.
  """

  common: Callable[[Any], Any]
  own: Callable[[Any, jax.Array], Any]
  finish: Callable[[Any, Any, jax.Array, Ending], tuple[Any, dict[str, jax.Array]]]


def constant(kept_by_all: bool) -> Memory:
  """Nothing of any client is kept; what was there at first is, if so wished, given to all."""
  return Memory(
      common=lambda kept: kept if kept_by_all else (),
      own=lambda kept, clients: (),
      finish=lambda kept, entries, clients, ending: (kept, {}),
  )


def take(table: Any, clients: jax.Array) -> Any:
  """Rows [K, ...] of arrays [N, ...]; zeros for an empty slot."""
  return jax.tree.map(
      lambda leaf: leaf.at[_slots(leaf, clients)].get(mode="fill", fill_value=0), table)


def put(table: Any, entries: Any, clients: jax.Array) -> Any:
  """Arrays [N, ...] with the rows of these clients replaced; an empty slot changes nothing."""
  return jax.tree.map(
      lambda leaf, rows: leaf.at[_slots(leaf, clients)].set(rows, mode="drop"), table, entries)


def _slots(leaf: jax.Array, clients: jax.Array) -> jax.Array:
  return jnp.where(clients >= 0, clients, leaf.shape[0])
