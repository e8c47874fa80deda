"""Kinds of parts of sets of photographs: sources, what is cut of them, and by which proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjax_face.options import register


class Section:
  """What a part stands for in the data section that `region_sources` reads."""

  def __init__(self, section: Mapping[str, Any]) -> None:
    self.section = dict(section)


class PhotographSource(Section):
  """Annotated photographs."""


class RegionCut(Section):
  """Which candidates become regions."""


class RegionCounts(Section):
  """How many regions are cut, where a source has numbers of its own."""


class Proposals(Section):
  """Where candidates for regions come from."""


_HERE = ("fedjax_face.data.photograph_sets",)
register.kind(PhotographSource, homes=_HERE)
register.kind(RegionCut, name="region_cut", homes=_HERE)
register.kind(RegionCounts, name="region_counts", homes=_HERE)
register.kind(Proposals, name="proposer", homes=("fedjax_face.data.regions.proposers",))
