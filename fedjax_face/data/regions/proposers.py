"""Where candidates for regions of a photograph come from, as parts."""

from __future__ import annotations

from typing import Annotated

from fedjax_face.data.regions.kinds import Proposals
from fedjax_face.options import above, at_least, register

Count = Annotated[int, at_least(1)]
Side = Annotated[float, above(0)]


@register.proposer
def random(*, count: Count = 60, scales: tuple[Side, Side] = (0.15, 0.9),
           aspects: tuple[Side, Side] = (0.7, 1.4)) -> Proposals:
  """Boxes of random size, aspect and place.

  Args:
    count: of a photograph.
    scales: least and most, sqrt(width * height) as a share of the shorter side.
    aspects: least and most, width over height.
  """
  return Proposals({"name": "random", "count": count, "scales": scales, "aspects": aspects})


@register.proposer
def grid(*, scales: tuple[Side, ...] = (0.25, 0.35, 0.5, 0.7), aspects: tuple[Side, ...] = (1.0,),
         stride: Side = 0.25) -> Proposals:
  """Every place on a grid, for each scale and aspect.

  Args:
    scales: sqrt(width * height) as shares of the shorter side.
    aspects: width over height.
    stride: between places, as a share of the box.
  """
  return Proposals({"name": "grid", "scales": scales, "aspects": aspects, "stride": stride})


@register.proposer
def selective_search(*, limit: Count | None = None, least_side: Side = 16.0) -> Proposals:
  """Selective search, fast mode (Uijlings et al., IJCV 2013); needs the extra `vision`.

  Args:
    limit: most boxes of a photograph; None: all.
    least_side: pixels, of a box.
  """
  return Proposals({"name": "selective_search", "limit": limit, "least_side": least_side})
