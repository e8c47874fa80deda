"""Figures of runs and studies. Every function returns a matplotlib Figure and shows nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_face.figures.style import (
  GRID,
  INK,
  MARKERS,
  MUTED,
  PALETTE,
  REFERENCE_COLOURS,
  RIGHT,
  WRONG,
  label_line_ends,
  new_figure,
  save,
  style,
)
from fedjax_face.figures.training_figure import read_metrics, training_curves
from fedjax_face.figures.words import in_words

__all__ = [
  "Curve",
  "Frontier",
  "contact_sheet",
  "det",
  "nearest_neighbours",
  "population_planning",
  "privacy_utility",
  "read_metrics",
  "roc",
  "save",
  "training_curves",
]


_SHADED = "shaded: fewer than 10 false accepts"


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
  """ROC curves over a logarithmic FAR axis, those with a band in it; the first is drawn boldest.

  Args:
    curves: by name.
    smallest_far: left end of the axis, such as 1 / (number of different pairs): what lies below
      cannot be told apart.
    reliable_far: 10 / (number of different pairs); FARs below are shaded and said to be unreliable.
  """
  fig = new_figure(6.4, 4.9)
  axes = fig.subplots()
  axes.set(
    xscale="log",
    xlim=(smallest_far, 1),
    ylim=(0, 1.01),
    xlabel="False accept rate (FAR)",
    ylabel="True accept rate (TAR)",
  )
  chance = np.geomspace(smallest_far, 1, 200)
  axes.plot(chance, chance, color=MUTED, lw=1, ls=":", label="chance")
  for name, curve, look in _looks(curves):
    shown = np.asarray(curve.far) > 0
    if curve.low is not None and curve.high is not None:
      axes.fill_between(curve.far[shown], curve.low[shown], curve.high[shown],
                        color=look["color"], alpha=0.18, lw=0)
    axes.plot(curve.far[shown], curve.tar[shown], label=in_words(name), **look)
  if reliable_far is not None and reliable_far > smallest_far:
    axes.axvspan(smallest_far, reliable_far, color=GRID, alpha=0.6, lw=0, zorder=0)
    axes.text(smallest_far, 1.02, _SHADED, color=MUTED, fontsize=8, va="bottom")
  fig.legend(*_with_chance_last(axes), loc="outside lower center", ncols=3, fontsize=9)
  return fig


@style()
def det(
  curves: Mapping[str, Curve],
  *,
  smallest_far: float = 1e-4,
  reliable_far: float | None = None,
) -> Figure:
  """Detection error trade-off: false rejects against false accepts on normal-deviate axes.

  A model whose scores of both kinds of pair are normal is a straight line (Martin et al.,
  Eurospeech 1997).

  Args:
    curves: by name; a rate of 0 or 1 has no place on the axes and is left out.
    smallest_far: left end of the axis.
    reliable_far: FARs below are shaded.
  """
  fig = new_figure(5.6, 5.2)
  axes = fig.subplots()
  probit = scipy.special.ndtri
  frr = [1 - np.asarray(curve.tar, float) for curve in curves.values()]
  lowest = min((rates[rates > 0].min() for rates in frr if (rates > 0).any()), default=0.01)
  for name, curve, look in _looks(curves):
    far, tar = np.asarray(curve.far, float), np.asarray(curve.tar, float)
    shown = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
    if curve.low is not None and curve.high is not None:
      low, high = (np.clip(1 - np.asarray(bound)[shown], 1e-9, 1 - 1e-9)
                   for bound in (curve.high, curve.low))
      axes.fill_between(probit(far[shown]), probit(low), probit(high), color=look["color"],
                        alpha=0.18, lw=0)
    axes.plot(probit(far[shown]), probit(1 - tar[shown]), label=in_words(name), **look)
  chance = np.geomspace(smallest_far, 0.999, 200)
  axes.plot(probit(chance), probit(1 - chance), color=MUTED, lw=1, ls=":", label="chance")
  for axis, least in ((axes.xaxis, smallest_far), (axes.yaxis, max(lowest, 1e-4))):
    axis.set_ticks(*_rate_ticks(least))
  axes.set(xlim=(probit(smallest_far), probit(0.9)), ylim=(probit(max(lowest, 1e-4)),
           probit(0.99)), xlabel="False accept rate (FAR)", ylabel="False reject rate (1 - TAR)")
  if reliable_far is not None and reliable_far > smallest_far:
    axes.axvspan(probit(smallest_far), probit(min(reliable_far, 0.99)), color=GRID, alpha=0.6, lw=0,
                 zorder=0)
    axes.text(0, 1.01, _SHADED, color=MUTED, fontsize=8, va="bottom", transform=axes.transAxes)
  fig.legend(*_with_chance_last(axes), loc="outside lower center", ncols=3, fontsize=9)
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
    ylabel=in_words(metric),
    xlabel=f"$\\epsilon$ at $\\delta$ = {delta:g}, unit: {unit}, {adjacency}",
  )
  if any(math.isinf(e) for f in frontiers.values() for e in f.epsilon):
    axes.axvline(infinity / 1.5, color=GRID, lw=1.2)
    _epsilon_ticks(axes, finite, infinity)
  else:
    _epsilon_ticks(axes, finite, None)
  fig.legend(loc="outside lower center", ncols=3, fontsize=9)
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


def _looks(curves: Mapping[str, Curve]) -> list[tuple[str, Curve, dict[str, Any]]]:
  """Each curve with its colour and line: the first bold, what it is compared with dashed."""
  first, other = {"ls": "-", "lw": 2.0}, {"ls": "--", "lw": 1.4}
  return [(name, curve, {"color": REFERENCE_COLOURS.get(name, colour)} | (
      other if number else first))
          for number, ((name, curve), colour) in enumerate(
              zip(curves.items(), _colours(len(curves)), strict=True))]


def _with_chance_last(axes: Axes) -> tuple[list[Any], list[str]]:
  """Lines and names for a legend."""
  handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
  handles["chance"] = handles.pop("chance")
  return list(handles.values()), list(handles)


def _rate_ticks(least: float) -> tuple[list[float], list[str]]:
  """Places on a normal-deviate axis, and the rates there, from `least` to 99.9 %."""
  rates = [10.0**k for k in range(-8, -1)] + [0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999]
  shown = [rate for rate in rates if rate >= least * 0.999]
  return [float(scipy.special.ndtri(rate)) for rate in shown], [
    f"{rate:g}" if rate >= 1e-2 else f"$10^{{{round(math.log10(rate))}}}$" for rate in shown]


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
