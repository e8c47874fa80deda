"""Separate random streams: initialisation, what clients draw, noise, and who takes part.

Noise and participation follow from two roots of their own, 256 bits each. A keyed hash (BLAKE2b)
expands a root, on the host, into what a round uses; what one round shows tells nothing of another.
Every draw is a function of (root, round) and of nothing that happened before, so a run that was
killed continues with exactly the draws that it would have made.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.method.algorithm import StepKeys

BEFORE_ROUNDS = 2**31 - 1
"""Stands for the round in keys of what is drawn once, before the first round."""

ROOT_BYTES = 32
DEVICE_GENERATOR = "threefry2x32"
_KEY_BYTES = 8  # of a Threefry-2x32 key
_INIT, _CLIENT = 0, 1


T = TypeVar("T")


@contextlib.contextmanager
def pinned() -> Iterator[None]:
  """The generator of every draw on a device, whatever the environment or the caller has chosen.

  A run draws the same numbers under `JAX_THREEFRY_PARTITIONABLE=0` and another
  `jax_default_prng_impl`.
  """
  with jax.threefry_partitionable(True), jax.default_prng_impl(DEVICE_GENERATOR):
    yield


def in_pinned(iterator: Iterator[T]) -> Iterator[T]:
  """An iterator whose steps run under `pinned`, and what is between them does not."""
  try:
    while True:
      with pinned():
        try:
          value = next(iterator)
        except StopIteration:
          return
      yield value
  finally:
    if hasattr(iterator, "close"):
      iterator.close()


class Roots(NamedTuple):
  """Roots of the noise and of who takes part, bytes of `ROOT_BYTES` each."""

  noise: bytes
  participation: bytes


class RoundKeys(NamedTuple):
  """What a dispatch needs for the keys of its rounds.

  Attributes:
    client: root key of what clients draw; the step folds the round into it.
    noise: uint32 [R, 2], the noise key of each round.
  """

  client: jax.Array
  noise: jax.Array

  def at(self, index: jax.typing.ArrayLike, round_index: jax.typing.ArrayLike) -> StepKeys:
    """The keys of one round, which is row `index` of the dispatch."""
    return StepKeys(jax.random.fold_in(self.client, round_index), _device_key(self.noise[index]))


def init_key(seed: int) -> jax.Array:
  """Key of the initial state."""
  return jax.random.fold_in(jax.random.key(seed), _INIT)


def client_key(seed: int) -> jax.Array:
  """Root key of what clients draw on the device (new heads, negatives)."""
  return jax.random.fold_in(jax.random.key(seed), _CLIENT)


def secret_root() -> bytes:
  """A new root from the operating system."""
  return secrets.token_bytes(ROOT_BYTES)


def public_root(seed: int) -> bytes:
  """A root that everybody can compute from the seed: no secret, and nothing may rest on it."""
  return hashlib.blake2b(str(int(seed)).encode(), digest_size=ROOT_BYTES,
                         person=b"public root").digest()


def expand(root: bytes, use: str, number: int, size: int) -> bytes:
  """`size` bytes of a root for one use and number: BLAKE2b with the root as its key.

  Args:
    root: of `ROOT_BYTES`.
    use: at most 16 bytes; other uses give unrelated bytes.
    number: of the round (or device, step, ...), at least 0.
    size: 1 to 64.

  Raises:
    ValueError: a root of another length.
  """
  if not isinstance(root, bytes) or len(root) != ROOT_BYTES:
    raise ValueError(f"a root has {ROOT_BYTES} bytes: expected one of streams.secret_root or "
                     f"streams.public_root, got {type(root).__name__}")
  return hashlib.blake2b(int(number).to_bytes(8, "little"), digest_size=size, key=root,
                         person=use.encode()).digest()


def noise_words(root: bytes, rounds: Sequence[int]) -> np.ndarray:
  """The device's noise keys of some rounds, uint32 [R, 2]."""
  words = [np.frombuffer(expand(root, "noise", r, _KEY_BYTES), "<u4") for r in rounds]
  return np.asarray(words, np.uint32).reshape(-1, 2)


def step_keys(seed: int, noise_root: bytes, round_index: int) -> StepKeys:
  """The keys of one round, as the training loop makes them."""
  return StepKeys(jax.random.fold_in(client_key(seed), round_index),
                  _device_key(jnp.asarray(noise_words(noise_root, [round_index])[0])))


def device_root_key(root: bytes, device: int) -> jax.Array:
  """Root key of the noise of one device of a split run over the wire."""
  return _device_key(jnp.asarray(np.frombuffer(expand(root, "device", device, _KEY_BYTES), "<u4")))


def _device_key(words: jax.Array) -> jax.Array:
  return jax.random.wrap_key_data(words, impl=DEVICE_GENERATOR)
