"""Figure of the course of a run: loss, evaluation, epsilon."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_face.figures.style import (
    INK,
    MUTED,
    PALETTE,
    REFERENCE_COLOURS,
    label_line_ends,
    new_figure,
    style,
)
from fedjax_face.figures.words import in_words

_MOST_EVALUATED = 3
_DECADES = 1.5  # of a positive loss that spans more, the axis is logarithmic

Columns = Mapping[str, np.ndarray]


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
  metrics: str | os.PathLike | Columns,
  panels: Mapping[str, Sequence[str]] | None = None,
  evaluation: Sequence[str] = (),
  levels: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
  """Loss, evaluation and epsilon against the round, a panel each.

  Args:
    metrics: path of a metrics.csv, or its columns; `round` is the horizontal axis, and each other
      column is drawn over the rounds where it is present.
    panels: columns by panel title. Default: columns that contain 'loss', with the mean of
      `chance_loss` as a level; a panel for each metric of `evaluation` that is there, or else for
      the first few columns whose name has '@' or '/'; columns that contain 'epsilon'. Columns
      without a finite value (epsilon of a run without noise) and panels without a column are left
      out.
    evaluation: the headline.
    levels: column -> {words: value}, what the column is compared with: a horizontal line each.
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
  fig = new_figure(8.0, 0.5 + 2.3 * len(chosen))
  all_axes = fig.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
  for axes, (title, names) in zip(all_axes, chosen.items(), strict=True):
    words = title if panels else in_words(title)
    axes.set_title(words[:1].upper() + words[1:])
    is_loss = panels is None and title == "Loss"
    beside = _chance_loss(columns) if is_loss else (levels or {}).get(names[0], {})
    _draw(axes, columns, names, beside, is_loss)
  all_axes[-1].set_xlabel("Round")
  return fig


def _draw(axes: Axes, columns: Columns, names: Sequence[str], levels: Mapping[str, float],
          is_loss: bool) -> None:
  """The lines of one panel, the levels that they are compared with, and their names."""
  ends = []
  for number, name in enumerate(names):
    present, colour = np.isfinite(columns[name]), PALETTE[number % len(PALETTE)]
    rounds, values = columns["round"][present], columns[name][present]
    if len(rounds):
      axes.plot(rounds, values, color=colour, marker="o" if len(rounds) < 30 else None, ms=3.5,
                clip_on=False, zorder=3)
      name = f"trained {values[-1]:.3f}" if levels and not is_loss else in_words(name)
      ends.append((rounds[-1], values[-1], name, colour))
  drawn = np.concatenate([columns[name][np.isfinite(columns[name])] for name in names])
  shown = _loss_axis(axes, drawn, levels) if is_loss else levels
  first, last = float(columns["round"].min()), float(columns["round"].max())
  for words, value in shown.items():
    colour = REFERENCE_COLOURS.get(words, MUTED if is_loss else INK)
    axes.plot([first, last], [value, value], color=colour, lw=1.1, zorder=1, scaley=not is_loss,
              ls=":" if colour == MUTED else "--")
    ends.append((last, value, f"{words} {value:{'.3g' if is_loss else '.3f'}}", colour))
  if not (is_loss or shown) and drawn.min(initial=0) >= 0:
    axes.set_ylim(bottom=0)
  axes.set_xlim(first - 0.02 * ((last - first) or 1), last)
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  label_line_ends(axes, ends)


def _loss_axis(axes: Axes, drawn: np.ndarray, levels: Mapping[str, float]) -> dict[str, float]:
  """Fits the axis to the course of the loss; returns the levels that lie on it.

  A level far from the course would flatten it: it is written in the panel instead.
  """
  low, high = float(drawn.min()), float(drawn.max())
  if low > 0 and high > low * 10**_DECADES:
    axes.set_yscale("log")
    return dict(levels)
  span = (high - low) or abs(high) or 1.0
  near = {words: value for words, value in levels.items()
          if low - span <= value <= high + span}
  low, high = min(low, *near.values(), high), max(high, *near.values(), low)
  margin = 0.08 * ((high - low) or span)
  axes.set_ylim(low - margin, high + margin)
  far = [f"{words} {value:.3g} ({'above' if value > high else 'below'})"
         for words, value in levels.items() if words not in near]
  if far:
    axes.set_title("; ".join(far), loc="right", fontsize=8.5, fontweight="normal", color=MUTED)
  return near


def _chance_loss(columns: Columns) -> dict[str, float]:
  """The loss of an answer that takes all classes for equally likely, where it was measured."""
  measured = columns.get("chance_loss", np.empty(0))
  measured = measured[np.isfinite(measured)]
  return {"chance (no margin)": float(measured.mean())} if len(measured) else {}


def _default_panels(columns: Columns, evaluation: Sequence[str]) -> dict[str, list[str]]:
  """Loss, evaluation and epsilon columns, by their names, as far as they have a finite value."""
  names = [name for name in columns if np.isfinite(columns[name]).any()]
  epsilon = [name for name in names if "epsilon" in name]
  loss = [name for name in names if "loss" in name and name != "chance_loss"]
  evaluated = [name for name in evaluation if name in names] or [
    name for name in names if ("@" in name or "/" in name) and name not in epsilon + loss
  ][:_MOST_EVALUATED]
  return {"Loss": loss, **{name: [name] for name in evaluated}, "Epsilon": epsilon}
