"""`load`: a run that a folder holds."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.runs.fit import Asked, from_config
from fedjax_face.runs.run import Run, recorded


def load(workdir: str | os.PathLike, data: Sources | None = None,
         given: Mapping[str, Any] | None = None) -> Run:
  """The run that `fit` left in a folder.

  Args:
    workdir: of the run.
    data: the sets, where they were made by hand.
    given: path in config.json -> value, for other values that were made by hand
      ("method.backbone").

  Raises:
    FileNotFoundError: no run is kept there, or its data are gone.
    ValueError: of a run that no `fit` made, or a value made by hand that is not given.
  """
  said = recorded(workdir)
  values = dict(given or {})
  if data is not None:
    if "by_hand" not in (said["data"] or {}):
      raise ValueError("data: this run's are recorded; leave data out")
    values["data"] = Data.by_hand(data)
  place = pathlib.Path(workdir).absolute()
  if said.get("start") and not (place / "pretrained").exists():
    raise FileNotFoundError(f"{place}/pretrained: what the run started from is gone")
  return Run.of_folder(place, Asked.of_arguments(from_config(said, values)).experiment(place))
