"""`audit`: what a method promises beside what an adversary measures, at least.

Users and silos: canaries through the method's aggregate and sampling. Steps of DP-SGD: a canary
unit through its clip and noise. Split learning: the messages of a device. Clusters: two silos that
differ in one person, through every mechanism that there is. One run: the run itself, trained once.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fedjax_face import options
from fedjax_face.attacks import audit_records
from fedjax_face.attacks.cluster_game import cluster_record
from fedjax_face.attacks.game import Game, Terms
from fedjax_face.attacks.one_run_audit import one_run_record
from fedjax_face.attacks.silo_game import SiloGame
from fedjax_face.attacks.split_game import SplitGame
from fedjax_face.attacks.unit_game import UnitGame
from fedjax_face.attacks.user_game import UserGame
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.method import Budget, Method
from fedjax_face.privacy.budget import Budget as Account
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.records import make_guarded
from fedjax_face.runs.settings import Compute, Evaluation, Rehearsed, budget, compute
from fedjax_face.runs.start import Start


def audit(method: Method, data: Data | Sources, *, rounds: int, seed: int = 0,
          start: Start | None = None, privacy: Budget = budget(),
          evaluation: Evaluation | None = None, compute: Compute = compute(),
          rehearsal: Rehearsed | None = None, epsilon: float = 2.5, delta: float = 1e-2,
          trials: int = 4000, cluster_trials: int = 40_000, game_rounds: int = 2,
          one_run: bool = False, canaries: int = 1000, workdir: str | os.PathLike | None = None,
          account: str | os.PathLike | Account | None = None) -> dict[str, dict[str, Any]]:
  """Plays the games of a method, or trains it once with canaries, and compares with the claim.

  A game is played on a small population, with the noise set so that the claim is `epsilon`: a few
  thousand trials cannot show a large one. So it tests sampling, assignment to clients, clipping,
  noise and accounting, not the noise level of a run; it reads no data. Mechanisms that are broken
  on purpose show whether the game can tell. One run tests the noise of the run itself; what was
  trained is thrown away, and on private data it is a further release, which `account` counts.

  Args:
    method, data, rounds, seed, start, privacy, evaluation, compute, rehearsal: as of `fit`.
    epsilon: claim of a game, for which its noise is set.
    delta: of claim and measurement of a game; one run has that of `privacy`.
    trials: games on each of two neighbouring populations, at least 100.
    cluster_trials: publications of each of two neighbouring silos, at least 100.
    game_rounds: rounds of a game; at least the separation of cyclic sampling.
    one_run: audits the run itself in the place of games.
    canaries: of one run, half of them in the training set.
    workdir: for NAME.json and NAME.png of each record; None: nothing is written.
    account: of one run, as of `fit`; needs no workdir.

  Returns:
    Name -> record: `audit` of the noised sum or the messages, `audit_clusters`, `audit_one_run`.
    Each has `games` with `mechanism`, `broken`, `claimed_epsilon`, `measured_epsilon`, `violated`.

  Raises:
    ValueError: there is nothing to audit, a number out of range, what `fit` refuses, or an account
      without room.
  """
  _check(epsilon, delta, trials=trials, cluster_trials=cluster_trials, game_rounds=game_rounds)
  asked = Asked.of(method, data, rounds, seed, start, privacy, evaluation, compute, rehearsal)
  place = None if workdir is None else pathlib.Path(workdir).absolute()
  if one_run:
    records = {"audit_one_run": one_run_record(
        asked, canaries, "in memory" if place is None else place.name, _account(account))}
  elif account is not None:
    raise ValueError("account (--privacy_budget) counts what is trained on the data: without "
                     "one_run nothing is")
  else:
    records = _records(asked, epsilon, Terms(game_rounds, trials, delta, seed), cluster_trials)
  if place is not None:
    make_guarded(place)
    for name, record in records.items():
      audit_records.write(record, place, name)
  return records


def _check(epsilon: float, delta: float, **counts: int) -> None:
  """Refuses numbers out of range, before anything takes time."""
  if not 0 < epsilon < math.inf:
    raise ValueError(f"epsilon={epsilon}: expected a finite number above 0")
  if not 0 < delta < 1:
    raise ValueError(f"delta={delta}: expected a number in (0, 1)")
  for name, count in counts.items():
    least = 1 if name == "game_rounds" else 100
    if count < least:
      raise ValueError(f"{name}={count}: expected at least {least}")


def _account(account: str | os.PathLike | Account | None) -> Account | None:
  if account is None or isinstance(account, Account):
    return account
  return Account(pathlib.Path(account).absolute())


def _records(asked: Asked, epsilon: float, terms: Terms, cluster_trials: int
             ) -> dict[str, dict[str, Any]]:
  """Every channel of the method that can be audited by itself.

  Raises:
    ValueError: there is none.
  """
  records, parts = {}, options.record(asked.method).arguments
  game = game_of(asked.method, asked.privacy.unit or options.made(asked.method).unit, terms)
  if not isinstance(game, str):
    records["audit"] = game.record(game.play(game.noise_for(epsilon)))
  if "exchange" in parts:
    records["audit_clusters"] = cluster_record(epsilon, terms.delta, cluster_trials, terms.seed)
    if isinstance(game, str):
      records["audit_clusters"]["noised_sum_not_audited"] = game
  if not records:
    raise ValueError(f"{game}; and it has no method.exchange of clusters")
  return records


def game_of(method: Any, unit: str, terms: Terms) -> Game | str:
  """The game for a method's noised sum, or in words why there is none to play.

  Args:
    method: a part.
    unit: that a budget protects.
    terms: of the game.

  Raises:
    ValueError: parts that the game does not know.
  """
  parts = options.record(method).arguments
  if {"units", "gradient"} <= parts.keys():
    if options.made(parts["gradient"]).clip is None:
      return _without_noise("gradient", parts)
    return UnitGame(parts["units"], parts["gradient"], terms)
  if {"device", "labels", "activations"} <= parts.keys():
    return SplitGame(parts["device"], parts["labels"], unit, terms)
  for name, why in (("aggregate", "how updates are summed"), ("clients", "how users are sampled")):
    if name not in parts:
      return (f"method={options.call(method)['name']} has no {name}, and the canary game needs to "
              f"know {why}")
  game = _sum_game(parts, terms)
  return game if game.aggregator.adds_noise else _without_noise("aggregate", parts)


def _sum_game(parts: Mapping[str, Any], terms: Terms) -> UserGame | SiloGame:
  if options.made(parts["clients"]).silos is not None:
    return SiloGame(parts["aggregate"], terms)
  name = options.call(parts["clients"])["name"]
  if name != "virtual_clients":
    raise ValueError(f"method.clients={name}: the game knows virtual_clients and silos")
  return UserGame(parts["clients"], parts["aggregate"], terms)


def _without_noise(name: str, parts: Mapping[str, Any]) -> str:
  return (f"method.{name}={options.call(parts[name])['name']} adds no noise: there is no claim to "
          "audit")
