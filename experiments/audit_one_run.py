"""An audit of a config's own run in one run, for `experiments.audit --one_run`."""

from __future__ import annotations

from typing import Any

from experiments.audit_games import CONFIDENCE


def one_run_record(config: Any, canaries: int, seed: int | None = None) -> dict[str, Any]:
  """audit_one_run.json: the config's run, trained once with canaries and thrown away.

  Args:
    config: a whole config, with its own data, noise and delta.
    canaries: of which half, by coins, are in the training set.
    seed: of coins, participation and noise; None: all three from the operating system.

  Raises:
    ValueError: a method without a noised sum.
  """
  from fedjax_face.algorithms import registry
  from fedjax_face.attacks.one_run import Canaries, judge
  from fedjax_face.training import config as configs
  from fedjax_face.training import experiment, loop, streams
  from fedjax_face.training.mesh import clients_mesh

  configs.validate(config)
  root = streams.secret_root() if seed is None else streams.public_root(seed)
  coins, noise, participation = (
      streams.expand(root, use, 0, streams.ROOT_BYTES)
      for use in ("canaries", "noise", "participation"))
  watch, mesh = Canaries.drawn(canaries, coins), clients_mesh()
  sources = experiment.load_sources(config)
  backbone = None
  if config.get("pretrain"):
    backbone = experiment.pretrained(config, sources, mesh, None, print)
  algorithm = registry.build(config, sources, mesh, backbone, watch=watch)
  released = _noised_sum(algorithm)
  claimed = _claim_of_run(released, config.rounds, config.privacy.delta)
  *_, last = loop.train(
      algorithm, sources.train.images, targets=sources.train.targets, rounds=config.rounds,
      seed=config.seed, noise_root=noise, cohort_root=participation, mesh=mesh,
      rounds_per_dispatch=config.training.rounds_per_dispatch,
      resident=experiment.is_resident(
          config.training.get("resident", "auto"), sources.train.images))
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
      "games": [{"mechanism": "as configured, one run", "broken": False, "users": canaries,
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
