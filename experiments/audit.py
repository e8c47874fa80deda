r"""Plays the canary game on the aggregator and the sampling of a config: claimed epsilon, measured.

python -m experiments.audit --config=configs/dp_fedemb.py:synthetic --workdir=runs/audit

The population is small and the noise is set so that the claim is --epsilon: a few thousand trials
cannot show a large epsilon. So this tests sampling, assignment to clients, clipping, noise and
accounting of a run, not the noise level of its config. Mechanisms that are broken on purpose show
whether the game can tell. Cyclic sampling and correlated noise need --rounds of at least
cohort.min_separation. Writes audit.json and audit.png; the exit status is 1 if the real mechanism
reveals more than it claims.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from experiments import command_line

if TYPE_CHECKING:
  from fedjax_face.attacks.audit import Audit

CONFIDENCE = 0.99


class Played(NamedTuple):
  """One game: a mechanism in words, whether it was broken on purpose, users, and the result."""

  mechanism: str
  broken: bool
  users: int
  result: Audit


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  flags.DEFINE_integer("trials", 4000, "games in each of the two neighbouring populations",
                       lower_bound=100, flag_values=values)
  flags.DEFINE_integer("rounds", 2, "rounds of a game", lower_bound=1, flag_values=values)
  flags.DEFINE_float("delta", 1e-2, "of claim and measurement", flag_values=values)
  flags.DEFINE_float("epsilon", 2.5, "claim, for which the noise is set", flag_values=values)
  return values


def _audit(values: flags.FlagValues, arguments: Sequence[str]) -> bool:
  """Whether every real mechanism held."""
  command_line.parse(values, arguments)
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_compilation_cache(values.compilation_cache)
  game = _Game(values.config, values.rounds, values.trials, values.delta)
  games = game.play(game.noise_for(values.epsilon))
  workdir = pathlib.Path(values.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  record = game.record(games)
  _write(record, workdir)
  _print(record)
  print(f"results: {workdir}/audit.json  figure: {workdir}/audit.png")
  return not any(row["violated"] for row in record["games"] if not row["broken"])


class _Game:
  """The config's aggregator and sampling, on populations of canaries.

  Raises:
    ValueError: an aggregator without noise, a sampling scheme that the game does not know, or fewer
      rounds than the groups of cyclic sampling.
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
    if not self._aggregator.adds_noise:
      raise ValueError(f"privacy.aggregator={config.privacy.aggregator} adds no noise: "
                       "there is no claim to audit")

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
        "unit": "person", "adjacency": self._who.adjacency.value,
        "adjacency_in_words": self._who.adjacency.words("person"),
        "delta": self._delta, "confidence": CONFIDENCE, "rounds": self._rounds,
        "trials": self._trials, "sampling": self._options.sampling,
        "aggregator": self._config.privacy.aggregator,
        "games": [
            {"mechanism": game.mechanism, "broken": game.broken, "users": game.users,
             "claimed_epsilon": game.result.claimed, "measured_epsilon": game.result.measured,
             "violated": game.result.violated,
             "true_positive_rate_at_1_percent": game.result.true_positive_rate}
            for game in games],
    }


def _write(record: Mapping[str, Any], workdir: pathlib.Path) -> None:
  from fedjax_face.report import audit_figure, figures
  from fedjax_face.training.records import write_json
  write_json(workdir / "audit.json", record)
  claims = [audit_figure.Claim(game["mechanism"], game["claimed_epsilon"],
                               game["measured_epsilon"]) for game in record["games"]]
  figure = audit_figure.claimed_and_measured(
      claims, delta=record["delta"], unit=record["unit"],
      adjacency=record["adjacency"].replace("_", "-"), confidence=record["confidence"])
  figures.save(figure, workdir / "audit.png")


def _print(record: Mapping[str, Any]) -> None:
  from rich.console import Console
  from rich.table import Table
  unit, adjacency = record["unit"], record["adjacency"].replace("_", "-")
  table = Table(
      title=f"epsilon for a {unit} at delta {record['delta']:g}, {adjacency}; "
            f"rounds: {record['rounds']}, trials in each population: {record['trials']}")
  for column in ("mechanism", "users", "claimed", f"measured, at least "
                 f"({record['confidence']:.0%} confidence)", "verdict"):
    table.add_column(column)
  for game in record["games"]:
    table.add_row(game["mechanism"], str(game["users"]), f"{game['claimed_epsilon']:.3f}",
                  f"{game['measured_epsilon']:.3f}", _verdict(game))
  Console(width=None if sys.stdout.isatty() else 160).print(table)


def _verdict(game: Mapping[str, Any]) -> str:
  if game["broken"]:
    return "caught" if game["violated"] else "NOT caught: the game is too weak to tell"
  return "VIOLATED" if game["violated"] else "holds"


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status: 1 if the real mechanism does not hold."""
  given = sys.argv if arguments is None else ["audit", *arguments]
  values = _flags(given)
  held: list[bool] = []
  status = command_line.one_line_errors(
      lambda: held.append(_audit(values, given)), lambda: "--debug" in given)
  return status or int(not all(held))


if __name__ == "__main__":
  sys.exit(main())
