"""From a config to everything that a run needs: data, algorithm, ledger, evaluation."""

from __future__ import annotations

import copy
import hashlib
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face.data.decode import SkippedFiles
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, non_private
from fedjax_face.training import checkpoint, loop
from fedjax_face.training.config import as_dict, digest, flatten, validate
from fedjax_face.training.families import family_of
from fedjax_face.training.mesh import clients_mesh, is_main_process
from fedjax_face.training.streams import public_root

_TO_A_THIRD_PARTY = ("training.wandb: metrics measured on private data, without noise, are sent to "
                     "Weights & Biases, a third party.")

RESIDENT_BYTES = 2 << 30  # "auto": a set of at most this size lives on the device

Say = Callable[[str], None]


class Experiment(NamedTuple):
  """A run, ready to start.

  Attributes:
    config: resolved: `rounds`, `seed`, and the sections `privacy`, `evaluation` and `training`.
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
    record: what config.json says, where that is not `config`.
    speak: a line with keys of a config -> the line in the words of who started the run.
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
  speak: Callable[[str], str] = str

  @property
  def said(self) -> Any:
    """What config.json says."""
    return self.config if self.record is None else self.record


def build(config: Any, workdir: str | os.PathLike | None = None, say: Say = print,
          mesh: Mesh | None = None, sources: Any = None,
          public_stages: str | os.PathLike | None = None, watch: Any = None) -> Experiment:
  """Loads data, pre-trains if asked, and builds the algorithm.

  Args:
    config: a whole config (see `config.REQUIRED`).
    workdir: where the pre-trained backbone is kept; None keeps it nowhere.
    say: told in one line what takes time.
    mesh: default all devices.
    sources: what `load_sources(config)` returned, where several runs share it.
    public_stages: folder where runs that pre-train alike share what came of it.
    watch: of an audit, which puts its canaries into what is summed.

  Raises:
    ValueError: a config that some part refuses.
    FileNotFoundError: data that is not there.
  """
  from fedjax_face.algorithms import registry
  validate(config)
  mesh = clients_mesh() if mesh is None else mesh
  if sources is None:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SkippedFiles)  # they are among the notes
      sources = load_sources(config)
  for note in sources.notes:
    say(note)
  backbone = None
  if config.get("pretrain"):
    backbone = pretrained(config, sources, mesh, workdir, say, public_stages)
  algorithm = registry.build(config, sources, mesh, backbone, calibration_line(say),
                             watch=watch)
  for note in algorithm.notes:
    say(note)
  ledger = ledger_before(config, sources, algorithm)
  if config.get("pretrain"):
    _enter_pretraining(ledger, config, _pretraining_set(sources).name, algorithm)
  if config.get("rehearsal"):
    _enter_rehearsal(ledger, config.rehearsal, sources)
  evaluator = family_of(config.algorithm).evaluator(algorithm, config, sources)
  made = Experiment(config, mesh, sources, algorithm, ledger, evaluator,
                    is_resident(config.training.get("resident", "auto"), sources.train.images),
                    backbone)
  if backbone is None:
    return made
  public = config.pretrain.get("public", False)
  return made._replace(start_words="public start" if public else "pre-trained start",
                       untrained=lambda: untrained(config, sources))


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
    ledger.declare_not_covered(_TO_A_THIRD_PARTY)
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


def load_sources(config: Any, data: Mapping[str, Any] | None = None) -> Any:
  """The data sets of a run, or those of another `data` section split by the same seed."""
  load = family_of(config.algorithm).load
  return load(as_dict(config.data) if data is None else data, config.seed)


def is_resident(asked: str | bool, images: np.ndarray) -> bool:
  """Whether a set lives on the device: `training.resident`, where auto goes by its size."""
  if str(asked).lower() == "auto":
    return isinstance(images, np.ndarray) and images.nbytes <= RESIDENT_BYTES
  return str(asked).lower() == "true"


def calibration_line(say: Say) -> Callable[[float, float], None]:
  """Says (noise multiplier, epsilon) while noise is calibrated."""
  def line(noise_multiplier: float, epsilon: float) -> None:
    say(f"calibrating noise: multiplier {noise_multiplier:.3f} gives epsilon {epsilon:.3f}")
  return line


def pretrained(config: Any, sources: Any, mesh: Mesh, workdir: str | os.PathLike | None,
               say: Say, public_stages: str | os.PathLike | None = None) -> Any:
  """Parameters from non-private training on the public set; kept in the workdir.

  Args:
    config: with a section `pretrain`.
    sources: whose `public` set is trained on.
    mesh: devices.
    workdir: read, and written where nothing fits the config yet; None: nowhere.
    say: told what takes time.
    public_stages: likewise, for all runs that pre-train alike on the same images; a folder in it
      that is deleted is made anew.

  Raises:
    ValueError: there is no public set, or pretrain has no number of rounds.
  """
  from fedjax_face.algorithms import registry
  public = _pretraining_set(sources)
  own = _pretraining_config(config)
  stage = Stage(registry.build(own, sources._replace(train=public), mesh), own.rounds, own.seed,
                digest(own), own.training)
  return carried_out(stage, public, mesh, workdir, say, public_stages)


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
  """What a run starts from after a stage on a public set; kept in the workdir, as `pretrained`."""
  algorithm = stage.algorithm
  folder = None if workdir is None else pathlib.Path(workdir) / "pretrained"
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  done = None if folder is None else checkpoint.restore(folder, template, say)
  if done is not None and done.config == stage.identity and done.round == stage.rounds:
    return algorithm.start(done.state)
  shared = None if public_stages is None else pathlib.Path(public_stages) / _name(stage, public)
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
                                 Ledger().to_json(), stage.identity, "pretraining", finished=True)
    if shared is not None:
      _share(shared, done, say)
  if folder is not None:
    checkpoint.save(folder, done, keep=1)
  return algorithm.start(done.state)


def untrained(config: Any, sources: Any) -> tuple[Algorithm, Any]:
  """What pre-training started from: (algorithm, state), the backbone as it is initialised.

  Args:
    config: with a section `pretrain`.
    sources: whose `public` set is pre-trained on.

  Raises:
    ValueError: there is no public set, or pretrain has no number of rounds.
  """
  from fedjax_face.algorithms import registry
  mesh, own = clients_mesh(jax.local_devices()[:1]), _pretraining_config(config)
  algorithm = registry.build(own, sources._replace(train=_pretraining_set(sources)), mesh)
  return algorithm, loop.initial_state(algorithm, own.seed, mesh)


def _name(stage: Stage, public: Any) -> str:
  """Of what a stage makes of these images and targets."""
  content = hashlib.blake2b(stage.identity.encode(), digest_size=16)
  for leaf in jax.tree.leaves((public.images, public.targets)):
    content.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
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


def _pretraining_set(sources: Any) -> Any:
  if sources.public is None:
    raise ValueError("config.pretrain needs data.public, the set to pre-train on")
  return sources.public


def _pretraining_config(config: Any) -> Any:
  """The config with the algorithm and the values of its `pretrain` section.

  `pretrain.algorithm` is `centralized` where it is not given. `pretrain.rounds` is required;
  `pretrain.hparams`, `.cohort`, `.local` and `.model` replace single values of those sections.
  """
  own = copy.deepcopy(config)
  if hasattr(own, "unlock"):
    own.unlock()
  rounds = config.pretrain.get("rounds")
  if not isinstance(rounds, int) or rounds < 1:
    raise ValueError(f"config.pretrain.rounds={rounds!r}: expected a whole number, at least 1")
  if "split" in own:
    del own["split"]  # no part of the network is cut off yet
  if "rehearsal" in own:
    del own["rehearsal"]  # chose nothing here
  own.algorithm, own.rounds = config.pretrain.get("algorithm", "centralized"), rounds
  for section in ("hparams", "cohort", "local", "model"):
    for name, value in (config.pretrain.get(section) or {}).items():
      own[section][name] = value
  own.privacy.epsilon = own.hparams.noise_multiplier = None
  return own


def _enter_pretraining(ledger: Ledger, config: Any, name: str, algorithm: Algorithm) -> None:
  """A declared public set is named as public; any other is a release without a guarantee."""
  if config.pretrain.get("public", False):
    ledger.declare_public(name)
    return
  adjacency = next((r.adjacency for r in algorithm.releases if r.unit == "person"),
                   Adjacency.ADD_OR_REMOVE_ONE)
  ledger.record(non_private(
    "pre-trained backbone", "person", adjacency, "everyone",
    f"pre-training on {name}, which pretrain.public does not declare public, adds no noise"))


def _enter_rehearsal(ledger: Ledger, said: Any, sources: Any) -> None:
  """The rehearsal's set is declared public, and what was chosen on it costs nothing.

  Raises:
    ValueError: it has the name of a set that is not public here, or of the config's public set, but
      not its size.
  """
  public = sources.public
  declared = public is not None and said.set == public.name
  for role, other in (("trains", sources.train), ("evaluates", sources.evaluation)):
    if not declared and said.set == other.name:
      raise ValueError(f"config.rehearsal was on {said.set}, which {role} in this run and so is "
                       "not public: rehearse on data.public, or leave out what is said of it "
                       "(--config.rehearsal=None)")
  if declared and said.people != public.num_persons:
    raise ValueError(f"config.rehearsal was on {said.people} people of {said.set}, but data.public "
                     f"holds {public.num_persons} of them: rehearse again, or leave out what is "
                     "said of it (--config.rehearsal=None)")
  names = [name.rpartition(".")[2].replace("_", " ") for name in flatten(said.chose)]
  listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
  ledger.declare_public(said.set)
  ledger.declare_not_covered(
    f"Of the hyperparameters, {listed} were chosen by rehearsal on {said.people} public people of "
    f"{said.set} only, {said.judges} of whom judged, which costs nothing. The candidates were "
    "values of the config and multiples of them: how the config came by these is not covered.")
