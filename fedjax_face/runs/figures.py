"""The figures of one run, from its last checkpoint."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri

from fedjax_face.figures import figures, silo_figures
from fedjax_face.runs import checkpoint_folder, comparison, derived
from fedjax_face.runs.evaluator import VALIDATION
from fedjax_face.runs.rows import columns, rows_in

FOLDER = "figures"


def of_run(workdir: str | os.PathLike, headline: Sequence[str] = ()) -> dict[str, Figure]:
  """`training`, and where there is something to draw `overlap`, `roc` and `det`.

  Args:
    workdir: of a finished run.
    headline: metrics whose course is drawn; default those that were evaluated on the way.

  Raises:
    FileNotFoundError: no run has finished there.
  """
  place = pathlib.Path(workdir)
  said = derived.newest(place)
  if said is None:
    raise FileNotFoundError(f"{place}/checkpoints: no run has finished there")
  done = said.summary["rounds"]
  meta = checkpoint_folder.whole(
      checkpoint_folder.place(place / "checkpoints", checkpoint_folder.IN_PLACE, done), done)
  return drawn(columns(rows_in(meta.get("records", ""), place / "metrics.csv", done)),
               said.summary, headline)


def drawn(course: Mapping[str, np.ndarray], done: Mapping[str, Any],
          headline: Sequence[str] = ()) -> dict[str, Figure]:
  """The same of columns over the rounds and of what a summary.json says.

  Args:
    course: name -> [rows], NaN where a row has no value; `round` among them.
    done: `algorithm`, `metrics`, `references`, `roc` and perhaps `overlap` of a summary.
    headline: as of `of_run`.
  """
  watched = [name if f"{VALIDATION}{name}" not in course else f"{VALIDATION}{name}"
             for name in headline]
  made = {"training": figures.training_curves(
      course, evaluation=watched, levels=comparison.levels(done))}
  if done.get("overlap"):
    made["overlap"] = silo_figures.overlap({done["algorithm"]: done["overlap"]})
  references = done.get("references", {})
  names = {"model": done["algorithm"]} | {name: of["words"] for name, of in references.items()}
  return made | roc_figures(done["roc"], names)


def save(workdir: str | os.PathLike, headline: Sequence[str] = ()) -> None:
  """Draws a finished run into its folder `figures`, as PNG."""
  for name, figure in of_run(workdir, headline).items():
    figures.save(figure, pathlib.Path(workdir) / f"{FOLDER}/{name}.png")


def save_roc(roc: Mapping[str, Any] | None, names: Mapping[str, str],
             folder: pathlib.Path) -> None:
  """Draws roc.png and det.png; nothing where the protocols gave no curve; see `roc_figures`."""
  for name, figure in roc_figures(roc, names).items():
    figures.save(figure, folder / f"{name}.png")


def roc_figures(roc: Mapping[str, Any] | None, names: Mapping[str, str]) -> dict[str, Figure]:
  """`roc` and `det`; none where the protocols gave no curve.

  Args:
    roc: as `summary.roc_json` makes it.
    names: curve -> its name in the figures, e.g. "start" -> "public start"; others keep theirs.
  """
  if not roc or "negatives" not in roc:  # none, or as a version before wrote it
    return {}
  far, band = np.asarray(roc["far"], float), roc["band"]
  curves = {names.get(name, name): figures.Curve(far, np.asarray(tar, float))
            for name, tar in roc["tar"].items()}
  if band:
    model = next(iter(curves))
    low, high = (_beside(far, curves[model].tar, np.asarray(band["far"], float),
                         np.asarray(band[bound], float)) for bound in ("low", "high"))
    tar = curves[model].tar
    curves[model] = curves[model]._replace(low=np.minimum(low, tar), high=np.maximum(high, tar))
  axis = {"smallest_far": 1 / roc["negatives"], "reliable_far": roc["smallest_reliable_far"]}
  return {"roc": figures.roc(curves, **axis), "det": figures.det(curves, **axis)}


def _beside(far: np.ndarray, tar: np.ndarray, at: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """A bound that is known at few FARs, at all, interpolated in normal deviates.

  Beyond the last of them it stays as far from the curve as there; below the first there is none.
  """
  deviate = lambda share: ndtri(np.clip(share, 1e-4, 1 - 1e-4))
  between = np.interp(np.log(far), np.log(at), deviate(bound), left=np.nan)
  distance = between[-1] - deviate(np.interp(np.log(at[-1]), np.log(far), tar))
  shares = ndtr(np.where(far > at[-1], deviate(tar) + distance, between))
  return np.fmax.accumulate(shares)
