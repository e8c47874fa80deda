"""`fit`: a method on data, in the memory of a notebook or in a folder that can be resumed."""

from __future__ import annotations

import collections
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.algorithms.sections import in_calls
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.decode import SkippedFiles
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.method import Budget, Method, Setting
from fedjax_face.method.algorithm import State
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.budget import Budget as Account
from fedjax_face.privacy.calibration import require_exactly_one
from fedjax_face.privacy.ledger import Ledger, is_non_private, non_private
from fedjax_face.runs import start as starts
from fedjax_face.runs.run import Run
from fedjax_face.runs.settings import Compute, Evaluation, budget, compute, protocols
from fedjax_face.runs.start import Start
from fedjax_face.training import experiment as experiments
from fedjax_face.training import health, loop
from fedjax_face.training import run as engine
from fedjax_face.training.callbacks import LOOKED_AT, Callback, ended
from fedjax_face.training.evaluator import Evaluator
from fedjax_face.training.experiment import Experiment, Say
from fedjax_face.training.mesh import clients_mesh, gathered, is_main_process
from fedjax_face.training.progress import Display
from fedjax_face.training.streams import public_root, secret_root

ARGUMENTS: Mapping[str, Any] = {
    "method": Method, "data": Data, "rounds": int, "seed": int, "start": Start | None,
    "privacy": Budget, "evaluation": Evaluation, "compute": Compute}
"""Sections of a config, and what each accepts."""


def from_config(config: Any, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The keyword arguments of `fit` that a config says.

  Args:
    config: `method`, `data`, `rounds` and perhaps `seed`, `start`, `privacy`, `evaluation` and
      `compute`: a mapping, as of `config.json`. A section that says no name changes the default.
    given: path -> value, for what the config holds by its repr alone ("data": Sources(...)).

  Raises:
    ValueError: anything that no signature takes, in one line with its path; no data are read.
  """
  given = {path: Data.by_hand(value) if isinstance(value, Sources) else value
           for path, value in (given or {}).items()}
  return options.arguments(ARGUMENTS, config, given=given)


def fit(method: Method, data: Data | Sources, *, rounds: int, seed: int = 0,
        start: Start | None = None, privacy: Budget = budget(),
        evaluation: Evaluation = protocols(), compute: Compute = compute(),
        callbacks: Sequence[Callback] = (), workdir: str | os.PathLike | None = None,
        account: str | os.PathLike | Account | None = None) -> Run:
  """Trains, and returns the run.

  Args:
    method: `dp_fedemb(...)` or another of embeddings.
    data: `synthetic_faces(...)`, `folder(...)`, or `Sources(train, evaluation, public)` by hand.
    rounds: of the whole run; may grow where no noise was calibrated to them.
    seed: of what is public; noise and participation come from the operating system.
    start: what is trained before, on the public set: `pretrain(centralized(), rounds=40)`.
    privacy: `budget(epsilon=1.0, delta=1e-6)`.
    evaluation: `protocols(("recall_all_pairs",), every=10)`.
    compute: how it is carried out.
    callbacks: called with (rounds done, metrics of the last) after every dispatch; one that returns
      True ends training there, which the statement says.
    workdir: where a run is kept, and resumed by the same call; None: nothing is written.
    account: JSON file kept across all runs on the same people: the run is entered in it before it
      releases anything; needs a workdir. `privacy.budget.Budget` has a limit too.

  Returns:
    The run: its metrics, embeddings, evaluation, epsilon and statement.

  Raises:
    ValueError: what does not go together, in one line; a workdir of another run.
    FileNotFoundError: data that are not there.
  """
  asked = Asked.of(method, data, rounds, seed, start, privacy, evaluation, compute)
  if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
    raise ValueError(f"callbacks={callbacks!r}: expected a list of functions of (rounds done, "
                     "metrics)")
  say = Display(rounds, 0, is_main_process()).say
  if workdir is None:
    if account is not None:
      raise ValueError(f"account={account}: a run that is entered in it needs a workdir")
    made = asked.experiment(None, say)
    last = collections.deque(_in_memory(made, callbacks, shown=True), maxlen=1)[0]
    return Run.of_memory(made, last.state, last.ledger, last.rows)
  place = pathlib.Path(workdir).absolute()
  made_once: list[Experiment] = []

  def make() -> Experiment:
    made_once.append(asked.experiment(place, say))
    return made_once[0]

  engine.carry_on(asked.record, rounds, place, make, _account(account), callbacks)
  return Run.of_folder(place, made_once[0] if made_once else asked.experiment(place))


def _account(account: str | os.PathLike | Account | None) -> Account | None:
  if account is None or isinstance(account, Account):
    return account
  return Account(pathlib.Path(account).absolute())


def rounds(method: Method, data: Data | Sources, *, rounds: int, seed: int = 0,
           start: Start | None = None, privacy: Budget = budget(),
           compute: Compute = compute()) -> Iterator[Progress]:
  """A loop of one's own: yields after every dispatch, with state, ledger and metrics.

  Nothing is written. Whoever looks at the metrics, or stops by them, looks at values without noise
  where the statement says so.

  Args:
    method, data, rounds, seed, start, privacy, compute: as of `fit`.

  Raises:
    ValueError: as `fit`.
  """
  asked = Asked.of(method, data, rounds, seed, start, privacy, protocols(), compute)
  made = asked.experiment(None)
  made.ledger.declare_not_covered(LOOKED_AT)
  return _in_memory(made, ())


class Progress(NamedTuple):
  """Where a loop of rounds is.

  Attributes:
    round: rounds done.
    state: after them; the next step of the loop reuses its memory.
    ledger: what they have released.
    metrics: of the last round.
    rows: (round, metrics) of every round so far.
    new: how many of them are of this dispatch.
  """

  round: int
  state: State
  ledger: Ledger
  metrics: Mapping[str, float]
  rows: list[tuple[int, dict[str, float]]]
  new: int


def _in_memory(made: Experiment, callbacks: Sequence[Callback],
               shown: bool = False) -> Iterator[Progress]:
  """Rounds without a folder: the noise from roots that nobody keeps."""
  watch = health.watch(made.algorithm, made.config.rounds, made.speak)
  with Display(made.config.rounds, 0, shown and is_main_process()) as display:
    for line in (*engine.opening_lines(made), *watch.before()):
      display.say(line)
    for progress in _rounds(made, callbacks):
      for line in watch.after(progress.rows[-progress.new:]):
        display.say(line)
      display.update(progress.round, progress.metrics)
      yield progress


def _rounds(made: Experiment, callbacks: Sequence[Callback]) -> Iterator[Progress]:
  options_, ledger = made.config, Ledger.from_json(made.ledger.to_json())
  claims = any(not is_non_private(release.event) for release in made.algorithm.releases)
  participation = secret_root() if claims else public_root(options_.seed)
  if callbacks:
    ledger.declare_not_covered(LOOKED_AT)
  state = loop.initial_state(made.algorithm, options_.seed, made.mesh)
  rows = [(0, made.evaluator.values(gathered(state, made.mesh)))]
  for progress in loop.train(
      made.algorithm, made.sources.train.images, targets=made.sources.train.targets,
      rounds=options_.rounds, seed=options_.seed, noise_root=secret_root(),
      cohort_root=participation, state=state, rounds_per_dispatch=options_.training.
      rounds_per_dispatch, stop_every=(options_.evaluation.every,), resident=made.resident,
      mesh=made.mesh):
    new, every = engine.rows_of(progress, ledger, made), options_.evaluation.every
    done = progress.span.stop
    judge = lambda state: made.evaluator.values(gathered(state, made.mesh))
    judged = done == options_.rounds or bool(every and done % every == 0)
    if judged:
      new[-1][1].update(judge(progress.state))
    stopped = ended(callbacks, new)
    if stopped and not judged:
      new[-1][1].update(judge(progress.state))
    rows += new
    yield Progress(done, progress.state, ledger, new[-1][1], rows, len(new))
    if stopped:
      return


class Asked(NamedTuple):
  """The arguments of `fit`, checked."""

  method: Any
  data: Data
  start: Any
  privacy: Budget
  evaluation: Evaluation
  compute: Compute
  record: dict[str, Any]

  @classmethod
  def of_arguments(cls, said: Mapping[str, Any]) -> Asked:
    """Of what `from_config` returns; the rest are the defaults of `fit`."""
    defaults = {"seed": 0, "start": None, "privacy": budget(), "evaluation": protocols(),
                "compute": compute()}
    return cls.of(**{**defaults, **said})

  @classmethod
  def of(cls, method: Any, data: Any, rounds: int, seed: int, start: Any, privacy: Any,
         evaluation: Any, compute: Any) -> Asked:
    """Checks the types, and writes down what config.json says.

    Raises:
      ValueError: a value of another kind.
    """
    if isinstance(data, FaceDataset):
      raise ValueError(f"data={data!r}: expected who trains and who evaluates: "
                       "dataset.split(evaluation=0.1), or Sources(train, evaluation)")
    loaded = Data.by_hand(data) if isinstance(data, Sources) else data
    said = {"method": method, "data": loaded, "rounds": rounds, "seed": seed, "start": start,
            "privacy": privacy, "evaluation": evaluation, "compute": compute}
    checked = options.arguments(ARGUMENTS, said)
    method, loaded = checked["method"], options.made(checked["data"])
    if checked["start"] is not None:
      start = checked["start"] = starts.on_backbone_of(checked["start"], method)
    privacy, evaluation, compute = (
        options.made(checked[name]) for name in ("privacy", "evaluation", "compute"))
    if rounds < 1 or seed < 0:
      raise ValueError(f"rounds={rounds}, seed={seed}: expected at least 1 round and a seed of at "
                       "least 0")
    if options.made(method).data != "embeddings":
      raise ValueError(f"method={options.call(method)['name']}: fit trains embeddings; "
                       "python -m experiments.train runs the other methods")
    record = {name: options.call(value) for name, value in checked.items()}
    return cls(method, loaded, start, privacy, evaluation, compute, record)

  def experiment(self, workdir: pathlib.Path | None, say: Say = lambda line: None) -> Experiment:
    """Data loaded, pre-training done, the method bound; `say` is told what is worth a line."""
    _check_noise(self.method, self.privacy)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SkippedFiles)  # they are among the notes
      sources = self.data.sources
    for note in sources.notes:
      say(note)
    mesh = clients_mesh()
    stage, backbone = self._started(sources, mesh, workdir, say)
    algorithm = methods.bind(self.method, sources.train, Setting(
        mesh, self.record["rounds"], self.record["seed"], self.privacy, backbone,
        bool(self.start and self.start.public), sources.public, self.compute.clients_per_chunk))
    units = dict.fromkeys(release.unit for release in algorithm.releases)
    if self.privacy.unit not in units:
      raise ValueError(f"privacy.unit={self.privacy.unit!r}: {algorithm.name} accounts for each "
                       f"{' or '.join(units)}")
    config = self._engine_config()
    ledger = experiments.ledger_before(config, sources, algorithm)
    if self.start is not None and sources.public is not None:
      _enter_start(ledger, self.start, sources.public.name, algorithm)
    evaluator = Evaluator(algorithm, config.evaluation, sources.evaluation, sources.pairs,
                          config.seed)
    made = Experiment(
        config, mesh, sources, algorithm, ledger, evaluator,
        experiments.is_resident(self.compute.resident, sources.train.images), backbone,
        record=self.record, speak=in_calls)
    if stage is None:
      return made
    return made._replace(
        start_words="public start" if self.start.public else "pre-trained start",
        untrained=lambda: starts.untrained(stage))

  def _started(self, sources: Sources, mesh: Mesh, workdir: pathlib.Path | None,
               say: Say) -> Any:
    if self.start is None:
      return None, None
    if sources.public is None:
      raise ValueError("start: pretrain needs a public set, and data have none")
    stage = starts.stage_of(self.start, sources.public, mesh, self.record["seed"],
                            self.record["data"], self.compute)
    return stage, experiments.carried_out(stage, sources.public, mesh, workdir, say)

  def _engine_config(self) -> ConfigDict:
    """What the loop reads, by its own names."""
    return ConfigDict({
        "rounds": self.record["rounds"], "seed": self.record["seed"],
        "privacy": {**self.privacy._asdict(), "noise_seed": None},
        "evaluation": self.evaluation._asdict(),
        "training": {**self.compute._asdict(), "wandb": ""}})


def _check_noise(method: Any, privacy: Budget) -> None:
  """Refuses, before data are read, both or neither of a budget and noise that is said.

  Raises:
    ValueError: as `method.bind`.
  """
  parts = options.record(method).arguments
  scalars = options.hparams(method)
  for name, target in (("aggregate", {"privacy.epsilon": privacy.epsilon}), ("exchange", None)):
    part = parts.get(name)
    own = _options_of(part)
    if "noise_multiplier" not in own:
      continue
    if name == "exchange":
      silent = ("dplc_published", "kmeans", "all_rows")
      if options.call(own["mechanism"]).get("name") in silent or own["rows"] != "prototypes":
        continue
      target = {"method.exchange.epsilon": own["epsilon"]}
    assert target is not None
    require_exactly_one(target | {
        f"method.{name}.noise_multiplier": scalars[name].get("noise_multiplier")})


def _options_of(part: Any) -> Mapping[str, Any]:
  return options.record(part).arguments if isinstance(part, options.Part) else {}


def _enter_start(ledger: Ledger, start: Start, name: str, algorithm: Any) -> None:
  """A declared public set is named as public; any other is a release without a guarantee."""
  if start.public:
    ledger.declare_public(name)
    return
  adjacency = next((r.adjacency for r in algorithm.releases if r.unit == "person"),
                   Adjacency.ADD_OR_REMOVE_ONE)
  ledger.record(non_private("pre-trained backbone", "person", adjacency, "everyone",
                            f"pre-training on {name}, which is not declared public, adds no noise"))
