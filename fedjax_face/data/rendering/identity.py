"""The continuous parameters that make one synthetic person, drawn from (seed, person).

Lengths are in head units: 1 unit is half the height of a head, the eye line is y = 0, x points to
the right of a frontal image, y up, z out of the face towards the viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any    # numpy on the host, a traced jax array inside a stage


class Shape(NamedTuple):
  """Geometry of a head; every field is float32 `[N]`, lengths in head units."""
  head_width: Array
  head_height: Array
  jaw_width: Array
  jaw_square: Array
  chin_y: Array
  chin_width: Array
  chin_out: Array
  cheek_out: Array
  cheek_y: Array
  cheek_hollow: Array
  ridge_out: Array
  eye_x: Array
  eye_width: Array
  eye_open: Array
  eye_tilt: Array
  eye_depth: Array
  lid_fold: Array
  brow_y: Array
  brow_length: Array
  brow_thickness: Array
  brow_arch: Array
  brow_tilt: Array
  nose_y: Array
  nose_width: Array
  nose_out: Array
  bridge_out: Array
  bridge_width: Array
  nose_hump: Array
  mouth_y: Array
  mouth_width: Array
  lip_upper: Array
  lip_lower: Array
  mouth_curve: Array
  ear_size: Array
  ear_out: Array
  hairline: Array
  hair_recess: Array
  hair_top: Array
  hair_side: Array
  hair_part: Array
  neck_width: Array


# field: (mean, standard deviation, half the difference between masculine and feminine means)
_SHAPE: dict[str, tuple[float, float, float]] = dict(
    head_width=(.63, .035, .01), head_height=(.80, .035, .0), jaw_width=(.50, .045, .03),
    jaw_square=(.5, .25, .2), chin_y=(-1.0, .05, -.025), chin_width=(.22, .05, .03),
    chin_out=(.04, .03, .01), cheek_out=(.05, .03, -.005), cheek_y=(-.22, .04, .0),
    cheek_hollow=(.02, .025, .01), ridge_out=(.035, .02, .015), eye_x=(.275, .022, .0),
    eye_width=(.146, .012, -.003), eye_open=(.70, .11, -.06), eye_tilt=(.04, .09, -.03),
    eye_depth=(.095, .025, .01), lid_fold=(.5, .35, .0), brow_y=(.205, .025, -.02),
    brow_length=(.185, .02, .01), brow_thickness=(.033, .010, .009), brow_arch=(.045, .020, -.012),
    brow_tilt=(-.010, .026, -.006), nose_y=(-.37, .04, -.012), nose_width=(.165, .024, .012),
    nose_out=(.205, .04, .012), bridge_out=(.085, .035, .01), bridge_width=(.085, .015, .005),
    nose_hump=(.0, .02, .008), mouth_y=(-.63, .03, -.01), mouth_width=(.235, .028, .008),
    lip_upper=(.060, .018, -.010), lip_lower=(.075, .018, -.008), mouth_curve=(.012, .016, .0),
    ear_size=(.19, .025, .01), ear_out=(.05, .03, .01), hairline=(.58, .07, .02),
    hair_recess=(.05, .06, .04), hair_top=(.14, .05, .0), hair_side=(.08, .035, -.01),
    hair_part=(.0, .10, .0), neck_width=(.34, .03, .04))

_POSITIVE = ("jaw_square", "cheek_hollow", "lid_fold", "hair_recess")


class Paint(NamedTuple):
  """Colours `[N, 3]` (linear RGB), amounts `[N]`, moles `[N, 4, 3]` as (x, y, strength)."""
  skin: Array
  hair: Array
  brow: Array
  iris: Array
  lip: Array
  freckles: Array
  blush: Array
  wrinkles: Array
  beard: Array
  moustache: Array
  moles: Array
  texture: Array


class Identity(NamedTuple):
  """A person: geometry, colour and hair cut; all fields are arrays over people."""
  shape: Shape
  paint: Paint
  hair_length: Array   # 0 short .. 1 below the shoulders
  hair_curl: Array     # 0 straight .. 1 curly
  bald: Array          # 1 = no hair
  gender: Array        # int8: 0 masculine, 1 feminine


_SKIN = np.array([[.85, .58, .45], [.75, .46, .32], [.60, .34, .20], [.42, .215, .115],
                  [.26, .125, .065], [.15, .070, .040]], np.float32)
_HAIR = np.array([[.012, .010, .009], [.035, .02, .013], [.09, .045, .022], [.20, .11, .05],
                  [.45, .30, .14], [.28, .085, .03], [.42, .41, .40]], np.float32)
_IRIS = np.array([[.06, .028, .012], [.13, .065, .025], [.16, .14, .05], [.12, .20, .12],
                  [.14, .25, .38], [.28, .33, .36]], np.float32)
_NORMALS, _UNIFORMS = len(Shape._fields) + 16, 40


def sample_identities(seed: int, people: np.ndarray, skin_tone: Sequence[float] = (0., 1.),
                      age: Sequence[float] = (0., 1.)) -> Identity:
  """Draws the parameters of each person.

  Args:
    seed: Non-negative integer; the world the people live in.
    people: Person numbers, int `[N]`, each at least 0.
    skin_tone: Lightest and darkest, in [0, 1].
    age: Range of what shows it, in [0, 1].

  Returns:
    Identity with `N` rows; row i depends on (seed, people[i]) and the ranges only.
  """
  normal = np.empty((len(people), _NORMALS), np.float32)
  uniform = np.empty((len(people), _UNIFORMS), np.float32)
  for row, person in enumerate(people):
    rng = np.random.default_rng([seed, 0, int(person)])
    normal[row] = np.clip(rng.standard_normal(_NORMALS), -2.3, 2.3)
    uniform[row] = rng.random(_UNIFORMS)
  gender = (uniform[:, 0] < .5).astype(np.int8)
  masculine = 1. - 2. * gender.astype(np.float32)
  shape = _shape(normal, masculine)
  bald = (masculine > 0) & (uniform[:, 1] < .12)
  hair_length = np.where(masculine > 0, .25 * uniform[:, 2] ** 2 + .6 * (uniform[:, 3] < .06),
                         .15 + .85 * uniform[:, 2])
  return Identity(
      shape, _paint(normal[:, -16:], uniform, masculine, skin_tone, age),
      hair_length.astype(np.float32),
      np.clip(1.6 * uniform[:, 4] - .6, 0, 1), bald.astype(np.float32), gender)


def _shape(normal: np.ndarray, masculine: np.ndarray) -> Shape:
  """Normal draws to head units."""
  columns = {}
  for i, (name, (mean, deviation, shift)) in enumerate(_SHAPE.items()):
    value = mean + deviation * normal[:, i] + shift * masculine
    columns[name] = np.maximum(value, 0) if name in _POSITIVE else value
  return Shape(**{name: value.astype(np.float32) for name, value in columns.items()})


def _ramp(colours: np.ndarray, position: np.ndarray) -> np.ndarray:
  """Interpolates a row of colours at a position in [0, 1]; `[N, 3]`."""
  knots = np.linspace(0, 1, len(colours))
  return np.stack([np.interp(position, knots, channel) for channel in colours.T], -1)


def _paint(normal: np.ndarray, uniform: np.ndarray, masculine: np.ndarray,
           skin_tone: Sequence[float], age: Sequence[float]) -> Paint:
  """Random draws to colours; darker skin goes with darker hair and eyes, as a tendency."""
  between = lambda ends, place: np.float32(ends[0]) + np.float32(ends[1] - ends[0]) * place
  tone = between(skin_tone, uniform[:, 5])
  skin = _ramp(_SKIN, tone) * np.exp(.06 * normal[:, :3])
  fair = np.clip(1.25 - 1.6 * tone, 0, 1)
  grey = uniform[:, 6] < .12 * (age[0] + age[1])
  hair_position = np.where(grey, .93 + .07 * uniform[:, 7], .12 + .68 * uniform[:, 7] * fair)
  hair = _ramp(_HAIR, hair_position) * np.exp(.15 * normal[:, 3:4])
  iris = _ramp(_IRIS, uniform[:, 8] * fair) * np.exp(.15 * normal[:, 4:5])
  redness = np.array([[1.0, .62, .62]]) ** (1 + .35 * normal[:, 5:6] - .2 * masculine[:, None])
  beard = np.where(masculine > 0, np.clip(2.2 * uniform[:, 9] - 1.1, 0, 1), 0)
  moustache = np.where(masculine > 0, np.clip(beard + (uniform[:, 10] < .12), 0, 1), 0)
  moles = np.stack([1.1 * uniform[:, 11:15] - .55, 1.35 * uniform[:, 15:19] - .85,
                    (uniform[:, 19:23] < .4) * (.3 + .5 * uniform[:, 23:27])], -1)
  amounts = dict(
      freckles=np.clip(1.8 * uniform[:, 27] - 1.1, 0, 1) * fair, blush=uniform[:, 28] * .6,
      wrinkles=np.clip(.9 * between(age, uniform[:, 29]) - .1 + .4 * grey, 0, 1), beard=beard,
      moustache=moustache, moles=moles, texture=uniform[:, 30:36])
  colours = dict(skin=skin, hair=hair, brow=.75 * hair + .1 * skin * hair.mean(-1, keepdims=True),
                 iris=iris, lip=skin * redness * .92)
  return Paint(**{k: np.asarray(v, np.float32) for k, v in (colours | amounts).items()})
