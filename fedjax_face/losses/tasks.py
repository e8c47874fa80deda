"""Tasks as a part: how the losses of the five face tasks are weighed, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from fedjax_face.losses import multi_task
from fedjax_face.losses.multi_task import HYPERFACE_WEIGHTS, TASKS, TaskWeighting
from fedjax_face.options import OptionError, above, at_least, register


class Tasks(NamedTuple):
  """What is trained on a labelled region.

  Attributes:
    name: of the factory, for errors.
    weighting: () -> how the losses are weighed; only then are arrays made.
    flip: whether half of the regions, drawn anew every step, are shown in the mirror, labels and
      all.
  """

  name: str
  weighting: Callable[[], TaskWeighting]
  flip: bool


register.kind(Tasks)


@register.tasks
def fixed(*, weights: tuple[Annotated[float, at_least(0)], ...] = HYPERFACE_WEIGHTS,
          flip: bool = True) -> Tasks:
  """Constant weights; the default are the published ones.

  Args:
    weights: of detection, landmarks, visibility, pose and gender, each at least 0.
    flip: random mirror images.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017.
  """
  if len(weights) != len(TASKS):
    raise OptionError(f"weights={weights}: expected {len(TASKS)} numbers, for {', '.join(TASKS)}")
  return Tasks("fixed", lambda: multi_task.fixed_weights(weights), flip)


@register.tasks
def uncertainty(*, scale: Annotated[float, above(0)] = 0.1, flip: bool = True) -> Tasks:
  """Weights learned along as log-variances, see `multi_task.uncertainty_weights`.

  Args:
    scale: kappa, log-variance over parameter. Below 1 the weights take a smaller part of a clipped
      gradient and receive less noise.
    flip: random mirror images.

  Source: Kendall, Gal and Cipolla, CVPR 2018; under DP: Zhang et al., Front. Neurorobotics 2020.
  """
  return Tasks("uncertainty", lambda: multi_task.uncertainty_weights(scale), flip)


@register.tasks
def detection(*, flip: bool = True) -> Tasks:
  """Faces and no faces alone, with weight 1: the first stage of the published HyperFace.

  Args:
    flip: random mirror images.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017.
  """
  alone = [float(task == "detection") for task in TASKS]
  return Tasks("detection", lambda: multi_task.fixed_weights(alone), flip)
