"""Canaries among the users of virtual clients, sampled and aggregated as a method does it."""

from __future__ import annotations

from typing import Any

import dp_accounting

from fedjax_face import options
from fedjax_face.attacks.audit import Audit
from fedjax_face.attacks.game import Played, Terms
from fedjax_face.attacks.sum_game import SumGame, idle, shared
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.clients import Work
from fedjax_face.federated.participation import Participation

_SPARSE = 2                 # clients for each user
_KNOWN = ("fixed", "poisson", "cyclic_fixed", "cyclic_poisson")


class UserGame(SumGame):
  """The aggregate and the sampling of `virtual_clients`, on populations of canaries."""

  def __init__(self, clients: Any, aggregate: Any, terms: Terms):
    """Of the parts `method.clients` and `method.aggregate`.

    Raises:
      ValueError: a sampling that the game does not know, or fewer rounds than the groups of cyclic
        sampling.
    """
    self._clients, self._sampling = clients, options.argument(clients, "sampling")
    name = options.call(self._sampling)["name"]
    if name not in _KNOWN:
      raise ValueError(f"method.clients.sampling={name}: the game knows "
                       f"{', '.join(_KNOWN[:-1])} and {_KNOWN[-1]}")
    self._cyclic, self._poisson = name.startswith("cyclic"), name.endswith("poisson")
    self._groups = options.argument(self._sampling, "min_separation") if self._cyclic else 1
    if terms.rounds < self._groups:
      raise ValueError(f"game_rounds={terms.rounds}: method.clients.sampling.min_separation="
                       f"{self._groups} needs as many")
    self._per_round, self._per_client = (
        options.argument(clients, name) for name in ("per_round", "users_per_client"))
    self._shared = shared(self._bound)
    # A population that takes part as a whole, a group a round.
    self.everyone = self._per_round * self._per_client * self._groups
    super().__init__(aggregate, self._participation(self.everyone), self.everyone, name, terms)

  def _participation(self, users: int, dataset: FaceDataset | None = None,
                     groups: int | None = None, clients: int | None = None) -> Participation:
    """The sampling of `users` users of one image each; one local step holds them all."""
    return self._shared(idle(users) if dataset is None else dataset, users, groups, clients)

  def _bound(self, dataset: FaceDataset, users: int, groups: int | None,
             clients: int | None) -> Participation:
    groups = self._groups if groups is None else groups
    per_client = most = self._per_client * self._groups // groups
    changed: dict[str, Any] = {"min_separation": groups} if self._cyclic else {}
    if self._poisson:
      most = options.argument(self._sampling, "capacity") * self._groups // groups
      changed |= {"capacity": most, "probability": self.everyone / users}
    part = options.replace(
        self._clients, per_round=self._per_round if clients is None else clients,
        users_per_client=per_client, sampling=options.replace(self._sampling, **changed),
        max_examples=most, max_examples_per_user=0)
    return options.made(part).bind(dataset, 0, Work(
        epochs=1, batch_size=most, classes="all"))

  def play(self, noise: float) -> list[Played]:
    """The real mechanism on two populations, and the broken ones where nothing else hides them."""
    everyone, twice = self.everyone, 2 * self.everyone
    claim = self.event(self.who, noise)
    sampled = self.event(self._participation(twice), noise)
    turn, always = ("its turn", "its turn") if self._cyclic else ("a round", "every round")
    real = self._one(everyone, noise, claim)
    games = [
        Played(f"intact, every user in {always}; the first {self.change}", False, everyone,
               real),
        Played(f"intact, every user in {always}; the last {self.change}, all layers", False,
               everyone, self._one(everyone, noise, claim, "last", "all_layers")),
        Played(f"intact, every second user in {turn}; the first {self.change}", False,
               twice, self._one(twice, noise, sampled)),
        Played("broken: half the noise", True, everyone, self._one(everyone, noise / 2, claim)),
        Played("broken: sensitivity C claimed, 2C holds", True, everyone,
               real._replace(claimed=self.claim_of_c(noise))),
    ]
    if self.change == "removed":
      games.insert(3, Played(f"intact, {_SPARSE} clients a user; the first removed", False,
                             everyone, self._sparse(noise)))
    if self._groups > 1:
      games.append(Played(f"broken: every user in every round, not in one of {self._groups}", True,
                          everyone, self._one(everyone, noise, claim, groups=1)))
    return games

  def _sparse(self, noise: float) -> Audit:
    """So many clients that hardly one holds two users: whoever changes places is seen."""
    clients = _SPARSE * self.everyone
    make = lambda dataset: self._participation(self.everyone, dataset, clients=clients)
    who = make(None)
    aggregator = self._of(who)
    return self.one(make, self.everyone, noise, self.event(who, noise, aggregator), "first",
                    aggregator=aggregator)

  def _one(self, users: int, noise: float, event: dp_accounting.DpEvent, place: str = "first",
           towards: str = "random", groups: int | None = None) -> Audit:
    return self.one(lambda dataset: self._participation(users, dataset, groups), users, noise,
                    event, place, towards, self.everyone / users)
