"""Figures of training with silos: overlap of their classes, and the gap to centralised training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedjax_face.figures.style import INK, MARKERS, MUTED, PALETTE, new_figure, style
from fedjax_face.figures.words import in_words


@style()
def overlap(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
  """Cosines between class embeddings of different silos: all pairs, and each class's nearest.

  Args:
    runs: name -> `edges`, `pairs`, `nearest` as in `fedjax_face.evaluation.overlap.Overlap`.

  Raises:
    ValueError: no runs.
  """
  if not runs:
    raise ValueError("overlap needs at least one run")
  fig = new_figure(7.6, 3.4)
  panels = fig.subplots(1, 2)
  for axes, key, title in zip(panels, ("pairs", "nearest"), (
      "all pairs of different silos", "nearest class of another silo"), strict=True):
    for number, (name, found) in enumerate(runs.items()):
      counts = np.asarray(found[key], float)
      axes.stairs(counts / max(counts.sum(), 1), found["edges"], label=in_words(name), lw=1.6,
                  color=PALETTE[number % len(PALETTE)])
    shown = np.concatenate([np.asarray(found["edges"])[:-1][np.asarray(found[key]) > 0]
                            for found in runs.values()])
    axes.set(xlim=(max(-1, shown.min() - 0.1), min(1, shown.max() + 0.15)), title=title,
             xlabel="cosine")
  panels[0].set_ylabel("share")
  fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
             ncols=min(4, len(runs)), fontsize=8.5)
  return fig


@style()
def gap(table: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], low: str,
        high: str) -> Figure:
  """A panel for each metric, a row for each setting: mean over seeds, with its interval.

  Args:
    table: setting -> {"metrics": {metric: {"mean", "low", "high"}}}, as `experiments.compare`
      writes it.
    metrics: panels.
    low: the setting where the gap begins (dashed line).
    high: the setting where it is closed (solid line).

  Raises:
    ValueError: a setting or a metric that the table lacks.
  """
  for name in (low, high):
    if name not in table:
      raise ValueError(f"the table has no setting {name!r}: {', '.join(table)}")
  names = list(table)
  fig = new_figure(2.2 + 3.2 * len(metrics), 1.2 + 0.26 * len(names))
  panels = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
  for axes, metric in zip(panels, metrics, strict=True):
    if metric not in table[low]["metrics"]:
      raise ValueError(f"the table has no metric {metric!r}: {', '.join(table[low]['metrics'])}")
    values = [table[name]["metrics"][metric] for name in names]
    means = np.array([value["mean"] for value in values])
    bars = [means - [value["low"] for value in values], [value["high"] for value in values] - means]
    kinds = list(dict.fromkeys(map(_kind, names)))
    for number, kind in enumerate(kinds):
      rows = [row for row, name in enumerate(names) if _kind(name) == kind]
      axes.errorbar(means[rows], rows, xerr=[np.asarray(bar)[rows] for bar in bars], ls="none",
                    marker=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)],
                    elinewidth=1, capsize=2)
    axes.axvline(means[names.index(low)], color=MUTED, ls="--", lw=1)
    axes.axvline(means[names.index(high)], color=INK, lw=1)
    axes.set(xlabel=in_words(metric))
  panels[0].set_yticks(range(len(names)), [in_words(name) for name in names])
  panels[0].invert_yaxis()
  return fig


def _kind(name: str) -> str:
  """Settings that differ in a number at the end are of one kind."""
  stem, _, last = name.rpartition("_")
  return stem if stem and last.replace(".", "").isdigit() else name
