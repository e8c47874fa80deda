"""What trains before a run, on public data: a run of its own, in `start/` of the run's folder.

    start/start.json     what it is, with its digest
    start/metrics.csv    a row a round; absent where the start was found with another run
    start/checkpoints/   of the newest rounds, as of any run; at the end of the last

A start is known by its digest: of the public images, the call of its method, its seed and its
rounds. It is deterministic, draws nothing secret and releases nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face import options
from fedjax_face.method.algorithm import Algorithm, State, flattened
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, disk, kept_starts, loop, training_set
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.experiment import Say, is_resident
from fedjax_face.runs.mesh import broadcast, gathered, is_main_process, shard
from fedjax_face.runs.progress import Display
from fedjax_face.runs.records import BEFORE_ALL, CsvFile
from fedjax_face.runs.streams import pinned, public_root

FOLDER = "start"
_CHECKPOINTS, _RECORD, _METRICS = "checkpoints", "start.json", "metrics.csv"


class Stage(NamedTuple):
  """Non-private training before a run.

  Attributes:
    algorithm: on the public set.
    rounds: of it.
    seed: of its draws and its initial state.
    identity: of everything that was chosen, but the images.
    training: how it is carried out: `rounds_per_dispatch`, `checkpoint_every`, `resident`.
    words: what the run calls it: "public start", "pre-trained start".
  """

  algorithm: Algorithm
  rounds: int
  seed: int
  identity: str
  training: Any
  words: str = "public start"


def carried_out(stage: Stage, public: Any, mesh: Mesh, workdir: str | os.PathLike | None, say: Say,
                shared: str | os.PathLike | None = None,
                check: Callable[[Any], None] = lambda shapes: None) -> Any:
  """What a run starts from: parameters, trained here or found where runs alike have left them.

  Args:
    stage: bound to the set.
    public: the set.
    mesh: devices.
    workdir: of the run, whose `start/` is read, resumed and written; None: nowhere.
    say: told what takes time.
    shared: a folder where runs that start alike on the same images find one start.
    check: called with the shapes of what is returned before anything trains, to refuse what would
      be refused afterwards.

  Raises:
    ValueError: a run that has begun from another start, or a parameter that is not finite.
    OSError: one line; a file that cannot be written.
  """
  algorithm, identity = stage.algorithm, _identity(stage, public)
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  folder = None if workdir is None else pathlib.Path(workdir).absolute() / FOLDER
  place = None if shared is None else pathlib.Path(shared).expanduser().absolute()
  own = None if folder is None else _own(folder, identity, template, say)
  done = own if own is not None and own.round == stage.rounds else None
  if done is None:
    there = None if place is None else kept_starts.find(place, identity, template, say)
    damaged = there is None and place is not None and (place / identity).exists()
    done = kept_starts.remembered(identity, algorithm.method) or there
    if done is None:
      check(jax.eval_shape(algorithm.start, template))
      done = _trained(stage, public, mesh, own or _before(identity), folder, say)
    elif folder is not None:
      _begin(folder, stage, identity, public.name)
    if folder is not None:
      checkpoint.save(folder / _CHECKPOINTS, done, keep=1)
    if place is not None and there is None:
      kept_starts.put(place, done, say, instead=damaged)
  kept_starts.remember(algorithm.method, done)
  return algorithm.start(done.state)


def kept(stage: Stage, workdir: pathlib.Path, say: Say) -> Any | None:
  """What a run that lies in a folder started from; None where it is not there, or not at its end.

  Args:
    stage: bound to the facts of the set.
    workdir: of the run.
    say: told about checkpoints that were passed over.
  """
  template = jax.eval_shape(stage.algorithm.init, jax.random.key(0))
  found = checkpoint.restore(workdir / FOLDER / _CHECKPOINTS, template, say)
  return stage.algorithm.start(found.state) if found is not None and found.finished else None


def _identity(stage: Stage, public: Any) -> str:
  """Of what a stage makes of these images and targets."""
  content = hashlib.blake2b(stage.identity.encode(), digest_size=16)
  content.update(training_set.content(public).encode())
  return content.hexdigest()


def _before(identity: str) -> Checkpoint:
  return Checkpoint(0, None, Ledger().to_json(), identity, "pretraining")


def _own(folder: pathlib.Path, identity: str, template: State, say: Say) -> Checkpoint | None:
  """What a run's folder holds of this start; what it holds of another one makes room."""
  _make_room(folder, identity, say)
  try:
    found = checkpoint.restore(folder / _CHECKPOINTS, template, say)
    if found is None or found.config == identity:
      return found
    why = f"{folder} holds checkpoints of another start than its {_RECORD} says"
  except ValueError as error:
    why = str(error)
  say(f"{why}: pre-training is made anew")
  if is_main_process():
    disk.remove(folder)
  return None


def _make_room(folder: pathlib.Path, identity: str, say: Say) -> None:
  """Removes another start, on which no run has begun.

  Raises:
    ValueError: a run has begun from it.
  """
  held = broadcast(_recorded(folder).encode() if is_main_process() else b"").decode()
  if held == identity or not held:
    return
  if held != _UNREADABLE and _has_begun(folder.parent):
    raise ValueError(f"{folder} is not what this run starts from: the method of start, its rounds, "
                     "its seed or the public images are others; choose another workdir")
  say(f"{folder / _RECORD} is damaged or missing: pre-training is made anew"
      if held == _UNREADABLE else
      f"{folder} is of another start, from which no run has begun: it is replaced")
  if is_main_process():
    disk.remove(folder)


_UNREADABLE = "unreadable"


def _recorded(folder: pathlib.Path) -> str:
  """The digest of the start in a folder; "" where there is none."""
  if not folder.exists() or not any(folder.iterdir()):
    return ""
  try:
    return str(json.loads((folder / _RECORD).read_text())["digest"])
  except (OSError, ValueError, KeyError, TypeError):
    return _UNREADABLE


def _has_begun(workdir: pathlib.Path) -> bool:
  """Whether a run may have released something that rests on its start."""
  begun = (workdir / "config.json").exists() or checkpoint.exist(workdir / "checkpoints")
  return bool(broadcast(bytes([begun]))[0])


def _begin(folder: pathlib.Path, stage: Stage, identity: str, public: str) -> None:
  """Says in the folder what it holds, before it holds it."""
  if not is_main_process():
    return
  disk.make_folder(folder.parent)
  disk.make_folder(folder)
  said = {"digest": identity, "public": public, "rounds": stage.rounds, "seed": stage.seed,
          "method": options.call(stage.algorithm.method)}
  disk.write(folder / _RECORD, json.dumps(said, indent=2) + "\n")


def _trained(stage: Stage, public: Any, mesh: Mesh, before: Checkpoint,
             folder: pathlib.Path | None, say: Say) -> Checkpoint:
  """Trains from a checkpoint to the end; keeps one in the folder every so many rounds."""
  algorithm, root = stage.algorithm, public_root(stage.seed)  # nothing is noised or secret here
  every, done, state = stage.training.checkpoint_every, before.round, None
  say(f"pre-training on {public.name}: " + (
      f"resuming after round {done} of {stage.rounds}" if done else f"{stage.rounds} rounds"))
  if done:
    template = jax.eval_shape(algorithm.init, jax.random.key(0))
    state = shard(before.state, algorithm.sharding(template), mesh)
  if folder is not None:
    _begin(folder, stage, before.config, public.name)
  with pinned(), _shown(stage, done, folder) as show, _named(stage, public.name):
    for progress in loop.train(
        algorithm, public.images, targets=public.targets, rounds=stage.rounds, seed=stage.seed,
        noise_root=root, cohort_root=root, state=state, start=done,
        rounds_per_dispatch=stage.training.rounds_per_dispatch, stop_every=(every,), mesh=mesh,
        resident=is_resident(stage.training.get("resident", "auto"), public.images)):
      done, state = progress.span.stop, progress.state
      show(progress)
      if folder is not None and done % every == 0 and done < stage.rounds:
        checkpoint.save(folder / _CHECKPOINTS, before._replace(
            round=done, state=gathered(state, mesh)))
  return before._replace(round=done, state=jax.tree.map(_on_host, gathered(state, mesh)),
                         finished=True)


@contextlib.contextmanager
def _shown(stage: Stage, done: int, folder: pathlib.Path | None
           ) -> Iterator[Callable[[loop.Progress], None]]:
  """Puts what a dispatch measured on the terminal and into metrics.csv, in process 0."""
  main = is_main_process()
  table = CsvFile(folder / _METRICS, done or BEFORE_ALL) if main and folder is not None else None
  with Display(stage.rounds, done, main, stage.words) as display:
    def show(progress: loop.Progress) -> None:
      rows = [(number + 1, {name: float(value[number - progress.span.start])
                            for name, value in progress.metrics.items()})
              for number in range(progress.span.start, progress.span.stop)]
      if table is not None:
        table.write_rows(rows)
      display.update(*rows[-1])
    yield show


@contextlib.contextmanager
def _named(stage: Stage, public: str) -> Iterator[None]:
  """Says of a parameter that is not finite that it is of the start."""
  try:
    yield
  except loop.NonFiniteState as error:
    rates = [f"start.method.{name} ({value:g})"
             for name, value in flattened(stage.algorithm.hparams).items()
             if name.endswith("learning_rate")]
    raise ValueError(
        f"start: pre-training on {public} made a parameter NaN or infinite in rounds "
        f"{error.span.start + 1}-{error.span.stop}; lower "
        f"{' or '.join(rates) or 'its learning rate'}") from error


def _on_host(leaf: Any) -> Any:
  is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return leaf if is_key else np.asarray(leaf)
