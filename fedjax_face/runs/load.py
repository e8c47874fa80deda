"""`load`: a run that a folder holds."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.runs import edge, stage
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.run import Run, recorded


def load(workdir: str | os.PathLike, data: Sources | None = None,
         given: Mapping[str, Any] | None = None) -> Run:
  """The run that `fit`, or an edge server, left in a folder.

  Args:
    workdir: of the run.
    data: the sets, where they were made by hand.
    given: path in config.json -> value, for other values that were made by hand
      ("method.backbone").

  Raises:
    FileNotFoundError: no run is kept there, or its data are gone.
    ValueError: of a run of another program, or a value made by hand that is not given.
  """
  said = recorded(workdir)
  values = dict(given or {})
  if data is not None:
    if "by_hand" not in (said["data"] or {}):
      raise ValueError("data: this run's are recorded; leave data out")
    values["data"] = Data.by_hand(data)
  place = pathlib.Path(workdir).absolute()
  server = (place / "devices.json").is_file()  # which pre-trains for itself
  if said.get("start") and not server and not (place / stage.FOLDER).exists():
    raise FileNotFoundError(f"{place / stage.FOLDER}: what the run started from is gone")
  made = Asked.of_config(said, values).priced().experiment(None if server else place)
  if server:
    return _of_server(place, made)
  return Run.of_folder(place, made)


def _say(line: str) -> None:
  print(line, file=sys.stderr)


def _of_server(place: pathlib.Path, made: Experiment) -> Run:
  """The run of an edge server, whose device parts are frozen and built again."""
  found = edge.restored_state(made.algorithm, place, _say)
  if found is None:
    raise FileNotFoundError(f"{place}/checkpoints: no checkpoint yet")
  done, state, ledger = found
  return Run(made, state, ledger, [(done, {})], place)
