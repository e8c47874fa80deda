"""What a client's loss adds to that of its head, on the same forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_face.options import register

NO_MASS = -1e30  # its exponential is 0


class Negatives(NamedTuple):
  """What is added to the loss of each example.

  Attributes:
    log_mass: f32 [B], log of further mass in the denominator of the softmax; `NO_MASS` for none.
    penalty: f32 [B], added as it is.
  """

  log_mass: jax.Array
  penalty: jax.Array


# (raw embeddings f32 [B, D], labels int [B], what the client was told, own hparams, what the head
# lends or None) -> Negatives
Adds = Callable[[jax.Array, jax.Array, Any, Any, Any], Negatives]
# (raw embeddings f32 [B, D], labels int [B], mask bool [B]) -> arrays that add up over examples
Sums = Callable[[jax.Array, jax.Array, jax.Array], Any]


class Beside(NamedTuple):
  """What stands beside the loss of a head.

  Attributes:
    adds: see `Adds`.
    told: name under which a client's parameters hold what it was told; without it nothing is added.
    needs_margin: whether the head must be a margin head, which lends its geometry.
    reads_counts: whether points need the numbers of people that they stand for.
    sums: number of classes -> what is summed up over the examples of a client's local steps, for
      what it tells others; None: nothing.
  """

  adds: Adds
  told: str
  needs_margin: bool = False
  reads_counts: bool = False
  sums: Callable[[int], Sums] | None = None


register.kind(Beside, homes=("fedjax_face.losses.consensus", "fedjax_face.losses.prototypes"))
