"""What a run says about itself when it ends: summary.json, privacy.json, PRIVACY.md, a table."""

from __future__ import annotations

import csv
import datetime
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from fedjax_face import __version__
from fedjax_face.evaluation.overlap import cross_client_overlap
from fedjax_face.method.algorithm import Algorithm, flattened
from fedjax_face.privacy import statement
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.privacy.statement_files import File
from fedjax_face.runs import comparison
from fedjax_face.runs.evaluator import Outcome
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.references import Reference, gains
from fedjax_face.split.cost import device_line

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jax-privacy", "dp-accounting", "numpy",
             "orbax-checkpoint")
_WIDE = 200  # columns of a table that no terminal shows: as many as it needs


def environment() -> dict[str, Any]:
  """Git revision, versions and device of this process."""
  devices = jax.devices()
  return {
    "git_revision": git_revision(),
    "versions": {"fedjax_face": __version__, "python": sys.version.split()[0]} | {
      name: metadata.version(name) for name in _PACKAGES},
    "device": {"kind": devices[0].device_kind, "platform": devices[0].platform,
               "count": len(devices), "processes": jax.process_count()},
  }


def git_revision() -> str:
  """Commit of the source tree, with "+changes" if files differ from it; "unknown" outside git."""
  folder = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True,
                          check=True, timeout=10).stdout.strip()

  try:
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return "unknown"


def summary_said(workdir: pathlib.Path, *, status: str, rounds: int, experiment: Experiment,
                  state: Any, seconds: Mapping[str, float],
                  outcome: Outcome | None = None, asked: int | None = None,
                  warnings: Sequence[str] = (),
                  compared: Mapping[str, Reference] | None = None) -> dict[str, Any]:
  """What summary.json says.

  Args:
    workdir: of the run.
    status: "finished", or why it stopped.
    rounds: rounds done.
    experiment: config, data and algorithm of the run.
    state: or, where the run did not finish, its shapes, to count bytes.
    seconds: `compile` (first dispatch beyond its rounds), `per_round` (without the first dispatch)
      and `total`, of this process.
    outcome: of the final evaluation.
    asked: rounds that were asked for, of which a callback may have ended the last.
    warnings: what this process said of trouble while it trained.
    compared: of `references.references`.
  """
  algorithm, compared = experiment.algorithm, compared or {}
  return {
    "status": status,
    "algorithm": algorithm.name,
    "rounds": rounds,
    **({} if asked in (None, rounds) else {"rounds_asked": asked}),
    "seed": experiment.config.seed,
    "hparams": flattened(algorithm.hparams),
    **environment(),
    "seconds": dict(seconds),
    "bytes_per_client_and_round": algorithm.communication(state)._asdict(),
    **algorithm.record(),
    "overlap": _overlap(algorithm, state) if status == "finished" else None,
    "data_notes": [*experiment.sources.notes, *algorithm.notes],
    "updates_not_finite": _sum_of_column(workdir / "metrics.csv", "clients_not_finite"),
    "warnings": list(warnings),
    "metrics": {} if outcome is None else metrics_json(outcome),
    "references": {name: {"words": words, "metrics": metrics_json(of)}
                   for name, (words, of) in compared.items()},
    "gains": gains(outcome, compared["start"].outcome) if outcome and compared else {},
    "roc": roc_json(outcome, compared),
    "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def metrics_json(outcome: Outcome) -> dict[str, Any]:
  """`value`, `low`, `high`, `note` and, where it is known, `chance` of every metric."""
  return {name: metric.as_json() for name, metric in outcome.metrics.items()}


def roc_json(outcome: Outcome | None,
             compared: Mapping[str, Reference] | None = None) -> dict[str, Any] | None:
  """The curve of the model and those beside it, at the same FARs; None without one.

  Returns:
    `protocol`, `negatives` and `smallest_reliable_far`; `far` [T]; `tar`, name -> [T], "model" the
    first; `band`, `far`, `low` and `high` [B] of the model's, or None.
  """
  curve = None if outcome is None else outcome.roc
  if curve is None:
    return None
  beside = {name: of.roc.tar for name, (_, of) in (compared or {}).items() if of.roc is not None}
  return curve._asdict() | {"tar": {"model": curve.tar} | beside,
                            "band": None if curve.band is None else curve.band._asdict()}


def _overlap(algorithm: Algorithm, state: Any) -> dict[str, list[float]] | None:
  """Histograms of cosines between class embeddings of different silos, where there are some."""
  if algorithm.class_embeddings is None:
    return None
  rows = algorithm.class_embeddings(state)
  owner = np.asarray(rows.owner)
  if len(np.unique(owner[owner >= 0])) < 2:
    return None
  found = cross_client_overlap(np.asarray(rows.class_embeddings), owner)
  return {name: np.asarray(values).tolist() for name, values in found._asdict().items()}


def _sum_of_column(path: pathlib.Path, name: str) -> float:
  """Sum over the rounds of a column of metrics.csv; 0 where the method has no such column."""
  if not path.exists():
    return 0.0
  with open(path, newline="") as file:
    return float(sum(float(row.get(name) or 0) for row in csv.DictReader(file)))


def privacy_said(*, status: str, ledger: Ledger, delta: float, algorithm: Algorithm,
                 noise_keys: str, population: Mapping[str, int], data: Mapping[str, Any],
                 evaluated_on: str, files: Sequence[File],
                 budget: Mapping[str, Any] | None = None,
                 counted: int | None = None) -> dict[str, Any]:
  """What privacy.json says; see `statement.privacy_json`.

  `counted` is the number of rounds in the ledger of a run that has not finished.
  """
  return statement.privacy_json(
    ledger, delta=delta, population=population, sampling=algorithm.sampling,
    noise_keys=noise_keys, units_per_person=algorithm.units_per_person,
    mechanism=algorithm.mechanism, dealt=algorithm.notes,
    run={"algorithm": algorithm.name, "data": dict(data), "evaluated_on": evaluated_on,
         "status": status, **({} if counted is None else {"counted": counted}),
         "revision": git_revision(),
         "written": datetime.datetime.now(datetime.UTC).date().isoformat()}, budget=budget,
    files=files)


def print_results(workdir: pathlib.Path, summary: Mapping[str, Any],
                  privacy: Mapping[str, Any], headline: Sequence[str] = ()) -> None:
  """The end of a run: metrics with intervals, privacy, where the files are, what was gained.

  Args:
    workdir: of the run.
    summary: its summary.json.
    privacy: its privacy.json.
    headline: the config's `evaluation.headline`.
  """
  print_metrics(f"{summary['algorithm']}: {summary['rounds']} rounds, {summary['status']}",
                summary["metrics"], summary.get("references", {}))
  for unit in privacy["units"]:
    print(_privacy_line(unit))
  if "device_part" in summary:
    print(device_line(summary["device_part"]))
  print(f"results: {workdir}/summary.json  privacy: {workdir}/PRIVACY.md  "
        f"figures: {workdir}/figures")
  if line := comparison.line(summary, privacy, headline):
    print(line)


def _privacy_line(unit: Mapping[str, Any]) -> str:
  best, note = unit["epsilon"]["best"], unit["epsilon"]["note"]
  if best is None:
    return f"epsilon of each {unit['unit']} not computed: {note}"
  if not isinstance(best, float):
    return (f"no guarantee for any {unit['unit']} on all channels together (epsilon infinite: "
            f"{note})")
  return (f"epsilon {statement.epsilon_words(best, note)} for each {unit['unit']} at delta "
          f"{unit['delta']:g}, {unit['adjacency'].replace('_', '-')}")


def print_metrics(title: str, metrics: Mapping[str, Mapping[str, Any]],
                  references: Mapping[str, Mapping[str, Any]] | None = None) -> None:
  """A table of `value`, `low`, `high` and `note` by name, and the values of the references."""
  references = references or {}
  from rich.console import Console
  from rich.table import Table
  table = Table(title=title)
  for column in ("metric", "value", "95 % interval",
                 *(reference["words"] for reference in references.values()), "note"):
    table.add_column(column)
  for name, metric in metrics.items():
    beside = (reference["metrics"].get(name) for reference in references.values())
    table.add_row(name, _number(metric["value"]), _interval(metric["low"], metric["high"]),
                  *("-" if other is None else _number(other["value"]) for other in beside),
                  metric["note"])
  Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def _number(value: Any) -> str:
  """Four digits; a number that JSON cannot hold is already a word."""
  return value if isinstance(value, str) else f"{value:.4f}"


def _interval(low: Any, high: Any) -> str:
  return "-" if "nan" in (str(low), str(high)) else f"{_number(low)} - {_number(high)}"
