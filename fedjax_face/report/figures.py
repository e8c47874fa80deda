"""Figures of runs and studies. Every function returns a matplotlib Figure and shows nothing."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_face.report.style import (
  GRID,
  INK,
  MARKERS,
  MUTED,
  PALETTE,
  RIGHT,
  WRONG,
  label_line_ends,
  new_figure,
  save,
  style,
)

__all__ = [
  "Curve",
  "Frontier",
  "contact_sheet",
  "nearest_neighbours",
  "population_planning",
  "privacy_utility",
  "read_metrics",
  "roc",
  "save",
  "training_curves",
]


class Curve(NamedTuple):
  """A ROC curve: `far`, `tar` [T], and optionally a band `low`, `high` [T] around `tar`."""

  far: np.ndarray
  tar: np.ndarray
  low: np.ndarray | None = None
  high: np.ndarray | None = None


class Frontier(NamedTuple):
  """Utility at privacy levels: `epsilon` [P] (inf = not private), `value`, `low`, `high` [P]."""

  epsilon: Sequence[float]
  value: Sequence[float]
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None


@style()
def roc(
  curves: Mapping[str, Curve],
  *,
  smallest_far: float = 1e-4,
  reliable_far: float | None = None,
) -> Figure:
  """ROC curves over a logarithmic FAR axis, each with its confidence band.

  Args:
    curves: by name.
    smallest_far: left end of the axis.
    reliable_far: 10 / (number of different pairs); FARs below are shaded and said to be unreliable.
  """
  fig = new_figure(6.4, 4.4)
  axes = fig.subplots()
  axes.set(
    xscale="log",
    xlim=(smallest_far, 1),
    ylim=(0, 1.01),
    xlabel="False accept rate (FAR)",
    ylabel="True accept rate (TAR)",
  )
  axes.plot(
    np.geomspace(smallest_far, 1, 200),
    np.geomspace(smallest_far, 1, 200),
    color=MUTED,
    lw=1,
    ls=":",
  )
  for (name, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
    shown = np.asarray(curve.far) > 0
    if curve.low is not None and curve.high is not None:
      axes.fill_between(
        curve.far[shown],
        curve.low[shown],
        curve.high[shown],
        step="post",
        color=colour,
        alpha=0.18,
        lw=0,
      )
    axes.step(curve.far[shown], curve.tar[shown], where="post", color=colour, label=name)
  if reliable_far is not None and reliable_far > smallest_far:
    axes.axvspan(smallest_far, reliable_far, color=GRID, alpha=0.6, lw=0, zorder=0)
    axes.text(
      reliable_far,
      1.0,
      "fewer than 10 false accepts ",
      ha="right",
      va="top",
      color=MUTED,
      fontsize=8,
    )
  axes.legend(loc="lower right")
  return fig


def read_metrics(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Columns of a run's metrics.csv as float64 [rows]; an empty field is nan.

  Raises:
    ValueError: no column `round`, or a field that is not a number.
  """
  with open(path, newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  if not rows or "round" not in rows[0]:
    raise ValueError(f"{path}: expected a header with a column 'round' and at least one row")
  try:
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
  except (ValueError, TypeError) as error:
    raise ValueError(f"{path}: {error}") from None


@style()
def training_curves(
  metrics: str | os.PathLike | Mapping[str, np.ndarray],
  panels: Mapping[str, Sequence[str]] | None = None,
  evaluation: Sequence[str] = (),
) -> Figure:
  """Loss, evaluation and epsilon against the round, a panel each.

  Args:
    metrics: path of a metrics.csv, or its columns; `round` is the horizontal axis, and each other
      column is drawn over the rounds where it is present.
    panels: columns by panel title. Default: columns that contain 'loss'; evaluation metrics (a name
      with '@' or '/', or in `evaluation`); columns that contain 'epsilon'. Columns without a
      finite value (epsilon of a run without noise) and panels without a column are left out.
    evaluation: further columns of the default's evaluation panel, as far as they are there.
  """
  columns = metrics if isinstance(metrics, Mapping) else read_metrics(metrics)
  chosen = {
    title: list(names) for title, names in (panels or _default_panels(columns, evaluation)).items()
    if names
  }
  missing = [name for names in chosen.values() for name in names if name not in columns]
  if missing or not chosen:
    raise ValueError(
      f"no column {missing[0] if missing else 'to draw'}; metrics has {', '.join(columns)}"
    )
  fig = new_figure(8.0, 0.5 + 2.1 * len(chosen))
  all_axes = fig.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
  for axes, (title, names) in zip(all_axes, chosen.items(), strict=True):
    axes.set_title(title)
    ends = []
    for name, colour in zip(names, _colours(len(names)), strict=True):
      present = np.isfinite(columns[name])
      rounds, values = columns["round"][present], columns[name][present]
      if len(rounds):
        axes.plot(rounds, values, color=colour, marker="o" if len(rounds) < 30 else None, ms=3.5)
        ends.append((rounds[-1], values[-1], name, colour))
    _nonnegative_from_zero(axes, columns, names)
    label_line_ends(axes, ends)
  all_axes[-1].set_xlabel("Round")
  return fig


@style()
def privacy_utility(
  frontiers: Mapping[str, Frontier], *, metric: str, delta: float, unit: str, adjacency: str
) -> Figure:
  """Utility against epsilon, with error bars; non-private values stand apart at the right, at
  epsilon = infinity.

  Args:
    frontiers: by name.
    metric: what the values are.
    delta: of the (epsilon, delta) guarantee.
    unit: what is protected, e.g. 'person'.
    adjacency: neighbouring relation, in words.
  """
  fig = new_figure(6.8, 4.4)
  axes = fig.subplots()
  finite = [e for f in frontiers.values() for e in f.epsilon if math.isfinite(e)]
  if not finite:
    raise ValueError("privacy_utility needs at least one finite epsilon")
  infinity = 2.5 * max(finite)
  for (name, frontier), colour, marker in zip(
    frontiers.items(), _colours(len(frontiers)), _markers(), strict=False
  ):
    value = np.asarray(frontier.value, float)
    order = np.argsort(frontier.epsilon)
    epsilon = np.asarray(frontier.epsilon, float)[order]
    error = None
    if frontier.low is not None and frontier.high is not None:
      error = np.abs(np.stack([value - frontier.low, frontier.high - value]))[:, order]
    private = np.isfinite(epsilon)
    axes.plot(epsilon[private], value[order][private], color=colour, lw=1.4)
    axes.errorbar(
      np.where(private, epsilon, infinity),
      value[order],
      error,
      color=colour,
      fmt=marker,
      capsize=3,
      elinewidth=1.2,
      label=name,
    )
  axes.set(
    xscale="log",
    ylabel=metric,
    xlabel=f"$\\epsilon$ at $\\delta$ = {delta:g}, unit: {unit}, {adjacency}",
  )
  if any(math.isinf(e) for f in frontiers.values() for e in f.epsilon):
    axes.axvline(infinity / 1.5, color=GRID, lw=1.2)
    _epsilon_ticks(axes, finite, infinity)
  else:
    _epsilon_ticks(axes, finite, None)
  axes.legend(loc="best")
  return fig


@style()
def population_planning(
  populations: Sequence[float],
  epsilons: Mapping[str, Sequence[float]],
  *,
  target: float,
  delta: float,
  unit: str,
  adjacency: str,
) -> Figure:
  """Epsilon against the number of people who take part, on two logarithmic axes, with the target.

  Args:
    populations: number of people, ascending, [P].
    epsilons: by name (such as 'K = 1024'), epsilon at each population, [P].
    target: epsilon asked for; the first population of each line that meets it is marked.
    delta: of the guarantee.
    unit: what is protected, e.g. 'person'.
    adjacency: neighbouring relation, in words.
  """
  fig = new_figure(7.2, 4.4)
  axes = fig.subplots()
  axes.set(
    xscale="log",
    yscale="log",
    xlabel=f"Population, number of {unit}s",
    ylabel=f"$\\epsilon$ at $\\delta$ = {delta:g}, unit: {unit}, {adjacency}",
  )
  ends = []
  for (name, epsilon), colour in zip(epsilons.items(), _colours(len(epsilons)), strict=True):
    axes.plot(populations, epsilon, color=colour)
    ends.append((populations[-1], epsilon[-1], name, colour))
    meets = np.flatnonzero(np.asarray(epsilon) <= target)
    if len(meets):
      axes.plot(populations[meets[0]], epsilon[meets[0]], "o", color=colour, mec="white", ms=7)
  axes.axhline(target, color=INK, lw=1, ls="--")
  axes.text(populations[0], target, f"target {target:g}", va="bottom", ha="left", fontsize=9)
  axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
  label_line_ends(axes, ends)
  return fig


@style()
def contact_sheet(
  images: np.ndarray, titles: Sequence[str] | None = None, columns: int = 8
) -> Figure:
  """A grid of images.

  Args:
    images: uint8 [N, H, W, C], C 1 or 3.
    titles: optional caption of each image.
    columns: images in a row.
  """
  if not len(images):
    raise ValueError("contact_sheet needs at least one image")
  columns = min(columns, len(images))
  rows = -(-len(images) // columns)
  height = rows * (1.0 if titles is None else 1.2)
  fig = new_figure(columns, height, w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
  all_axes = fig.subplots(rows, columns, squeeze=False).ravel()
  for i, axes in enumerate(all_axes):
    axes.axis("off")
    if i < len(images):
      _draw_image(axes, images[i])
      if titles is not None:
        axes.set_title(titles[i], fontsize=7, fontweight="normal", loc="center", pad=2)
  return fig


@style()
def nearest_neighbours(queries: np.ndarray, neighbours: np.ndarray, correct: np.ndarray) -> Figure:
  """Queries on the left, their nearest neighbours on the right, framed green (same person) or red,
  with a tick or cross.

  Args:
    queries: uint8 [Q, H, W, C].
    neighbours: uint8 [Q, R, H, W, C], nearest first.
    correct: bool [Q, R], whether the neighbour shows the query's person.
  """
  if neighbours.shape[:2] != correct.shape or len(queries) != len(neighbours) or not len(queries):
    raise ValueError(
      "queries [Q, …], neighbours [Q, R, …] and correct [Q, R] must agree, got "
      f"{queries.shape[:1]}, {neighbours.shape[:2]} and {correct.shape}"
    )
  rows, ranks = correct.shape
  width, height = 1.05 * (ranks + 1.25), 1.05 * rows + 0.3
  fig = new_figure(width, height, w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
  grid = fig.subplots(rows, ranks + 2, squeeze=False, width_ratios=[1, 0.15] + [1] * ranks)
  for row in range(rows):
    grid[row, 1].axis("off")
    _frame(grid[row, 0], queries[row], MUTED, "")
    for rank in range(ranks):
      right = bool(correct[row, rank])
      _frame(
        grid[row, rank + 2], neighbours[row, rank], RIGHT if right else WRONG, "✓" if right else "✗"
      )
  grid[0, 0].set_title("query", fontsize=9, loc="center", pad=4)
  for rank in range(ranks):
    grid[0, rank + 2].set_title(str(rank + 1), fontsize=9, loc="center", pad=4)
  return fig


def _colours(count: int) -> list[str]:
  return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _markers() -> list[str]:
  return list(MARKERS) * 4


def _default_panels(
  columns: Mapping[str, np.ndarray], evaluation: Sequence[str]
) -> dict[str, list[str]]:
  """Loss, evaluation and epsilon columns, by their names, as far as they have a finite value."""
  names = [name for name in columns if np.isfinite(columns[name]).any()]
  epsilon = [name for name in names if "epsilon" in name]
  loss = [name for name in names if "loss" in name]
  evaluated = [
    name
    for name in names
    if ("@" in name or "/" in name or name in evaluation) and name not in epsilon + loss
  ]
  return {"Loss": loss, "Evaluation": evaluated, "Epsilon": epsilon}


def _nonnegative_from_zero(
  axes: Axes, columns: Mapping[str, np.ndarray], names: Sequence[str]
) -> None:
  """Starts the vertical axis at zero unless a value is negative."""
  values = np.concatenate([columns[name] for name in names])
  if np.nanmin(values, initial=0) >= 0:
    axes.set_ylim(bottom=0)


def _epsilon_ticks(axes: Axes, finite: Sequence[float], infinity: float | None) -> None:
  """Plain numbers at the epsilons that occur, the infinity sign at the place of the non-private
  values.
  """
  ticks = sorted(set(finite))
  labels = [f"{tick:g}" for tick in ticks]
  if infinity is not None:
    ticks, labels = [*ticks, infinity], [*labels, "∞"]
  axes.set_xticks(ticks, labels)
  axes.minorticks_off()


def _draw_image(axes: Axes, image: np.ndarray) -> None:
  """One uint8 image [H, W, C], grey where C is 1."""
  axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _frame(axes: Axes, image: np.ndarray, colour: str, mark: str) -> None:
  """One image in a coloured frame; a mark in its corner repeats what the colour says."""
  _draw_image(axes, image)
  axes.set(xticks=[], yticks=[])
  axes.grid(False)
  for spine in axes.spines.values():
    spine.set(visible=True, color=colour, linewidth=2.5)
  if mark:
    axes.text(
      0.97,
      0.03,
      mark,
      transform=axes.transAxes,
      ha="right",
      va="bottom",
      fontsize=9,
      color="white",
      bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
    )
