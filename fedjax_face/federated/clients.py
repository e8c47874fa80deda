"""Clients as parts: who takes part in a round, with which of their images.

A client is virtual, made of several users drawn anew every round, or a silo that lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np

from fedjax_face.data import cohorts
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.users import Users
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.sampling import Sampling, fixed
from fedjax_face.federated.silo_people import Silos
from fedjax_face.options import at_least, register

Classes = Literal["own", "all"]
"""Which classes a client's head numbers: those that it holds, or those of everybody."""

NotNegative = Annotated[int, at_least(0)]


class Work(NamedTuple):
  """What of a round decides the shapes of its batches.

  Attributes:
    epochs: passes of a client over its images.
    batch_size: images of a local step.
    classes: that a client's head numbers.
    devices: that share the clients of a round.
    clients_per_chunk: clients that run side by side on a device.
    claims: whether something is claimed about who is in the set.
  """

  epochs: int
  batch_size: int
  classes: Classes
  devices: int = 1
  clients_per_chunk: int = 1
  claims: bool = True


class Clients(NamedTuple):
  """Who takes part.

  Attributes:
    bind: (training set, seed, Work) -> Participation.
    silos: (training set, seed) -> who holds whom; None of clients that do not last.
  """

  bind: Callable[[FaceDataset, int, Work], Participation]
  silos: Callable[[FaceDataset, int], Silos] | None = None


register.kind(Clients, homes=("fedjax_face.federated.clients", "fedjax_face.federated.silos"))


@register.clients
def virtual_clients(*, per_round: Annotated[int, at_least(1)] = 32,
                    users_per_client: Annotated[int, at_least(1)] = 8,
                    sampling: Sampling = fixed(),
                    max_examples: NotNegative = 0,
                    max_examples_per_user: NotNegative = 0) -> Clients:
  """Clients of several users each, drawn anew every round.

  Args:
    per_round: K, clients of a round; what a mean over clients is divided by.
    users_per_client: m, users of a client; expected, where users take part independently.
    sampling: how the users of a round are chosen.
    max_examples: most images of a client in a round, 0 for no cap.
    max_examples_per_user: most images of a user in a round, 0 for no cap.

  Binding it raises ValueError where a round asks for more users than there are, or for
  add-or-remove adjacency with a head that has a class for every person.

  Source: Xu et al., CVPR 2023 (DP-FedEmb), section 3.
  """

  def bind(train: FaceDataset, seed: int, work: Work) -> Participation:
    del seed  # who takes part is no matter of the seed
    if not sampling.shows_members and work.classes == "all" and train.persons_are_labels:
      raise ValueError(
          "method.clients.sampling: it protects who is in the set, but a head with a class for "
          "every person shows it: use method.classes=own, or method.clients.sampling=fixed")
    users = Users.from_person(train.person, identity=train.identities)
    parts = part_identities(train.identities)
    scheme = sampling.bind(users.identity, per_round, users_per_client)

    def cohort(draws: Draws, round_number: int) -> Cohort:
      sampled = scheme.sampler.sample(draws, round_number, users.identity)
      return cohorts.client_batches(
          users, train.label, parts, scheme.assign(sampled, draws, round_number),
          batch_size=work.batch_size, epochs=work.epochs, max_examples=max_examples,
          num_labels=train.num_labels, draws=draws, round=round_number,
          max_examples_per_user=max_examples_per_user, classes=work.classes)

    return Participation(
        cohort, scheme.amplify, scheme.adjacency, scheme.rounds_per_event, per_round,
        scheme.users_per_client, _most_classes(train, scheme.users_per_client), len(users.ids),
        scheme.words, not_covered=scheme.not_covered)

  return Clients(bind)


def _most_classes(dataset: FaceDataset, users: int) -> int:
  """Classes of the `users` users who have most, none counted more often than there are labels."""
  held = np.unique(np.stack([dataset.person, dataset.label]), axis=1)
  classes_of_user = np.sort(np.unique(held[0], return_counts=True)[1])[::-1]
  return min(dataset.num_labels, int(classes_of_user[:users].sum()))
