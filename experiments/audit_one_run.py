"""An audit of a config's own run in one run, for `experiments.audit --one_run`."""

from __future__ import annotations

import pathlib
from typing import Any

from experiments.audit_games import CONFIDENCE


def one_run_record(config: Any, canaries: int, workdir: pathlib.Path, budget: Any = None,
                   seed: int | None = None) -> dict[str, Any]:
  """audit_one_run.json: the config's run, trained once with canaries and thrown away.

  Args:
    config: a whole config, with its own data, noise and delta.
    canaries: of which half, by coins, are in the training set.
    workdir: by whose name the budget lists the run.
    budget: `budget.Budget` of the data set, in which the run is entered before its first round.
    seed: of coins, participation and noise; None: all three from the operating system.

  Raises:
    ValueError: a method without a noised sum, or a budget without room for it.
  """
  from fedjax_face.attacks.one_run import Canaries, judge
  from fedjax_face.training import budget_entry, experiment, loop, streams
  from fedjax_face.training import config as configs
  from fedjax_face.training.progress import Display

  configs.validate(config)
  root = streams.secret_root() if seed is None else streams.public_root(seed)
  coins, noise, participation = (
      streams.expand(root, use, 0, streams.ROOT_BYTES)
      for use in ("canaries", "noise", "participation"))
  watch = Canaries.drawn(canaries, coins)
  with Display(config.rounds, 0) as display:
    built = experiment.build(config, say=display.say, watch=watch)
    train, released = built.sources.train, _noised_sum(built.algorithm)
    claimed = _claim_of_run(released, config.rounds, config.privacy.delta)
    if budget is None:
      display.say(f"this run is a release on the people of {train.name} of its own: epsilon "
                  f"{claimed:.3f} for each {released.unit} through the {released.channel}, counted "
                  "in no budget (--privacy_budget FILE counts it)")
    else:
      budget_entry.enter_once(built, f"{workdir.name} (audit)", budget)
    for progress in loop.train(
        built.algorithm, train.images, targets=train.targets, rounds=config.rounds,
        seed=config.seed, noise_root=noise, cohort_root=participation, mesh=built.mesh,
        rounds_per_dispatch=config.training.rounds_per_dispatch, resident=built.resident):
      display.update(progress.span.stop,
                     {name: float(value[-1]) for name, value in progress.metrics.items()})
  last = progress
  result = judge(watch.scores(last.state), watch.included, claimed, config.privacy.delta,
                 CONFIDENCE)
  return {
      "channel": released.channel, "unit": released.unit, "adjacency": released.adjacency.value,
      "adjacency_in_words": released.adjacency.words(released.unit),
      "delta": result.delta, "confidence": CONFIDENCE, "rounds": config.rounds, "trials": canaries,
      "largest_measurable_epsilon": result.largest_measurable,
      "estimated_epsilon": result.estimate,
      "estimated_epsilon_at_least": result.estimate_at_least,
      "note": f"One run of the config with {canaries} canaries, half of them in the training set. "
              f"The most that so many can show is {result.largest_measurable:.3f}. Their scores "
              f"look like those of epsilon {result.estimate:.3f}, at least "
              f"{result.estimate_at_least:.3f} (an estimate, no bound).",
      "games": [{"mechanism": "the config, one run", "broken": False, "users": canaries,
                 "claimed_epsilon": result.claimed, "measured_epsilon": result.measured,
                 "violated": result.violated}],
  }


def _noised_sum(algorithm: Any) -> Any:
  """The release of the sum that canaries join."""
  from fedjax_face.privacy.ledger import is_non_private
  for release in algorithm.releases:
    if release.channel in ("backbone", "model") and not is_non_private(release.event):
      return release
  raise ValueError(f"algorithm={algorithm.name} releases no noised sum of updates or gradients: "
                   "there is nothing that canaries of one run could join")


def _claim_of_run(release: Any, rounds: int, delta: float) -> float:
  import dp_accounting

  from fedjax_face.privacy import accounting, ledger
  event = dp_accounting.SelfComposedDpEvent(
      release.event, ledger.events_used(rounds, release.covers))
  return accounting.epsilon(event, delta, release.adjacency).best
