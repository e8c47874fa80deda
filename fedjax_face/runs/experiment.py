"""What a run needs before it starts: data, algorithm, ledger, evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from fedjax_face.data.image_source import Images, in_memory
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.privacy.ledger import Ledger

TO_A_THIRD_PARTY = ("compute.wandb: metrics measured on private data, without noise, are sent to "
                     "Weights & Biases, a third party.")

_SECONDS_BETWEEN_LINES = 5.0
RESIDENT_BYTES = 2 << 30  # "auto": a set of at most this size lives on the device

Say = Callable[[str], None]


class Experiment(NamedTuple):
  """A run, ready to start.

  Attributes:
    config: what the loop reads: `rounds`, `seed`, and sections `privacy`, `evaluation`, `training`.
    mesh: devices.
    sources: data sets, `Sources` or `RegionSources`.
    algorithm: what is trained.
    ledger: before the first round: what pre-training cost, what is not covered.
    evaluator: on the evaluation set: `values(state)`, `outcome(state)`.
    resident: whether the training images live on the device.
    backbone: parameters that the algorithm starts from, or None.
    start_words: what it starts from: "public start", "pre-trained start", "untrained start".
    untrained: () -> (algorithm, state), a backbone as it is initialised; None where that is the
      start itself.
    record: what config.json says.
  """

  config: Any
  mesh: Mesh
  sources: Any
  algorithm: Algorithm
  ledger: Ledger
  evaluator: Any
  resident: bool
  backbone: Any = None
  start_words: str = "untrained start"
  untrained: Callable[[], tuple[Algorithm, Any]] | None = None
  record: Any = None


def ledger_before(config: Any, sources: Any, algorithm: Algorithm) -> Ledger:
  """The ledger before the first round: what a run of this algorithm on these sets leaves out."""
  ledger = Ledger()
  for sentence in (*algorithm.not_covered, *sources.not_covered):
    ledger.declare_not_covered(sentence)
  if not sources.evaluates_training_people:
    ledger.declare_not_covered(evaluation_sentence(evaluated_on(sources)))
  if (judges := getattr(sources, "validation", None)) is not None:
    whom = ("other images of people who train or may do so" if sources.evaluates_training_people
            else f"{judges.num_persons:,} further people")
    ledger.declare_not_covered(
        f"While it trains the model is judged on {whom} of {judges.name}, without noise; the "
        "evaluation set is looked at when it has ended.")
  if config.training.get("wandb"):
    ledger.declare_not_covered(TO_A_THIRD_PARTY)
  return ledger


def evaluation_sentence(whom: str) -> str:
  """That people who do not train are evaluated on without noise; `whom` as of `evaluated_on`."""
  return f"The model is evaluated on {whom}, without noise. Another seed may choose others."


def evaluated_on(sources: Any) -> str:
  """Whom a model is measured on, for the statement."""
  evaluation = sources.evaluation
  if sources.evaluates_training_people:
    return f"images of {evaluation.name} of people who train or may do so, without noise"
  regions = getattr(evaluation, "regions", None)
  person = evaluation.person if regions is None else regions.person
  people = len(np.unique(person[person >= 0]))
  return (f"{people:,} people of {evaluation.name} who do not train and whom nothing here "
          "protects")


def is_resident(asked: str | bool, images: Images) -> bool:
  """Whether a set lives on the device: `compute.resident`, where auto goes by its size."""
  if str(asked).lower() == "auto":
    return in_memory(images) and images.nbytes <= RESIDENT_BYTES
  return str(asked).lower() == "true"


def once(say: Say) -> Say:
  """Says no line twice."""
  said: set[str] = set()

  def line(text: str) -> None:
    if text not in said:
      said.add(text)
      say(text)
  return line


def calibration_line(say: Say) -> Callable[[float, float], None]:
  """Says (noise multiplier, epsilon) now and then, while noise is calibrated for long."""
  last = time.monotonic()

  def line(noise_multiplier: float, epsilon: float) -> None:
    nonlocal last
    if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
      last = time.monotonic()
      say(f"calibrating noise: multiplier {noise_multiplier:.3f} gives epsilon {epsilon:.3f}")
  return line
