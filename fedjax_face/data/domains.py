"""What rendered photographs are like, and who is on them, as parts: `street`, `studio`.

A public set of another domain than the private one's leaves something to learn in private.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from fedjax_face.data.rendering.variation import STREET, STUDIO, Variation
from fedjax_face.options import OptionError, register, within

Angle = Annotated[float, within("[0, 90]")]
Probability = Annotated[float, within("[0, 1]")]
Share = Annotated[float, within("[0, 0.3]")]
Stops = Annotated[float, within("[0, 3]")]
Sharpness = Annotated[float, within("[0.1, 1]")]


class Domain(NamedTuple):
  """Photographs of one kind.

  Attributes:
    name: of the kind.
    variation: the ranges.
  """

  name: str
  variation: Variation


register.kind(Domain, name="domain", homes=("fedjax_face.data.domains",))


@register.domain
def street(*, yaw: Angle = STREET.yaw, pitch: Angle = STREET.pitch, roll: Angle = STREET.roll,
           shift: Share = STREET.shift, scale: Share = STREET.scale,
           glasses: Probability = STREET.glasses, hat: Probability = STREET.hat,
           fringe: Probability = STREET.fringe, light_turn: Angle = STREET.light_turn,
           exposure: Stops = STREET.exposure, noise: Share = STREET.noise,
           blur: Probability = STREET.blur, resolution: Sharpness = STREET.resolution,
           skin_tone: tuple[float, ...] = STREET.skin_tone, age: tuple[float, ...] = STREET.age,
           ) -> Domain:
  """Snapshots anywhere: turned heads, light from any side, things worn.

  Args:
    yaw, pitch, roll: largest angles of the head, degrees.
    shift: largest shift of the head in the picture, of its side.
    scale: largest change of its size.
    glasses: probability of spectacles, a fifth of them dark.
    hat: probability of a hat.
    fringe: probability that hair falls over the forehead.
    light_turn: largest angle of the main light from the front, degrees.
    exposure: standard deviation, stops.
    noise: largest standard deviation of the camera's noise, of full scale.
    blur: weight that a pixel lends its neighbours at most.
    resolution: fewest pixels of the camera, as a share of the picture's side.
    skin_tone: range of the people's, two numbers in [0, 1], 0 lightest.
    age: range of what shows it (wrinkles, grey hair), two numbers in [0, 1].
  """
  return _domain("street", **locals())


@register.domain
def studio(*, yaw: Angle = STUDIO.yaw, pitch: Angle = STUDIO.pitch, roll: Angle = STUDIO.roll,
           shift: Share = STUDIO.shift, scale: Share = STUDIO.scale,
           glasses: Probability = STUDIO.glasses, hat: Probability = STUDIO.hat,
           fringe: Probability = STUDIO.fringe, light_turn: Angle = STUDIO.light_turn,
           exposure: Stops = STUDIO.exposure, noise: Share = STUDIO.noise,
           blur: Probability = STUDIO.blur, resolution: Sharpness = STUDIO.resolution,
           skin_tone: tuple[float, ...] = STUDIO.skin_tone, age: tuple[float, ...] = STUDIO.age,
           ) -> Domain:
  """Portraits: people face the camera, evenly lit.

  Args:
    yaw, pitch, roll, shift, scale, glasses, hat, fringe, light_turn, exposure, noise, blur,
      resolution, skin_tone, age: as of `street`.
  """
  return _domain("studio", **locals())


def _domain(name: str, **ranges: Any) -> Domain:
  """Raises OptionError for ranges that are none."""
  for field in ("skin_tone", "age"):
    given = ranges[field]
    if len(given) != 2 or not 0 <= given[0] <= given[1] <= 1:
      raise OptionError(f"{field}={given}: expected two numbers, 0 <= least <= largest <= 1")
  return Domain(name, Variation(**ranges))
