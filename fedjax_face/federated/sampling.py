"""Which users take part in a round, and to which virtual client each goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import dp_accounting
import numpy as np
import scipy.special

from fedjax_face.data import cohorts
from fedjax_face.draws import Draws
from fedjax_face.federated.participation import displacing
from fedjax_face.options import at_least, register, within
from fedjax_face.privacy.adjacency import Adjacency

Count = Annotated[int, at_least(1)]
NotNegative = Annotated[int, at_least(0)]
Probability = Annotated[float, within("(0, 1]")]


class Scheme(NamedTuple):
  """A sampling of known users.

  Attributes:
    sampler: draws the users of a round.
    assign: (sampled users, draws, round) -> client of each.
    amplify: event of one round's noise -> event that counts the random choice of users.
    adjacency: what neighbouring populations differ in.
    rounds_per_event: rounds in which one user can take part at most once.
    users_per_client: most users that one client can hold.
    words: for the privacy statement.
    not_covered: sentences for the privacy statement.
  """

  sampler: cohorts.Sampler
  assign: Callable[[np.ndarray, Draws, int], cohorts.Assignment]
  amplify: Callable[[dp_accounting.DpEvent], dp_accounting.DpEvent]
  adjacency: Adjacency
  rounds_per_event: int
  users_per_client: int
  words: str
  not_covered: tuple[str, ...] = ()


class Sampling(NamedTuple):
  """How the users of a round are chosen.

  Attributes:
    bind: (identity uint64 [N] of each user, K clients a round, m users a client) -> Scheme.
    shows_members: whether a head with a class for every user is compatible with the adjacency.
  """

  bind: Callable[[np.ndarray, int, int], Scheme]
  shows_members: bool


register.kind(Sampling)


@register.sampling
def fixed() -> Sampling:
  """K m users a round, uniformly without replacement; neighbours replace one user."""

  def bind(identity: np.ndarray, clients: int, users: int) -> Scheme:
    population = len(identity)
    size = _per_round(clients, users, population)
    return Scheme(
        sampler=cohorts.FixedSize(size),
        assign=lambda sampled, draws, round_: cohorts.grouped(
            sampled, clients, draws, round_, identity),
        amplify=lambda event: dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
            population, size, event),
        adjacency=Adjacency.REPLACE_ONE,
        rounds_per_event=1,
        users_per_client=users,
        words=f"{size} of {population} users a round, uniformly without replacement, shuffled into "
              f"{clients} virtual clients")

  return Sampling(bind, shows_members=True)


@register.sampling
def poisson(*, capacity: Count = 16, probability: Probability | None = None) -> Sampling:
  """Each user independently; neighbours have one user more or less.

  Args:
    capacity: most users of a client; others sit the round out.
    probability: of a user in a round; None: K m over the population, which is then treated as
      public and kept for every neighbouring population, as the statement says.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), section 3; Abadi et al., CCS 2016.
  """

  def bind(identity: np.ndarray, clients: int, users: int) -> Scheme:
    population = len(identity)
    chance, origin, not_covered = _chance(probability, clients, users, population)
    return Scheme(
        sampler=cohorts.Poisson(chance),
        assign=lambda sampled, draws, round_: cohorts.independent(
            sampled, clients, capacity, draws, round_, identity),
        amplify=lambda event: dp_accounting.PoissonSampledDpEvent(chance, event),
        adjacency=Adjacency.ADD_OR_REMOVE_ONE,
        rounds_per_event=1,
        users_per_client=displacing(capacity),
        words=f"each of {population} users independently with probability {chance:.6g} a round "
              f"(Poisson; {origin}), each assigned independently to one of {clients} virtual "
              "clients " + _room(population, chance, clients, capacity),
        not_covered=not_covered)

  return Sampling(bind, shows_members=False)


@register.sampling
def cyclic_fixed(*, min_separation: Count = 1, partition_seed: NotNegative = 0) -> Sampling:
  """Fixed groups in turn; K m users of the group whose turn it is, without replacement.

  Args:
    min_separation: number of groups: rounds in which a user takes part at most once.
    partition_seed: of the groups.

  Source: Choquette-Choo et al. 2023 (arXiv 2306.08153), participation with a separation.
  """

  def bind(identity: np.ndarray, clients: int, users: int) -> Scheme:
    population, groups = len(identity), min_separation
    size = _per_round(clients, users, population)
    smallest = population // groups
    if size > smallest:
      raise ValueError(
          f"method.clients.sampling: {size} users a round, but a group of {population} / "
          f"min_separation={groups} users has {smallest}; lower min_separation or the users per "
          "round")
    return Scheme(
        sampler=cohorts.CyclicFixedSize(size, groups, partition_seed),
        assign=lambda sampled, draws, round_: cohorts.grouped(
            sampled, clients, draws, round_, identity),
        amplify=lambda event: dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
            smallest, size, event),
        adjacency=Adjacency.REPLACE_ONE,
        rounds_per_event=groups,
        users_per_client=users,
        words=f"{groups} fixed groups in turn; {size} users of the group whose turn it is, "
              f"uniformly without replacement; the same user at most once in {groups} rounds")

  return Sampling(bind, shows_members=True)


@register.sampling
def cyclic_poisson(*, capacity: Count = 16, probability: Probability | None = None,
                   min_separation: Count = 1, partition_seed: NotNegative = 0) -> Sampling:
  """Groups in turn, to which users are assigned independently; Poisson within the group.

  Args:
    capacity: most users of a client; others sit the round out.
    probability: of a user in its turn; None: what makes K m users a round on average.
    min_separation: number of groups: rounds in which a user takes part at most once.
    partition_seed: of the groups.

  Source: Choquette-Choo et al. 2023 (arXiv 2306.08153), section 4: amplified banded noise.
  """

  def bind(identity: np.ndarray, clients: int, users: int) -> Scheme:
    population, groups = len(identity), min_separation
    chance, origin, not_covered = _chance(probability, clients, users, population, groups)
    if chance > 1:
      raise ValueError(
          f"method.clients.sampling: {_per_round(clients, users, population)} users a round of "
          f"{population} in min_separation={groups} groups needs a sampling probability of "
          f"{chance:.3g} > 1; at most min_separation={math.floor(groups / chance)} is possible")
    return Scheme(
        sampler=cohorts.CyclicPoisson(chance, groups, partition_seed),
        assign=lambda sampled, draws, round_: cohorts.independent(
            sampled, clients, capacity, draws, round_, identity),
        amplify=lambda event: dp_accounting.PoissonSampledDpEvent(chance, event),
        adjacency=Adjacency.ADD_OR_REMOVE_ONE,
        rounds_per_event=groups,
        users_per_client=displacing(capacity),
        words=f"{groups} groups in turn, users assigned to them independently; each user of the "
              f"group whose turn it is independently with probability {chance:.6g} (Poisson; "
              f"{origin}), assigned independently to one of {clients} virtual clients "
              + _room(population, chance / groups, clients, capacity)
              + f"; the same user at most once in {groups} rounds",
        not_covered=not_covered)

  return Sampling(bind, shows_members=False)


def expected_dropped_share(population: int, probability: float, clients: int, capacity: int
                           ) -> float:
  """Expected share of the sampled users that find no room: K E[max(X - M, 0)] over N q.

  X ~ Binomial(N, q / K) users choose a given client, which keeps `capacity` M of them.

  Args:
    population: N.
    probability: q, of a user in a round (cyclic: over its group as well).
    clients: K, the number that a mean over clients divides by.
    capacity: M.
  """
  if capacity >= population:
    return 0.0
  share = probability / clients
  # P(Binomial(n, share) >= k) is a regularised incomplete beta function.
  at_least_k = lambda k, n: scipy.special.betainc(k, n - k + 1, share) if k <= n else 0.0
  return float(at_least_k(capacity, population - 1)
               - capacity / (population * share) * at_least_k(capacity + 1, population))


def _room(population: int, probability: float, clients: int, capacity: int) -> str:
  share = expected_dropped_share(population, probability, clients, capacity)
  return (f"of at most {capacity} users; a share of {share:.2g} of the sampled users is "
          "expected to find no room and sits the round out")


def _per_round(clients: int, users: int, population: int) -> int:
  if clients * users > population:
    raise ValueError(
        f"method.clients: per_round * users_per_client = {clients * users} users a round, but the "
        f"training set has {population}; lower one of them")
  return clients * users


_N_IS_PUBLIC = (
    "The number of users N is treated as public: the sampling probability follows from it, and the "
    "guarantee compares sets of people of which one has a person more, at that known probability. "
    "A probability that is given does not depend on the people.",
)


def _chance(given: float | None, clients: int, users: int, population: int, groups: int = 1,
            ) -> tuple[float, str, tuple[str, ...]]:
  """Of a user in its turn, where it comes from, and what the guarantee leaves out by that."""
  if given is not None:
    return given, "given, not derived from the number of users", ()
  return (_per_round(clients, users, population) * groups / population,
          "from the number of users, which is treated as public", _N_IS_PUBLIC)
