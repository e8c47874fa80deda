"""What a run says of its privacy: from its experiment and its ledger to the statement."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjax_face.privacy import budget as budgets
from fedjax_face.privacy import statement, statement_files
from fedjax_face.privacy.budget import Budget
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import disk, summary, training_set
from fedjax_face.runs.callbacks import ENDED
from fedjax_face.runs.experiment import Experiment, evaluated_on
from fedjax_face.runs.records import as_text


def noise_keys(experiment: Experiment) -> str:
  """A key of `statement.NOISE_KEYS`."""
  if is_pinned(experiment.config):
    return "pinned"
  return "none" if claims_nothing(experiment) else "operating_system"


def claims_nothing(experiment: Experiment) -> bool:
  """Whether no guarantee rests on secret sampling, so that the seed may decide everything."""
  return is_pinned(experiment.config) or all(
      is_non_private(release.event) for release in experiment.algorithm.releases)


def is_pinned(options: Any) -> bool:
  """Whether the seeds of the noise are given, which anybody may know."""
  return options.privacy.get("noise_seed") is not None


def population_of(experiment: Experiment) -> Mapping[str, int]:
  """Unit -> number of such units that can take part."""
  algorithm = experiment.algorithm
  if isinstance(algorithm.population, Mapping):
    return algorithm.population
  units = (*(release.unit for release in algorithm.releases), *experiment.ledger.units)
  return dict.fromkeys(units, algorithm.population)


def statement_of(experiment: Experiment, ledger: Ledger) -> dict[str, Any]:
  """What privacy.json would say of a run that writes nothing."""
  described = training_set.described(experiment.sources.train)
  return summary.privacy_said(
    status="finished", ledger=ledger, delta=experiment.config.privacy.delta,
    algorithm=experiment.algorithm,
    noise_keys="none" if claims_nothing(experiment) else "memory",
    population=population_of(experiment), data=described | {"digest": None},
    evaluated_on=evaluated_on(experiment.sources), files=())


def with_more(experiment: Experiment, ledger: Ledger, rounds: int) -> Ledger:
  """A copy of a ledger with so many rounds more."""
  most = Ledger.from_json(ledger.to_json())
  for release in experiment.algorithm.releases:
    most.record(release, max(rounds, 0))
  return most


def write(workdir: pathlib.Path, privacy: Mapping[str, Any]) -> None:
  """Writes privacy.json and PRIVACY.md."""
  disk.write(workdir / "privacy.json", as_text(privacy))
  disk.write(workdir / "PRIVACY.md", statement.privacy_markdown(privacy))


def said(experiment: Experiment, ledger: Ledger, workdir: pathlib.Path, budget: Budget | None,
         status: str, counted: int | None = None) -> dict[str, Any]:
  """What privacy.json says of a run in a folder, as it stands; see `summary.privacy_said`."""
  sources = experiment.sources
  about = About(
      training_set.described(sources.train, training_set.key(workdir)), evaluated_on(sources),
      sources.evaluates_training_people,
      None if budget is None else budgets.statement(budget.path))
  return said_of(experiment, ledger, workdir, about, status, counted)


class About(NamedTuple):
  """What a statement says of the sets of a run, and of the budget that it is entered in.

  Attributes:
    data: as `training_set.described`.
    evaluated_on: in words.
    evaluates_training_people: as of `Sources`.
    budget: of `budget.statement`, or None.
  """

  data: Mapping[str, Any]
  evaluated_on: str
  evaluates_training_people: bool
  budget: Mapping[str, Any] | None


def said_of(experiment: Experiment, ledger: Ledger, workdir: pathlib.Path, about: About,
            status: str, counted: int | None = None) -> dict[str, Any]:
  """The same of an experiment without its sets."""
  options, algorithm = experiment.config, experiment.algorithm
  return summary.privacy_said(
    status=status, ledger=ledger, delta=options.privacy.delta, algorithm=algorithm,
    noise_keys=noise_keys(experiment), population=population_of(experiment),
    data=about.data, evaluated_on=about.evaluated_on,
    files=statement_files.of_run(
      evaluates_training_people=about.evaluates_training_people,
      releases_model=_releases_model(experiment), curves=algorithm.embed is not None,
      secrets=status != "finished" and not is_pinned(options),
      start=experiment.untrained is not None, budget=about.budget is not None,
      ended_early=(workdir / ENDED).exists(),
      silos=algorithm.class_embeddings is not None, wandb=bool(options.training.get("wandb"))),
    budget=about.budget, counted=counted)


def _releases_model(experiment: Experiment) -> bool:
  """Whether what is trained leaves through a channel with a guarantee."""
  return not is_pinned(experiment.config) and any(
      release.channel in ("backbone", "model") and not is_non_private(release.event)
      for release in experiment.algorithm.releases)
