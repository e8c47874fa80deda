"""Silos as clients: data holders that last, each with all its people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np

from fedjax_face.data import cohorts
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.sets import require_named
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated.clients import Clients, NotNegative, Work
from fedjax_face.federated.participation import Participation, displacing
from fedjax_face.federated.silo_people import Silos, order_by_size, padding_waste, partition
from fedjax_face.options import above, at_least, register
from fedjax_face.privacy.adjacency import Adjacency

_SPLIT = 0x73696C6F  # keeps the split into silos apart from other uses of the same seed
_NOT_COVERED = (
    "Each silo's numbers of images and of people go to the server without noise; the summary shows "
    "what follows from them (padding, bytes of the largest silo, silos of a single class).",
)
NumSilos = Annotated[int, at_least(1)]


class Partition(NamedTuple):
  """How the people of a data set are dealt to silos.

  Attributes:
    deal: (training set, draws) -> Silos.
  """

  deal: Callable[[FaceDataset, Draws], Silos]


register.kind(Partition)


@register.partition
def random(*, num_silos: NumSilos = 10) -> Partition:
  """Each person's silo uniformly, from the person's identity alone; a silo may be empty."""
  return Partition(lambda train, draws: partition(
      {"by": "random", "num_silos": num_silos}, train, draws))


@register.partition
def dirichlet(*, num_silos: NumSilos = 10,
              concentration: Annotated[float, above(0)] = 1.0) -> Partition:
  """As `random`, with shares of the silos that are one draw of a symmetric Dirichlet distribution.

  Args:
    num_silos: K.
    concentration: of the distribution; small for silos of very unequal size.
  """
  return Partition(lambda train, draws: partition(
      {"by": "dirichlet", "num_silos": num_silos, "concentration": concentration}, train, draws))


@register.partition
def by_attribute(*, attribute: str, num_silos: NumSilos = 10) -> Partition:
  """People in ascending order of an attribute, cut into consecutive groups of equal size.

  The cuts depend on everybody, so a guarantee holds given which silo holds whom.

  Args:
    attribute: `gender` or a key of the data set's attributes, known of everybody.
    num_silos: K.
  """
  return Partition(lambda train, draws: partition(
      {"by": "attribute", "num_silos": num_silos, "attribute": attribute}, train, draws))


@register.partition
def by_file(*, path: str) -> Partition:
  """As a CSV with header `person,client` says; a guarantee holds given which silo holds whom.

  Args:
    path: of the file, which names every person of the training set; it may name others too, such
      as those who evaluate.
  """
  require_named(path=path)
  return Partition(lambda train, draws: partition({"by": "file", "path": path}, train, draws))


@register.clients
def silos(*, partition: Partition = random(),
          per_round: NotNegative = 0, max_examples: NotNegative = 0) -> Clients:
  """Silos that last: all of them every round, or some, each with all the images that it holds.

  Neighbours differ in a person added to or removed from one silo: a person replaced by one of
  another silo would change two updates. A silo whose people have all left takes part with an update
  of zero.

  Args:
    partition: who holds whom.
    per_round: silos of a round, 0 for all.
    max_examples: most images of a silo in a round, 0 for no cap.

  Binding it raises ValueError for more silos a round than there are, a person in several silos, or,
  where something is claimed, a head that has a class for every person.
  """
  deal = lambda train, seed: partition.deal(train, Draws.of((seed, _SPLIT)))
  return Clients(
      lambda train, seed, work: participation_of_silos(
          train, deal(train, seed), work, per_round, max_examples),
      silos=deal)


def participation_of_silos(train: FaceDataset, dealt: Silos, work: Work, per_round: int = 0,
                           max_examples: int = 0) -> Participation:
  """Participation of silos that are known already.

  Slots are filled largest first, so that clients that run side by side are of similar size, and in
  turn over the devices; empty slots make their number fit.

  Args:
    train: whose rows `dealt` describes.
    dealt: who holds which rows.
    work: of a round.
    per_round: silos of a round, 0 for all.
    max_examples: most images of a silo in a round, 0 for no cap.

  Raises:
    ValueError: as binding `silos`.
  """
  if work.claims and work.classes == "all" and train.persons_are_labels:
    raise ValueError(
        "method.clients: what is claimed is who is in a silo (add-or-remove), but a head with a "
        "class for every person shows it: use method.classes=own, or neither privacy.epsilon nor "
        "method.aggregate.noise_multiplier")
  if not 0 <= per_round <= dealt.num_silos:
    raise ValueError(f"method.clients.per_round={per_round}: expected 0 (all) to {dealt.num_silos}")
  users = Users.of_silos(dealt.silo, dealt.num_silos)
  parts = part_identities(train.identities)
  size, chunk = per_round or dealt.num_silos, work.clients_per_chunk
  together = work.devices * chunk
  slots = -(-size // together) * together

  def cohort(draws: Draws, round_number: int) -> Cohort:
    sampled = cohorts.FixedSize(size).sample(draws, round_number, users.identity)
    chosen = np.pad(sampled, (0, slots - size), constant_values=-1)
    counts = np.where(chosen >= 0, users.counts[chosen], 0)
    order = in_turn(order_by_size(counts, chunk), work.devices, chunk)
    return cohorts.client_batches(
        users, train.label, parts, cohorts.one_per_client(chosen[order]),
        batch_size=work.batch_size, epochs=work.epochs, max_examples=max_examples,
        num_labels=train.num_labels, draws=draws, round=round_number, classes=work.classes)

  labels_of_silo = np.unique(np.stack([dealt.silo, train.label]), axis=1)[0]
  return Participation(
      cohort=cohort,
      amplify=lambda event: event,
      adjacency=Adjacency.ADD_OR_REMOVE_ONE,
      rounds_per_event=1,
      clients=size,
      users_per_client=displacing(_most_people(train, dealt)),
      own_classes=int(np.bincount(labels_of_silo).max()),
      population=len(np.unique(train.person)),
      words=f"{size} of {dealt.num_silos} silos a round, uniformly without replacement, each with "
            f"all its people; {dealt.words}",
      lasting_clients=dealt.num_silos,
      notes=(*dealt.notes, _padding_note(users.counts, slots, work, max_examples)),
      not_covered=_NOT_COVERED,
      empty_slots=slots - size)


def _most_people(train: FaceDataset, dealt: Silos) -> int:
  """People of the largest silo; raises ValueError for a person in several."""
  held, persons = np.unique(np.stack([dealt.silo, train.person]), axis=1)
  several = np.flatnonzero(np.bincount(persons) > 1)
  if several.size:
    raise ValueError(f"person {several[0]} is in several silos; expected each person in one")
  return int(np.bincount(held).max())


def _padding_note(counts: np.ndarray, slots: int, work: Work, max_examples: int) -> str:
  """How much of the work is padding when all silos take part, however many slots a round has."""
  passes, chunk = counts * work.epochs, work.clients_per_chunk
  seen = np.minimum(passes, max_examples) if max_examples else passes
  together = -(-len(counts) // chunk) * chunk
  padded = np.pad(seen, (0, max(slots, together) - len(counts)))
  waste = padding_waste(padded[order_by_size(padded, chunk)], work.batch_size, chunk)
  return (f"{waste:.1%} of the computed examples are padding (batches of {work.batch_size}, "
          f"{chunk} silo(s) side by side)")


def in_turn(order: np.ndarray, devices: int, chunk: int) -> np.ndarray:
  """Deals consecutive chunks of an order to the devices in turn; each device's share is contiguous.

  Args:
    order: [K], K a multiple of devices * chunk.
  """
  return order.reshape(-1, devices, chunk).swapaxes(0, 1).reshape(-1)
