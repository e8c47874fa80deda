"""Who takes part in a round, and what that choice is worth in the accounting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dp_accounting
import numpy as np
import scipy.special

from fedjax_face.data import cohorts
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.silos import Silos, order_by_size, padding_waste
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, part_identities
from fedjax_face.privacy.adjacency import Adjacency


class Participation(NamedTuple):
  """A sampling scheme, the adjacency it is accounted under, and its effect on an event.

  Attributes:
    cohort: (draws of the participation root, round) -> Cohort.
    amplify: event of one round's noise -> event that counts the random choice of users.
    adjacency: what neighbouring populations differ in.
    rounds_per_event: rounds in which one user can take part at most once.
    clients: K, the number that a mean over clients divides by.
    users_per_client: most users that one client can hold.
    own_classes: most classes that the users of one client can have.
    population: number of users.
    words: for the privacy statement.
    lasting_clients: number of clients that keep their identity from round to round; 0 where
      clients are drawn anew.
    notes: sentences for the record.
    not_covered: sentences for the privacy statement.
    empty_slots: clients of a cohort beyond K that hold nobody.
  """

  cohort: Callable[[Draws, int], Cohort]
  amplify: Callable[[dp_accounting.DpEvent], dp_accounting.DpEvent]
  adjacency: Adjacency
  rounds_per_event: int
  clients: int
  users_per_client: int
  own_classes: int
  population: int
  words: str
  lasting_clients: int = 0
  notes: tuple[str, ...] = ()
  not_covered: tuple[str, ...] = ()
  empty_slots: int = 0

  @property
  def slots(self) -> int:
    """Clients of a cohort, the empty ones included."""
    return self.clients + self.empty_slots


_SILOS_NOT_COVERED = (
    "Each silo's numbers of images and of people go to the server without noise; the summary shows "
    "what follows from them (padding, bytes of the largest silo, silos of a single class).",
)


class _Scheme(NamedTuple):
  sampler: cohorts.Sampler
  assign: Callable[[np.ndarray, Draws, int], cohorts.Assignment]
  amplify: Callable[[dp_accounting.DpEvent], dp_accounting.DpEvent]
  adjacency: Adjacency
  rounds_per_event: int
  users_per_client: int
  words: str
  not_covered: tuple[str, ...] = ()


def participation(options: Mapping[str, Any], dataset: FaceDataset) -> Participation:
  """Virtual clients of several users each, drawn anew every round.

  Args:
    options: the config's `cohort` section: `sampling` (`fixed`, `poisson`, `cyclic_fixed`,
      `cyclic_poisson`), `virtual_clients` K, `users_per_client` m (expected, for the Poisson
      schemes), `capacity` (most users of a client, Poisson schemes), `sampling_probability` (of a
      user in a round, Poisson schemes; None: K m over the population, which is then treated as
      public and kept for every neighbouring population, as the statement says), `min_separation`
      and `partition_seed` (cyclic schemes), `batch_size`, `epochs`, `max_examples`,
      `max_examples_per_user`, `classes` (`all`, `own`).
    dataset: whose persons are the users.

  Raises:
    ValueError: an unknown scheme, a number out of range, more users per round than there are, or
      add-or-remove adjacency with a head that has a class for every person.
  """
  _check(options, dataset)
  users = Users.from_person(dataset.person, identity=dataset.identities)
  parts = part_identities(dataset.identities)
  population, clients = len(users.ids), options["virtual_clients"]
  schemes = {"fixed": _fixed, "poisson": _poisson, "cyclic_fixed": _cyclic_fixed,
             "cyclic_poisson": _cyclic_poisson}
  if options["sampling"] not in schemes:
    raise ValueError(
        f"cohort.sampling {options['sampling']!r} is not one of {', '.join(sorted(schemes))}")
  scheme = schemes[options["sampling"]](options, users.identity)

  def cohort(draws: Draws, round_number: int) -> Cohort:
    sampled = scheme.sampler.sample(draws, round_number, users.identity)
    return cohorts.client_batches(
        users, dataset.label, parts, scheme.assign(sampled, draws, round_number),
        batch_size=options["batch_size"], epochs=options["epochs"],
        max_examples=options["max_examples"], num_labels=dataset.num_labels, draws=draws,
        round=round_number,
        max_examples_per_user=options["max_examples_per_user"], classes=options["classes"])

  return Participation(
      cohort, scheme.amplify, scheme.adjacency, scheme.rounds_per_event, clients,
      scheme.users_per_client, _most_classes(dataset, scheme.users_per_client), population,
      scheme.words, not_covered=scheme.not_covered)


def _most_classes(dataset: FaceDataset, users: int) -> int:
  """Classes of the `users` users who have most, none counted more often than there are labels."""
  held = np.unique(np.stack([dataset.person, dataset.label]), axis=1)
  classes_of_user = np.sort(np.unique(held[0], return_counts=True)[1])[::-1]
  return min(dataset.num_labels, int(classes_of_user[:users].sum()))


def silo_participation(options: Mapping[str, Any], dataset: FaceDataset, silos: Silos,
                       devices: int, clients_per_chunk: int, *, private: bool = True,
                       ) -> Participation:
  """Silos that last: all of them every round, or some, each with all the images that it holds.

  Slots are filled largest first, so that clients that run side by side are of similar size, and in
  turn over the devices; empty slots make their number fit. Neighbours differ in a person added to
  or removed from one silo: a person replaced by one of another silo would change two updates. A
  silo whose people have all left takes part with an update of zero.

  Args:
    options: the config's `cohort` section: `silos_per_round` (0: all), `batch_size`, `epochs`,
      `max_examples` (of a silo in a round, 0 = all), `classes` (`all`, `own`).
    dataset: whose rows `silos` describes.
    silos: who holds which rows.
    devices: that share the clients of a round.
    clients_per_chunk: clients that run side by side.
    private: whether something is claimed about who is in the set.

  Raises:
    ValueError: more silos a round than there are, a person in several silos, or, where something is
      claimed, a head that has a class for every person.
  """
  if private and options["classes"] == "all" and dataset.persons_are_labels:
    raise ValueError(
        "silos: what is claimed is who is in a silo (add-or-remove), but a head with a class for "
        "every person shows it: use cohort.classes=own, or neither privacy.epsilon nor "
        "hparams.noise_multiplier")
  users = Users.of_silos(silos.silo, silos.num_silos)
  parts = part_identities(dataset.identities)
  asked = options["silos_per_round"]
  if not 0 <= asked <= silos.num_silos:
    raise ValueError(f"cohort.silos_per_round={asked}: expected 0 (all) to {silos.num_silos}")
  size = asked or silos.num_silos
  together = devices * clients_per_chunk
  slots = -(-size // together) * together
  held, persons = np.unique(np.stack([silos.silo, dataset.person]), axis=1)
  several = np.flatnonzero(np.bincount(persons) > 1)
  if several.size:
    raise ValueError(f"person {several[0]} is in several silos; expected each person in one")

  def cohort(draws: Draws, round_number: int) -> Cohort:
    sampled = cohorts.FixedSize(size).sample(draws, round_number, users.identity)
    chosen = np.pad(sampled, (0, slots - size), constant_values=-1)
    counts = np.where(chosen >= 0, users.counts[chosen], 0)
    order = dealt(order_by_size(counts, clients_per_chunk), devices, clients_per_chunk)
    return cohorts.client_batches(
        users, dataset.label, parts, cohorts.one_per_client(chosen[order]),
        batch_size=options["batch_size"], epochs=options["epochs"],
        max_examples=options["max_examples"], num_labels=dataset.num_labels, draws=draws,
        round=round_number,
        classes=options["classes"])

  labels_of_silo = np.unique(np.stack([silos.silo, dataset.label]), axis=1)[0]
  return Participation(
      cohort=cohort,
      amplify=lambda event: event,
      adjacency=Adjacency.ADD_OR_REMOVE_ONE,
      rounds_per_event=1,
      clients=size,
      users_per_client=_displacing(int(np.bincount(held).max())),
      own_classes=int(np.bincount(labels_of_silo).max()),
      population=len(np.unique(dataset.person)),
      words=f"{size} of {silos.num_silos} silos a round, uniformly without replacement, each with "
            f"all its people; {silos.words}",
      lasting_clients=silos.num_silos,
      notes=(*silos.notes, _padding_note(users.counts, slots, options, clients_per_chunk)),
      not_covered=_SILOS_NOT_COVERED,
      empty_slots=slots - size)


def _padding_note(counts: np.ndarray, slots: int, options: Mapping[str, Any], chunk: int) -> str:
  """How much of the work is padding when all silos take part, however many slots a round has."""
  passes = counts * options["epochs"]
  seen = np.minimum(passes, options["max_examples"]) if options["max_examples"] else passes
  together = -(-len(counts) // chunk) * chunk
  padded = np.pad(seen, (0, max(slots, together) - len(counts)))
  waste = padding_waste(padded[order_by_size(padded, chunk)], options["batch_size"], chunk)
  return (f"{waste:.1%} of the computed examples are padding (batches of {options['batch_size']}, "
          f"{chunk} silo(s) side by side)")


def dealt(order: np.ndarray, devices: int, chunk: int) -> np.ndarray:
  """Deals consecutive chunks of an order to the devices in turn; each device's share is contiguous.

  Args:
    order: [K], K a multiple of devices * chunk.
  """
  return order.reshape(-1, devices, chunk).swapaxes(0, 1).reshape(-1)


def _check(options: Mapping[str, Any], dataset: FaceDataset) -> None:
  for name in ("virtual_clients", "users_per_client", "capacity", "min_separation"):
    if options[name] < 1:
      raise ValueError(f"cohort.{name}={options[name]}: expected at least 1")
  probability = options["sampling_probability"]
  if probability is not None and not 0 < probability <= 1:
    raise ValueError(f"cohort.sampling_probability={probability}: expected a number in (0, 1]")
  hidden = options["sampling"] in ("poisson", "cyclic_poisson")
  if probability is not None and not hidden:
    raise ValueError(
        f"cohort.sampling_probability={probability} has no meaning with cohort.sampling="
        f"{options['sampling']}, where so many users take part in a round: set "
        "--config.cohort.sampling_probability=None, or choose poisson or cyclic_poisson")
  if hidden and options["classes"] == "all" and dataset.persons_are_labels:
    raise ValueError(
        f"cohort.sampling={options['sampling']} protects who is in the set, but a head with a "
        "class for every person shows it: use cohort.classes=own, or cohort.sampling=fixed")


def _per_round(options: Mapping[str, Any], population: int) -> int:
  size = options["virtual_clients"] * options["users_per_client"]
  if size > population:
    raise ValueError(
        f"cohort: virtual_clients * users_per_client = {size} users a round, but the training "
        f"set has {population}; lower one of them")
  return size


def _displacing(capacity: int) -> int:
  """Users whose data a client may hold over both neighbours: a new one may push another out, or
  join it.
  """
  return max(capacity, 2)


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
  at_least = lambda k, n: scipy.special.betainc(k, n - k + 1, share) if k <= n else 0.0
  return float(at_least(capacity, population - 1)
               - capacity / (population * share) * at_least(capacity + 1, population))


def _room(population: int, probability: float, options: Mapping[str, Any]) -> str:
  share = expected_dropped_share(
      population, probability, options["virtual_clients"], options["capacity"])
  return (f"of at most {options['capacity']} users; a share of {share:.2g} of the sampled users is "
          "expected to find no room and sits the round out")


_N_IS_PUBLIC = (
    "The number of users N is treated as public: the sampling probability follows from it, and the "
    "guarantee compares sets of people of which one has a person more, at that known probability. "
    "cohort.sampling_probability gives one that does not depend on the people.",
)


def _probability(options: Mapping[str, Any], population: int, groups: int = 1,
                 ) -> tuple[float, str, tuple[str, ...]]:
  """Of a user in its turn, where it comes from, and what the guarantee leaves out by that."""
  given = options["sampling_probability"]
  if given is not None:
    return given, "given, not derived from the number of users", ()
  return (_per_round(options, population) * groups / population,
          "from the number of users, which is treated as public", _N_IS_PUBLIC)


def _fixed(options: Mapping[str, Any], identity: np.ndarray) -> _Scheme:
  population = len(identity)
  size, clients = _per_round(options, population), options["virtual_clients"]
  return _Scheme(
      sampler=cohorts.FixedSize(size),
      assign=lambda sampled, draws, round_: cohorts.grouped(
          sampled, clients, draws, round_, identity),
      amplify=lambda event: dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
          population, size, event),
      adjacency=Adjacency.REPLACE_ONE,
      rounds_per_event=1,
      users_per_client=options["users_per_client"],
      words=f"{size} of {population} users a round, uniformly without replacement, shuffled into "
            f"{clients} virtual clients")


def _poisson(options: Mapping[str, Any], identity: np.ndarray) -> _Scheme:
  population, clients = len(identity), options["virtual_clients"]
  probability, origin, not_covered = _probability(options, population)
  return _Scheme(
      sampler=cohorts.Poisson(probability),
      assign=lambda sampled, draws, round_: cohorts.independent(
          sampled, clients, options["capacity"], draws, round_, identity),
      amplify=lambda event: dp_accounting.PoissonSampledDpEvent(probability, event),
      adjacency=Adjacency.ADD_OR_REMOVE_ONE,
      rounds_per_event=1,
      users_per_client=_displacing(options["capacity"]),
      words=f"each of {population} users independently with probability {probability:.6g} a round "
            f"(Poisson; {origin}), each assigned independently to one of {clients} virtual clients "
            + _room(population, probability, options),
      not_covered=not_covered)


def _cyclic_fixed(options: Mapping[str, Any], identity: np.ndarray) -> _Scheme:
  population = len(identity)
  size, groups = _per_round(options, population), options["min_separation"]
  smallest = population // groups
  if size > smallest:
    raise ValueError(
        f"cohort: {size} users a round, but a group of {population} / min_separation={groups} "
        f"users has {smallest}; lower min_separation or the users per round")
  return _Scheme(
      sampler=cohorts.CyclicFixedSize(size, groups, options["partition_seed"]),
      assign=lambda sampled, draws, round_: cohorts.grouped(
          sampled, options["virtual_clients"], draws, round_, identity),
      amplify=lambda event: dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
          smallest, size, event),
      adjacency=Adjacency.REPLACE_ONE,
      rounds_per_event=groups,
      users_per_client=options["users_per_client"],
      words=f"{groups} fixed groups in turn; {size} users of the group whose turn it is, uniformly "
            f"without replacement; the same user at most once in {groups} rounds")


def _cyclic_poisson(options: Mapping[str, Any], identity: np.ndarray) -> _Scheme:
  groups, clients = options["min_separation"], options["virtual_clients"]
  population = len(identity)
  probability, origin, not_covered = _probability(options, population, groups)
  if probability > 1:
    raise ValueError(
        f"cohort: {_per_round(options, population)} users a round of {population} in "
        f"min_separation={groups} groups needs a sampling probability of {probability:.3g} > 1; "
        f"at most min_separation={math.floor(groups / probability)} is possible")
  return _Scheme(
      sampler=cohorts.CyclicPoisson(probability, groups, options["partition_seed"]),
      assign=lambda sampled, draws, round_: cohorts.independent(
          sampled, clients, options["capacity"], draws, round_, identity),
      amplify=lambda event: dp_accounting.PoissonSampledDpEvent(probability, event),
      adjacency=Adjacency.ADD_OR_REMOVE_ONE,
      rounds_per_event=groups,
      users_per_client=_displacing(options["capacity"]),
      words=f"{groups} groups in turn, users assigned to them independently; each user of the "
            f"group whose turn it is independently with probability {probability:.6g} (Poisson; "
            f"{origin}), assigned independently to one of {clients} virtual clients "
            + _room(population, probability / groups, options)
            + f"; the same user at most once in {groups} rounds",
      not_covered=not_covered)
