"""The games of `experiments.audit`: canaries through the aggregator, neighbours of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

if TYPE_CHECKING:
  from fedjax_face.attacks.audit import Audit

CONFIDENCE = 0.99
_SPARSE = 2                 # clients for each user
CLAIM_OF_DPLC = ("DPLC as published claims what its own formula says for each cluster, added up "
                 "over clusters; the ledger of a run promises nothing for it.")


class Played(NamedTuple):
  """One game: a mechanism in words, whether its claim is known to be wrong, users, the result."""

  mechanism: str
  broken: bool
  users: int
  result: Audit


class SumGame:
  """Canaries through an aggregator: what is the same for users and for silos.

  Attributes:
    who: the config's participation on the population in which all take part.
    everyone: its size, the canary included.
  """

  who: Any
  everyone: int
  sampling: str

  def __init__(self, config: Any, rounds: int, trials: int, delta: float):
    from fedjax_face.algorithms import parts
    self._config, self._rounds, self._trials, self._delta = config, rounds, trials, delta
    self.aggregator = parts.aggregator(config, self.who, rounds)

  def hparams(self, noise_multiplier: float) -> dict[str, float]:
    """Those of the canaries' rounds."""
    return {"clip_norm": self._config.hparams.clip_norm, "noise_multiplier": noise_multiplier}

  def event(self, who: Any, noise_multiplier: float, aggregator: Any = None) -> Any:
    """What the ledger of a run of so many rounds holds."""
    import dp_accounting

    from fedjax_face.algorithms import parts
    from fedjax_face.privacy import ledger
    release = parts.backbone_release(
        aggregator or self.aggregator, who, self.hparams(noise_multiplier))
    return dp_accounting.SelfComposedDpEvent(
        release.event, ledger.events_used(self._rounds, release.covers))

  def noise_for(self, epsilon: float) -> float:
    """Noise multiplier, over the clip norm, that claims `epsilon` where all take part."""
    from fedjax_face.privacy import calibration
    return calibration.calibrate_noise(
        lambda noise: self.event(self.who, noise), epsilon, self._delta, self.who.adjacency)

  def one(self, make_participation: Any, users: int, noise: float, event: Any, place: str,
          towards: str = "random", probability: float = 1.0, aggregator: Any = None) -> Audit:
    """One game, with the config's aggregator or the same for other clients."""
    import jax

    from fedjax_face.attacks import audit
    from fedjax_face.training.mesh import clients_mesh
    return audit.audit(
        make_participation, aggregator or self.aggregator, event, self.hparams(noise),
        clients_mesh(jax.devices()[:1]), users=users, probability=probability,
        rounds=self._rounds, trials=self._trials, delta=self._delta, confidence=CONFIDENCE,
        seed=self._config.seed, place=place, towards=towards)

  def claim_of_c(self, noise: float) -> float:
    """Epsilon of an aggregator that forgets that a client holds several users."""
    import dp_accounting

    from fedjax_face.privacy import accounting
    event = lambda hparams: dp_accounting.GaussianDpEvent(
        2 * self.aggregator.event(hparams).noise_multiplier)
    wrong = self.event(self.who, noise, self.aggregator._replace(event=event))
    return accounting.epsilon(wrong, self._delta, self.who.adjacency).best

  @property
  def change(self) -> str:
    """What is done to the canary's data in the neighbouring population."""
    from fedjax_face.privacy.adjacency import Adjacency
    return "removed" if self.who.adjacency is Adjacency.ADD_OR_REMOVE_ONE else "replaced"

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    return {
        "channel": "backbone", "unit": "person", "adjacency": self.who.adjacency.value,
        "adjacency_in_words": self.who.adjacency.words("person"),
        "delta": self._delta, "confidence": CONFIDENCE, "rounds": self._rounds,
        "trials": self._trials, "sampling": self.sampling,
        "aggregator": self._config.privacy.aggregator,
        "games": [row(game) for game in games],
    }


class CanaryGame(SumGame):
  """The config's aggregator and sampling of users, on populations of canaries.

  Raises:
    ValueError: a sampling scheme that the game does not know, or fewer rounds than the groups of
      cyclic sampling.
  """

  def __init__(self, config: Any, rounds: int, trials: int, delta: float):
    cohort = config.cohort
    if cohort.sampling not in ("fixed", "poisson", "cyclic_fixed", "cyclic_poisson"):
      raise ValueError(f"cohort.sampling={cohort.sampling!r}: the game knows fixed, poisson, "
                       "cyclic_fixed and cyclic_poisson")
    self._cyclic, self.sampling = cohort.sampling.startswith("cyclic"), cohort.sampling
    self._groups = cohort.min_separation if self._cyclic else 1
    if rounds < self._groups:
      raise ValueError(f"--rounds={rounds}: cohort.min_separation={self._groups} needs as many")
    self._options = cohort
    # A population that takes part as a whole, a group a round.
    self.everyone = cohort.virtual_clients * cohort.users_per_client * self._groups
    self.who = self._participation(self.everyone)
    super().__init__(config, rounds, trials, delta)

  def _participation(self, users: int, dataset: Any = None, groups: int | None = None,
                     clients: int | None = None) -> Any:
    """The config's sampling of `users` users of one image each; one local step holds them all."""
    from fedjax_face.algorithms import parts
    from fedjax_face.attacks import audit
    from fedjax_face.federated.clients import Work
    groups = self._groups if groups is None else groups
    per_client = self._options.users_per_client * self._groups // groups
    poisson = self._options.sampling in ("poisson", "cyclic_poisson")
    most = self._options.capacity * self._groups // groups if poisson else per_client
    options = dict(self._options) | {
        "max_examples": most, "max_examples_per_user": 0,
        "sampling_probability": self.everyone / users if poisson else None,
        "users_per_client": per_client, "capacity": most, "min_separation": groups,
        "virtual_clients": self._options.virtual_clients if clients is None else clients}
    population = audit.population([audit.IDLE] * users) if dataset is None else dataset
    return parts.clients(ConfigDict({"cohort": options})).bind(population, 0, Work(
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
    from fedjax_face.algorithms import parts
    clients = _SPARSE * self.everyone
    make = lambda dataset: self._participation(self.everyone, dataset, clients=clients)
    who = make(None)
    aggregator = parts.aggregator(self._config, who, self._rounds)
    return self.one(make, self.everyone, noise, self.event(who, noise, aggregator), "first",
                    aggregator=aggregator)

  def _one(self, users: int, noise: float, event: Any, place: str = "first",
           towards: str = "random", groups: int | None = None) -> Audit:
    return self.one(lambda dataset: self._participation(users, dataset, groups), users, noise,
                    event, place, towards, self.everyone / users)


class SiloGame(SumGame):
  """The config's aggregator on silos of canaries, all of them in every round.

  People are dealt to silos as a run with `silos.by=random` deals them. Fewer silos a round would
  hide the canary, and the claim counts nothing for it.
  """

  silos, people = 3, 3

  def __init__(self, config: Any, rounds: int, trials: int, delta: float):
    from fedjax_face.attacks import audit
    self.sampling, self.everyone = "silos", self.silos * self.people
    self._config = config
    self.who = self._participation(audit.population([audit.IDLE] * self.everyone))
    super().__init__(config, rounds, trials, delta)

  def _participation(self, dataset: Any) -> Any:
    from fedjax_face.data import silos
    from fedjax_face.draws import Draws
    from fedjax_face.federated.clients import Work
    from fedjax_face.federated.silos import participation_of_silos
    dealt = silos.partition({"by": "random", "num_silos": self.silos}, dataset,
                            Draws.of(self._config.seed))
    return participation_of_silos(dataset, dealt, Work(
        epochs=1, batch_size=self.everyone, classes="own"))

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


def game_of(config: Any, rounds: int, trials: int, delta: float) -> Any:
  """The game for the config's noised sum, or in words why there is none to play."""
  from experiments.audit_split import SplitGame
  from experiments.audit_units import UnitGame
  cohort = config.get("cohort") or {}
  if config.get("algorithm") == "dp_hyperface":
    return UnitGame(config, rounds, trials, delta)
  if config.get("algorithm") == "dp_activations":
    return SplitGame(config, rounds, trials, delta)
  if cohort.get("sampling") is None and not config.get("silos"):
    return ("cohort.sampling and silos are absent, and the canary game needs to know how users are "
            "sampled")
  kind = SiloGame if config.get("silos") else CanaryGame
  game = kind(config, rounds, trials, delta)
  if not game.aggregator.adds_noise:
    return (f"privacy.aggregator={config.privacy.aggregator} adds no noise: "
            "there is no claim to audit")
  return game


def cluster_record(epsilon: float, delta: float, trials: int, seed: int) -> dict[str, Any]:
  """audit_clusters.json: every way to publish clusters, each at a claim of `epsilon`.

  The mechanisms are those of a run on data sets of few rows; then follow published DPLC, and the
  others with half the noise that they claim.
  """
  import functools

  from fedjax_face.attacks import cluster_audit
  real, published, halved = [], [], []
  for index, game in enumerate(cluster_audit.games(epsilon, delta)):
    play = functools.partial(cluster_audit.play, trials=trials, delta=delta,
                             confidence=CONFIDENCE, seed=seed + 2 * index)
    people = int(game.present[0].sum())
    noise = cluster_audit.noise_for(game, epsilon, delta)
    claimed = cluster_audit.claimed_epsilon(game, noise, delta)
    result = play(game, noise, claimed)
    if not game.mechanism.adds_noise:
      published.append(Played(game.name, True, people, result))
      continue
    real.append(Played(game.name, False, people, result))
    halved.append(Played(f"half the noise: {game.name}", True, people,
                         play(game, noise / 2, claimed)))
  adjacency = cluster_audit.ADJACENCY
  largest = cluster_audit.largest_measurable(trials, delta, CONFIDENCE)
  return {
      "channel": "clusters", "unit": cluster_audit.UNIT, "adjacency": adjacency.value,
      "adjacency_in_words": adjacency.words(cluster_audit.UNIT), "delta": delta,
      "confidence": CONFIDENCE, "publications": 1, "trials": trials,
      "largest_measurable_epsilon": largest,
      "note": f"{CLAIM_OF_DPLC} The most that so many trials can show is {largest:.3f}.",
      "games": [row(played) for played in (*real, *published, *halved)],
  }


def row(played: Played) -> dict[str, Any]:
  """A game as the records keep it."""
  result = played.result
  return {"mechanism": played.mechanism, "broken": played.broken, "users": played.users,
          "claimed_epsilon": result.claimed, "measured_epsilon": result.measured,
          "violated": result.violated,
          "true_positive_rate_at_1_percent": result.true_positive_rate}
