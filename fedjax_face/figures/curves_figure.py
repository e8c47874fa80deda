"""Figure of several settings over the course of their training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedjax_face.figures.style import PALETTE, new_figure, style
from fedjax_face.figures.words import in_words

_STYLES = ("-", "--", ":", "-.")


class Course(NamedTuple):
  """A metric over training: rounds [R], and its mean, least and largest value over seeds [R]."""

  rounds: np.ndarray
  mean: np.ndarray
  low: np.ndarray
  high: np.ndarray


def course(runs: Sequence[Mapping[str, np.ndarray]], metric: str) -> Course:
  """The course of one setting, at the rounds where every seed has a value.

  Args:
    runs: columns of the metrics.csv of every seed.
    metric: a column; one that a seed lacks has no rounds.
  """
  found = [{int(r): v for r, v in zip(run["round"], run[metric], strict=True) if np.isfinite(v)}
           if metric in run else {} for run in runs]
  rounds = sorted(set.intersection(*map(set, found))) if found else []
  values = np.array([[one[r] for r in rounds] for one in found]).reshape(len(found), len(rounds))
  if not rounds:
    return Course(*np.empty((4, 0)))
  return Course(np.array(rounds), values.mean(0), values.min(0), values.max(0))


@style()
def curves(runs: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
           metrics: Sequence[str]) -> Figure:
  """A panel for each metric, a line for each setting: mean over seeds, with their range shaded.

  Settings may differ in their number of rounds, so the axis is the share of training that is done;
  a setting with one value, such as one that does not train, is a horizontal line.

  Args:
    runs: setting -> columns of the metrics.csv of every seed.
    metrics: columns.

  Raises:
    ValueError: no setting has a value of any metric.
  """
  found = {name: {metric: course(seeds, metric) for metric in metrics}
           for name, seeds in runs.items()}
  metrics = [m for m in metrics if any(len(own[m].rounds) for own in found.values())]
  if not metrics:
    raise ValueError("curves: no setting has a value of any metric")
  columns = min(3, len(metrics))
  fig = new_figure(3.4 * columns + 1.0, 2.7 * -(-len(metrics) // columns) + 0.9)
  panels = fig.subplots(-(-len(metrics) // columns), columns, squeeze=False).reshape(-1)
  for axes, metric in zip(panels, metrics, strict=False):
    axes.set_title(in_words(metric))
    for number, (name, own) in enumerate(found.items()):
      look = {"color": PALETTE[number % len(PALETTE)], "lw": 1.5,
              "ls": _STYLES[number // len(PALETTE) % len(_STYLES)]}
      one = own[metric]
      if len(one.rounds) == 1:
        axes.axhline(one.mean[0], label=in_words(name), **look)
      elif len(one.rounds):
        share = one.rounds / one.rounds[-1]
        axes.plot(share, one.mean, label=in_words(name), **look)
        axes.fill_between(share, one.low, one.high, color=look["color"], alpha=0.12, lw=0)
    axes.set_xlabel("share of training")
  for axes in panels[len(metrics):]:
    axes.set_visible(False)
  labels = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
  fig.legend(labels.values(), labels, loc="outside lower center", ncols=min(4, len(labels)),
             fontsize=8.5)
  return fig
