"""What a folder holds of a run: its newest checkpoint, and what follows from that alone.

Files beside the checkpoints can be edited, torn or removed; nothing that a `Run` says comes from
them where the checkpoint holds it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import (
    budget_entry,
    checkpoint,
    config,
    derived,
    inputs,
    resumed,
    run_statement,
)
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.derived import Said
from fedjax_face.runs.experiment import Experiment, evaluated_on, evaluation_sentence
from fedjax_face.runs.records import read_json
from fedjax_face.runs.rows import Values, rows_in
from fedjax_face.runs.run_statement import About


class KeptRun(NamedTuple):
  """A run in a folder.

  Attributes:
    workdir: of the run.
    found: its newest checkpoint.
    counted: rounds in `ledger`: those done, and of a run that has not finished those that it may
      have run since.
    ledger: of what it has released at most.
    rows: (round, values) of the rounds done.
    said: what its files said when it finished; None of one that has not, or was killed just then.
  """

  workdir: pathlib.Path
  found: Checkpoint
  counted: int
  ledger: Ledger
  rows: list[tuple[int, Values]]
  said: Said | None


def found(workdir: pathlib.Path, made: Experiment,
          exact: Callable[[], Experiment]) -> tuple[KeptRun, Experiment]:
  """What a folder holds, and the experiment with the noise of the run where that is needed.

  Args:
    workdir: of the run.
    made: the experiment, perhaps with some noise in the place of what a budget asks for.
    exact: () -> the same with its own noise; only called for a run whose ledger or statement is
      made anew.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: one of another run, or noise that comes out otherwise here.
  """
  template = jax.eval_shape(made.algorithm.init, jax.random.key(0))
  newest = checkpoint.restore(workdir / "checkpoints", template, lambda line: None)
  if newest is None:
    raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint yet")
  if newest.config != config.digest(read_json(workdir / "config.json")):
    raise ValueError(f"{workdir}/config.json is not that of its checkpoints: put it back as it was")
  said = derived.newest(workdir) if newest.finished else None
  if said is not None and said.summary["rounds"] != newest.round:
    said = None
  if said is None and repr(made.algorithm.releases) != newest.releases:
    made = exact()
    if repr(made.algorithm.releases) != newest.releases:
      raise ValueError(f"{workdir}: the noise that its budget asks for comes out otherwise here "
                       "than in the run, so that what it has released cannot be told: load it with "
                       "the versions of its run")
  ledger, counted = Ledger.from_json(newest.ledger), newest.round
  if not newest.finished:
    counted = max(newest.round, resumed.counted(workdir, made.config, newest.round))
    if counted > newest.round:
      for release in made.algorithm.releases:
        ledger.record(release, counted - newest.round)
  rows = rows_in(newest.records, workdir / "metrics.csv", newest.round)
  return KeptRun(workdir, newest, counted, ledger, rows, said), made


def privacy(kept: KeptRun, made: Experiment) -> dict[str, Any]:
  """What privacy.json says of a run: as it was kept when it finished, or made anew of its ledger.

  Args:
    kept: the run.
    made: its experiment, as `found` returned it; it needs no sources.

  Raises:
    ValueError, FileNotFoundError: what the statement says of the data is gone or damaged.
  """
  if kept.said is not None:
    return kept.said.privacy
  finished = kept.found.finished
  return run_statement.said_of(
      made._replace(ledger=kept.ledger), kept.ledger, kept.workdir, _about(kept),
      "finished" if finished else "unfinished", None if finished else kept.counted)


def _about(kept: KeptRun) -> About:
  """Of the facts that lie in the folder; of privacy.json where a budget, or no facts, are kept."""
  workdir, no_budget = kept.workdir, not (kept.workdir / budget_entry.MARKER).exists()
  if no_budget and (workdir / inputs.INPUTS).is_file():
    known = inputs.recorded(workdir)
    if known.train is not None and known.evaluation is not None:
      return _of_facts(kept, known)
  return _of_statement(kept)


class _Facts(NamedTuple):
  """As much of `Sources` as says whom a model is evaluated on."""

  evaluation: Any
  evaluates_training_people: bool


def _of_facts(kept: KeptRun, known: inputs.Known) -> About:
  said = read_json(kept.workdir / inputs.INPUTS)["train"]
  regions = getattr(known.train, "regions", None)
  data = {"name": said["name"], "people": said["people"],
          "images": said["images"] if regions is None else len(np.unique(regions.original)),
          "digest": said["digest"],
          "digest_of": f"what {inputs.INPUTS} and {inputs.FACTS} hold of people, labels and "
                       "images, under the key in training_set.key: only who has the key can "
                       "compute it"}
  words = evaluated_on(_Facts(known.evaluation, False))
  others = evaluation_sentence(words) in kept.ledger.not_covered
  if not others:
    words = evaluated_on(_Facts(known.evaluation, True))
  return About(data, words, not others, None)


def _of_statement(kept: KeptRun) -> About:
  """What only privacy.json says, where its ledger has at least what the checkpoint has."""
  path = kept.workdir / "privacy.json"
  if not path.is_file():
    raise ValueError(f"{path}: gone, and the statement of this run cannot be made without it: put "
                     "it back, or start the run again, which writes it")
  said = read_json(path)
  try:
    written = _times(said["ledger"])
    data, words, budget = said["run"]["data"], said["run"]["evaluated_on"], said["budget"]
    whole = {"name", "people", "images", "digest", "digest_of"} <= set(data)
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is not a statement of this run ({error!r}): put it back, or start "
                     "the run again, which writes it") from None
  least = _times(kept.found.ledger)
  if not whole or any(written.get(release, 0) < times for release, times in least.items()):
    raise ValueError(f"{path} says less than the run has released by its last checkpoint: put it "
                     "back, or start the run again, which writes it")
  return About(data, words, evaluation_sentence(words) not in kept.ledger.not_covered, budget)


def _times(ledger: Mapping[str, Any]) -> dict[str, int]:
  """Release in words -> steps recorded."""
  return {repr(release): times for release, times in Ledger.from_json(ledger).entries}
