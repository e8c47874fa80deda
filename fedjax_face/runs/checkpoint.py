"""Orbax checkpoints that survive being killed, a full disk and a damaged file.

One folder per round, `checkpoints/00000040`, made under another name and renamed when complete:

    state/      Orbax, a flat mapping from the path of every array in the state to its value
    meta.json   round, ledger, digest of all of it; never the roots of the noise
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import pickle
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face.method.algorithm import State
from fedjax_face.runs.mesh import broadcast, is_main_process
from fedjax_face.runs.records import make_guarded

Warn = Callable[[str], None]


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
  """

  round: int
  state: State
  ledger: Mapping[str, Any]
  config: str
  releases: str
  finished: bool = False
  platform: Mapping[str, str] = types.MappingProxyType({})


class Unreadable(ValueError):
  """There are checkpoints, and none of them is whole."""


def save(folder: str | os.PathLike, checkpoint: Checkpoint, keep: int = 2) -> None:
  """Writes a checkpoint, then removes all but the newest `keep`; only process 0 writes.

  Raises:
    OSError: one line; what was there before is untouched.
  """
  if not is_main_process():
    return
  folder = pathlib.Path(folder).absolute()
  final = folder / f"{checkpoint.round:08d}"
  partial = folder / f"partial-{checkpoint.round:08d}"
  try:
    make_guarded(folder.parent)  # of a run
    folder.mkdir(exist_ok=True)
    for abandoned in folder.glob("partial-*"):
      shutil.rmtree(abandoned)
    partial.mkdir()
    _write(partial, checkpoint)
    if final.exists():
      shutil.rmtree(final)
    os.replace(partial, final)
  except Exception as error:  # the array store reports a full disk as an error of its own
    shutil.rmtree(partial, ignore_errors=True)
    raise OSError(f"checkpoint of round {checkpoint.round} not saved in {folder}: "
                  f"{_reason(error)}; earlier checkpoints are untouched") from error
  keep_newest(folder, keep)


def keep_newest(folder: str | os.PathLike, keep: int) -> None:
  """Removes all but the newest `keep` checkpoints; only process 0 does."""
  if is_main_process():
    for old in _rounds(pathlib.Path(folder))[keep:]:
      shutil.rmtree(pathlib.Path(folder) / f"{old:08d}")


def _write(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
  arrays = {name: np.asarray(leaf) for name, leaf in _named(_plain(checkpoint.state)) if leaf.size}
  meta = {"round": checkpoint.round, "ledger": checkpoint.ledger,
          "config": checkpoint.config, "releases": checkpoint.releases,
          "finished": checkpoint.finished, "platform": dict(checkpoint.platform),
          "arrays": sorted(arrays),
          "keys": {name: str(jax.random.key_impl(leaf)) for name, leaf in _named(checkpoint.state)
                   if _is_key(leaf)}}
  with _orbax() as (ocp, checkpointer):
    checkpointer.save(folder / "state", args=ocp.args.PyTreeSave(arrays))
  with open(folder / "meta.json", "w") as file:
    json.dump(meta | {"digest": _digest(folder, meta)}, file)
    file.flush()
    os.fsync(file.fileno())


def exist(folder: pathlib.Path) -> bool:
  """Whether `restore` would find checkpoints in a folder, readable or not."""
  return bool(_rounds(folder))


def restore(folder: str | os.PathLike, template: State, warn: Warn) -> Checkpoint | None:
  """The newest readable checkpoint, the same one in every process; None if there is none at all.

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
  return Checkpoint(
    meta["round"], _rebuild(arrays, meta["keys"], template), meta["ledger"],
    meta["config"], meta["releases"], meta.get("finished", True),
    meta.get("platform", {}))


class _NotThisRun(ValueError):
  """The checkpoint is whole, but of another state or of a run that cannot go on."""


def _find(folder: pathlib.Path, template: State, warn: Warn) -> Any:
  """(meta, arrays), None, or the error: what process 0 tells the others."""
  failures: list[str] = []
  for number in _rounds(folder):
    path = folder / f"{number:08d}"
    try:
      found = _read(path, template)
    except _NotThisRun as error:
      return ValueError(str(error))
    except Exception as error:  # any damage to a file: the next older checkpoint may be whole
      failures.append(f"{path}: {_reason(error)}")
      continue
    for failure in failures:
      warn(f"unreadable checkpoint passed over, resuming at round {number}: {failure}")
    return found
  return Unreadable(f"no readable checkpoint: {'; '.join(failures)}") if failures else None


def _read(path: pathlib.Path, template: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  meta = json.loads((path / "meta.json").read_text())
  if meta.pop("digest") != _digest(path, meta):
    raise ValueError("the files differ from those that were saved")
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
  alone = {} if jax.process_count() == 1 else {
    "multiprocessing_options": ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix="main_process")}
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone)
  finally:
    logger.setLevel(level)


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


def _digest(folder: pathlib.Path, meta: Mapping[str, Any]) -> str:
  """SHA-256 of the files of the state and of everything else that is recorded."""
  digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
  for path in sorted((folder / "state").rglob("*")):
    if path.is_file():
      digest.update(str(path.relative_to(folder)).encode() + b"\0")
      digest.update(hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()


def _spec(array: Any) -> str:
  return "absent" if array is None else f"{array.dtype}{list(array.shape)}"


def _rounds(folder: pathlib.Path) -> list[int]:
  """Rounds of the complete checkpoints, newest first."""
  if not folder.is_dir():
    return []
  return sorted((int(path.name) for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def _reason(error: Exception) -> str:
  """What went wrong, in one line: the operating system's words where they can be found."""
  text = " ".join(str(error).split())
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
    if os.strerror(code) in text:
      return os.strerror(code)
  return text[:200] or type(error).__name__
