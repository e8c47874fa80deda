"""Figure of the leak-back attack: how much of a template the server's correction gives away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_face.figures.style import INK, MARKERS, MUTED, PALETTE, new_figure, style, wrapped

# Between the markers of one lambda, on the logarithmic axis.
BESIDE = 1.25


class Outcome(Protocol):
  """What is drawn of one form, scale and strength; see `fedjax_face.attacks.leak_back.Outcome`."""

  @property
  def form(self) -> str:
    """Of the correction."""

  @property
  def scale(self) -> float:
    """Of the head."""

  @property
  def strength(self) -> float:
    """Lambda."""

  @property
  def probe(self) -> Any:
    """Value, low and high of the cosine before the attack."""

  @property
  def recovered(self) -> Any:
    """Value, low and high of the cosine after it."""


@style()
def recovered_templates(outcomes: Sequence[Outcome], *, title: str = "") -> Figure:
  """A panel for each form: cosine of guess and template against lambda, a line for each scale.

  Markers of one lambda stand side by side. Bars are confidence intervals over targets; the dashed
  line is the probe before the attack. Lambda 0 has no place on a logarithmic axis and is left out.

  Args:
    outcomes: of `fedjax_face.attacks.leak_back.study`; lines in order of appearance.
    title: sizes of the population and such, above the panels.

  Raises:
    ValueError: no outcome with a positive lambda.
  """
  outcomes = [outcome for outcome in outcomes if outcome.strength > 0]
  if not outcomes:
    raise ValueError("recovered_templates needs at least one outcome with lambda above 0")
  forms = list(dict.fromkeys(outcome.form for outcome in outcomes))
  scales = list(dict.fromkeys(outcome.scale for outcome in outcomes))
  fig = new_figure(1.4 + 3.6 * len(forms), 3.9)
  panels = fig.subplots(1, len(forms), sharey=True, squeeze=False)[0]
  for axes, form in zip(panels, forms, strict=True):
    for number, scale in enumerate(scales):
      line = [outcome for outcome in outcomes if (outcome.form, outcome.scale) == (form, scale)]
      if line:
        _line(axes, line, number, len(scales))
    axes.axhline(outcomes[0].probe.value, color=INK, ls="--", lw=1.2, label="probe, before")
    axes.set_title(form.replace("_", " "))
    axes.set(xscale="log", xlabel="strength $\\lambda$ of the correction")
  # Where there is one target there is no interval: its bounds are nan.
  lowest = np.nanmin([(*outcome.recovered, outcome.probe.value) for outcome in outcomes])
  panels[0].set(ylim=(min(0.5, lowest - 0.05), 1.03), ylabel="cosine with the target's template")
  legend = {name: handle for axes in panels
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
  fig.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=len(legend),
             fontsize=8.5)
  if title:
    fig.suptitle(wrapped(title, fig.get_figwidth(), 9), fontsize=9, color=MUTED, x=0.01, ha="left")
  return fig


def _line(axes: Axes, outcomes: Sequence[Outcome], number: int, lines: int) -> None:
  """One scale; lines stand beside each other, as equal values would hide."""
  outcomes = sorted(outcomes, key=lambda outcome: outcome.strength)
  values = [outcome.recovered for outcome in outcomes]
  bars = [[value.value - value.low for value in values],
          [value.high - value.value for value in values]]
  aside = BESIDE ** (number - (lines - 1) / 2)
  axes.errorbar([aside * outcome.strength for outcome in outcomes],
                [value.value for value in values], yerr=bars, label=f"s = {outcomes[0].scale:g}",
                color=PALETTE[number % len(PALETTE)], marker=MARKERS[number % len(MARKERS)],
                lw=1.4, elinewidth=1, capsize=2)
