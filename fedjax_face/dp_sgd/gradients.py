"""Gradients of units as a part: what is clipped together, how their sum is computed, its noise.

The parameters are those of a `trainer.Model`: a network, and the weights of its tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from fedjax_face.options import Traced, above, at_least, register
from fedjax_face.privacy import gradient_clip, per_example
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ghost_norm import Loss
from fedjax_face.privacy.gradient_clip import GradientClip
from fedjax_face.privacy.per_example import ClippedGradientSum, Form

Clip = Callable[[Adjacency, int], GradientClip]


class Gradient(NamedTuple):
  """How the gradients of a step's units are bounded and summed.

  Attributes:
    name: of the factory, for errors and the ledger.
    views: augmented views of every region, whose mean gradient counts.
    clip: (adjacency, number of tasks) -> GradientClip, which knows its sensitivity; None where
      nothing is bounded.
    sum: (loss, the bound clip) -> the sum over a batch of units.
  """

  name: str
  views: int
  clip: Clip | None
  sum: Callable[[Loss, GradientClip | None], ClippedGradientSum]


register.kind(Gradient)

ClipNorm = Annotated[Traced, above(0)]
NoiseMultiplier = Annotated[Traced, at_least(0)]
Count = Annotated[int, at_least(1)]


@register.gradient
def joint(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
          form: Form = "scanned", views: Count = 1, units_at_once: Count | None = 32) -> Gradient:
  """A unit's gradient, network and task weights together, is clipped to C.

  Args:
    clip_norm: C, largest L2 norm of a unit's gradient, above 0 and finite.
    noise_multiplier: z, standard deviation of the noise on the sum over its sensitivity, at least
      0; None: what the budget asks for.
    form: how the sum is computed, see `privacy.per_example`: `vmapped`, `scanned` or `ghost`; they
      agree up to rounding.
    views: augmented views of every region, whose mean gradient counts (De et al., arXiv
      2204.13650).
    units_at_once: units of a physical batch, a divisor of the units' capacity; None for all.

  Source: Abadi et al., CCS 2016, Algorithm 1; with task weights: Zhang et al., Front.
    Neurorobotics 2020.
  """
  del clip_norm, noise_multiplier  # traced
  return _clipped("joint", lambda adjacency, tasks: gradient_clip.joint(adjacency),
                  form, views, units_at_once)


@register.gradient
def grouped(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
            weights_share: Annotated[float, above(0)] = 0.1, form: Form = "scanned",
            views: Count = 1, units_at_once: Count | None = 32) -> Gradient:
  """The network's gradient is clipped to C, that of the task weights by itself to a share of C.

  Args:
    clip_norm: C, above 0 and finite.
    noise_multiplier: z, as of `joint`; the sensitivity is C sqrt(1 + weights_share^2).
    weights_share: clip norm of the task weights over C, above 0.
    form, views, units_at_once: as of `joint`.
  """
  del clip_norm, noise_multiplier  # traced
  shares = {"network": 1.0, "weights": weights_share}
  return _clipped("grouped", lambda adjacency, tasks: gradient_clip.grouped(shares, adjacency),
                  form, views, units_at_once)


@register.gradient
def per_task(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
             form: Form = "scanned", views: Count = 1,
             units_at_once: Count | None = 32) -> Gradient:
  """The gradient of every task's loss is clipped by itself to C, and all are summed.

  Args:
    clip_norm: C, above 0 and finite.
    noise_multiplier: z, as of `joint`; the sensitivity of T tasks is T C.
    form, views, units_at_once: as of `joint`.
  """
  del clip_norm, noise_multiplier  # traced
  return _clipped("per_task", lambda adjacency, tasks: gradient_clip.per_task(tasks, adjacency),
                  form, views, units_at_once)


@register.gradient
def stacked(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
            form: Form = "scanned", views: Count = 1,
            units_at_once: Count | None = 32) -> Gradient:
  """As `per_task`, but the tasks' sums are noised apart and then added up.

  Args:
    clip_norm: C, above 0 and finite.
    noise_multiplier: z, as of `joint`; the sensitivity of T tasks is sqrt(T) C, and T noises add
      up.
    form, views, units_at_once: as of `joint`.
  """
  del clip_norm, noise_multiplier  # traced
  return _clipped(
      "stacked", lambda adjacency, tasks: gradient_clip.per_task(tasks, adjacency, stacked=True),
      form, views, units_at_once)


@register.gradient
def unclipped(*, views: Count = 1, units_at_once: Count | None = 32) -> Gradient:
  """Gradients as they are, without bound or noise: no privacy.

  Args:
    views, units_at_once: as of `joint`.
  """
  return Gradient("unclipped", views, None, lambda loss, clip: per_example.unclipped_gradient_sum(
      loss, views, units_at_once))


def _clipped(name: str, clip: Clip, form: Form, views: int,
             units_at_once: int | None) -> Gradient:
  def summed(loss: Loss, bound: GradientClip | None) -> ClippedGradientSum:
    assert bound is not None
    return per_example.clipped_gradient_sum(loss, bound, form, views, units_at_once)

  return Gradient(name, views, clip, summed)
