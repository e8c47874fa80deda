"""The ledger of a data set, kept in a file across runs: what trains on the same people adds up.

A run is entered with everything that it may release, all rounds of it, before the first release; it
stays entered, whether it ends or not. Entering reads and replaces the file under a lock, so that
runs which start together all count. A run that goes on is not counted again.

The file is guarded: the digests in it are of the data alone, so that its owner can tell which runs
had the same data, and who knows everybody else's data could tell from one whether somebody is in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import pathlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.privacy import groups
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, Release, events_used

_VERSION = 1
_PERSON = "person"
_POLL_SECONDS = 0.05


class Budget(NamedTuple):
  """A file, and the most that all runs entered in it may cost.

  Attributes:
    path: JSON file, made when the first run is entered.
    limit: largest total epsilon of each unit, at the delta of the first run; written into a new
      file. None: no limit in a new file, that of the file otherwise.
    data: name of the data set in the file; None: that of the run's training set.
  """

  path: pathlib.Path
  limit: float | None = None
  data: str | None = None


class Entry(NamedTuple):
  """A run, as it is entered.

  Attributes:
    run: identifies it, the same when it goes on.
    data: name of the training set.
    digest: of the training set, without a key; it stays in the file.
    delta: of its statement.
    said: further words for readers: name, date, revision.
    ledger: everything that it may release, to its last round.
    units_per_person: unit -> the most of them that one person has, where that is known.
  """

  run: str
  data: str
  digest: str
  delta: float
  said: Mapping[str, str]
  ledger: Ledger
  units_per_person: Mapping[str, int] = {}


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
    name = entry.data if budget.data is None else budget.data
    held = _read(budget.path) if budget.path.exists() else {
        "version": _VERSION, "data": name, "delta": entry.delta, "limit": budget.limit,
        "runs": []}
    same = any(run.get("digest") == entry.digest for run in held["runs"])
    if held["data"] != name and not same:
      raise ValueError(
          f"{budget.path} is the privacy budget of {held['data']!r}, but this run trains on "
          f"{name!r}, whose content is not that of any run in it: give the file of that data set, "
          f"or, if the people are the same, --privacy_budget_data={shlex.quote(held['data'])}")
    if budget.limit is not None and budget.limit != held["limit"]:
      raise ValueError(f"{budget.path} has the limit {held['limit']}, not {budget.limit}: expected "
                       "the same, or none given")
    others = [run for run in held["runs"] if run["run"] != entry.run]
    runs = [*others, {"run": entry.run, "digest": entry.digest, **entry.said,
                      "units_per_person": dict(entry.units_per_person),
                      "ledger": entry.ledger.to_json()}]
    if held["limit"] is not None:
      before, after = totals(others, held["delta"]), totals(runs, held["delta"])
      for unit, epsilon in after.items():
        if not epsilon <= held["limit"]:
          raise ValueError(
              f"{budget.path} has no room for this run: its limit is epsilon {held['limit']:g} for "
              f"each {unit} at delta {held['delta']:g}, {before.get(unit, 0.0):.3f} is used by "
              f"{len(others)} run(s), and with this one it would be {epsilon:.3f}; a smaller "
              "privacy.epsilon, more noise or fewer rounds may fit; nothing was released")
    _write(budget.path, {**held, "runs": runs})


def require_entered(path: pathlib.Path, run: str) -> None:
  """Raises ValueError unless a run is entered in the file."""
  if not path.exists() or all(held["run"] != run for held in _read(path)["runs"]):
    raise ValueError(f"{path} does not hold this run, which has begun: expected the file that it "
                     "was entered in")


def statement(path: pathlib.Path) -> dict[str, Any]:
  """What the file says, for privacy.json: runs with the epsilon of each, and the total.

  Returns:
    `data`, `delta`, `limit`, `total` (unit -> epsilon, "infinite" without a bound), `runs`; no
    digest and no number of units of a person, which are private.
  """
  held = _read(path)
  private = ("ledger", "digest", "units_per_person")
  alone = [{**{k: v for k, v in run.items() if k not in private},
            "epsilon": _plain(totals([run], held["delta"]))} for run in held["runs"]]
  return {"data": held["data"], "delta": held["delta"], "limit": held["limit"],
          "total": _plain(totals(held["runs"], held["delta"])), "runs": alone}


def totals(runs: Sequence[Mapping[str, Any]], delta: float) -> dict[str, float]:
  """Unit -> epsilon of everything that the runs may release about it; inf where nothing holds.

  Composition is adaptive, over all runs of a unit and adjacency. A unit with releases under both
  add-or-remove-one and replace-one has a total under replace-one: removing one and adding another
  doubles the epsilon of the former, at (1 + e^epsilon) times its delta, and the two parts add up.

  There is always a total of the person: a run that counts by another unit (an image) enters it with
  the epsilon of as many units as one person has (`groups`), inf where that number is not known.
  Another unit has a total only where every run counts by it.
  """
  books = [(Ledger.from_json(run["ledger"]), run.get("units_per_person", {})) for run in runs]
  books = [(book, most) for book, most in books if book.units]
  units = dict.fromkeys(unit for book, _ in books for unit in book.units)
  found = {unit: _total(unit, _composed(unit, books), delta) for unit in units
           if all(unit in book.units for book, _ in books)}
  if units and _PERSON not in found:
    found[_PERSON] = _of_person(books, delta)
  return found


def _composed(unit: str, books: Sequence[tuple[Ledger, Any]]) -> dict[Adjacency, Ledger]:
  """Adjacency -> privacy events of all runs, counted run by run: no event covers two runs."""
  ledgers: dict[Adjacency, Ledger] = {}
  for book, _ in books:
    for release, times in book.entries:
      if release.unit == unit:
        ledgers.setdefault(release.adjacency, Ledger()).record(
            dataclasses.replace(release, covers=1), events_used(times, release.covers))
  return ledgers


def _of_person(books: Sequence[tuple[Ledger, Mapping[str, int]]], delta: float) -> float:
  """The runs that count by the person, and those of its other units one by one, at shares of delta.
  """
  own = _composed(_PERSON, books)
  others = [(release, times, most.get(release.unit)) for book, most in books
            if _PERSON not in book.units for release, times in book.entries if times]
  if any(adjacency is not Adjacency.ADD_OR_REMOVE_ONE for adjacency in own):
    return math.inf
  share = delta / (len(others) + bool(own))
  return sum((_of_group(*other, share) for other in others),
             _total(_PERSON, own, share) if own else 0.0)


def _of_group(release: Release, times: int, most: int | None, delta: float) -> float:
  """Epsilon of adding or removing a person with `most` units; inf where it is not known."""
  if most is None or release.covers != 1 or (
      release.adjacency is not Adjacency.ADD_OR_REMOVE_ONE):
    return math.inf
  return _known(groups.group_epsilon(release.event, times, most, delta))


def _known(epsilon: float) -> float:
  return math.inf if math.isnan(epsilon) else epsilon


def _total(unit: str, ledgers: Mapping[Adjacency, Ledger], delta: float) -> float:
  if len(ledgers) == 1:
    (ledger,) = ledgers.values()
    return _known(ledger.epsilon(delta, unit).best)
  if set(ledgers) != {Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE}:
    return math.inf
  replaced = _known(ledgers[Adjacency.REPLACE_ONE].epsilon(delta / 2, unit).best)
  smaller = delta / 4
  for _ in range(20):
    added = _known(ledgers[Adjacency.ADD_OR_REMOVE_ONE].epsilon(smaller, unit).best)
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
  """Holds the lock beside the file, which is itself replaced when it is written.

  Where no budget came of it, the lock goes again.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.is_dir():
    raise IsADirectoryError(f"{path} is a folder: expected a file, or a name for a new one")
  lock, deadline = path.with_name(f"{path.name}.lock"), time.monotonic() + patience
  while (file := _try_lock(lock)) is None:
    if time.monotonic() > deadline:
      raise ValueError(f"{path} is locked by another process, which enters a run: try again")
    time.sleep(_POLL_SECONDS)
  with file:
    try:
      yield
    finally:
      if not path.exists():
        lock.unlink(missing_ok=True)


def _try_lock(path: pathlib.Path) -> Any:
  """The open file, locked, or None: it is held, or was removed by whoever held it."""
  file = open(path, "a", opener=_owner_only)  # closed by the caller
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
      return file
  except (BlockingIOError, FileNotFoundError):
    pass
  except OSError:
    file.close()
    raise
  file.close()
  return None


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    held = json.loads(path.read_text())
    if held["version"] != _VERSION:
      raise ValueError(f"version {held['version']}, expected {_VERSION}")
    for run in held["runs"]:
      Ledger.from_json(run["ledger"])
    return {name: held[name] for name in ("version", "data", "delta", "limit", "runs")}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    raise ValueError(f"{path} is no readable privacy budget ({why}): what was released is then "
                     "not known, so nothing is; put it back") from None


def _owner_only(path: str, flags: int) -> int:
  """Opens a file that holds digests of the data without a key: 0600."""
  descriptor = os.open(path, flags, 0o600)
  os.fchmod(descriptor, 0o600)
  return descriptor


def _write(path: pathlib.Path, held: Mapping[str, Any]) -> None:
  partial = path.with_name(f".{path.name}.partial")
  try:
    with open(partial, "w", opener=_owner_only) as file:
      file.write(json.dumps(held, indent=2, allow_nan=False) + "\n")
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise OSError(f"{path} not written: {error.strerror or error}") from error
