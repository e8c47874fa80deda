"""Figure of split learning: what noise costs the server, and what it takes from an attacker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.figures.style import INK, MUTED, PALETTE, new_figure, style, wrapped


class Setting(NamedTuple):
  """One epsilon at one cut; shares with intervals, and bounds on some of them.

  Attributes:
    epsilon: of one image over the whole run; infinite without noise.
    accuracy: of people classified on the device, without noise.
    accuracy_noised: on noised activations.
    ceiling: of accuracy_noised.
    recognised: share of people recognised on reconstructions.
    recognisable: the most that the guarantee allows of it.
    originals: the same on their own pictures.
    ssim: of the reconstructions.
    blind: SSIM of the mean public picture.
    members: true positive rate at a false positive rate of 1 % of telling training pictures by what
      was received.
    distinguished: likewise, of telling the two most different training pictures apart from one
      release; nan without noise.
    bound: largest true positive rate that the guarantee allows there.
  """

  epsilon: float
  accuracy: Estimate
  accuracy_noised: Estimate
  ceiling: float
  recognised: Estimate
  recognisable: float
  originals: float
  ssim: Estimate
  blind: float
  members: Estimate
  distinguished: Estimate
  bound: float


@style()
def utility_and_attacks(cuts: Mapping[str, Sequence[Setting]], *, delta: float,
                        title: str) -> Figure:
  """A column for each cut; above what the server learns to do, below what it learns of people.

  Args:
    cuts: name -> settings, strongest noise first; not every cut needs every epsilon.
    delta: of all epsilons.
    title: data and mechanism in words.
  """
  if not cuts or not all(cuts.values()):
    raise ValueError("utility_and_attacks needs at least one cut with a setting")
  width = 3.0 * len(cuts) + 3.6  # with the legends
  fig = new_figure(width, 7.2)
  rows = fig.subplots(2, len(cuts), sharex=True, sharey=True, squeeze=False)
  epsilons = sorted({s.epsilon for settings in cuts.values() for s in settings})
  for column, (cut, settings) in enumerate(cuts.items()):
    places = [epsilons.index(s.epsilon) for s in settings]
    above, below = rows[0][column], rows[1][column]
    above.set_title(cut)
    _line(above, places, [s.accuracy for s in settings], "on the device, no noise", 0)
    _line(above, places, [s.accuracy_noised for s in settings], "on noised activations", 1)
    above.plot(places, [s.ceiling for s in settings], color=MUTED, ls="--", lw=1.2,
               label="most that the noise allows")
    _line(below, places, [s.recognised for s in settings], "recognised on reconstructions", 1)
    below.plot(places, [s.recognisable for s in settings], color=PALETTE[1], ls="--", lw=1.2,
               label="the guarantee's limit of recognition")
    below.plot(places, [s.originals for s in settings], color=PALETTE[1], ls=":", lw=1.2,
               label="recognised on their own pictures")
    _line(below, places, [s.ssim for s in settings], "likeness of reconstructions (SSIM)", 2)
    below.plot(places, [s.blind for s in settings], color=PALETTE[2], ls=":", lw=1.2,
               label="likeness of the mean picture")
    _line(below, places, [s.members for s in settings], "training pictures told, at 1 % false", 3)
    _line(below, places, [s.distinguished for s in settings],
          "two pictures told apart, at 1 % false", 4)
    below.plot(places, [s.bound for s in settings], color=INK, ls="--", lw=1.2,
               label="the guarantee's limit of telling apart")
    below.set_xticks(range(len(epsilons)), [
        "none" if math.isinf(epsilon) else f"{epsilon:g}" for epsilon in epsilons])
    below.set_xlabel(f"$\\epsilon$ of an image at $\\delta$ = {delta:g}")
  rows[0][0].set(ylabel="accuracy of the classifier", ylim=(0, 1.02))
  rows[1][0].set_ylabel("success of the attacks")
  for row in rows:
    row[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9)
  fig.suptitle(wrapped(title, width, 11), x=0.01, ha="left", fontsize=11)
  return fig


def _line(axes: Axes, places: Sequence[int], values: Sequence[Estimate], label: str,
          colour: int) -> None:
  axes.plot(places, [v.value for v in values], "o-", color=PALETTE[colour], label=label)
  axes.fill_between(places, [v.low for v in values], [v.high for v in values],
                    color=PALETTE[colour], alpha=0.15, lw=0)
