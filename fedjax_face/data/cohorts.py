"""Who takes part in a round, and which examples each client trains on, as index arrays.

Three steps, all on the host: sample users, assign them to virtual clients, draw each client's
batches. Every draw about a user comes from that user's identity and the round, every draw about an
example from the identity of its person (`fedjax_face.draws`, which also says what neighbouring
populations are). So what one user can change is confined to the client that holds the user: with
the same root, a user more or less (Poisson, independent), wherever among the others, or another
user's examples in a user's place (fixed size, grouped) leaves every other client's arrays
bit-identical, but for padding. The privacy accounting rests on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from fedjax_face.data.users import Users
from fedjax_face.draws import Draws


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
    draw: uint32 [K, S, B], a number of each example's own in this round, from its identity, which
      its augmentation is drawn from; None where no example draws anything by itself.
  """

  examples: np.ndarray
  labels: np.ndarray
  mask: np.ndarray
  num_classes: np.ndarray
  client: np.ndarray
  first_pass: np.ndarray | None = None
  draw: np.ndarray | None = None


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

  def sample(self, draws: Draws, round: int, identity: np.ndarray) -> np.ndarray:
    """int32 [M], ascending numbers of users, whose identities are uint64 [U]."""


@dataclasses.dataclass(frozen=True)
class FixedSize:
  """`size` users, uniformly without replacement; pairs with replace-one accounting."""

  size: int

  def __post_init__(self):
    _check_positive("FixedSize size", self.size)

  def sample(self, draws: Draws, round: int, identity: np.ndarray) -> np.ndarray:
    """See `Sampler`."""
    members = np.arange(len(identity))
    return _first(draws, round, identity, members, self.size, "the population")


@dataclasses.dataclass(frozen=True)
class Poisson:
  """Each user independently with `probability`; pairs with add-or-remove accounting."""

  probability: float

  def __post_init__(self):
    _check_probability("Poisson probability", self.probability)

  def sample(self, draws: Draws, round: int, identity: np.ndarray) -> np.ndarray:
    """See `Sampler`."""
    chosen = draws.coins(identity, self.probability, "takes part", round)
    return np.flatnonzero(chosen).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class CyclicFixedSize:
  """`size` users of one group per round, so that a user rests `min_separation` rounds.

  The population is partitioned once, in an order drawn from the public `partition_seed`, into
  `min_separation` groups whose sizes differ by at most one: by rank, so under replace-one only.
  Round t draws uniformly without replacement from group t mod min_separation. Stateless: a resumed
  run draws the same users.
  """

  size: int
  min_separation: int
  partition_seed: int

  def __post_init__(self):
    _check_positive("CyclicFixedSize size", self.size)
    _check_positive("CyclicFixedSize min_separation", self.min_separation)

  def sample(self, draws: Draws, round: int, identity: np.ndarray) -> np.ndarray:
    """See `Sampler`."""
    groups, group = self.min_separation, round % self.min_separation
    order = Draws.of(self.partition_seed).order(identity, "group")
    start = np.arange(groups + 1, dtype=np.int64) * len(identity) // groups
    members = np.sort(order[start[group]:start[group + 1]])
    return _first(draws, round, identity, members, self.size, f"group {group} of {groups}")


@dataclasses.dataclass(frozen=True)
class CyclicPoisson:
  """Each user of one group independently with `probability`; users rest `min_separation` rounds.

  Each user belongs to one of `min_separation` groups, drawn from the public `partition_seed` and
  the user's identity alone; round t samples group t mod min_separation.
  """

  probability: float
  min_separation: int
  partition_seed: int

  def __post_init__(self):
    _check_probability("CyclicPoisson probability", self.probability)
    _check_positive("CyclicPoisson min_separation", self.min_separation)

  def sample(self, draws: Draws, round: int, identity: np.ndarray) -> np.ndarray:
    """See `Sampler`."""
    group = Draws.of(self.partition_seed).groups(identity, self.min_separation, "group")
    chosen = draws.coins(identity, self.probability, "takes part", round)
    return np.flatnonzero(chosen & (group == round % self.min_separation)).astype(np.int32)


def grouped(sampled: np.ndarray, num_clients: int, draws: Draws, round: int,
            identity: np.ndarray) -> Assignment:
  """Shuffles the sampled users and cuts them into `num_clients` groups of equal size.

  Only for samples of fixed size under replace-one adjacency: adding a user would move everybody.

  Args:
    sampled: integers [M], different user numbers.
    identity: uint64 [U], of all users.

  Raises:
    ValueError: the number of users is not a positive multiple of `num_clients`.
  """
  _check_positive("num_clients", num_clients)
  if not len(sampled) or len(sampled) % num_clients:
    raise ValueError(f"grouped: {len(sampled)} users for {num_clients} virtual clients; "
                     "expected a positive multiple")
  order = draws.order(identity[sampled], "client", round)
  users = np.asarray(sampled)[order].astype(np.int32).reshape(num_clients, -1)
  return Assignment(users, np.arange(num_clients, dtype=np.int32))


def independent(sampled: np.ndarray, num_clients: int, capacity: int, draws: Draws, round: int,
                identity: np.ndarray) -> Assignment:
  """Each sampled user goes to one of `num_clients` clients, uniformly and independently.

  At most `capacity` users are kept per client, chosen by a random priority of each user; dropping
  stays inside the client, so it costs no privacy. Pairs with Poisson sampling.

  Args:
    sampled: integers [M], different user numbers.
    identity: uint64 [U], of all users.
  """
  _check_positive("num_clients", num_clients)
  _check_positive("capacity", capacity)
  sampled = np.asarray(sampled, np.int64)
  # One draw gives the client and, among those of that client, a priority.
  drawn = num_clients * draws.uniform(identity[sampled], "client", round)
  order = np.lexsort((identity[sampled], drawn))
  slot, chosen = np.floor(drawn[order]).astype(np.int64), sampled[order]
  counts = np.bincount(slot, minlength=num_clients)
  place = _places(counts)
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

  `epochs` passes over the `capacity` largest users of the population, which depends on neither the
  number of clients nor the round, or `max_examples` if that is less and not 0.
  """
  counts = _capped(users.counts, max_examples_per_user)
  capacity = min(capacity, len(counts))
  most = epochs * int(np.partition(counts, len(counts) - capacity)[-capacity:].sum())
  return min(most, max_examples) if max_examples else most


def client_batches(users: Users, labels: np.ndarray, parts: np.ndarray, assignment: Assignment, *,
                   batch_size: int, epochs: int, max_examples: int, num_labels: int,
                   draws: Draws, round: int, max_examples_per_user: int = 0,
                   classes: Literal["all", "own"] = "all") -> Cohort:
  """Draws the batches of every client.

  A client's data are all examples of its users in uniformly random order (interleaving users at
  random and shuffling is the same thing), repeated `epochs` times, reshuffled each time, cut at
  `max_examples` in all, then batched: a batch may span two epochs and the last may be short.

  Args:
    users: index of the population, U users.
    labels: int32 [N], label of each row of the data set.
    parts: uint64 [N], identity of each row (`draws.part_identities` of its person's), which its
      place in the order is drawn from.
    assignment: which users each client holds.
    batch_size: B.
    epochs: passes over the client's data.
    max_examples: limit in all, 0 = none; S = ceil(largest_client(...) / batch_size).
    num_labels: size of the global label space.
    draws: of the participation root.
    round: which round.
    max_examples_per_user: limit per user and epoch, a fresh uniform subset each epoch; 0 = none.
    classes: 'all': global labels. 'own': the labels of the client's users (of all their examples,
      so that the numbering does not change from round to round) are numbered 0..n-1 in ascending
      order of the global label.

  Returns:
    Cohort; a client without users, or whose users hold nothing, has an all-False mask and 0 own
    classes.

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
  pool = _pool(users, assignment.users)
  target = labels[pool.row]
  _check_labels(target, num_labels)
  num_classes = np.full(num_clients, num_labels, np.int32)
  if classes == "own":
    target, num_classes = _own_classes(pool.client, target, num_labels, num_clients)
  examples, targets = np.zeros((2, num_clients, steps * batch_size), np.int32)
  done, first_pass = np.zeros(num_clients, np.int64), np.zeros(num_clients, np.int32)
  for epoch in range(epochs):
    open_ = done[pool.client] < largest
    if not open_.any():
      break
    order = _epoch_order(pool, np.flatnonzero(open_), parts, draws, round, epoch,
                         max_examples_per_user)
    client = pool.client[order]
    counts = np.bincount(client, minlength=num_clients)
    place = done[client] + _places(counts)
    fits = place < largest
    examples[client[fits], place[fits]] = pool.row[order][fits]
    targets[client[fits], place[fits]] = target[order][fits]
    done = np.minimum(done + counts, largest)
    first_pass = first_pass if epoch else done.astype(np.int32)
  shape = (num_clients, steps, batch_size)
  mask = np.arange(steps * batch_size) < done[:, None]
  return Cohort(examples.reshape(shape), targets.reshape(shape), mask.reshape(shape), num_classes,
                assignment.client, first_pass)


class _Pool(NamedTuple):
  """All examples of a cohort, client by client and user by user, [P] each.

  Attributes:
    row: of the data set.
    client: place of the client that holds it, ascending.
    user: a number for each (client, user), ascending.
  """

  row: np.ndarray
  client: np.ndarray
  user: np.ndarray


def _pool(users: Users, members: np.ndarray) -> _Pool:
  """Examples of the users int [K, M] of each client, -1 = nobody."""
  client, column = np.nonzero(members >= 0)
  user = members[client, column]
  counts = users.counts[user]
  within = _places(counts)
  number = np.repeat(np.arange(len(user)), counts)
  row = users.index[users.offset[user][number] + within]
  return _Pool(row, client[number], number)


def _epoch_order(pool: _Pool, members: np.ndarray, parts: np.ndarray, draws: Draws, round: int,
                 epoch: int, max_per_user: int) -> np.ndarray:
  """Places in the pool of what an epoch visits, client by client, in random order within each."""
  if max_per_user:
    drawn = draws.bits(parts[pool.row[members]], "kept", round, epoch)
    members = members[np.lexsort((drawn, pool.user[members]))]
    counts = np.bincount(pool.user[members])
    members = members[_places(counts) < max_per_user]
  identity = parts[pool.row[members]]
  drawn = draws.bits(identity, "order", round, epoch)
  return members[np.lexsort((identity, drawn, pool.client[members]))]


def _own_classes(client: np.ndarray, label: np.ndarray, num_labels: int, num_clients: int
                 ) -> tuple[np.ndarray, np.ndarray]:
  """Labels numbered anew within each client, in their old order, and how many each client has."""
  held, place = np.unique(client * np.int64(num_labels) + label, return_inverse=True)
  counts = np.bincount(held // num_labels, minlength=num_clients)
  first = np.cumsum(counts) - counts
  return (place - first[client]).astype(np.int32), counts.astype(np.int32)


def _places(counts: np.ndarray) -> np.ndarray:
  """0..n-1 for each count n, one after another."""
  return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def stack(cohorts: Sequence[Cohort]) -> Cohort:
  """Cohorts of several rounds as one, every array with a leading round axis [R, ...]."""
  shapes = {c.examples.shape for c in cohorts}
  if len(shapes) != 1:
    raise ValueError(f"stack: cohorts of shapes {sorted(shapes)}; expected one shape")
  return Cohort(*(None if arrays[0] is None else np.stack(arrays)  # type: ignore[arg-type]
                  for arrays in zip(*cohorts, strict=True)))


def _first(draws: Draws, round: int, identity: np.ndarray, members: np.ndarray, size: int,
           source: str) -> np.ndarray:
  """`size` of `members`, uniformly without replacement, ascending."""
  if size > len(members):
    raise ValueError(f"{size} users wanted per round but {source} has {len(members)}")
  return members[draws.first(identity[members], size, "takes part", round)].astype(np.int32)


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
