"""Enters a run in the privacy budget of its data set before it releases anything."""

from __future__ import annotations

import contextlib
import datetime
import json
import pathlib
import pickle
import secrets
from collections.abc import Callable
from typing import Any

from fedjax_face.privacy import budget as budgets
from fedjax_face.privacy.budget import Budget, Entry
from fedjax_face.privacy.ledger import Ledger, Release, non_private
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.mesh import broadcast, is_main_process
from fedjax_face.runs.records import make_guarded, write_json
from fedjax_face.runs.summary import git_revision
from fedjax_face.runs.training_set import content

MARKER = "privacy_budget.json"


def require_same(workdir: pathlib.Path, budget: Budget | None, finished: bool) -> None:
  """Refuses a run that goes on without the budget that it was entered in.

  Args:
    workdir: of the run.
    budget: given now, or None.
    finished: it releases nothing more; a budget given now must hold it.

  Raises:
    ValueError: in one line.
  """
  run = _marked(workdir)
  if budget is None and run is not None and not finished:
    raise ValueError(f"{workdir} is entered in a privacy budget: give --privacy_budget FILE again")
  if budget is not None and finished:
    if run is None:
      raise ValueError(f"{workdir} has finished without --privacy_budget: what it released is in "
                       "no such file; it adds to the total all the same")
    budgets.require_entered(budget.path, run)


def enter(experiment: Experiment, workdir: pathlib.Path, budget: Budget | None) -> None:
  """Enters everything that the run may release, to its last round; process 0 does it for all.

  Raises:
    ValueError: as `budget.enter`.
    OSError: files that cannot be read or written.
  """
  if budget is None:
    return
  failure: Exception | None = None
  if is_main_process():
    try:
      _enter(experiment, workdir, budget)
    except (ValueError, OSError) as error:
      failure = error
  failure = pickle.loads(broadcast(pickle.dumps(failure)))
  if failure is not None:
    raise failure


def begun(workdir: pathlib.Path) -> None:
  """Marks that a checkpoint is kept from which an entered run goes on; before its first release."""
  marked = _read(workdir) if is_main_process() else None
  if marked is not None:
    write_json(workdir / MARKER, {**marked, "begun": True})


def _enter(experiment: Experiment, workdir: pathlib.Path, budget: Budget) -> None:
  marked, run = _read(workdir), secrets.token_hex(8)
  if marked is not None:
    run = marked["run"]
    if marked.get("begun", True):
      budgets.require_entered(budget.path, run)
  else:
    # First, so that a run that is killed between the two files is not entered twice.
    make_guarded(workdir)
    write_json(workdir / MARKER, {"run": run, "begun": False})
  try:
    budgets.enter(budget, _entry(experiment, run, workdir.name, whole(experiment)))
  except (ValueError, OSError):
    if marked is not None:
      write_json(workdir / MARKER, marked)
    else:
      (workdir / MARKER).unlink()
      with contextlib.suppress(OSError):
        workdir.rmdir()  # where nothing else is in it
    raise


def enter_once(experiment: Experiment, name: str, budget: Budget) -> None:
  """Enters a run that never goes on, such as an audit, whose roots nobody knows.

  Args:
    experiment: what is run once.
    name: for readers of the budget.
    budget: the file and its limit.

  Raises:
    ValueError: as `budget.enter`.
    OSError: files that cannot be read or written.
  """
  budgets.enter(budget, _entry(experiment, secrets.token_hex(8), name, _to_the_end(experiment)))


def whole(experiment: Experiment) -> Ledger:
  """Everything that the run may release to its last round; noise that is known protects nothing."""
  if experiment.config.privacy.get("noise_seed") is None:
    return _to_the_end(experiment)
  return _to_the_end(experiment, lambda release: non_private(
      release.channel, release.unit, release.adjacency, release.seen_by,
      "privacy.noise_seed is pinned"))


def _to_the_end(experiment: Experiment,
                change: Callable[[Release], Release] = lambda release: release) -> Ledger:
  ledger = Ledger.from_json(experiment.ledger.to_json())
  for release in experiment.algorithm.releases:
    ledger.record(change(release), experiment.config.rounds)
  return ledger


def _entry(experiment: Experiment, run: str, name: str, ledger: Ledger) -> Entry:
  train = experiment.sources.train
  said = {"name": name, "algorithm": experiment.algorithm.name,
          "started": datetime.datetime.now(datetime.UTC).date().isoformat(),
          "revision": git_revision()}
  return Entry(run, train.name, content(train), experiment.config.privacy.delta, said, ledger,
               experiment.algorithm.units_per_person)


def _marked(workdir: pathlib.Path) -> str | None:
  marked = _read(workdir)
  return None if marked is None else marked["run"]


def _read(workdir: pathlib.Path) -> dict[str, Any] | None:
  path = workdir / MARKER
  if not path.exists():
    return None
  try:
    marked = json.loads(path.read_text())
    return {**marked, "run": str(marked["run"])}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is damaged ({error}): which entry of the privacy budget is this "
                     "run's is not known") from None
