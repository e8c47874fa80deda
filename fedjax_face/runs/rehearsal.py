"""A rehearsal: values that cannot be tuned on private people are chosen on public ones.

Clip norm, learning rates, local epochs and margin are tried on clients made of public people, with
at least the noise on the mean update that the run itself will have, and judged by other public
people. It costs no privacy: of the private set nothing enters but numbers that the statement takes
as public.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_face import options
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.evaluation.metric import Metric
from fedjax_face.method import Budget, Method
from fedjax_face.privacy import planning
from fedjax_face.runs import stage as stages
from fedjax_face.runs.asked import Asked, check_noise, overridden
from fedjax_face.runs.candidates import LOCAL_EPOCHS, draw, step_unit, value_of
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.records import write_json
from fedjax_face.runs.rehearsal_plan import (
    CLIENTS,
    NO_PUBLIC_SET,
    NOISE,
    REHEARSAL,
    Parts,
    Planned,
    check,
    divide,
    groups,
    planned,
    rehearsed,
)
from fedjax_face.runs.rehearsal_search import Search, Trial, in_words, lower_is_better
from fedjax_face.runs.rehearsal_stage import Stage
from fedjax_face.runs.settings import Compute, Evaluation, Rehearsed, budget, compute
from fedjax_face.runs.start import Start

Say = Callable[[str], None]


def rehearse(method: Method, data: Data | Sources, *, rounds: int,
             workdir: str | os.PathLike | None = None, seed: int = 0, start: Start | None = None,
             privacy: Budget = budget(), evaluation: Evaluation | None = None,
             compute: Compute = compute(), rehearsal: Rehearsed | None = None,
             candidates: int = 16, repetitions: int = 3, final_rounds: int | None = None,
             minutes: float | None = None, say: Say = print) -> dict[str, Any]:
  """Chooses values for `fit(method, data, ...)` on the people of its public set, for no privacy.

  With `minutes` what is chosen depends on the speed of the machine; otherwise on what is asked
  alone.

  Args:
    method, data, rounds, seed, start, privacy, evaluation, compute: as of `fit`.
    workdir: made if absent, for `rehearsal.json` and what pre-trains on public people; None:
      nothing is written.
    rehearsal: what a config says of another rehearsal; ignored.
    candidates: how many settings are tried; the first is the method's own.
    repetitions: of the two finalists.
    final_rounds: of the final; default `rounds`.
    minutes: the search stops near them; pre-training and compilation come on top.
    say: told about progress in lines.

  Returns:
    What rehearsal.json says: among others `overrides`, path -> value that was chosen, and
    `rehearsal`, what `fit` is told of it; `applied` puts both into a config.

  Raises:
    ValueError: what cannot be rehearsed, or does not go together, in one line.
    FileNotFoundError: data that are not there.
  """
  asked = Asked.of(method, data, rounds, seed, start, privacy, evaluation, compute)
  for name, value in (("candidates", candidates), ("repetitions", repetitions),
                      ("final_rounds", final_rounds), ("minutes", minutes)):
    if value is not None and not value > 0:
      raise ValueError(f"{name}={value}: expected above 0")
  check(asked)
  check_noise(asked.method, asked.privacy)
  return _chosen(asked, None if workdir is None else pathlib.Path(workdir), candidates, repetitions,
                 final_rounds, minutes, say)


def _chosen(asked: Asked, workdir: pathlib.Path | None, candidates: int, repetitions: int,
            rounds: int | None, minutes: float | None, say: Say) -> dict[str, Any]:
  """The same of arguments that are checked; `rounds` are those of the final."""
  sources, seed = asked.sources(), asked.record["seed"]
  if sources.public is None:
    raise ValueError(NO_PUBLIC_SET)
  parts, mesh = divide(sources.public, asked.start is not None, seed), clients_mesh()
  plan = planned(asked, sources, mesh, lambda z, epsilon: say(
      f"calibrating the run's noise: multiplier {z:.3f} gives epsilon {epsilon:.3f}"))
  people, m = parts.clients.num_persons, value_of(asked.method, "method.clients.users_per_client")
  if people // groups(asked.method) < mesh.size * m:
    mesh = clients_mesh(jax.devices()[:1])
  own = rehearsed(asked, plan, people, mesh.size)
  backbone = None
  if parts.pretraining is not None:
    backbone = stages.carried_out(
        own.stage(parts.pretraining, mesh), parts.pretraining, mesh, None, say,
        asked.compute.starts or (None if workdir is None else workdir / "public_stages"))
  drawn = draw(asked.method, candidates, np.random.default_rng([seed, REHEARSAL, 1]))
  stage = Stage(own, parts, mesh, backbone, {c.values.get(LOCAL_EPOCHS) for c in drawn})
  start = stage.evaluator.outcome(stage.start, band=False).metrics
  metric = next((name for name in asked.evaluation.headline if name in start), next(iter(start)))
  stage.compile()
  say(f"start: {metric} {start[metric].value:.4f}")
  unit = step_unit(stage.weight, plan.noise_multiplier / plan.clients, plan.rounds)
  trials = [Trial(number, candidate) for number, candidate in enumerate(drawn)]
  search = Search(stage, metric, unit, asked.method, say)
  winner = search.run(trials, min(rounds or plan.rounds, plan.rounds), repetitions, minutes)[0]
  record = _record(asked, own, parts, plan, metric, start[metric], trials, winner)
  if workdir is not None:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "rehearsal.json", record)
  return record


def applied(config: Any, path: str | os.PathLike, flags: Sequence[str] = ()) -> dict[str, Any]:
  """A config with what a rehearsal chose, and the section that says so.

  Args:
    config: what is said, after the overrides of a command line.
    path: of rehearsal.json.
    flags: these overrides, "--config.KEY=VALUE".

  Raises:
    ValueError: another file, a value that a flag gives as well, or that the config does not take.
    FileNotFoundError: no such file.
  """
  try:
    record = json.loads(pathlib.Path(path).read_text())
    chosen, said = dict(record["overrides"]), dict(record["rehearsal"])
  except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f"--overrides={path}: not what a rehearsal writes ({error!r})") from None
  for flag in flags:
    name = flag.partition("=")[0].removeprefix("--config.")
    if name in chosen:
      raise ValueError(f"{flag}: --overrides={path} gives {name} as well; leave one out")
  changed = overridden(config, [f"--config.{name}={value}" for name, value in chosen.items()])
  return changed.config | {"rehearsal": said}


def _record(asked: Asked, own: Asked, parts: Parts, plan: Planned, metric: str,
            start: Metric, trials: list[Trial], winner: Trial) -> dict[str, Any]:
  ratio = planning.noise_norm_ratio(plan.noise_multiplier, plan.clients, plan.parameters)
  sizes = {name: 0 if part is None else part.num_persons for name, part in parts._asdict().items()}
  name, people, chosen = parts.clients.name, sum(sizes.values()), options.call(winner.values)
  return {
      "set": name,
      "people": {"all": people, **sizes},
      "planned": {**plan._asdict(), "epsilon": asked.privacy.epsilon,
                  "delta": asked.privacy.delta,
                  "noise_on_mean_over_clip_norm": plan.noise_multiplier / plan.clients,
                  "noise_norm_ratio": ratio},
      "rehearsed": {"noise_multiplier": value_of(own.method, NOISE) or 0.0,
                    "clients": value_of(own.method, CLIENTS), "rounds": winner.rounds},
      "metric": metric,
      "start": {"score": start.value, "low": start.low, "high": start.high},
      "trials": [_trial(trial) for trial in trials if trial.scores],
      "winner": {"candidate": winner.number, "score": statistics.fmean(winner.last),
                 "spread": _spread(winner)},
      "overrides": chosen,
      "rehearsal": section(name, people, sizes["judges"], chosen),
      "warnings": _warnings(plan, own, ratio, metric, start, winner, parts),
  }


def section(name: str, people: int, judges: int, values: Mapping[str, Any]) -> dict[str, Any]:
  """The section `rehearsal` of a config; see `settings.rehearsed`.

  Args:
    name: of the public set.
    people: in it.
    judges: of them.
    values: path -> value that was chosen.
  """
  return {"public": name, "people": people, "judges": judges,
          "chose": [f"{path}={json.dumps(value)}" for path, value in values.items()]}


def _spread(trial: Trial) -> float:
  """Largest less smallest score of the repetitions."""
  return max(trial.last) - min(trial.last)


def _trial(trial: Trial) -> dict[str, Any]:
  return {"candidate": trial.number, "values": options.call(trial.values),
          "clip_quantile": trial.candidate.quantile, "server_step": trial.candidate.step,
          "rounds": trial.rounds, "score": statistics.fmean(trial.last),
          "scores": [{"rounds": rounds, "repetition": repetition, "score": score}
                     for (rounds, repetition), score in trial.scores.items()]}


def _warnings(plan: Planned, own: Asked, ratio: float, metric: str, start: Metric, winner: Trial,
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
  if (clients := value_of(own.method, CLIENTS)) < plan.clients:
    lines.append(f"{clients} of {plan.clients} clients a round were rehearsed, "
                 "with more noise on their mean than the run's, so the server step is a cautious "
                 "one; more public people come closer")
  if not parts.clients.persons_are_labels:
    lines.append("people who judge share labels with the clients' people, so that judges do not "
                 "stand for unseen labels")
  if warning := planning.noise_norm_warning(ratio):
    lines.append(warning)
  return lines
