"""Figure of an audit: what was claimed and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from fedjax_face.figures.style import GRID, INK, MUTED, RIGHT, WRONG, new_figure, style


class Claim(NamedTuple):
  """A mechanism by name, its claimed epsilon and the measured lower bound."""

  name: str
  claimed: float
  measured: float


@style()
def claimed_and_measured(
  claims: Sequence[Claim], *, delta: float, unit: str, adjacency: str, confidence: float,
  channel: str
) -> Figure:
  """A row for each mechanism: the claim as a line, the measured lower bound as an arrow head.

  The true epsilon lies at the arrow head or to its right. A head past its claim is a violation.

  Args:
    claims: top to bottom.
    delta: of claim and measurement.
    unit: what is protected, e.g. 'person'.
    adjacency: neighbouring relation, in words.
    confidence: of the lower bound, in (0, 1).
    channel: what leaves, e.g. 'backbone'.
  """
  if not claims:
    raise ValueError("claimed_and_measured needs at least one claim")
  fig = new_figure(7.6, 1.5 + 0.36 * len(claims))
  axes = fig.subplots()
  right = 1.15 * max(max(claim.claimed, claim.measured) for claim in claims)
  for row, claim in enumerate(claims):
    colour = WRONG if claim.measured > claim.claimed else RIGHT
    axes.plot([claim.measured, right], [row, row], color=GRID, lw=6, solid_capstyle="butt",
              label="where the true $\\epsilon$ may lie" if row == 0 else None)
    axes.plot([claim.claimed] * 2, [row - 0.3, row + 0.3], color=INK, lw=2.4,
              label="claimed: at most" if row == 0 else None)
    axes.plot(claim.measured, row, ">", color=colour, ms=9, ls="none")
  for colour, words in ((RIGHT, "within the claim"), (WRONG, "beyond the claim")):
    axes.plot([], [], ">", color=colour, ms=9, ls="none",
              label=f"measured: at least, {words} ({confidence:.0%} confidence)")
  axes.set_yticks(range(len(claims)), [claim.name for claim in claims])
  axes.set(
    xlim=(0, right),
    ylim=(len(claims) - 0.5, -0.5),
  )
  guarantee = f"unit: {unit}, {adjacency}, channel: {channel}"
  axes.set_xlabel(f"$\\epsilon$ at $\\delta$ = {delta:g}, {guarantee}", loc="right")
  axes.grid(axis="y", visible=False)
  axes.tick_params(axis="y", length=0, labelcolor=MUTED)
  fig.legend(loc="outside upper center", ncols=2, fontsize=8.5)
  return fig
