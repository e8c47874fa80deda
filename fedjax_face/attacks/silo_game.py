"""Canaries among the people of silos, aggregated as a method does it."""

from __future__ import annotations

from typing import Any

from fedjax_face.attacks.game import Played, Terms
from fedjax_face.attacks.sum_game import SumGame, idle, shared
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.federated import silo_people as silos
from fedjax_face.federated.clients import Work
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.silos import participation_of_silos


class SiloGame(SumGame):
  """The aggregate of a method on silos of canaries, all of them in every round.

  People are dealt to silos as the partition `random` deals them. Fewer silos a round would hide the
  canary, and the claim counts nothing for it.
  """

  silos, people = 3, 3

  def __init__(self, aggregate: Any, terms: Terms):
    """Of the part `method.aggregate`."""
    everyone, self._seed = self.silos * self.people, terms.seed
    self._participation = shared(self._bound)
    super().__init__(aggregate, self._participation(idle(everyone)), everyone, "silos", terms)

  def _bound(self, dataset: FaceDataset) -> Participation:
    dealt = silos.partition({"by": "random", "num_silos": self.silos}, dataset,
                            Draws.of(self._seed))
    return participation_of_silos(dataset, dealt, Work(
        epochs=1, batch_size=self.silos * self.people, classes="own"))

  def play(self, noise: float) -> list[Played]:
    """The real mechanism with the first and the last person more or less, and the broken ones."""
    claim, users = self.event(self.who, noise), self.everyone
    game = lambda noise, place, towards="random": self.one(
        self._participation, users, noise, claim, place, towards)
    real = game(noise, "first")
    return [
        Played("intact, all silos in every round; the first person removed", False, users,
               real),
        Played("intact, all silos in every round; the last person removed, all layers",
               False, users, game(noise, "last", "all_layers")),
        Played("broken: half the noise", True, users, game(noise / 2, "first")),
        Played("broken: sensitivity C claimed, 2C holds", True, users,
               real._replace(claimed=self.claim_of_c(noise))),
    ]
