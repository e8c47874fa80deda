"""An audit of a run in one run: it is trained once with canaries, and thrown away."""

from __future__ import annotations

from typing import Any

import dp_accounting

from fedjax_face.attacks.game import CONFIDENCE
from fedjax_face.attacks.one_run import Canaries, OneRun, judge
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.privacy import accounting, ledger
from fedjax_face.privacy.budget import Budget as Account
from fedjax_face.privacy.ledger import Release, is_non_private
from fedjax_face.runs import budget_entry, loop, streams
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.progress import Display


def one_run_record(asked: Asked, canaries: int, name: str, account: Account | None = None,
                   seed: int | None = None) -> dict[str, Any]:
  """audit_one_run.json: the run that is asked for, trained once with canaries and thrown away.

  Args:
    asked: with its own data, noise and delta.
    canaries: of which half, by coins, are in the training set.
    name: by which the account lists the run.
    account: of the data set, in which the run is entered before its first round.
    seed: of coins, participation and noise; None: all three from the operating system.

  Raises:
    ValueError: a method without a noised sum, or an account without room for it.
  """
  root = streams.secret_root() if seed is None else streams.public_root(seed)
  coins, noise, participation = (
      streams.expand(root, use, 0, streams.ROOT_BYTES)
      for use in ("canaries", "noise", "participation"))
  watch = Canaries.drawn(canaries, coins)
  with Display(asked.record["rounds"], 0) as display:
    made = asked.experiment(None, display.say, watch=watch)
    released = _noised_sum(made.algorithm)
    claimed = _claim_of_run(released, made)
    if account is None:
      display.say(f"this run is a release on the people of {made.sources.train.name} of its own: "
                  f"epsilon {claimed:.3f} for each {released.unit} through the {released.channel}, "
                  "counted in no budget (account=FILE, of a program --privacy_budget=FILE, counts "
                  "it)")
    else:
      budget_entry.enter_once(made, f"{name} (audit)", account)
    state = _trained(made, noise, participation, display)
  result = judge(watch.scores(state), watch.included, claimed, made.config.privacy.delta,
                 CONFIDENCE)
  return _record(result, released, made.config.rounds)


def _trained(made: Experiment, noise: bytes, participation: bytes, display: Display) -> Any:
  """The state after the last round."""
  options, train = made.config, made.sources.train
  for progress in loop.train(
      made.algorithm, train.images, targets=train.targets, rounds=options.rounds,
      seed=options.seed, noise_root=noise, cohort_root=participation, mesh=made.mesh,
      rounds_per_dispatch=options.training.rounds_per_dispatch, resident=made.resident):
    display.update(progress.span.stop,
                   {name: float(value[-1]) for name, value in progress.metrics.items()})
  return progress.state


def _record(result: OneRun, released: Release, rounds: int) -> dict[str, Any]:
  return {
      "channel": released.channel, "unit": released.unit, "adjacency": released.adjacency.value,
      "adjacency_in_words": released.adjacency.words(released.unit),
      "delta": result.delta, "confidence": CONFIDENCE, "rounds": rounds,
      "trials": result.canaries,
      "largest_measurable_epsilon": result.largest_measurable,
      "estimated_epsilon": result.estimate,
      "estimated_epsilon_at_least": result.estimate_at_least,
      "note": f"One run of the config with {result.canaries} canaries, half of them in the "
              f"training set. The most that so many can show is {result.largest_measurable:.3f}. "
              f"Their scores look like those of epsilon {result.estimate:.3f}, at least "
              f"{result.estimate_at_least:.3f} (an estimate, no bound).",
      "games": [{"mechanism": "the config, one run", "broken": False, "users": result.canaries,
                 "claimed_epsilon": result.claimed, "measured_epsilon": result.measured,
                 "violated": result.violated}],
  }


def _noised_sum(algorithm: Algorithm) -> Release:
  """The release of the sum that canaries join."""
  for release in algorithm.releases:
    if release.channel in ("backbone", "model") and not is_non_private(release.event):
      return release
  raise ValueError(f"method={algorithm.name} releases no noised sum of updates or gradients: "
                   "there is nothing that canaries of one run could join")


def _claim_of_run(release: Release, made: Experiment) -> float:
  event = dp_accounting.SelfComposedDpEvent(
      release.event, ledger.events_used(made.config.rounds, release.covers))
  return accounting.epsilon(event, made.config.privacy.delta, release.adjacency).best
