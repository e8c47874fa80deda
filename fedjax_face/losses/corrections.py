"""Corrections of class embeddings as parts: what pushes classes of different silos apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from fedjax_face.losses import class_pairs
from fedjax_face.losses import gradient_correction as of_gradients
from fedjax_face.losses import spreadout as of_spread
from fedjax_face.losses.class_pairs import DEFAULT_BLOCK
from fedjax_face.options import Traced, at_least, register

Count = Annotated[int, at_least(1)]
NotNegative = Annotated[Traced, at_least(0)]


class Correction(NamedTuple):
  """A correction, before the head is known.

  Attributes:
    gradient: (whether the head compares directions alone, mesh axis over which the class embeddings
      are divided, or None) -> gradient of the class embeddings.
    steps: of it after a round.
  """

  gradient: Callable[[bool, str | None], class_pairs.Correction]
  steps: int


register.kind(Correction)


@register.correction
def gradient_correction(*, form: Literal["as_written", "calibrated"] = "calibrated",
                        strength: NotNegative = 7.5, learning_rate: NotNegative = 0.02,
                        steps: Count = 1, block: Count = DEFAULT_BLOCK) -> Correction:
  """FedGC: the gradient of a softmax in which other silos' class embeddings stand for features.

  Args:
    form: `as_written`, Algorithm 1, or `calibrated` to the head and the mean training cosine.
    strength: lambda, a factor on the rate.
    learning_rate: of a step.
    steps: a round.
    block: anchors at a time; memory grows with it.

  Source: Niu and Deng, AAAI 2022 (FedGC), Algorithm 1; the calibrated form is ours.
  """
  del strength, learning_rate  # traced
  return Correction(
      lambda normalised, axis_name: of_gradients.gradient_correction(
          form, normalised, block, axis_name, self_term=not normalised), steps)


@register.correction
def spreadout(*, form: Literal["hinge", "cosine"] = "hinge", margin: NotNegative = 0.3,
              strength: NotNegative = 7.5, learning_rate: NotNegative = 0.02,
              steps: Count = 1, block: Count = DEFAULT_BLOCK) -> Correction:
  """FedAwS: class embeddings closer than a margin are pushed apart.

  Args:
    form: `hinge` on distances, as published, or `cosine`.
    margin: nu, within which two class embeddings push each other.
    strength: lambda, a factor on the rate.
    learning_rate: of a step.
    steps: a round.
    block: anchors at a time; memory grows with it.

  Source: Yu, Rawat, Menon, Kumar, ICML 2020 (FedAwS), Algorithm 1.
  """
  del margin, strength, learning_rate  # traced
  return Correction(lambda normalised, axis_name: of_spread.spreadout(form, block, axis_name),
                    steps)
