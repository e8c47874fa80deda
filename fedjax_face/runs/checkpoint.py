"""Orbax checkpoints that survive being killed, a full disk and a damaged file.

One folder per round, `checkpoints/00000040`, made under another name and renamed when complete:

    state/      Orbax, a flat mapping from the path of every array in the state to its value
    meta.json   round, ledger, rows of metrics.csv, digest of all; never the roots of the noise
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.method.algorithm import State
from fedjax_face.runs import checkpoint_folder, disk
from fedjax_face.runs.checkpoint_folder import Warn
from fedjax_face.runs.mesh import broadcast, is_main_process


class Checkpoint(NamedTuple):
  """A run between two rounds.

  Attributes:
    round: rounds done.
    state: the algorithm's state.
    ledger: `Ledger.to_json()`.
    config: `config.digest` of the run.
    releases: what one step releases, in words that differ where the mechanism differs.
    finished: no round follows, so the roots of noise and participation are not needed any more.
    platform: `machine.of` where the rounds since the checkpoint before ran; empty: not known.
    records: `CsvFile.kept()`, the rows of metrics.csv up to this round.
  """

  round: int
  state: State
  ledger: Mapping[str, Any]
  config: str
  releases: str
  finished: bool = False
  platform: Mapping[str, str] = types.MappingProxyType({})
  records: str = ""


class Unreadable(ValueError):
  """There are checkpoints, and none of them is whole."""


def save(folder: str | os.PathLike, checkpoint: Checkpoint, keep: int = 2) -> None:
  """Writes a checkpoint, then removes all but the newest `keep`; only process 0 writes.

  It is synced before it takes its place, and one of the same round goes after it. After a kill at
  any moment `restore` finds this checkpoint or the one before, whole.

  Raises:
    OSError: one line; what was there before can still be restored.
  """
  if not is_main_process():
    return
  folder = pathlib.Path(folder).absolute()
  partial = checkpoint_folder.place(folder, checkpoint_folder.PARTIAL, checkpoint.round)
  disk.make_folder(folder.parent)  # of a run
  disk.make_folder(folder, disk.ANY_FOLDER)
  checkpoint_folder.adopt(folder)
  try:
    disk.remove(partial)
    disk.make_folder(partial, disk.ANY_FOLDER)
    _write(partial, checkpoint)
    disk.sync_tree(partial)
  except Exception as error:  # the array store reports a full disk as an error of its own
    with contextlib.suppress(OSError):
      disk.remove(partial)
    raise OSError(f"checkpoint of round {checkpoint.round} not saved in {folder}: "
                  f"{_reason(error)}; earlier checkpoints are untouched") from error
  checkpoint_folder.put_in_place(folder, checkpoint.round)
  checkpoint_folder.remove_older(folder, keep, checkpoint.round)


@functools.cache
def _ignore_late_reports() -> None:
  """Writes of the array store beside one that failed end later, in threads of its own.

  Each would print a traceback, for the event loop that it reports to is closed.
  """
  before = sys.unraisablehook

  def hook(report: Any) -> None:
    error = report.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
      before(report)

  sys.unraisablehook = hook


def keep_newest(folder: str | os.PathLike, keep: int) -> None:
  """Removes all but the newest `keep` whole checkpoints; only process 0 does.

  Raises:
    OSError: one line naming what could not be removed.
  """
  folder = pathlib.Path(folder).absolute()
  if not is_main_process():
    return
  checkpoint_folder.adopt(folder)
  for number in checkpoint_folder.rounds(folder, checkpoint_folder.IN_PLACE):
    if checkpoint_folder.is_whole(
        checkpoint_folder.place(folder, checkpoint_folder.IN_PLACE, number), number):
      checkpoint_folder.remove_older(folder, keep, number)
      break


def adopt(folder: str | os.PathLike, warn: Warn) -> None:
  """Puts whole checkpoints in their places whose run was killed before it did; only process 0.

  Args:
    folder: of `save`; nobody else writes in it.
    warn: told in one line about each.

  Raises:
    OSError: one line; every checkpoint can still be restored.
  """
  if is_main_process():
    checkpoint_folder.adopt(pathlib.Path(folder).absolute(), warn)


def _write(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
  arrays = {name: np.asarray(leaf) for name, leaf in _named(_plain(checkpoint.state)) if leaf.size}
  meta = {name: value for name, value in checkpoint._asdict().items() if name != "state"}
  meta["platform"] = dict(checkpoint.platform)
  meta |= {"arrays": sorted(arrays),
           "keys": {name: str(jax.random.key_impl(leaf)) for name, leaf in _named(checkpoint.state)
                    if _is_key(leaf)}}
  disk.told("orbax", folder / "state")
  with _orbax() as (ocp, checkpointer):
    checkpointer.save(folder / "state", args=ocp.args.PyTreeSave(arrays))
  disk.told("orbax", folder / "state")
  digest = checkpoint_folder.digest(folder, meta)
  disk.write(folder / "meta.json", json.dumps(meta | {"digest": digest}))


def exist(folder: str | os.PathLike) -> bool:
  """Whether `restore` would find checkpoints in a folder, readable or not."""
  return any(kind != checkpoint_folder.PARTIAL or checkpoint_folder.is_whole(path, number)
             for number, kind, path in checkpoint_folder.candidates(pathlib.Path(folder)))


def restore(folder: str | os.PathLike, template: State, warn: Warn) -> Checkpoint | None:
  """The newest readable checkpoint, the same one in every process; None if there is none at all.

  Writes nothing. A whole checkpoint that a killed run had not put in its place is read where it
  is; `adopt`, and the next `save`, put it there.

  Args:
    folder: of `save`.
    template: a state, or its shapes, with the structure to restore.
    warn: told in one line about each unreadable checkpoint that was passed over.

  Raises:
    ValueError: checkpoints exist and none is readable, or they hold another model.
  """
  payload = b""
  if is_main_process():
    payload = pickle.dumps(_find(pathlib.Path(folder).absolute(), template, warn))
  outcome = pickle.loads(broadcast(payload))
  if isinstance(outcome, ValueError):
    raise outcome
  if outcome is None:
    return None
  meta, arrays = outcome
  said = {"finished": True} | {name: meta[name] for name in Checkpoint._fields if name in meta}
  return Checkpoint(state=_rebuild(arrays, meta["keys"], template), **said)


class _NotThisRun(ValueError):
  """The checkpoint is whole, but of another state or of a run that cannot go on."""


def _find(folder: pathlib.Path, template: State, warn: Warn) -> Any:
  """(meta, arrays), None, or the error: what process 0 tells the others."""
  failures: list[str] = []
  for number, kind, path in checkpoint_folder.candidates(folder):
    try:
      found = _read(path, number, template)
    except _NotThisRun as error:
      return ValueError(str(error))
    except Exception as error:  # any damage to a file: the next older checkpoint may be whole
      if kind != checkpoint_folder.PARTIAL:  # one that was never finished is no damage
        failures.append(f"{path}: {_reason(error)}")
      continue
    for failure in failures:
      warn(f"unreadable checkpoint passed over, resuming at round {number}: {failure}")
    if kind != checkpoint_folder.IN_PLACE:
      warn(f"resuming at round {number} from {path}, which is whole and not yet in its place")
    return found
  return Unreadable(f"no readable checkpoint: {'; '.join(failures)}") if failures else None


def _read(path: pathlib.Path, number: int,
          template: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  meta = checkpoint_folder.whole(path, number)
  if meta.get("noise_words") is not None:
    raise _NotThisRun(f"{path} holds the key of its noise, as an earlier version kept it: this run "
                      "cannot go on, and the checkpoint must stay secret; choose another workdir")
  with _orbax() as (ocp, checkpointer):
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in meta["arrays"]}
    arrays = checkpointer.restore(
      path / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  wanted = {name: leaf for name, leaf in _named(jax.eval_shape(_plain, template)) if leaf.size}
  for name in sorted(set(wanted) | set(arrays)):
    if _spec(arrays.get(name)) != _spec(wanted.get(name)):
      raise _NotThisRun(f"{path} holds another model: {name} is {_spec(arrays.get(name))} there "
                        f"and {_spec(wanted.get(name))} in this config")
  return meta, arrays


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
  """The library, imported only where it is used, and a checkpointer of process 0 alone.

  Its threads log a traceback for each failed write; the exception that reaches us says it once.
  """
  import orbax.checkpoint as ocp
  _ignore_late_reports()
  alone = {} if jax.process_count() == 1 else {
    "multiprocessing_options": ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix="main_process")}
  logger = logging.getLogger("absl")
  silent = lambda record: record.levelno >= logging.CRITICAL  # one of each call: they may overlap
  logger.addFilter(silent)
  try:
    yield ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone)
  finally:
    logger.removeFilter(silent)


def _plain(tree: Any) -> Any:
  """Random keys as their integers, everything else unchanged."""
  return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> list[tuple[str, Any]]:
  return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _rebuild(arrays: Mapping[str, np.ndarray], keys: Mapping[str, str], template: State) -> State:
  def leaf_of(name, wanted):
    if name in keys:
      return jax.random.wrap_key_data(arrays[name], impl=keys[name])
    return arrays[name] if wanted.size else np.zeros(wanted.shape, wanted.dtype)

  leaves = [leaf_of(name, wanted) for name, wanted in _named(template)]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _spec(array: Any) -> str:
  return "absent" if array is None else f"{array.dtype}{list(array.shape)}"


def _reason(error: Exception) -> str:
  """What went wrong, in one line: the operating system's words where they can be found."""
  text = " ".join(str(error).split())
  if isinstance(error, disk.DiskError):
    return text
  if isinstance(error, FileNotFoundError | NotADirectoryError) and error.filename:
    return f"{pathlib.Path(error.filename).name} is missing"
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
    if os.strerror(code) in text:
      return os.strerror(code)
  return text[:200] or type(error).__name__
