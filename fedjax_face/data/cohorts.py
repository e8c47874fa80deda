"""Who takes part in a round, and which examples each client trains on, as index arrays.

Three steps, all on the host: sample users, assign them to virtual clients, draw each client's
batches. What one user can change is confined to the client that holds the user: every decision
about a user comes from that user's place in a random stream of the round, and every decision
about a client's examples from a generator of that client's own. So with the same round generator,
appending a user to the population (Poisson, independent) or replacing a user's examples (fixed
size, grouped) leaves every other client's arrays bit-identical. The privacy accounting rests on it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from fedjax_face.data.users import Users


class Cohort(NamedTuple):
  """One round's clients: K virtual clients, S local steps, batch size B.

  Attributes:
    examples: int32 [K, S, B], row of the data set, 0 where padded.
    labels: int32 [K, S, B], class of the example in the client's head, 0 where padded.
    mask: bool [K, S, B], True = real example.
    num_classes: int32 [K], classes in use in the client's head.
    client: int32 [K], id of the silo or virtual client, -1 = empty slot.
    first_pass: int32 [K], examples of the first pass over the client's data, which come first; None
      where every example is visited once.
  """

  examples: np.ndarray
  labels: np.ndarray
  mask: np.ndarray
  num_classes: np.ndarray
  client: np.ndarray
  first_pass: np.ndarray | None = None


class Assignment(NamedTuple):
  """Which users each of K clients holds.

  Attributes:
    users: int32 [K, M], user numbers, -1 = padding; M is the capacity of a client.
    client: int32 [K], id of the client, -1 = empty slot.
    dropped: sampled users that found no room.
  """

  users: np.ndarray
  client: np.ndarray
  dropped: int = 0


class Sampler(Protocol):
  """Chooses the users of a round."""

  def sample(self, rng: np.random.Generator, round: int, num_users: int) -> np.ndarray:
    """int32 [M], ascending user numbers below `num_users`."""


@dataclasses.dataclass(frozen=True)
class FixedSize:
  """`size` users, uniformly without replacement; pairs with replace-one accounting."""

  size: int

  def __post_init__(self):
    _check_positive("FixedSize size", self.size)

  def sample(self, rng: np.random.Generator, round: int, num_users: int) -> np.ndarray:
    """See `Sampler`."""
    del round
    return _draw(_stream(rng), np.arange(num_users, dtype=np.int32), self.size, "the population")


@dataclasses.dataclass(frozen=True)
class Poisson:
  """Each user independently with `probability`; pairs with add-or-remove accounting."""

  probability: float

  def __post_init__(self):
    _check_probability("Poisson probability", self.probability)

  def sample(self, rng: np.random.Generator, round: int, num_users: int) -> np.ndarray:
    """See `Sampler`."""
    del round
    return np.flatnonzero(_stream(rng).random(num_users) < self.probability).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class CyclicFixedSize:
  """`size` users of one group per round, so that a user rests `min_separation` rounds.

  The population is partitioned once, by a permutation of `partition_seed`, into `min_separation`
  groups whose sizes differ by at most one; round t draws uniformly without replacement from group
  t mod min_separation. Stateless: a resumed run draws the same users.
  """

  size: int
  min_separation: int
  partition_seed: int

  def __post_init__(self):
    _check_positive("CyclicFixedSize size", self.size)
    _check_positive("CyclicFixedSize min_separation", self.min_separation)

  def sample(self, rng: np.random.Generator, round: int, num_users: int) -> np.ndarray:
    """See `Sampler`."""
    order, start = _permuted_groups(self.partition_seed, self.min_separation, num_users)
    group = round % self.min_separation
    members = order[start[group]:start[group + 1]]
    return _draw(_stream(rng), members, self.size, f"group {group} of {self.min_separation}")


@dataclasses.dataclass(frozen=True)
class CyclicPoisson:
  """Each user of one group independently with `probability`; users rest `min_separation` rounds.

  Each user belongs to one of `min_separation` groups, drawn independently of every other user from
  `partition_seed`; round t samples group t mod min_separation.
  """

  probability: float
  min_separation: int
  partition_seed: int

  def __post_init__(self):
    _check_probability("CyclicPoisson probability", self.probability)
    _check_positive("CyclicPoisson min_separation", self.min_separation)

  def sample(self, rng: np.random.Generator, round: int, num_users: int) -> np.ndarray:
    """See `Sampler`."""
    group = _independent_groups(self.partition_seed, self.min_separation, num_users)
    chosen = _stream(rng).random(num_users) < self.probability
    return np.flatnonzero(chosen & (group == round % self.min_separation)).astype(np.int32)


def grouped(sampled: np.ndarray, num_clients: int, rng: np.random.Generator) -> Assignment:
  """Shuffles the sampled users and cuts them into `num_clients` groups of equal size.

  Only for samples of fixed size under replace-one adjacency: adding a user would move everybody.

  Raises:
    ValueError: the number of users is not a positive multiple of `num_clients`.
  """
  _check_positive("num_clients", num_clients)
  if not len(sampled) or len(sampled) % num_clients:
    raise ValueError(f"grouped: {len(sampled)} users for {num_clients} virtual clients; "
                     "expected a positive multiple")
  users = _stream(rng).permutation(sampled).astype(np.int32).reshape(num_clients, -1)
  return Assignment(users, np.arange(num_clients, dtype=np.int32))


def independent(sampled: np.ndarray, num_clients: int, capacity: int,
                rng: np.random.Generator) -> Assignment:
  """Each sampled user goes to one of `num_clients` clients, uniformly and independently.

  At most `capacity` users are kept per client, chosen by a random priority of each user; dropping
  stays inside the client, so it costs no privacy. Pairs with Poisson sampling.

  Args:
    sampled: integers [M], different user numbers.
  """
  _check_positive("num_clients", num_clients)
  _check_positive("capacity", capacity)
  slot_rng, priority_rng = _stream(rng), _stream(rng)
  sampled = np.asarray(sampled, np.int64)
  population = int(sampled.max(initial=-1)) + 1
  # one draw for every user up to the last sampled: a user's draw depends on its number alone
  slot = np.floor(slot_rng.random(population)[sampled] * num_clients).astype(np.int64)
  order = np.lexsort((priority_rng.random(population)[sampled], slot))
  slot, chosen = slot[order], sampled[order]
  counts = np.bincount(slot, minlength=num_clients)
  place = np.arange(len(slot)) - np.repeat(np.cumsum(counts) - counts, counts)
  kept = place < capacity
  users = np.full((num_clients, capacity), -1, np.int32)
  users[slot[kept], place[kept]] = chosen[kept]
  client = np.where(counts > 0, np.arange(num_clients), -1).astype(np.int32)
  return Assignment(users, client, dropped=int(len(kept) - kept.sum()))


def one_per_client(users: np.ndarray) -> Assignment:
  """Every user (for instance a silo) is a client of its own, and keeps its number as id.

  Args:
    users: integers [K], different user numbers; -1 = empty slot.
  """
  client = np.asarray(users, np.int32)
  return Assignment(client[:, None].copy(), client)


def largest_client(users: Users, capacity: int, epochs: int, max_examples: int,
                   max_examples_per_user: int = 0) -> int:
  """Most examples that any client of `capacity` users can train on in a round.

  `max_examples` if that is not 0; otherwise `epochs` passes over the `capacity` largest users of
  the population, which depends on neither the number of clients nor the round.
  """
  if max_examples:
    return max_examples
  counts = _capped(users.counts, max_examples_per_user)
  capacity = min(capacity, len(counts))
  return epochs * int(np.partition(counts, len(counts) - capacity)[-capacity:].sum())


def client_batches(users: Users, labels: np.ndarray, assignment: Assignment, *,
                   batch_size: int, epochs: int, max_examples: int, num_labels: int,
                   rng: np.random.Generator, max_examples_per_user: int = 0,
                   classes: Literal["all", "own"] = "all") -> Cohort:
  """Draws the batches of every client.

  A client's data are all examples of its users in uniformly random order (interleaving users at
  random and shuffling is the same thing), repeated `epochs` times, reshuffled each time, cut at
  `max_examples` in all, then batched: a batch may span two epochs and the last may be short.

  Args:
    users: index of the population, U users.
    labels: int32 [N], label of each row of the data set.
    assignment: which users each client holds.
    batch_size: B.
    epochs: passes over the client's data.
    max_examples: limit in all, 0 = none; S = ceil(largest_client(...) / batch_size).
    num_labels: size of the global label space.
    rng: generator of the round; one draw is taken from it, whatever the data.
    max_examples_per_user: limit per user and epoch, a fresh uniform subset each epoch; 0 = none.
    classes: 'all': global labels. 'own': the labels of the client's users (of all their examples,
      so that the numbering does not change from round to round) are numbered 0..n-1 in ascending
      order of the global label.

  Returns:
    Cohort; a client without users has an all-False mask and 0 own classes.

  Raises:
    ValueError: a label, a size or `classes` is out of range.

  Source: Xu et al., CVPR 2023, arXiv 2211.10844, virtual clients.
  """
  _check_positive("batch_size", batch_size)
  _check_positive("epochs", epochs)
  _check_limit("max_examples", max_examples)
  _check_limit("max_examples_per_user", max_examples_per_user)
  if classes not in ("all", "own"):
    raise ValueError(f"classes is {classes!r}; expected 'all' or 'own'")
  num_clients, capacity = assignment.users.shape
  largest = largest_client(users, capacity, epochs, max_examples, max_examples_per_user)
  steps = -(-largest // batch_size)
  size = (num_clients, steps * batch_size)
  examples, targets = np.zeros(size, np.int32), np.zeros(size, np.int32)
  mask = np.zeros(size, np.bool_)
  num_classes = np.full(num_clients, num_labels if classes == "all" else 0, np.int32)
  first_pass = np.zeros(num_clients, np.int32)
  key = _key(rng)
  for k, members in enumerate(assignment.users):
    members = members[members >= 0]
    if not members.size:
      continue
    pool = np.concatenate([users.examples(u) for u in members])
    target = labels[pool]
    _check_labels(target, num_labels)
    if classes == "own":
      own, target = np.unique(target, return_inverse=True)
      num_classes[k] = len(own)
    sizes = users.offset[members + 1] - users.offset[members]
    order = _client_order(sizes, epochs, largest, max_examples_per_user,
                          np.random.default_rng([*key, assignment.client[k]]))
    first_pass[k] = min(len(order), int(_capped(sizes, max_examples_per_user).sum()))
    drawn = slice(0, len(order))
    examples[k, drawn], targets[k, drawn], mask[k, drawn] = pool[order], target[order], True
  shape = (num_clients, steps, batch_size)
  return Cohort(examples.reshape(shape), targets.reshape(shape), mask.reshape(shape),
                num_classes, assignment.client, first_pass)


def stack(cohorts: Sequence[Cohort]) -> Cohort:
  """Cohorts of several rounds as one, every array with a leading round axis [R, ...]."""
  shapes = {c.examples.shape for c in cohorts}
  if len(shapes) != 1:
    raise ValueError(f"stack: cohorts of shapes {sorted(shapes)}; expected one shape")
  return Cohort(*(np.stack(arrays) for arrays in zip(*cohorts, strict=True)))


def _client_order(sizes: np.ndarray, epochs: int, limit: int, max_per_user: int,
                  rng: np.random.Generator) -> np.ndarray:
  """Positions in a client's pool in training order; users' examples lie one after the other."""
  pool, per_epoch = int(sizes.sum()), int(_capped(sizes, max_per_user).sum())
  passes = min(epochs, -(-limit // per_epoch))
  if per_epoch == pool:
    return np.concatenate([rng.permutation(pool) for _ in range(passes)])[:limit]
  owner = np.repeat(np.arange(len(sizes)), sizes)
  kept = np.arange(pool) - np.repeat(np.cumsum(sizes) - sizes, sizes) < max_per_user
  subsets = ((owner + rng.random(pool)).argsort()[kept] for _ in range(passes))
  return np.concatenate([rng.permutation(subset) for subset in subsets])[:limit]


def _stream(rng: np.random.Generator) -> np.random.Generator:
  """A stream keyed by one draw of `rng`, which so advances by the same amount always."""
  return np.random.default_rng(_key(rng))


def _key(rng: np.random.Generator) -> np.ndarray:
  """128 random bits, uint64 [2]."""
  return rng.integers(2**64, size=2, dtype=np.uint64)


def _draw(rng: np.random.Generator, members: np.ndarray, size: int, source: str) -> np.ndarray:
  """`size` of `members`, uniformly without replacement, ascending."""
  if size > len(members):
    raise ValueError(f"{size} users wanted per round but {source} has {len(members)}")
  return np.sort(rng.choice(members, size, replace=False, shuffle=False)).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _permuted_groups(seed: int, groups: int, num_users: int) -> tuple[np.ndarray, np.ndarray]:
  """A random order of the users and where each of `groups` near-equal groups starts in it."""
  order = np.random.default_rng(seed).permutation(num_users).astype(np.int32)
  start = np.arange(groups + 1, dtype=np.int64) * num_users // groups
  order.flags.writeable = start.flags.writeable = False
  return order, start


@functools.lru_cache(maxsize=4)
def _independent_groups(seed: int, groups: int, num_users: int) -> np.ndarray:
  """The group of each user; the group of user u depends on the seed and u alone."""
  group = np.floor(np.random.default_rng(seed).random(num_users) * groups).astype(np.int32)
  group.flags.writeable = False
  return group


def _capped(counts: np.ndarray, maximum: int) -> np.ndarray:
  """Counts limited to `maximum`, 0 = no limit."""
  return np.minimum(counts, maximum) if maximum else counts


def _check_labels(labels: np.ndarray, num_labels: int) -> None:
  """Refuses labels that the head has no class for."""
  wrong = labels[(labels < 0) | (labels >= num_labels)]
  if wrong.size:
    raise ValueError(f"label {wrong[0]} is out of range; expected 0..{num_labels - 1}")


def _check_limit(name: str, value: int) -> None:
  if value < 0:
    raise ValueError(f"{name} is {value}; expected 0 (no limit) or more")


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{name} is {value}; expected at least 1")


def _check_probability(name: str, value: float) -> None:
  if not 0 < value <= 1:
    raise ValueError(f"{name} is {value}; expected above 0 and at most 1")
