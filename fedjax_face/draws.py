"""Draws about units: who takes part, where, in which order; each from the unit's own identity.

A guarantee for one unit (a person, a photograph) compares two data sets that differ in that unit,
and holds only if nothing else differs. So every draw that concerns a unit is a keyed function of
that unit's stable IDENTITY, never of its row: who leaves takes its own draws along, and everybody
else's stay what they were, bit for bit.

NEIGHBOURING DATA SETS, in terms of identities:

* add-or-remove: one identity, with all that belongs to it, more or less; all others as they were.
* replace-one: the same identities, one of them with other images. A replacement inherits the place
  in the draws (the slot) of the one that it replaces; where identities come from names, the
  replacement goes under the old one's. So a sample of fixed size, which is drawn by rank among all
  identities, has the same identities on both sides.

They are data sets as they train: what a reader left out, and a limit on the number of people or of
images that are read, is settled before. What identities themselves are made from (names, file
names, numbers of the source) is taken as public.

What the draws are: a root of at least 128 bits (a secret one from the operating system, or a public
seed) keys BLAKE2b, which gives a 128-bit key for each purpose and round; SipHash-2-4 under that key
maps an identity of 64 bits to 64 bits. Both are published keyed functions (RFC 7693; Aumasson and
Bernstein, INDOCRYPT 2012) for which no attack better than guessing the key is known: to who does
not know the root, draws look independent and uniform. With a public root anybody can repeat them,
and they amplify nothing. `Draws.generator` is numpy's PCG64 with a seed drawn so: good statistics,
no cryptographic strength; it serves draws that need not be secret.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

_BLOCK = 8192  # identities hashed at a time, so that the working set stays in the cache
_FEW = 256  # identities for which one long number is faster than arrays
_MANY = 1 << 16  # identities from which on a compiled program is faster, which takes so many
_LEAST_ROOT, _LARGEST_ROOT = 16, 64  # bytes; the most that BLAKE2b takes as a key
_PARTS = (0x7061727473206F66, 0x206120756E697420)  # public: which part of a unit is which


@dataclasses.dataclass(frozen=True)
class Draws:
  """Draws from one root. Purposes and numbers (a round, an epoch) tell one use from another.

  Attributes:
    root: 16 to 64 bytes; as secret as the draws should be.

  Raises:
    ValueError: a root of another length.
  """

  root: bytes = dataclasses.field(repr=False)

  def __post_init__(self):
    if not _LEAST_ROOT <= len(self.root) <= _LARGEST_ROOT:
      raise ValueError(f"root of draws has {len(self.root)} bytes; expected {_LEAST_ROOT} to "
                       f"{_LARGEST_ROOT}")

  @classmethod
  def of(cls, root: bytes | int | Sequence[int]) -> Draws:
    """Draws from random bytes as they are, or from whole numbers (a seed, words), hashed.

    Raises:
      ValueError: bytes that are too few or too many.
    """
    if isinstance(root, bytes):
      return cls(root)
    numbers = [root] if isinstance(root, (int, np.integer)) else root
    text = ",".join(str(int(number)) for number in numbers)
    return cls(hashlib.blake2b(text.encode(), digest_size=32, person=b"root of draws").digest())

  def bits(self, identity: np.ndarray, purpose: str, *numbers: int) -> np.ndarray:
    """uint64, uniform: of each identity (uint64 [n]) its own, the same whoever else is asked for.
    """
    return _siphash(self._key(purpose, numbers), np.asarray(identity, np.uint64))

  def uniform(self, identity: np.ndarray, purpose: str, *numbers: int) -> np.ndarray:
    """float64 [n] in [0, 1), multiples of 2^-53."""
    return (self.bits(identity, purpose, *numbers) >> np.uint64(11)) * 2.0**-53

  def coins(self, identity: np.ndarray, probability: float, purpose: str, *numbers: int
            ) -> np.ndarray:
    """bool [n], each True with `probability`, whatever the others are."""
    return self.uniform(identity, purpose, *numbers) < probability

  def groups(self, identity: np.ndarray, count: int, purpose: str, *numbers: int) -> np.ndarray:
    """int64 [n], each one of 0..count-1 uniformly, whatever the others are."""
    return np.floor(self.uniform(identity, purpose, *numbers) * count).astype(np.int64)

  def order(self, identity: np.ndarray, purpose: str, *numbers: int) -> np.ndarray:
    """int64 [n], a permutation; without one of them the others keep their order."""
    identity = np.asarray(identity, np.uint64)
    if len(identity) < 2:
      return np.arange(len(identity))
    return np.lexsort((identity, self.bits(identity, purpose, *numbers)))

  def halves(self, identity: np.ndarray, fraction: float, purpose: str) -> np.ndarray:
    """bool [n], each True with probability `fraction`, whatever the others are.

    But for one: where all would be on one side, the one whose draw is nearest to the other side
    goes there, so that both have some.
    """
    drawn = self.uniform(identity, purpose)
    chosen = drawn < fraction
    if len(chosen) > 1 and chosen.all():
      chosen[drawn.argmax()] = False
    if len(chosen) > 1 and not chosen.any():
      chosen[drawn.argmin()] = True
    return chosen

  def first(self, identity: np.ndarray, count: int, purpose: str, *numbers: int) -> np.ndarray:
    """int64, ascending places of the `count` that come first in `order`; all if there are fewer.

    Without one of them, the others that came first still do, and the next one joins them.
    """
    bits = self.bits(identity, purpose, *numbers)
    if len(bits) <= count:
      return np.arange(len(bits))
    likely = _likely_first(bits, count)
    return np.sort(likely[np.argpartition(bits[likely], count - 1)[:count]])

  def generator(self, identity: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator of one identity's own, for draws whose number is not known beforehand."""
    key = self._digest(purpose, (*numbers, int(identity)))
    return np.random.default_rng(int.from_bytes(key, "little"))

  def _key(self, purpose: str, numbers: Sequence[int]) -> tuple[int, int]:
    digest = self._digest(purpose, numbers)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")

  def _digest(self, purpose: str, numbers: Sequence[int]) -> bytes:
    """16 bytes of (purpose, numbers) alone."""
    name = purpose.encode()
    message = b"".join([len(name).to_bytes(4, "little"), name,
                        *(int(number).to_bytes(16, "little", signed=True) for number in numbers)])
    return hashlib.blake2b(message, key=self.root, digest_size=16).digest()


def identity_of(names: Iterable[str | int]) -> np.ndarray:
  """uint64 [n]: 64 bits of BLAKE2b of each name, or of a number written out."""
  digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
  return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def part_identities(identity: np.ndarray) -> np.ndarray:
  """uint64 [N]: rows of one identity get identities of their own, by their place among these rows.

  Args:
    identity: uint64 [N], of the unit that each row belongs to.
  """
  identity = np.asarray(identity, np.uint64)
  order = np.argsort(identity, kind="stable")
  ordered = identity[order]
  first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[:len(ordered)]
  start = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
  place = np.empty(len(identity), np.uint64)
  place[order] = np.arange(len(ordered)) - start
  return combined(identity, place)


def combined(identity: np.ndarray, other: np.ndarray | int) -> np.ndarray:
  """uint64 [N]: identities of pairs, for instance of a unit and the number of one of its parts."""
  return _siphash(_PARTS, np.asarray(identity, np.uint64), np.asarray(other, np.uint64))


def smallest_by_group(identity: np.ndarray, group: np.ndarray) -> np.ndarray:
  """uint64 [G]: of each group the smallest identity of its members, which stands for it.

  Args:
    identity: uint64 [N].
    group: integers [N], 0..G-1, each with a member.
  """
  smallest = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
  np.minimum.at(smallest, group, np.asarray(identity, np.uint64))
  return smallest


def require_distinct(identity: np.ndarray, source: str, units: str) -> None:
  """Raises ValueError where two units have one identity: they would share their draws."""
  if len(np.unique(identity)) < len(identity):
    raise ValueError(f"{source}: several {units} have one name or identity; expected different "
                     "names or identities")


def _likely_first(bits: np.ndarray, count: int) -> np.ndarray:
  """int64, ascending places among which the `count` smallest are: few of many that are uniform."""
  share = (count + 8 * count**.5 + 64) / len(bits)
  if share < .5:
    likely = np.flatnonzero(bits < np.uint64(share * 2**64))
    if len(likely) >= count:
      return likely
  return np.arange(len(bits))


def _siphash(key: tuple[int, int], *words: np.ndarray) -> np.ndarray:
  """SipHash-2-4 of messages of one or several 64-bit words: uint64 arrays [n], or scalars."""
  shape = words[0].shape if len(words) == 1 else np.broadcast_shapes(*(w.shape for w in words))
  flat = [word.reshape(-1) if word.shape == shape else np.broadcast_to(word, shape).reshape(-1)
          for word in words]
  if flat[0].size <= _FEW:
    return _siphash_packed(key, flat).reshape(shape)
  out = np.empty(flat[0].size, np.uint64)
  compiled = out.size - out.size % _MANY if out.size >= _MANY and processor() else 0
  for start in range(0, compiled, _MANY):
    block = slice(start, start + _MANY)
    out[block] = _siphash_compiled(key, [word[block] for word in flat])
  for start in range(compiled, out.size, _BLOCK):
    block = slice(start, start + _BLOCK)
    out[block] = _siphash_block(key, [word[block] for word in flat])
  return out.reshape(shape)


def _siphash_packed(key: tuple[int, int], words: Sequence[np.ndarray]) -> np.ndarray:
  """The same of a few messages, in one of Python's own numbers with 128 bits for each.

  What a shift or a sum carries over the lower 64 bits of a message is masked away, so that an
  operation on the number is one on every message, and costs little more than one on 64 bits.
  """
  count = len(words[0])
  ones = int.from_bytes(bytes([1, *[0] * 15]) * count, "little")
  low = ones * _LOW
  v0, v1, v2, v3 = (ones * (start ^ key[i % 2]) for i, start in enumerate(_MAGIC))
  last = ones * (8 * len(words) << 56 & _LOW)
  for word, rounds in (*((_packed(word), 2) for word in words), (last, 2), (0, 4)):
    if rounds == 4:
      v2 ^= ones * 0xFF
    v3 ^= word
    for _ in range(rounds):
      v0 = (v0 + v1) & low
      v1 = ((v1 << 13 | v1 >> 51) & low) ^ v0
      v0 = (v0 << 32 | v0 >> 32) & low
      v2 = (v2 + v3) & low
      v3 = ((v3 << 16 | v3 >> 48) & low) ^ v2
      v0 = (v0 + v3) & low
      v3 = ((v3 << 21 | v3 >> 43) & low) ^ v0
      v2 = (v2 + v1) & low
      v1 = ((v1 << 17 | v1 >> 47) & low) ^ v2
      v2 = (v2 << 32 | v2 >> 32) & low
    v0 ^= word
  return np.frombuffer((v0 ^ v1 ^ v2 ^ v3).to_bytes(16 * count, "little"), "<u8")[::2].astype(
      np.uint64)


def _packed(word: np.ndarray) -> int:
  """uint64 [n] as one number, 128 bits for each."""
  spread = np.zeros((len(word), 2), "<u8")
  spread[:, 0] = word
  return int.from_bytes(spread.tobytes(), "little")


def _siphash_block(key: tuple[int, int], words: Sequence[np.ndarray]) -> np.ndarray:
  state = np.empty((4, len(words[0])), np.uint64)
  state[:] = np.array([start ^ key[i % 2] for i, start in enumerate(_MAGIC)], np.uint64)[:, None]
  even, odd = state[0::2], state[1::2]  # v0 and v2, v1 and v3
  for word in (*words, np.uint64(8 * len(words) << 56)):
    odd[1] ^= word
    _sip_rounds(2, even, odd)
    even[0] ^= word
  even[1] ^= np.uint64(0xFF)
  _sip_rounds(4, even, odd)
  return np.bitwise_xor.reduce(state, axis=0)


def processor() -> Any:
  """The processor as JAX knows it; None where JAX is told to know an accelerator alone."""
  import jax  # so that who draws few does not load it
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return None


def _siphash_compiled(key: tuple[int, int], words: Sequence[np.ndarray]) -> np.ndarray:
  """The same, by a program for `_MANY` messages, on the processor."""
  import jax
  with jax.enable_x64(True), jax.default_device(processor()):
    return np.asarray(_program()(np.array(key, np.uint64), tuple(words)))


@functools.cache
def _program() -> Callable[..., Any]:
  """(key uint64 [2], words, uint64 [n] each) -> uint64 [n]."""
  import jax
  rotated = lambda v, by: v << np.uint64(by) | v >> np.uint64(64 - by)

  def rounds(count, v0, v1, v2, v3):
    for _ in range(count):
      v0, v2 = v0 + v1, v2 + v3
      v1, v3 = rotated(v1, 13) ^ v0, rotated(v3, 16) ^ v2
      v0 = rotated(v0, 32)
      v0, v2 = v0 + v3, v2 + v1
      v3, v1 = rotated(v3, 21) ^ v0, rotated(v1, 17) ^ v2
      v2 = rotated(v2, 32)
    return v0, v1, v2, v3

  def siphash(key, words):
    v0, v1, v2, v3 = (np.uint64(start) ^ key[i % 2] for i, start in enumerate(_MAGIC))
    for word in (*words, np.uint64(8 * len(words) << 56)):
      v0, v1, v2, v3 = rounds(2, v0, v1, v2, v3 ^ word)
      v0 ^= word
    v0, v1, v2, v3 = rounds(4, v0, v1, v2 ^ np.uint64(0xFF), v3)
    return v0 ^ v1 ^ v2 ^ v3

  return jax.jit(siphash)


_LOW = 2**64 - 1
_MAGIC = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_FIRST, _SECOND = (
    tuple(np.array(bits, np.uint64)[:, None] for bits in (left, [64 - b for b in left]))
    for left in ([13, 16], [21, 17]))
_HALF = (np.uint64(32), np.uint64(32))


def _sip_rounds(count: int, even: np.ndarray, odd: np.ndarray) -> None:
  """SipRounds in place, on v0 and v2 together and v1 and v3 together, [2, n] each."""
  spare, crossed = np.empty_like(even), odd[::-1]
  for _ in range(count):
    np.add(even, odd, out=even)
    _rotate(odd, _FIRST, spare)
    np.bitwise_xor(odd, even, out=odd)
    _rotate(even[0], _HALF, spare[0])
    np.add(even, crossed, out=even)
    _rotate(crossed, _SECOND, spare)
    np.bitwise_xor(crossed, even, out=crossed)
    _rotate(even[1], _HALF, spare[1])


def _rotate(v: np.ndarray, bits: tuple, spare: np.ndarray) -> None:
  left, right = bits
  np.right_shift(v, right, out=spare)
  np.left_shift(v, left, out=v)
  np.bitwise_or(v, spare, out=v)
