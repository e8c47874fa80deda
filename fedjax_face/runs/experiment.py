"""What a run needs before it starts: data, algorithm, ledger, evaluation, public stages."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face.method.algorithm import Algorithm
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, loop, training_set
from fedjax_face.runs.mesh import is_main_process
from fedjax_face.runs.streams import public_root

TO_A_THIRD_PARTY = ("compute.wandb: metrics measured on private data, without noise, are sent to "
                     "Weights & Biases, a third party.")

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
    ledger.declare_not_covered(
        f"The model is evaluated on {evaluated_on(sources)}, without noise. Another seed may "
        "choose others.")
  if config.training.get("wandb"):
    ledger.declare_not_covered(TO_A_THIRD_PARTY)
  return ledger


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


def is_resident(asked: str | bool, images: np.ndarray) -> bool:
  """Whether a set lives on the device: `compute.resident`, where auto goes by its size."""
  if str(asked).lower() == "auto":
    return isinstance(images, np.ndarray) and images.nbytes <= RESIDENT_BYTES
  return str(asked).lower() == "true"


def calibration_line(say: Say) -> Callable[[float, float], None]:
  """Says (noise multiplier, epsilon) while noise is calibrated."""
  def line(noise_multiplier: float, epsilon: float) -> None:
    say(f"calibrating noise: multiplier {noise_multiplier:.3f} gives epsilon {epsilon:.3f}")
  return line


class Stage(NamedTuple):
  """Non-private training before a run.

  Attributes:
    algorithm: on the public set.
    rounds: of it.
    seed: of its draws and its initial state.
    identity: of everything that was chosen, but the images and the rounds.
    training: how it is carried out: `rounds_per_dispatch`, `resident`.
  """

  algorithm: Algorithm
  rounds: int
  seed: int
  identity: str
  training: Any


def carried_out(stage: Stage, public: Any, mesh: Mesh, workdir: str | os.PathLike | None, say: Say,
                public_stages: str | os.PathLike | None = None) -> Any:
  """What a run starts from after a stage on a public set.

  Args:
    stage: bound to the set.
    public: the set.
    mesh: devices.
    workdir: read, and written where nothing fits the stage yet; None: nowhere.
    say: told what takes time.
    public_stages: likewise, for all runs that pre-train alike on the same images; a folder in it
      that is deleted is made anew.
  """
  algorithm, identity = stage.algorithm, _identity(stage, public)
  folder = None if workdir is None else pathlib.Path(workdir) / "pretrained"
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  done = None if folder is None else checkpoint.restore(folder, template, say)
  if done is not None and done.config == identity and done.round == stage.rounds:
    return algorithm.start(done.state)
  shared = None if public_stages is None else pathlib.Path(public_stages) / identity
  done = None if shared is None else _shared(shared, template, say)
  if done is None:
    say(f"pre-training on {public.name}: {stage.rounds} rounds")
    root = public_root(stage.seed)  # nothing is noised, and nothing rests on who takes part
    for progress in loop.train(
        algorithm, public.images, targets=public.targets, rounds=stage.rounds, seed=stage.seed,
        noise_root=root, cohort_root=root,
        rounds_per_dispatch=stage.training.rounds_per_dispatch, mesh=mesh,
        resident=is_resident(stage.training.get("resident", "auto"), public.images)):
      state = progress.state
    done = checkpoint.Checkpoint(stage.rounds, jax.tree.map(np.asarray, state),
                                 Ledger().to_json(), identity, "pretraining", finished=True)
    if shared is not None:
      _share(shared, done, say)
  if folder is not None:
    checkpoint.save(folder, done, keep=1)
  return algorithm.start(done.state)


def _identity(stage: Stage, public: Any) -> str:
  """Of what a stage makes of these images and targets."""
  content = hashlib.blake2b(stage.identity.encode(), digest_size=16)
  content.update(training_set.content(public).encode())
  return content.hexdigest()


def _shared(stage: pathlib.Path, template: Any, say: Say) -> checkpoint.Checkpoint | None:
  try:
    return checkpoint.restore(stage, template, say)
  except ValueError as error:
    say(f"passed over: {error}; delete {stage} to have it made anew")
    return None


def _share(stage: pathlib.Path, done: checkpoint.Checkpoint, say: Say) -> None:
  """Puts a stage where other runs find it whole or not at all; another run may have been faster."""
  partial = stage.with_name(f"{stage.name}.{os.getpid()}")
  try:
    checkpoint.save(partial, done, keep=1)
    if is_main_process():
      partial.rename(stage)
  except OSError as error:
    shutil.rmtree(partial, ignore_errors=True)
    if not stage.is_dir():
      say(f"pre-training not shared: {error}")
