"""The ledger of a data set, kept in a file across runs: what trains on the same people adds up.

A run is entered with everything that it may release, all rounds of it, before the first release; it
stays entered, whether it ends or not. Entering reads and replaces the file under a lock, so that
runs which start together all count. A run that goes on is not counted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger

_VERSION = 1
_POLL_SECONDS = 0.05


class Budget(NamedTuple):
  """A file, and the most that all runs entered in it may cost.

  Attributes:
    path: JSON file, made when the first run is entered.
    limit: largest total epsilon of each unit, at the delta of the first run; written into a new
      file. None: no limit in a new file, that of the file otherwise.
  """

  path: pathlib.Path
  limit: float | None = None


class Entry(NamedTuple):
  """A run, as it is entered.

  Attributes:
    run: identifies it, the same when it goes on.
    data: name of the training set.
    digest: of the training set.
    delta: of its statement.
    said: further words for readers: name, date, revision.
    ledger: everything that it may release, to its last round.
  """

  run: str
  data: str
  digest: str
  delta: float
  said: Mapping[str, str]
  ledger: Ledger


def enter(budget: Budget, entry: Entry, patience: float = 10.0) -> None:
  """Enters a run before its first release, or its further rounds.

  Args:
    budget: the file and its limit.
    entry: the run.
    patience: seconds to wait for another process that enters a run.

  Raises:
    ValueError: a file of another data set or limit, one that is damaged or locked, or a total above
      the limit; the file stays as it was.
    OSError: a file that cannot be read or written.
  """
  with _locked(budget.path, patience):
    held = _read(budget.path) if budget.path.exists() else {
        "version": _VERSION, "data": entry.data, "delta": entry.delta, "limit": budget.limit,
        "runs": []}
    if held["data"] != entry.data:
      raise ValueError(f"{budget.path} is the privacy budget of {held['data']!r}, but this run "
                       f"trains on {entry.data!r}: give the file of that data set")
    if budget.limit is not None and budget.limit != held["limit"]:
      raise ValueError(f"{budget.path} has the limit {held['limit']}, not {budget.limit}: expected "
                       "the same, or none given")
    others = [run for run in held["runs"] if run["run"] != entry.run]
    runs = [*others, {"run": entry.run, "digest": entry.digest, **entry.said,
                      "ledger": entry.ledger.to_json()}]
    if held["limit"] is not None:
      before, after = totals(others, held["delta"]), totals(runs, held["delta"])
      for unit, epsilon in after.items():
        if not epsilon <= held["limit"]:
          raise ValueError(
              f"{budget.path} is exhausted for each {unit}: its limit is epsilon {held['limit']:g} "
              f"at delta {held['delta']:g}, {before.get(unit, 0.0):.3f} of it is used, and with "
              f"this run it would be {epsilon:.3f}; nothing was released")
    _write(budget.path, {**held, "runs": runs})


def require_entered(path: pathlib.Path, run: str) -> None:
  """Raises ValueError unless a run is entered in the file."""
  if not path.exists() or all(held["run"] != run for held in _read(path)["runs"]):
    raise ValueError(f"{path} does not hold this run, which has begun: expected the file that it "
                     "was entered in")


def statement(path: pathlib.Path) -> dict[str, Any]:
  """What the file says, for privacy.json: runs with the epsilon of each, and the total.

  Returns:
    `data`, `delta`, `limit`, `total` (unit -> epsilon, "infinite" without a bound), `runs`.
  """
  held = _read(path)
  alone = [{**{k: v for k, v in run.items() if k != "ledger"},
            "epsilon": _plain(totals([run], held["delta"]))} for run in held["runs"]]
  return {"data": held["data"], "delta": held["delta"], "limit": held["limit"],
          "total": _plain(totals(held["runs"], held["delta"])), "runs": alone}


def totals(runs: Sequence[Mapping[str, Any]], delta: float) -> dict[str, float]:
  """Unit -> epsilon of everything that the runs may release about it; inf where nothing holds.

  Composition is adaptive, over all runs of a unit and adjacency. A unit with releases under both
  add-or-remove-one and replace-one has a total under replace-one: removing one and adding another
  doubles the epsilon of the former, at (1 + e^epsilon) times its delta, and the two parts add up.
  """
  ledgers: dict[tuple[str, Adjacency], Ledger] = {}
  for run in runs:
    for release, times in Ledger.from_json(run["ledger"]).entries:
      ledgers.setdefault((release.unit, release.adjacency), Ledger()).record(release, times)
  units = dict.fromkeys(unit for unit, _ in ledgers)
  return {unit: _total(unit, {of: ledger for (name, of), ledger in ledgers.items() if name == unit},
                       delta) for unit in units}


def _total(unit: str, ledgers: Mapping[Adjacency, Ledger], delta: float) -> float:
  known = lambda epsilon: math.inf if math.isnan(epsilon) else epsilon
  if len(ledgers) == 1:
    (ledger,) = ledgers.values()
    return known(ledger.epsilon(delta, unit).best)
  if set(ledgers) != {Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE}:
    return math.inf
  replaced = known(ledgers[Adjacency.REPLACE_ONE].epsilon(delta / 2, unit).best)
  smaller = delta / 4
  for _ in range(20):
    added = known(ledgers[Adjacency.ADD_OR_REMOVE_ONE].epsilon(smaller, unit).best)
    if not added < 300:
      return math.inf
    if (1 + math.exp(added)) * smaller <= delta / 2:
      return replaced + 2 * added
    smaller = 0.5 * delta / (1 + math.exp(added)) / 2
  return math.inf


def _plain(found: Mapping[str, float]) -> dict[str, float | str]:
  return {unit: epsilon if math.isfinite(epsilon) else "infinite"
          for unit, epsilon in found.items()}


@contextlib.contextmanager
def _locked(path: pathlib.Path, patience: float) -> Iterator[None]:
  """Holds the lock beside the file, which is itself replaced when it is written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  deadline = time.monotonic() + patience
  with open(path.with_name(f"{path.name}.lock"), "a") as file:
    while True:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() > deadline:
          raise ValueError(f"{path} is locked by another process, which enters a run: try again"
                           ) from None
        time.sleep(_POLL_SECONDS)
    yield


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    held = json.loads(path.read_text())
    if held["version"] != _VERSION:
      raise ValueError(f"version {held['version']}, expected {_VERSION}")
    for run in held["runs"]:
      Ledger.from_json(run["ledger"])
    return {name: held[name] for name in ("version", "data", "delta", "limit", "runs")}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path} is no readable privacy budget ({error}): what was released is then "
                     "not known, so nothing is; put it back") from None


def _write(path: pathlib.Path, held: Mapping[str, Any]) -> None:
  partial = path.with_name(f".{path.name}.partial")
  try:
    with open(partial, "w") as file:
      file.write(json.dumps(held, indent=2, allow_nan=False) + "\n")
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise OSError(f"{path} not written: {error.strerror or error}") from error
