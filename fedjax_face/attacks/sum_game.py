"""Canaries through the aggregate of a method: what is the same for users and for silos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dp_accounting
import jax
import numpy as np

from fedjax_face import options
from fedjax_face.attacks import audit
from fedjax_face.attacks.audit import Audit
from fedjax_face.attacks.game import CONFIDENCE, Played, Terms, row
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.training import backbone_release
from fedjax_face.privacy import accounting, calibration, ledger
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.runs.mesh import clients_mesh

MakeParticipation = Callable[[FaceDataset], Participation]


def idle(users: int) -> FaceDataset:
  """A population of so many users, none of whom is a canary."""
  return audit.population([audit.IDLE] * users)


def shared(make: Callable[..., Participation]) -> Callable[..., Participation]:
  """The same participation for the same population and options: games share what they draw."""
  made: dict[Any, Participation] = {}

  def same(dataset: FaceDataset, *options: Any) -> Participation:
    key = np.asarray(dataset.images).tobytes(), dataset.person.tobytes(), options
    if key not in made:
      made[key] = make(dataset, *options)
    return made[key]

  return same


class SumGame:
  """Canaries through an aggregate.

  Attributes:
    who: the participation in which all take part.
    everyone: size of its population, the canary included.
    sampling: how users are sampled, for the record.
    aggregator: the method's, of these clients.
  """

  def __init__(self, aggregate: Any, who: Participation, everyone: int, sampling: str,
               terms: Terms):
    """As `method.aggregate` sums the updates of `who`.

    Raises:
      ValueError: an aggregate that these clients cannot have.
    """
    self.who, self.everyone, self.sampling = who, everyone, sampling
    self._aggregate, self._terms = aggregate, terms
    self.aggregator = self._of(who)

  def _of(self, who: Participation) -> Aggregator:
    return options.made(self._aggregate).bind(who, self._terms.rounds)

  def _hparams(self, noise_multiplier: float) -> dict[str, float]:
    return {**options.hparams(self._aggregate), "noise_multiplier": noise_multiplier}

  def event(self, who: Participation, noise_multiplier: float,
            aggregator: Aggregator | None = None) -> dp_accounting.DpEvent:
    """What the ledger of a run of so many rounds holds."""
    release = backbone_release(
        aggregator or self.aggregator, who, self._hparams(noise_multiplier))
    return dp_accounting.SelfComposedDpEvent(
        release.event, ledger.events_used(self._terms.rounds, release.covers))

  def noise_for(self, epsilon: float) -> float:
    """Noise multiplier, over the clip norm, that claims `epsilon` where all take part."""
    return calibration.calibrate_noise(
        lambda noise: self.event(self.who, noise), epsilon, self._terms.delta, self.who.adjacency)

  def one(self, make_participation: MakeParticipation, users: int, noise: float,
          event: dp_accounting.DpEvent, place: str, towards: str = "random",
          probability: float = 1.0, aggregator: Aggregator | None = None) -> Audit:
    """One game, with the method's aggregator or the same for other clients."""
    terms = self._terms
    return audit.audit(
        make_participation, aggregator or self.aggregator, event, self._hparams(noise),
        clients_mesh(jax.devices()[:1]), users=users, probability=probability,
        rounds=terms.rounds, trials=terms.trials, delta=terms.delta, confidence=CONFIDENCE,
        seed=terms.seed, place=place, towards=towards)

  def claim_of_c(self, noise: float) -> float:
    """Epsilon of an aggregator that forgets that a client holds several users."""
    event = lambda hparams: dp_accounting.GaussianDpEvent(
        2 * self.aggregator.event(hparams).noise_multiplier)
    wrong = self.event(self.who, noise, self.aggregator._replace(event=event))
    return accounting.epsilon(wrong, self._terms.delta, self.who.adjacency).best

  @property
  def change(self) -> str:
    """What is done to the canary's data in the neighbouring population."""
    return "removed" if self.who.adjacency is Adjacency.ADD_OR_REMOVE_ONE else "replaced"

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    terms = self._terms
    return {
        "channel": "backbone", "unit": "person", "adjacency": self.who.adjacency.value,
        "adjacency_in_words": self.who.adjacency.words("person"),
        "delta": terms.delta, "confidence": CONFIDENCE, "rounds": terms.rounds,
        "trials": terms.trials, "sampling": self.sampling,
        "aggregator": options.call(self._aggregate)["name"],
        "games": [row(game) for game in games],
    }
