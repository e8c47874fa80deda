"""`load`: a run that a folder holds, with or without the data that it was trained on."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from fedjax_face import method as methods
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.facts import ImagesWhenAsked
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.privacy import statement, statement_files
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import edge, inputs, stage, streams
from fedjax_face.runs import start as starts
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.evaluators import evaluator_of
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.run import Run, recorded

_FEEDS = {"protocols": "embeddings", "face_tasks": "face_tasks", "classification": "classes"}
_GIVE = "fedjax_face.load(WORKDIR, data=Sources(...))"


def load(workdir: str | os.PathLike, data: Sources | None = None,
         given: Mapping[str, Any] | None = None) -> Run:
  """The run that `fit`, or an edge server, left in a folder, finished or not.

  Images that it was trained on are read only where they are asked for: for its own people and what
  it is compared with. `embed`, `predict`, `statement`, `epsilon`, `metrics` and evaluation on
  others need none; where a method takes points or directions from the public set, that is read.

  Args:
    workdir: of the run.
    data: its sets, where they were made by hand or lie elsewhere now; they are compared with what
      the run has kept of them.
    given: path in config.json -> value, for other values that were made by hand
      ("method.backbone").

  Raises:
    FileNotFoundError: no run is kept there.
    ValueError: of a run of another program, values made by hand that are not given, or other data.
  """
  with streams.pinned():
    return _load(pathlib.Path(workdir).absolute(), data, given or {})


def of_asked(asked: Asked, place: pathlib.Path, in_hand: bool) -> Run:
  """The same of arguments of `fit`: nothing is written, and no private data are read.

  Args:
    asked: of the run.
    place: its folder.
    in_hand: whether its sets are in memory; they are compared with what the run has kept of them.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  with streams.pinned():
    mesh = clients_mesh()
    made = _without_data(asked.priced(), place, mesh)
    run = Run.of_folder(place, made, lambda: _with_data(asked, made, place),
                        lambda: _without_data(asked, place, mesh))
    if in_hand:
      inputs.require_same(asked.sources(), place)
    return run


def _load(place: pathlib.Path, data: Sources | None, given: Mapping[str, Any]) -> Run:
  said = recorded(place)
  server = (place / "devices.json").is_file()  # which pre-trains for itself, and keeps no facts
  if said.get("start") and not server and not (place / stage.FOLDER).exists():
    raise FileNotFoundError(f"{place / stage.FOLDER}: what the run started from is gone")
  asked = _asked(said, given, data)
  if server:
    return _of_server(place, asked.priced().experiment())
  return of_asked(asked, place, in_hand=data is not None)


def _asked(said: Mapping[str, Any], given: Mapping[str, Any], data: Sources | None) -> Asked:
  """The call that config.json records, with what it cannot hold."""
  by_hand = _by_hand(said)
  if missing := [path for path in by_hand if path not in given and path != "data"]:
    wanted = ", ".join(f"{path!r}: ..." for path in missing)
    what = ", ".join(f"{path} ({by_hand[path].split('(')[0]})" for path in missing)
    raise ValueError(f"{what}: made by hand, so that config.json does not hold them; give them: "
                     f"fedjax_face.load(WORKDIR, given={{{wanted}}})")
  values = dict(given)
  if "data" in by_hand:
    values["data"] = Data(_ask_for_data, by_hand["data"], _FEEDS[said["evaluation"]["name"]])
  asked = Asked.of_config(said, values)
  return asked if data is None else asked._replace(data=Data.by_hand(data))


def _by_hand(said: Any, path: str = "") -> dict[str, str]:
  """Path -> repr of every value of a config that was made by hand."""
  if not isinstance(said, Mapping):
    return {}
  if set(said) == {"by_hand"}:
    return {path: str(said["by_hand"])}
  found: dict[str, str] = {}
  for name, value in said.items():
    found |= _by_hand(value, f"{path}.{name}" if path else name)
  return found


def _ask_for_data() -> Sources:
  raise ValueError(f"data: the sets of this run were made by hand, and are needed here: {_GIVE}, "
                   "or evaluate on others: run.evaluate(data=...)")


def _without_data(asked: Asked, place: pathlib.Path, mesh: Mesh) -> Experiment:
  """The experiment bound to the facts that lie in the folder; no sources, no evaluator."""
  inputs.require_recorded(place)
  known = inputs.recorded(place)
  public, backbone = known.public, None
  started: dict[str, Any] = {}
  if asked.start is not None:
    before = starts.stage_of(asked.start, public, mesh, asked.record["seed"], asked.compute)
    backbone = _started(before, place)
    started = {"start_words": "public start" if asked.start.public else "pre-trained start",
               "untrained": lambda: starts.untrained(before)}
  if isinstance(public, FaceDataset):
    when_asked: Any = ImagesWhenAsked(
        public.images.shape, lambda: _public(asked, place).images)
    public = dataclasses.replace(public, images=when_asked)
  algorithm = methods.bind(asked.method, known.train, asked.setting(mesh, public, backbone))
  return Experiment(asked.of_loop(), mesh, None, algorithm, Ledger(), None, False, backbone,
                    record=asked.record, **started)


def _started(before: stage.Stage, place: pathlib.Path) -> Any:
  """What the run started from, as it keeps it."""
  found = stage.kept(before, place, _say)
  if found is None:
    raise FileNotFoundError(f"{place / stage.FOLDER}: what the run started from is gone")
  return found


def _public(asked: Asked, place: pathlib.Path) -> FaceDataset:
  """The public set, which must be that of the run."""
  try:
    public = asked.data.public
  except FileNotFoundError as error:
    raise FileNotFoundError(f"{error}: this method takes points from the public set; put it back, "
                            f"or give the sets of the run: {_GIVE}") from error
  inputs.require_same(Sources(None, None, public), place, ("public",))  # type: ignore[arg-type]
  return public


def _with_data(asked: Asked, made: Experiment, place: pathlib.Path) -> Experiment:
  """The same with its own data, which must be there."""
  try:
    sources = asked.sources()
  except FileNotFoundError as error:
    raise FileNotFoundError(f"{error}: the run's own people are asked for, and their images are "
                            "gone; put them back, or say where they are or who else it is: "
                            f"{_GIVE}, run.evaluate(data=...)") from error
  inputs.require_same(sources, place)
  return made._replace(sources=sources, evaluator=evaluator_of(
      asked.evaluation, made.algorithm, sources, made.config.seed))


def _say(line: str) -> None:
  print(line, file=sys.stderr)


def _of_server(place: pathlib.Path, made: Experiment) -> Run:
  """The run of an edge server, whose device parts are frozen and built again."""
  found = edge.restored_state(made.algorithm, place, _say)
  if found is None:
    raise FileNotFoundError(f"{place}/checkpoints: no checkpoint yet")
  done, state, ledger = found
  system, record = made.algorithm.parts, edge.server_record(place)
  messages = system.parts.clients.holding(made.sources.train, made.config.seed).messages
  passes, counted = made.config.rounds, dict(ledger.entries)
  if record is not None:  # else devices may have begun all
    passes = min(-(-max(record.steps_begun, done) // messages), passes)
  for release in made.algorithm.releases:
    if (more := passes - counted.get(release, 0)) > 0:
      ledger.record(release, more)
  finished = done == made.config.rounds * messages
  run = Run(made, state, ledger, [(done, {})], place, says=lambda: _of_ledger(
      made, ledger, "" if finished else f" It has not finished: {done:,} steps are done, and all "
      f"of {passes:,} passes over the images are counted."))
  run.finished, run.counted = finished, max(done, passes * messages)
  return run


def _of_ledger(made: Experiment, ledger: Ledger, more: str) -> str:
  """The statement of the run of an edge server, which shares its data with nobody."""
  train, pinned = made.sources.train, made.config.privacy.noise_seed is not None
  said = statement.privacy_json(
      ledger, delta=made.config.privacy.delta,
      population={"image": len(train), "person": train.num_persons},
      sampling=made.algorithm.sampling, noise_keys="pinned" if pinned else "devices",
      files=statement_files.of_edge_server())
  return (f"{statement.privacy_markdown(said)}\nWritten from the server's checkpoint and config."
          f"{more} Every device writes a statement of its own.\n")
