"""The games of `experiments.audit`: canaries through the aggregator, neighbours of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  from fedjax_face.attacks.audit import Audit

CONFIDENCE = 0.99
CLAIM_OF_DPLC = ("DPLC as published claims what its own formula says for each cluster, added up "
                 "over clusters; the ledger of a run promises nothing for it.")


class Played(NamedTuple):
  """One game: a mechanism in words, whether its claim is known to be wrong, users, the result."""

  mechanism: str
  broken: bool
  users: int
  result: Audit


class CanaryGame:
  """The config's aggregator and sampling, on populations of canaries.

  Raises:
    ValueError: a sampling scheme that the game does not know, or fewer rounds than the groups of
      cyclic sampling.
  """

  def __init__(self, config: Any, rounds: int, trials: int, delta: float):
    from fedjax_face.algorithms import parts
    cohort = config.cohort
    if cohort.sampling not in ("fixed", "poisson", "cyclic_fixed", "cyclic_poisson"):
      raise ValueError(f"cohort.sampling={cohort.sampling!r}: the game knows fixed, poisson, "
                       "cyclic_fixed and cyclic_poisson")
    self._cyclic = cohort.sampling.startswith("cyclic")
    self._groups = cohort.min_separation if self._cyclic else 1
    if rounds < self._groups:
      raise ValueError(f"--rounds={rounds}: cohort.min_separation={self._groups} needs as many")
    self._per_round = cohort.virtual_clients * cohort.users_per_client
    self._options, self._config = cohort, config
    self._rounds, self._trials, self._delta = rounds, trials, delta
    self._who = self._participation(self._everyone)
    self._aggregator = parts.aggregator(config.privacy, self._who, rounds)

  @property
  def adds_noise(self) -> bool:
    """Whether there is a claim to audit."""
    return self._aggregator.adds_noise

  @property
  def _everyone(self) -> int:
    """Users of a population that takes part as a whole, a group a round."""
    return self._per_round * self._groups

  def _participation(self, users: int, dataset: Any = None, groups: int | None = None) -> Any:
    """The config's sampling of `users` users of one image each; one local step holds them all."""
    from fedjax_face.attacks import audit
    from fedjax_face.federated.participation import participation
    groups = self._groups if groups is None else groups
    per_client = self._options.users_per_client * self._groups // groups
    poisson = self._options.sampling in ("poisson", "cyclic_poisson")
    most = self._options.capacity * self._groups // groups if poisson else per_client
    options = dict(self._options) | {
        "batch_size": most, "epochs": 1, "max_examples": most, "max_examples_per_user": 0,
        "classes": "all", "sampling_probability": self._everyone / users,
        "users_per_client": per_client, "capacity": most, "min_separation": groups}
    population = audit.population([audit.IDLE] * users) if dataset is None else dataset
    return participation(options, population)

  def _hparams(self, noise_multiplier: float) -> dict[str, float]:
    return {"clip_norm": self._config.hparams.clip_norm, "noise_multiplier": noise_multiplier}

  def _event(self, who: Any, noise_multiplier: float, aggregator: Any = None) -> Any:
    """What the ledger of a run of so many rounds holds."""
    import dp_accounting

    from fedjax_face.algorithms import parts
    from fedjax_face.privacy import ledger
    release = parts.backbone_release(
        aggregator or self._aggregator, who, self._hparams(noise_multiplier))
    return dp_accounting.SelfComposedDpEvent(
        release.event, ledger.events_used(self._rounds, release.covers))

  def noise_for(self, epsilon: float) -> float:
    """Noise multiplier, over the clip norm, that claims `epsilon` where all take part."""
    from fedjax_face.privacy import calibration
    return calibration.calibrate_noise(
        lambda noise: self._event(self._who, noise), epsilon, self._delta, self._who.adjacency)

  def play(self, noise: float) -> list[Played]:
    """The real mechanism on two populations, and the broken ones where nothing else hides them."""
    from fedjax_face.privacy import accounting
    everyone, twice = self._everyone, 2 * self._everyone
    claim = self._event(self._who, noise)
    sampled = self._event(self._participation(twice), noise)
    real = self._one(everyone, noise, claim)
    wrong = self._event(self._who, noise, self._sensitivity_c())
    claimed = accounting.epsilon(wrong, self._delta, self._who.adjacency).best
    turn = "its turn" if self._cyclic else "a round"
    games = [
        Played(f"as configured, every user in {'its turn' if self._cyclic else 'every round'}",
               False, everyone, real),
        Played(f"as configured, every second user in {turn}", False, twice,
               self._one(twice, noise, sampled)),
        Played("broken: half the noise", True, everyone, self._one(everyone, noise / 2, claim)),
        Played("broken: sensitivity C claimed, 2C holds", True, everyone,
               real._replace(claimed=claimed)),
    ]
    if self._groups > 1:
      games.append(Played(f"broken: every user in every round, not in one of {self._groups}", True,
                          everyone, self._one(everyone, noise, claim, groups=1)))
    return games

  def _sensitivity_c(self) -> Any:
    """The aggregator that forgets that a client holds several users."""
    import dp_accounting
    event = lambda hparams: dp_accounting.GaussianDpEvent(
        2 * self._aggregator.event(hparams).noise_multiplier)
    return self._aggregator._replace(event=event)

  def _one(self, users: int, noise: float, event: Any, groups: int | None = None) -> Audit:
    import jax

    from fedjax_face.attacks import audit
    from fedjax_face.training.mesh import clients_mesh
    return audit.audit(
        lambda dataset: self._participation(users, dataset, groups), self._aggregator, event,
        self._hparams(noise), clients_mesh(jax.devices()[:1]), users=users,
        probability=self._everyone / users, rounds=self._rounds, trials=self._trials,
        delta=self._delta, confidence=CONFIDENCE, seed=self._config.seed)

  def record(self, games: Sequence[Played]) -> dict[str, Any]:
    """audit.json."""
    return {
        "channel": "backbone", "unit": "person", "adjacency": self._who.adjacency.value,
        "adjacency_in_words": self._who.adjacency.words("person"),
        "delta": self._delta, "confidence": CONFIDENCE, "rounds": self._rounds,
        "trials": self._trials, "sampling": self._options.sampling,
        "aggregator": self._config.privacy.aggregator,
        "games": [_row(game) for game in games],
    }


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
      "games": [_row(played) for played in (*real, *published, *halved)],
  }


def _row(played: Played) -> dict[str, Any]:
  result = played.result
  return {"mechanism": played.mechanism, "broken": played.broken, "users": played.users,
          "claimed_epsilon": result.claimed, "measured_epsilon": result.measured,
          "violated": result.violated,
          "true_positive_rate_at_1_percent": result.true_positive_rate}
