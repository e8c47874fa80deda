"""The look of all figures: a restrained style, a colour-blind safe palette, atomic saving."""

from __future__ import annotations

import contextlib
import os
import pathlib
import textwrap
from collections.abc import Iterator
from typing import Any

import cycler
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito (2008) without its yellow, which is too light for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RIGHT, WRONG = "#009E73", "#D55E00"
INK, MUTED, GRID = "#222222", "#6B6B6B", "#E3E3E3"
REFERENCE_COLOURS = {"public start": INK, "start": INK, "raw pixels": PALETTE[4],
                     "untrained": PALETTE[3], "chance": MUTED}
"""Of what a model is compared with, the same in every figure."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_LETTERS = 120  # in an inch, of a point each: what DejaVu Sans has, and some room

_STYLE: dict[Any, Any] = {
  "font.family": "sans-serif",
  "font.size": 10,
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlepad": 10,
  "axes.labelcolor": INK,
  "axes.edgecolor": MUTED,
  "axes.linewidth": 0.8,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.prop_cycle": cycler.cycler(color=PALETTE),
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "text.color": INK,
  "xtick.color": MUTED,
  "ytick.color": MUTED,
  "xtick.labelcolor": INK,
  "ytick.labelcolor": INK,
  "lines.linewidth": 1.8,
  "lines.markersize": 5,
  "legend.frameon": False,
  "figure.dpi": 120,
  "savefig.dpi": 160,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Applies the style inside the block only, without touching the caller's settings."""
  with matplotlib.rc_context(_STYLE):
    yield


def new_figure(width: float, height: float, **padding: Any) -> Figure:
  """A figure of the given size in inches, tied to no window and to no global state."""
  figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(**padding))
  FigureCanvasAgg(figure)
  return figure


def wrapped(text: str, width: float, points: float) -> str:
  """A title in lines that a figure of `width` inches has room for, at its size in points."""
  return textwrap.fill(text, int(_LETTERS * width / points))


def label_line_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
  """Writes each (x, y, text, colour) beside the end of its line, pushed apart on overlap: upwards,
  and down again where that would leave the panel.
  """
  axes.figure.canvas.draw()
  height, step = axes.transData, 13 * axes.figure.dpi / 72
  ends = sorted(ends, key=lambda end: height.transform(end[:2])[1])
  at = [float(height.transform(end[:2])[1]) for end in ends]
  for (x, y, text, colour), at_y, placed in zip(
      ends, at, _pushed_apart(at, step, axes.bbox.y1), strict=True):
    axes.annotate(
      text,
      (x, y),
      xytext=(6, (placed - at_y) * 72 / axes.figure.dpi),
      textcoords="offset points",
      color=colour,
      va="center",
      fontsize=9,
      annotation_clip=False,
    )


def _pushed_apart(at: list[float], step: float, top: float) -> list[float]:
  """Ascending heights at least `step` apart, none above `top` that need not be."""
  placed: list[float] = []
  for height in at:
    placed.append(max(height, placed[-1] + step) if placed else height)
  limit = max(top, max(at, default=top))
  for number in reversed(range(len(placed))):
    placed[number] = min(placed[number], limit)
    limit = placed[number] - step
  return placed


def save(fig: Figure, path: str | os.PathLike) -> None:
  """Writes a figure; readers see the old file or the whole new one. The suffix gives the format."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
  try:
    with style():
      fig.savefig(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
