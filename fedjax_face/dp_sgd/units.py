"""Units as a part: what is protected, how a step's are chosen, how much of each it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from fedjax_face.dp_sgd.sampling import UnitSampling, poisson_sampling
from fedjax_face.options import at_least, register, within
from fedjax_face.privacy.adjacency import Adjacency

Count = Annotated[int, at_least(1)]


class Units(NamedTuple):
  """How the units of a step are chosen.

  Attributes:
    name: what is protected: "image", "region" or "person".
    adjacency: in what neighbouring sets differ.
    bind: (training set, views of a row, devices) -> UnitSampling.
  """

  name: str
  adjacency: Adjacency
  bind: Callable[[Any, int, int], UnitSampling]


register.kind(Units)


@register.units
def poisson_units(*, unit: Literal["image", "region", "person"] = "image",
                  batch_size: Count = 256, capacity: Count = 320, regions_per_unit: Count = 3,
                  sampling_probability: Annotated[float, within("(0, 1]")] | None = None) -> Units:
  """Every unit takes part in a step by its own coin; add-or-remove neighbours.

  Binding it raises ValueError for more units a step than there are, for a capacity below the batch
  size or that the devices do not divide, and for a unit that the set cannot tell apart.

  Args:
    unit: whose data are protected: a photograph with all its regions (`image`), a region, or a
      person with all their photographs.
    batch_size: units of a step on average, which the noisy sum is divided by.
    capacity: most units of a step, at least `batch_size`; of more, a random subset takes part.
    regions_per_unit: most regions of a unit in a step; of more, a random subset is used.
    sampling_probability: of a unit in a step; None: `batch_size` over the number of units, which is
      then treated as public.

  Source: Abadi et al., CCS 2016, Algorithm 1.
  """
  def bind(train: Any, views: int, devices: int) -> UnitSampling:
    return poisson_sampling(
        train.units(unit), train.unit_identities(unit), unit, probability=sampling_probability,
        expected=batch_size, capacity=capacity, rows=regions_per_unit, views=views,
        devices=devices)

  return Units(unit, Adjacency.ADD_OR_REMOVE_ONE, bind)


def units_per_person(train: Any, unit: str) -> dict[str, int]:
  """Units on photographs that show a person, of the person with the most; none for the unit person.

  Where a source does not say who is who, a person may have more than is counted here.

  Args:
    train: a RegionSet.
    unit: its privacy unit.
  """
  regions = train.regions
  on_face = regions.person >= 0
  if unit == "person" or not on_face.any():
    return {}
  shown = np.unique(np.stack([regions.original[on_face], regions.person[on_face]]), axis=1)
  units = np.unique(np.stack([regions.original, train.units(unit)]), axis=1)[0]
  of_photograph = np.bincount(units)
  return {unit: int(np.bincount(shown[1], weights=of_photograph[shown[0]]).max())}
