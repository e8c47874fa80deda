"""What a run says about itself when it ends: summary.json, privacy.json, PRIVACY.md, a table."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from fedjax_face import __version__
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.privacy import statement
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.training.evaluator import Outcome
from fedjax_face.training.records import write_atomically, write_json

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jax-privacy", "dp-accounting", "numpy",
             "orbax-checkpoint")


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


def write_summary(workdir: pathlib.Path, *, status: str, rounds: int, config: Any,
                  algorithm: Algorithm, state: Any, seconds: Mapping[str, float],
                  outcome: Outcome | None = None) -> dict[str, Any]:
  """Writes summary.json and returns it.

  Args:
    workdir: of the run.
    status: "finished", or why it stopped.
    rounds: rounds done.
    config: of the run.
    algorithm: trained.
    state: or its shapes, to count bytes.
    seconds: `compile` (first dispatch beyond its rounds), `per_round` (without the first dispatch)
      and `total`, of this process.
    outcome: of the final evaluation.
  """
  down, up = algorithm.communication(state)
  metrics = {} if outcome is None else {
    name: {"value": m.value, "low": m.low, "high": m.high, "note": m.note}
    for name, m in outcome.metrics.items()}
  summary = {
    "status": status,
    "algorithm": algorithm.name,
    "rounds": rounds,
    "seed": config.seed,
    "hparams": dict(algorithm.hparams),
    **environment(),
    "seconds": dict(seconds),
    "bytes_per_client_and_round": {"down": down, "up": up},
    "metrics": metrics,
    "roc": None if outcome is None else outcome.roc,
    "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  write_json(workdir / "summary.json", summary)
  return summary


def write_privacy(workdir: pathlib.Path, *, ledger: Ledger, delta: float, algorithm: Algorithm,
                  pinned: bool, population: Mapping[str, int]) -> dict[str, Any]:
  """Writes privacy.json and PRIVACY.md and returns what they say."""
  said = statement.privacy_json(
    ledger, delta=delta, population=population, sampling=algorithm.sampling,
    noise_keys="pinned" if pinned else "operating_system")
  write_json(workdir / "privacy.json", said)
  write_atomically(workdir / "PRIVACY.md", statement.privacy_markdown(said))
  return said


def print_results(workdir: pathlib.Path, summary: Mapping[str, Any],
                  privacy: Mapping[str, Any]) -> None:
  """The table at the end of a run: metrics with intervals, privacy, and where the files are."""
  from rich.console import Console
  from rich.table import Table
  table = Table(title=f"{summary['algorithm']}: {summary['rounds']} rounds, {summary['status']}")
  table.add_column("metric")
  table.add_column("value", justify="right")
  table.add_column("95 % interval", justify="right")
  for name, metric in summary["metrics"].items():
    table.add_row(name, format_number(metric["value"]),
                  format_interval(metric["low"], metric["high"]))
  console = Console(width=None if sys.stdout.isatty() else 100)
  console.print(table)
  for unit in privacy["units"]:
    epsilon = statement.epsilon_words(unit["epsilon"]["best"], unit["epsilon"]["note"])
    console.print(f"epsilon {epsilon} for each {unit['unit']} at delta {unit['delta']:g}, "
                  f"{unit['adjacency']}", markup=False, highlight=False)
  console.print(f"results: {workdir}/summary.json  privacy: {workdir}/PRIVACY.md  "
                f"figures: {workdir}/figures", markup=False, highlight=False, soft_wrap=True)


def format_number(value: Any) -> str:
  """Four digits; a number that JSON cannot hold is already a word."""
  return value if isinstance(value, str) else f"{value:.4f}"


def format_interval(low: Any, high: Any) -> str:
  """"0.12 - 0.15", or "-" where there is none."""
  if low != low or high != high or "nan" in (low, high):
    return "-"
  return f"{format_number(low)} - {format_number(high)}"
