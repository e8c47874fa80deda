"""A rehearsal: values that cannot be tuned on private people are chosen on public ones.

Clip norm, learning rates, local epochs and margin are tried on clients made of public people, with
at least the noise on the mean update that the run itself will have, and judged by other public
people. It costs no privacy: of the private set nothing enters but numbers that the statement takes
as public.
"""

from __future__ import annotations

import os
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fedjax_face.evaluation.protocols import Metric
from fedjax_face.privacy import planning
from fedjax_face.training.candidates import draw, step_unit
from fedjax_face.training.config import flatten, validate
from fedjax_face.training.experiment import load_sources, pretrained
from fedjax_face.training.mesh import clients_mesh
from fedjax_face.training.records import write_json
from fedjax_face.training.rehearsal_plan import (
    REHEARSAL,
    Parts,
    Planned,
    check,
    divide,
    groups,
    planned,
    rehearsal_config,
)
from fedjax_face.training.rehearsal_search import Search, Trial, in_words, lower_is_better
from fedjax_face.training.rehearsal_stage import Stage

Say = Callable[[str], None]


def rehearse(config: Any, workdir: str | os.PathLike, *, candidates: int = 16, repetitions: int = 3,
             rounds: int | None = None, minutes: float | None = None, say: Say = print,
             sources: Any = None) -> dict[str, Any]:
  """Chooses values for a config and writes them to `rehearsal.json` in the workdir.

  With `minutes` what is chosen depends on the speed of the machine; otherwise on the config alone.

  Args:
    config: of the run.
    workdir: made if absent; what pre-trains on public people is kept there.
    candidates: how many settings are tried; the first is the config's own.
    repetitions: of the two finalists.
    rounds: of the final; default those of the config.
    minutes: the search stops near them; pre-training and compilation come on top.
    say: told about progress in lines.
    sources: what `load_sources(config)` returned.

  Returns:
    What rehearsal.json says.

  Raises:
    ValueError: a config that cannot be rehearsed, in one line.
  """
  for name, value in (("candidates", candidates), ("repetitions", repetitions), ("rounds", rounds),
                      ("minutes", minutes)):
    if value is not None and not value > 0:
      raise ValueError(f"{name}={value}: expected above 0")
  validate(config)
  check(config)
  sources = load_sources(config) if sources is None else sources
  parts = divide(sources.public, bool(config.get("pretrain")), config.seed)
  mesh = clients_mesh()
  plan = planned(config, sources, mesh, lambda z, epsilon: say(
      f"calibrating the run's noise: multiplier {z:.3f} gives epsilon {epsilon:.3f}"))
  people = parts.clients.num_persons
  if people // groups(config) < mesh.size * config.cohort.users_per_client:
    mesh = clients_mesh(jax.devices()[:1])
  own = rehearsal_config(config, plan, people, mesh.size)
  backbone = None
  if config.get("pretrain"):
    backbone = pretrained(own, sources._replace(public=parts.pretraining), mesh, None, say,
                          pathlib.Path(workdir) / "public_stages")
  drawn = draw(config, candidates, np.random.default_rng([config.seed, REHEARSAL, 1]))
  stage = Stage(own, parts, mesh, backbone, {c.values["cohort.epochs"] for c in drawn})
  start = stage.evaluator.outcome(stage.start, band=False).metrics
  metric = next((name for name in config.evaluation.get("headline", ()) if name in start),
                next(iter(start)))
  stage.compile()
  say(f"start: {metric} {start[metric].value:.4f}")
  unit = step_unit(stage.weight, plan.noise_multiplier / plan.clients, plan.rounds)
  trials = [Trial(number, candidate) for number, candidate in enumerate(drawn)]
  search = Search(stage, metric, unit, config.hparams, say)
  winner = search.run(trials, min(rounds or plan.rounds, plan.rounds), repetitions, minutes)[0]
  record = _record(config, own, parts, plan, metric, start[metric], trials, winner)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  write_json(pathlib.Path(workdir) / "rehearsal.json", record)
  return record


def _record(config: Any, own: Any, parts: Parts, plan: Planned, metric: str,
            start: Metric, trials: list[Trial], winner: Trial) -> dict[str, Any]:
  ratio = planning.noise_norm_ratio(plan.noise_multiplier, plan.clients, plan.parameters)
  sizes = {name: 0 if part is None else part.num_persons for name, part in parts._asdict().items()}
  name = parts.clients.name
  return {
      "set": name,
      "people": {"all": sum(sizes.values()), **sizes},
      "planned": {**plan._asdict(), "epsilon": config.privacy.epsilon,
                  "delta": config.privacy.delta,
                  "noise_on_mean_over_clip_norm": plan.noise_multiplier / plan.clients,
                  "noise_norm_ratio": ratio},
      "rehearsed": {"noise_multiplier": own.hparams.noise_multiplier or 0.0,
                    "clients": own.cohort.virtual_clients, "rounds": winner.rounds},
      "metric": metric,
      "start": {"score": start.value, "low": start.low, "high": start.high},
      "trials": [_trial(trial) for trial in trials if trial.scores],
      "winner": {"candidate": winner.number, "score": statistics.fmean(winner.last),
                 "spread": _spread(winner)},
      "overrides": overrides(config, name, sum(sizes.values()), sizes["judges"], winner.values),
      "warnings": _warnings(plan, own, ratio, metric, start, winner, parts),
  }


def overrides(config: Any, name: str, people: int, judges: int, values: Mapping[str, Any]
              ) -> dict[str, Any]:
  """Dotted config key -> value: what was chosen, and the section `rehearsal` that says so.

  Pre-training keeps the values that it had, which the rehearsal did not change for it.

  Args:
    config: of the run.
    name: of the public set.
    people: in it.
    judges: of them.
    values: what was chosen.
  """
  flat, found = flatten(config), dict(values)
  if config.get("pretrain"):
    kept = {f"pretrain.{key}": flat[key] for key, value in values.items() if flat[key] != value}
    found |= {key: value for key, value in kept.items() if key not in flat}
  return found | {"rehearsal.set": name, "rehearsal.people": people, "rehearsal.judges": judges} | {
      f"rehearsal.chose.{key}": value for key, value in values.items()}


def _spread(trial: Trial) -> float:
  """Largest less smallest score of the repetitions."""
  return max(trial.last) - min(trial.last)


def _trial(trial: Trial) -> dict[str, Any]:
  return {"candidate": trial.number, "values": trial.values,
          "clip_quantile": trial.candidate.quantile, "server_step": trial.candidate.step,
          "rounds": trial.rounds, "score": statistics.fmean(trial.last),
          "scores": [{"rounds": rounds, "repetition": repetition, "score": score}
                     for (rounds, repetition), score in trial.scores.items()]}


def _warnings(plan: Planned, own: Any, ratio: float, metric: str, start: Metric, winner: Trial,
              parts: Parts) -> list[str]:
  lines, mean, spread = [], statistics.fmean(winner.last), _spread(winner)
  gain = (start.value - mean) if lower_is_better(metric) else (mean - start.value)
  if not gain > spread:
    lines.append(
        f"no setting gained over the start in rehearsal: {metric} {start.value:.3f} before the "
        f"first round, {mean:.3f} (spread {spread:.3f} of {len(winner.last)} repetition(s)) after "
        f"{winner.rounds} rounds of the best, {in_words(winner.values)}")
  if len(winner.last) == 1:
    lines.append("one repetition shows no spread: ask for more")
  if winner.rounds < plan.rounds:
    lines.append(f"{winner.rounds} of {plan.rounds} rounds were rehearsed: noise and drift of the "
                 "others were not seen")
  if own.cohort.virtual_clients < plan.clients:
    lines.append(f"{own.cohort.virtual_clients} of {plan.clients} clients a round were rehearsed, "
                 "with more noise on their mean than the run's, so the server step is a cautious "
                 "one; more public people come closer")
  if not parts.clients.persons_are_labels:
    lines.append("people who judge share labels with the clients' people, so that judges do not "
                 "stand for unseen labels")
  if warning := planning.noise_norm_warning(ratio):
    lines.append(warning)
  return lines
