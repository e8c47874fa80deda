"""Faults at every change that a run makes on the disk, and what becomes of the run afterwards."""

import collections
import contextlib
import copy
import errno
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.privacy import statement
from fedjax_face.runs import disk, engine, loop, references, secret_roots, streams
from tests.faults.power import Disk
from tests.runs.interruption import Killed

FAULTS = ("kill", "power", "ENOSPC", "EIO", "EACCES")


class Point(NamedTuple):
  """A change on the disk: the `number`-th of its kind at this place, counted from 0."""

  change: str
  place: str
  number: int


class Outcome(NamedTuple):
  """What a fault did: "survived" (the run ended as it would have, after the same call again where
  it was stopped), "refused" (in one line, with nothing released that is not stated), or "lost".
  """

  verdict: str
  why: str = ""


class Watcher:
  """Counts the changes below a folder, and strikes at one of them."""

  def __init__(self, root, point=None, strike=None):
    self.seen, self._root, self._point, self._strike = [], root, point, strike
    self._counts, self._last, self.struck = collections.Counter(), None, False

  def __call__(self, change, path):
    path = pathlib.Path(path)
    place = "." if path == self._root else (
        str(path.relative_to(self._root)) if self._root in path.parents else "..")
    kind = ("sync", "*") if change == "sync" and "state" in path.parts else (change, place)
    if kind == ("sync", "*") == self._last:
      return  # files of the array store, whose number varies
    self._last = kind
    here = Point(*kind, self._counts[kind])
    self._counts[kind] += 1
    self.seen.append(here)
    if here == self._point and not self.struck:
      self.struck = True
      self._strike(path)


@contextlib.contextmanager
def watching(*watchers):
  before = disk.watched
  disk.watched = lambda change, path: [watcher(change, path) for watcher in watchers]
  try:
    yield
  finally:
    disk.watched = before


def striker(fault):
  """What happens at a point."""
  def strike(path):
    if fault in ("kill", "power"):
      raise Killed
    raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
  return strike


_unit, _UNITS = statement._unit, {}


def _once_a_ledger(ledger, *given):
  """What a statement says of a unit: the accountants take long, and ledgers come again."""
  key = json.dumps([ledger.to_json(), *map(str, given)], sort_keys=True)
  if key not in _UNITS:
    _UNITS[key] = _unit(ledger, *given)
  return _UNITS[key]


class Subject:
  """A run that can be made again and again at little cost.

  Args:
    experiment: the run.
    grown_from: rounds of a call that has finished before; 0: there was none.
  """

  def __init__(self, experiment, grown_from=0):
    self._experiment, self._grown_from = experiment, grown_from
    self._ran, self._drawn, self._compiled, self._begun = 0, 0, None, None

  @contextlib.contextmanager
  def _spied(self):
    """Counts dispatches and roots that are drawn, which are always the same; compiles once."""
    train, compiled, initial = loop.train, loop.compile_rounds, loop.initial_state

    def spy(*given, **more):
      for progress in train(*given, **more):
        self._ran = progress.span.stop
        yield progress

    def root():
      self._drawn += 1
      return self._drawn.to_bytes(streams.ROOT_BYTES, "little")

    def once(algorithm, mesh):
      self._compiled = self._compiled or compiled(algorithm, mesh)
      return self._compiled

    def state(*given):
      self._begun = initial(*given) if self._begun is None else self._begun
      return jax.tree.map(jnp.copy, self._begun)  # the loop reuses the memory of what it is given

    with pytest.MonkeyPatch.context() as patch:
      self._ran = self._drawn = 0
      patch.setattr(loop, "train", spy)
      patch.setattr(loop, "compile_rounds", once)
      patch.setattr(loop, "initial_state", state)
      patch.setattr(streams, "secret_root", root)
      patch.setattr(references, "references", lambda experiment: {})
      patch.setattr(statement, "_unit", _once_a_ledger)
      yield

  def run(self, folder, rounds=None):
    """summary.json and privacy.json."""
    made = self._experiment
    if rounds is not None:
      made = made._replace(config=copy.deepcopy(made.config), record={
          **made.record, "rounds": rounds})
      made.config.rounds = rounds
    with self._spied():
      return engine.carry_on(made.record, made.config.rounds, folder, lambda: made)

  def prepared(self, folder):
    """The folder as the call finds it."""
    if self._grown_from:
      self.run(folder, self._grown_from)

  def points(self, folder):
    """Every change that a whole run makes, and what it leaves."""
    self.prepared(folder)
    watcher = Watcher(folder)
    with watching(watcher):
      self.run(folder)
    return watcher.seen, self.left(folder)

  def left(self, folder):
    """Everything that must not depend on a fault."""
    last = max(path for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    meta = json.loads((last / "meta.json").read_text())
    arrays = self._arrays(last)
    return (meta["round"], meta["ledger"], meta["finished"], arrays,
            (folder / "metrics.csv").read_bytes(), (folder / secret_roots.FOLDER).exists(),
            json.loads((folder / "privacy.json").read_text())["units"],
            json.loads((folder / "summary.json").read_text())["metrics"])

  def _arrays(self, path):
    import orbax.checkpoint as ocp
    found = ocp.PyTreeCheckpointer().restore(path / "state")
    return {name: np.asarray(value).tobytes() for name, value in found.items()}

  def tried(self, folder, point, fault, expected):
    """Strikes at a point of a run, then gives the same command again.

    Args:
      folder: that is not there.
      point: of `points`.
      fault: one of `FAULTS`.
      expected: of `points`.

    Returns:
      `Outcome`; None where the run never came to the point.
    """
    self.prepared(folder)
    watcher, power = Watcher(folder, point, striker(fault)), Disk(folder)
    try:
      with watching(power.told, watcher):
        self.run(folder)
    except Killed:
      if fault == "power":
        power.cut()
    except OSError as error:
      if "\n" in str(error) or str(folder.parent) not in str(error):
        return Outcome("lost", f"the error names no file: {error}")
    finally:
      power.close()
    if not watcher.struck:
      return None
    ran = self._ran
    if stated_rounds(folder) < ran:
      return Outcome("lost", f"{ran} rounds may be released, and {stated_rounds(folder)} stated")
    try:
      self.run(folder)
    except (ValueError, OSError) as error:
      return Outcome("lost" if ran else "refused", str(error))
    if ran > self._grown_from and self._drawn:
      return Outcome("lost", "rounds that had run were noised anew")
    return self._judged(folder, expected)

  def _judged(self, folder, expected):
    """Whether the run ended as it would have."""
    for name, one, other in zip(
        ("round", "ledger", "finished", "state", "metrics.csv", "secrets", "units", "metrics"),
        self.left(folder), expected, strict=True):
      if one != other:
        return Outcome("lost", f"{name} differ")
    return Outcome("survived")


def stated_rounds(folder):
  """Rounds that the statement in a folder counts."""
  path = folder / "privacy.json"
  entries = json.loads(path.read_text())["ledger"]["entries"] if path.exists() else []
  return max((entry["times"] for entry in entries), default=0)


def cleaned(folder):
  """Removes what a try left."""
  shutil.rmtree(folder, ignore_errors=True)
