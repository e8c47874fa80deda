"""The arguments of `fit`, checked, and the experiment that they describe."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import SkippedFiles
from fedjax_face.data.regions.sources import RegionSources
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.method import Budget, Method, Setting, Watch
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.options import at_least
from fedjax_face.privacy.calibration import require_exactly_one
from fedjax_face.runs import evaluators, records, rehearsed
from fedjax_face.runs import experiment as experiments
from fedjax_face.runs import stage as stages
from fedjax_face.runs import start as starts
from fedjax_face.runs.experiment import Experiment, Say
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.settings import (
    Compute,
    Evaluation,
    Rehearsed,
    budget,
    classification,
    compute,
    face_tasks,
    protocols,
)
from fedjax_face.runs.start import Start

ARGUMENTS: Mapping[str, Any] = {
    "method": Method, "data": Data, "rounds": Annotated[int, at_least(1)],
    "seed": Annotated[int, at_least(0)], "start": Start | None,
    "privacy": Budget, "evaluation": Evaluation | None, "compute": Compute,
    "rehearsal": Rehearsed | None}
"""Sections of a config, and what each accepts."""

_JUDGED = {"embeddings": protocols, "face_tasks": face_tasks, "classes": classification}


def from_config(config: Any, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The keyword arguments of `fit` that a config says.

  Args:
    config: `method`, `data`, `rounds` and perhaps `seed`, `start`, `privacy`, `evaluation`,
      `compute` and `rehearsal`: a mapping, as of `config.json`. A section that says no name changes
      the default.
    given: path -> value, for what the config holds by its repr alone ("data": Sources(...)).

  Raises:
    ValueError: anything that no signature takes, in one line with its path; no data are read.
  """
  if missing := [name for name in ("method", "data", "rounds") if name not in config]:
    raise ValueError(f"the config says no {missing[0]}")
  given = {path: Data.by_hand(value) if isinstance(value, Sources | RegionSources) else value
           for path, value in (given or {}).items()}
  return options.arguments(ARGUMENTS, _with_evaluation(config), given=given)


def overridden(config: Any, flags: Any) -> options.Overridden:
  """A config after `--config.KEY=VALUE`; see `options.override`."""
  return options.override(_with_evaluation(config), ARGUMENTS, list(flags))


def described(config: Any, path: str = "all") -> str:
  """What can be said of a section of a config, with what it says and the defaults.

  Args:
    config: as of `from_config`.
    path: "method.head"; "all": of everything.

  Raises:
    ValueError: a path that leads to no section.
  """
  said = options.outline(ARGUMENTS, _with_evaluation(config))
  kinds = {name: options.signature(ARGUMENTS).parameters[name].type.section for name in ARGUMENTS}
  sections = {"privacy": budget(), "compute": compute(), **said}
  if isinstance(said.get("method"), options.Part):
    sections.setdefault("evaluation", options.build(
        Evaluation, _judged(said["method"]), "evaluation"))
  sections = {name: kinds[name] if part is None else part
              for name in ARGUMENTS if kinds[name] is not None
              for part in [sections.get(name)]}
  if path == "all":
    return "\n\n".join(options.describe(part, name) for name, part in sections.items())
  first, *rest = path.split(".")
  found = sections.get(first)
  for name in rest:
    found = _inside(found, name)
  if found is None:
    raise ValueError(f"--options={path}: no section; there are {', '.join(sections)} and what they "
                     "hold")
  return options.describe(found, path)


def _inside(part: Any, name: str) -> Any:
  """The part under a name, the kind of one that is not said, or None."""
  if not isinstance(part, options.Part | options.Call) or (
      name not in options.record(part).arguments):
    return None
  found = options.record(part).arguments[name]
  if isinstance(found, options.Part | options.Call):
    return found
  return options.record(part).factory.parameters[name].type.section


def changed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """What a config says with other values: path in the call -> value; a mapping is a whole section.

  Raises:
    ValueError: a key or a value that the signatures do not take.
  """
  whole = {name: value for name, value in values.items() if isinstance(value, Mapping)}
  said = {name: config[name] for name in config}
  for name, section in whole.items():
    *path, last = name.split(".")
    at = said
    for key in path:
      inside = at.get(key)
      at[key] = {"name": inside} if isinstance(inside, str) else dict(inside or {})
      at = at[key]
    at[last] = section
  return overridden(said, [f"--config.{name}={_text(value)}" for name, value in values.items()
                           if name not in whole]).config


def _text(value: Any) -> str:
  """A value as a command line says it."""
  return ",".join(map(_text, value)) if isinstance(value, tuple | list) else str(value)


def _with_evaluation(config: Any) -> dict[str, Any]:
  """What is said, with the name of how the method is judged where that is not said."""
  said = {name: config[name] for name in config}
  evaluation = said.get("evaluation")
  if evaluation is None or isinstance(evaluation, str | options.Part) or "name" in evaluation:
    return said
  try:
    method = options.build(Method, said.get("method"), "method")
  except ValueError:  # told about below, with everything else
    return said
  return said | {"evaluation": {"name": _judged(method), **dict(evaluation)}}


def _judged(method: Any) -> str:
  return _JUDGED[options.made(method).data].__name__


class Asked(NamedTuple):
  """The arguments of `fit`, checked.

  Attributes:
    method, start: parts.
    data, privacy, evaluation, compute, rehearsal: what the factories returned.
    record: what config.json says.
  """

  method: Any
  data: Data
  start: Any
  privacy: Budget
  evaluation: Evaluation
  compute: Compute
  rehearsal: Rehearsed | None
  record: dict[str, Any]

  @classmethod
  def of_config(cls, config: Any, given: Mapping[str, Any] | None = None) -> Asked:
    """Of a config; see `from_config`."""
    return cls.of_arguments(from_config(config, given))

  @classmethod
  def of_arguments(cls, said: Mapping[str, Any]) -> Asked:
    """Of what `from_config` returns; the rest are the defaults of `fit`."""
    defaults = {"seed": 0, "start": None, "privacy": budget(), "evaluation": None,
                "compute": compute(), "rehearsal": None}
    return cls.of(**{**defaults, **said})

  @classmethod
  def of(cls, method: Any, data: Any, rounds: int, seed: int, start: Any, privacy: Any,
         evaluation: Any, compute: Any, rehearsal: Any = None) -> Asked:
    """Checks the types, and writes down what config.json says.

    Raises:
      ValueError: a value of another kind, or what does not go together.
    """
    if isinstance(data, FaceDataset):
      raise ValueError(f"data={data!r}: expected who trains and who evaluates: "
                       "dataset.split(evaluation=0.1), or Sources(train, evaluation)")
    loaded = Data.by_hand(data) if isinstance(data, Sources | RegionSources) else data
    if evaluation is None and isinstance(options.made(method), Method):
      evaluation = options.build(Evaluation, _judged(method), "evaluation")
    said = {"method": method, "data": loaded, "rounds": rounds, "seed": seed, "start": start,
            "privacy": privacy, "evaluation": evaluation, "compute": compute,
            "rehearsal": rehearsal}
    checked = options.arguments(ARGUMENTS, said)
    method, loaded = checked["method"], options.made(checked["data"])
    if checked["start"] is not None:
      start = checked["start"] = starts.on_network_of(checked["start"], method)
    privacy, evaluation, compute, rehearsal = (
        options.made(checked[name]) for name in ("privacy", "evaluation", "compute", "rehearsal"))
    name, feeds = options.call(method)["name"], options.made(method).data
    if loaded.feeds != feeds and (feeds, loaded.feeds) != ("embeddings", "classes"):
      raise ValueError(f"data: {name} learns {_LEARNS[feeds]}, and these data are for "
                       f"{_LEARNS[loaded.feeds]}: expected {_FED[feeds]}")
    if evaluation.feeds != feeds:
      raise ValueError(f"evaluation: {name} learns {_LEARNS[feeds]}: expected {_judged(method)}")
    record = {name: options.call(value) for name, value in checked.items()}
    rehearsed.check(record)
    return cls(method, loaded, start, privacy, evaluation, compute, rehearsal, record)

  def experiment(self, workdir: str | os.PathLike | None = None, say: Say = lambda line: None, *,
                 mesh: Mesh | None = None, sources: Any = None,
                 public_stages: str | os.PathLike | None = None,
                 watch: Watch | None = None) -> Experiment:
    """Data loaded, pre-training done, the method bound.

    What refuses the method is found before it pre-trains, so far as it does not look at the values
    that it starts from.

    Args:
      workdir: where what comes of pre-training is kept, and resumed; None: nowhere.
      say: told what is worth a line.
      mesh: default all devices.
      sources: of the same data section, where several runs share them.
      public_stages: folder where runs that pre-train alike share what came of it, where
        `compute.starts` names none.
      watch: of an audit, which puts its canaries into what is summed.

    Raises:
      ValueError: what some part refuses.
      FileNotFoundError: data that is not there.
    """
    check_noise(self.method, self.privacy)
    records.require_trackers(self.compute.wandb)
    mesh = clients_mesh() if mesh is None else mesh
    sources = self.sources() if sources is None else sources
    for note in (*sources.notes, *evaluators.require(self.evaluation, sources)):
      say(note)
    calibrating = experiments.once(say)
    before, backbone = self._started(sources, mesh, workdir, say, public_stages, calibrating)
    algorithm = self._bound(sources, self.setting(
        mesh, sources.public, backbone, calibrating, watch))
    for note in algorithm.notes:
      say(note)
    config = self.of_loop()
    ledger = experiments.ledger_before(config, sources, algorithm)
    if self.start is not None:
      starts.enter(ledger, self.start, sources.public.name, algorithm)
    if self.rehearsal is not None:
      rehearsed.enter(ledger, self.rehearsal, sources)
    made = Experiment(
        config, mesh, sources, algorithm, ledger,
        evaluators.evaluator_of(self.evaluation, algorithm, sources, config.seed),
        experiments.is_resident(self.compute.resident, sources.train.images), backbone,
        record=self.record)
    if before is None:
      return made
    return made._replace(start_words=before.words, untrained=lambda: starts.untrained(before))

  def priced(self) -> Asked:
    """The same with some noise in the place of what a budget asks for.

    For whoever needs the shapes of a state alone: to calibrate noise again takes long. Split
    learning stays as it is: its evaluation adds the run's own noise to activations, and an edge
    server's public parts are told by it.
    """
    method, parts = self.method, options.record(self.method).arguments
    if "activations" in parts:
      return self
    for name in ("aggregate", "gradient", "exchange"):
      own = _options_of(parts.get(name))
      if "noise_multiplier" not in own or own["noise_multiplier"] is not None:
        continue
      if name == "exchange":
        if own["epsilon"] is None:
          continue
        part = options.replace(parts[name], noise_multiplier=1.0, epsilon=None)
      elif self.privacy.epsilon is None:
        continue
      else:
        part = options.replace(parts[name], noise_multiplier=1.0)
      method = options.replace(method, **{name: part})
    return self._replace(method=method, privacy=self.privacy._replace(epsilon=None))

  def sources(self) -> Any:
    """The sets of the run; what was skipped is among their notes."""
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SkippedFiles)
      return self.data.sources

  def setting(self, mesh: Mesh, public: Any = None, start: Any = None,
              say: Say = lambda line: None, watch: Watch | None = None) -> Setting:
    """What the method is bound in.

    Args:
      mesh: devices.
      public: a set declared public, or None.
      start: parameters to start from, or None.
      say: told while noise is calibrated.
      watch: of an audit.
    """
    return Setting(
        mesh, self.record["rounds"], self.record["seed"], self.privacy, start,
        bool(self.start and self.start.public), public, self.compute.clients_per_chunk,
        experiments.calibration_line(say), watch)

  def _started(self, sources: Any, mesh: Mesh, workdir: str | os.PathLike | None, say: Say,
               public_stages: str | os.PathLike | None, calibrating: Say) -> Any:
    """What trains before the run, and what came of it."""
    if self.start is None:
      return None, None
    before = self.stage(sources.public, mesh)

    def check(shapes: Any) -> None:
      with contextlib.suppress(TypeError):  # it needs the values, with which it is bound below
        self._bound(sources, self.setting(mesh, sources.public, shapes, calibrating))

    return before, stages.carried_out(
        before, sources.public, mesh, workdir, say, self.compute.starts or public_stages, check)

  def _bound(self, sources: Any, setting: Setting) -> Algorithm:
    """The method on its training set, with the unit that a budget is of."""
    algorithm = methods.bind(self.method, sources.train, setting)
    unit = self.privacy.unit or options.made(self.method).unit
    units = dict.fromkeys(release.unit for release in algorithm.releases)
    if unit not in units:
      raise ValueError(f"privacy.unit={unit!r}: {algorithm.name} accounts for each "
                       f"{' or '.join(units)}")
    return algorithm

  def stage(self, public: Any, mesh: Mesh) -> stages.Stage:
    """What trains before the run.

    Raises:
      ValueError: there is no public set.
    """
    if public is None:
      raise ValueError("start: pretrain needs a public set, and data have none: give them one "
                       "(data.public, or Sources(public=...)), or leave out start")
    return starts.stage_of(self.start, public, mesh, self.record["seed"], self.compute)

  def of_loop(self) -> ConfigDict:
    """What the loop reads, by its own names."""
    unit = self.privacy.unit or options.made(self.method).unit
    return ConfigDict({
        "rounds": self.record["rounds"], "seed": self.record["seed"],
        "privacy": {**self.privacy._asdict(), "unit": unit},
        "evaluation": self.evaluation.section(),
        "training": self.compute._asdict()})


_LEARNS = {"embeddings": "embeddings", "face_tasks": "face tasks",
           "classes": "to classify known people"}
_FED = {"embeddings": "a set with people who evaluate, as synthetic_faces",
        "face_tasks": "photographs(...)", "classes": "closed_set(...)"}


def check_noise(method: Any, privacy: Budget) -> None:
  """Refuses, before data are read, both or neither of a budget and noise that is said.

  Raises:
    ValueError: as `method.bind`.
  """
  parts = options.record(method).arguments
  scalars = options.hparams(method)
  for name, target in (("aggregate", {"privacy.epsilon": privacy.epsilon}),
                       ("gradient", {"privacy.epsilon": privacy.epsilon}),
                       ("activations", {"privacy.epsilon": privacy.epsilon}), ("exchange", None)):
    own = _options_of(parts.get(name))
    if "noise_multiplier" not in own:
      continue
    if name == "exchange":
      if len(options.made(own["mechanism"]).noise) < 2 or own["rows"] != "prototypes":
        continue
      target = {"method.exchange.epsilon": own["epsilon"]}
    assert target is not None
    require_exactly_one(target | {
        f"method.{name}.noise_multiplier": scalars[name].get("noise_multiplier")})


def _options_of(part: Any) -> Mapping[str, Any]:
  return options.record(part).arguments if isinstance(part, options.Part) else {}
