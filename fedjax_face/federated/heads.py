"""Where a client's head comes from, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from fedjax_face.federated import memory
from fedjax_face.federated.client import ClientResult
from fedjax_face.federated.local_prototypes import PrototypeHead
from fedjax_face.federated.memory import Memory
from fedjax_face.method.algorithm import NOTHING, Communication, HParams, Measure
from fedjax_face.privacy.ledger import Release

InitHead = Callable[[jax.Array], Any]


def replicated(kept: Any) -> Any:
  """Every device has all of it."""
  return jax.tree.map(lambda leaf: PartitionSpec(), kept)


class HeadStrategy(NamedTuple):
  """The life of a head over a round.

  Attributes:
    init: (key, what `look` saw if it looks) -> (public, kept): parts that join the aggregated
      parameters ({} for none), and what is kept beside them.
    memory: how `kept` is handed out and taken back.
    start: (public parameters, common, own entry, client id, key, images, ClientBatches) -> what a
      client has beside the backbone: the `head` that it starts from, and what its loss only reads.
    released: (that at the start, the parts at the end) -> what joins the client's clipped update;
      the same structure as `public`.
    entry: result of local training -> the client's new own entry.
    channels: what of `kept` a client and the server exchange in a round: name -> bytes.
    metrics: what its memory measures when a round ends.
    sharding: kept -> how each array of it is divided over the devices.
    releases: what of `kept` leaves a client in a round.
    hparams: those of its parts, by their names, that mechanisms were calibrated to.
    needs_all_images: its memory reads the whole set, not only the images of a cohort.
    look: as of `Algorithm`.
  """

  init: Callable[..., tuple[dict[str, Any], Any]]
  memory: Memory
  start: Callable[..., dict[str, Any]]
  released: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
  entry: Callable[[ClientResult], Any]
  channels: Mapping[str, Communication] = NOTHING
  metrics: Mapping[str, Measure] = NOTHING
  sharding: Callable[[Any], Any] = replicated
  releases: tuple[Release, ...] = ()
  hparams: HParams = NOTHING
  needs_all_images: bool = False
  look: Callable[[Any], Any] | None = None


def fresh(init_head: InitHead, start: str,
          prototypes: PrototypeHead | None = None) -> HeadStrategy:
  """A throw-away head: never sent, stored or averaged (DP-FedEmb's partial aggregation).

  Args:
    init_head: key -> head parameters.
    start: `shared_frame`, one fixed random head for all clients and rounds (what the authors'
      released code does: class i starts at the same vector everywhere), `per_client`, a new
      random head each time (what the paper says), or `local_prototypes`, the means of the
      client's own images under the backbone that it was sent.
    prototypes: what gives these (`local_prototypes.prototype_head`).

  Raises:
    ValueError: another `start`.
  """
  starts: dict[str, Callable[..., dict[str, Any]]] = {
      "shared_frame": lambda frame, key, *own: {"head": frame},
      "per_client": lambda frame, key, *own: {"head": init_head(key)},
  }
  if prototypes is not None:
    starts["local_prototypes"] = lambda frame, key, *own: prototypes(init_head(key), *own)
  if start not in starts:
    raise ValueError(f"head_init {start!r} is not one of {', '.join(sorted(starts))}")
  keeps_frame = start == "shared_frame"
  return HeadStrategy(
      init=lambda key: ({}, init_head(key) if keeps_frame else ()),
      memory=memory.constant(kept_by_all=True),
      start=lambda public, frame, own, client, key, images, batches: starts[start](
          frame, key, public["backbone"], images, batches),
      released=lambda before, after: {},
      entry=lambda result: (),
  )


def shared(init_head: InitHead) -> HeadStrategy:
  """One global head, trained, clipped, noised and averaged with the backbone (FedAvg)."""
  return HeadStrategy(
      init=lambda key: ({"head": init_head(key)}, ()),
      memory=memory.constant(kept_by_all=False),
      start=lambda public, *rest: {"head": public["head"]},
      released=lambda before, after: {
          "head": jax.tree.map(jnp.subtract, before["head"], after["head"])},
      entry=lambda result: (),
  )
