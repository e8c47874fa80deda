"""`fit`: a method on data, in the memory of a notebook or in a folder that can be resumed."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face import options
from fedjax_face.data.sets import Data
from fedjax_face.data.sources import Sources
from fedjax_face.method import Budget, Method
from fedjax_face.method.algorithm import State
from fedjax_face.privacy.budget import Budget as Account
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.runs import disk, engine, health, inputs, load, loop, streams
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.callbacks import LOOKED_AT, Callback, ended
from fedjax_face.runs.experiment import Experiment, Say
from fedjax_face.runs.mesh import gathered, is_main_process
from fedjax_face.runs.progress import Display
from fedjax_face.runs.rows import opening_lines, rows_of
from fedjax_face.runs.run import Run
from fedjax_face.runs.settings import Compute, Evaluation, Rehearsed, budget, compute
from fedjax_face.runs.start import Start
from fedjax_face.runs.streams import public_root, secret_root


def fit(method: Method, data: Data | Sources, *, rounds: int, seed: int = 0,
        start: Start | None = None, privacy: Budget = budget(),
        evaluation: Evaluation | None = None, compute: Compute = compute(),
        rehearsal: Rehearsed | None = None, callbacks: Sequence[Callback] = (),
        workdir: str | os.PathLike | None = None,
        account: str | os.PathLike | Account | None = None) -> Run:
  """Trains, and returns the run.

  Args:
    method: `dp_fedemb(...)` or another.
    data: `synthetic_faces(...)`, `folder(...)`, or `Sources(train, evaluation, public)` by hand;
      `photographs(...)` for face tasks, `closed_set(...)` for split learning.
    rounds: of the whole run; may grow where no noise was calibrated to them.
    seed: of what is public; noise and participation come from the operating system.
    start: what is trained before, on the public set: `pretrain(centralized(), rounds=40)`.
    privacy: `budget(epsilon=1.0, delta=1e-6)`.
    evaluation: `protocols(("recall_all_pairs",), every=10)`; None: the default of what the method
      learns.
    compute: how it is carried out.
    rehearsal: what was chosen on public people, as `rehearse` says; the statement repeats it.
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
  asked = Asked.of(method, data, rounds, seed, start, privacy, evaluation, compute, rehearsal)
  if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
    raise ValueError(f"callbacks={callbacks!r}: expected a list of functions of (rounds done, "
                     "metrics)")
  say = Display(rounds, 0, is_main_process()).say
  if workdir is None:
    if account is not None:
      raise ValueError(f"account={account}: a run that is entered in it needs a workdir")
    _require_memory(asked)
    with streams.pinned():
      made = asked.experiment(None, say)
    last = collections.deque(streams.in_pinned(_in_memory(made, callbacks, shown=True)),
                             maxlen=1)[0]
    return Run.of_memory(made, last.state, last.ledger, last.rows)
  place = disk.folder(workdir).absolute()
  carried = carried_out(asked, place, say, account=_account(account), callbacks=callbacks)
  _draw(asked, place, anew=carried is not None)
  if carried is None:
    return load.of_asked(asked, place, in_hand=bool(options.by_hand(asked.record["data"])))
  with streams.pinned():
    return Run.of_folder(place, carried)


def _draw(asked: Asked, place: pathlib.Path, anew: bool) -> None:
  """The figures of a run, where they are not there or not of its last state."""
  from fedjax_face.runs import figures  # a plotter, which is slow to import
  if is_main_process() and (anew or not (place / figures.FOLDER).exists()):
    figures.save(place, asked.evaluation.headline)


def _require_memory(asked: Asked) -> None:
  """Refuses what only a run in a folder does."""
  for name, value in (("privacy.noise_seed", asked.privacy.noise_seed),
                      ("compute.wandb", asked.compute.wandb or None)):
    if value is not None:
      raise ValueError(f"{name}={value}: needs a workdir; a run in memory draws its noise from the "
                       "operating system and sends nothing")


def carried_out(asked: Asked, workdir: pathlib.Path, say: Say, *, account: Account | None = None,
                callbacks: Sequence[Callback] = (), sources: Any = None,
                public_stages: str | os.PathLike | None = None) -> Experiment | None:
  """Runs, or continues, what is asked in a folder; see `engine.carry_on`.

  Args:
    asked: arguments of `fit`.
    workdir: of the run, absolute.
    say: told what is worth a line.
    account, callbacks: as of `fit`.
    sources, public_stages: as of `Asked.experiment`.

  Returns:
    The experiment; None where the run had finished before.

  Raises:
    ValueError, OSError: as `fit`.
  """
  made: list[Experiment] = []

  def make() -> Experiment:
    made.append(asked.experiment(workdir, say, sources=sources, public_stages=public_stages))
    return made[0]

  engine.carry_on(asked.record, asked.record["rounds"], workdir, make, account, callbacks)
  if not made and sources is not None:
    inputs.require_same(sources, workdir)
  return made[0] if made else None


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
  asked = Asked.of(method, data, rounds, seed, start, privacy, None, compute)
  _require_memory(asked)
  with streams.pinned():
    made = asked.experiment(None)
  made.ledger.declare_not_covered(LOOKED_AT)
  return streams.in_pinned(_in_memory(made, ()))


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
  watch = health.watch(made.algorithm, made.config.rounds)
  with Display(made.config.rounds, 0, shown and is_main_process()) as display:
    for line in (*opening_lines(made), *watch.before()):
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
  state = loop.initial_state(made.algorithm, options_.seed, made.mesh, made.sources.train.images)
  rows = [(0, made.evaluator.values(gathered(state, made.mesh)))]
  for progress in loop.train(
      made.algorithm, made.sources.train.images, targets=made.sources.train.targets,
      rounds=options_.rounds, seed=options_.seed, noise_root=secret_root(),
      cohort_root=participation, state=state, rounds_per_dispatch=options_.training.
      rounds_per_dispatch, stop_every=(options_.evaluation.every,), resident=made.resident,
      mesh=made.mesh):
    new, every = rows_of(progress, ledger, made), options_.evaluation.every
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
