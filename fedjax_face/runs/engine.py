"""A whole run in a workdir: resume, train, checkpoint, evaluate, account, summarise.

A run that was killed at any moment continues from its newest checkpoint when it is started again,
and ends with the result of the uninterrupted run, bit for bit: state, ledger and metrics.csv.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from fedjax_face.method.algorithm import State
from fedjax_face.privacy.budget import Budget
from fedjax_face.privacy.ledger import Ledger, is_non_private
from fedjax_face.privacy.statement import delta_warning
from fedjax_face.runs import (
    budget_entry,
    checkpoint,
    config,
    health,
    inputs,
    loop,
    references,
    secret_roots,
    summary,
)
from fedjax_face.runs.callbacks import (
    ENDED,
    LOOKED_AT,
    Callback,
    ended,
    ended_early,
    mark_ended,
)
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.evaluator import Outcome
from fedjax_face.runs.experiment import TO_A_THIRD_PARTY, Experiment
from fedjax_face.runs.mesh import gathered, is_main_process, shard
from fedjax_face.runs.progress import Display
from fedjax_face.runs.records import (
    BEFORE_ALL,
    CsvFile,
    TensorBoard,
    WeightsAndBiases,
    make_guarded,
    read_json,
)
from fedjax_face.runs.run_statement import (
    claims_nothing,
    is_pinned,
    population_of,
    write_privacy,
)
from fedjax_face.runs.streams import Roots, public_root

Values = dict[str, float]


def carry_on(record: Any, rounds: int, workdir: str | os.PathLike,
             make: Callable[[], Experiment], budget: Budget | None = None,
             callbacks: Sequence[Callback] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
  """Runs, or continues, an experiment in `workdir`.

  Args:
    record: what config.json says of it.
    rounds: of the whole run.
    workdir: made if absent; holds everything that the run leaves.
    make: makes the experiment, after the folder is known to be of this run and not finished.
    budget: of the data set, in which the run is entered before it releases anything.
    callbacks: called with (rounds done, metrics of the last of them) after every dispatch; one that
      returns True ends training there.

  Returns:
    summary.json and privacy.json.

  Raises:
    ValueError: a config that is refused, a workdir of another run, a budget without room, lost
      secrets, a state that is not finite, or rounds on end in which no update is.
    OSError: a file that cannot be read or written, in one line.
  """
  workdir = pathlib.Path(workdir).absolute()
  config.check_same_run(record, workdir)
  finished = _is_finished(workdir, rounds)
  budget_entry.require_same(workdir, budget, finished)
  if finished:
    return read_json(workdir / "summary.json"), read_json(workdir / "privacy.json")
  say = Display(rounds, 0, is_main_process()).say
  experiment = make()
  inputs.require_same(experiment.sources, workdir)
  if callbacks:
    experiment.ledger.declare_not_covered(LOOKED_AT)
  found = _found(experiment, workdir, say)
  budget_entry.enter(experiment, workdir, budget)
  before, roots = _resume(experiment, found, workdir, say)
  if is_main_process():
    make_guarded(workdir)
    config.record(record, workdir)
    inputs.record(experiment.sources, workdir)
    if before.round < rounds:
      write_privacy(experiment, budget_entry.whole(experiment), workdir, budget, "unfinished")
  clock, ledger = _Clock(), Ledger.from_json(before.ledger)
  watch = health.watch(experiment.algorithm, rounds)
  for sentence in (*([LOOKED_AT] if callbacks else []),
                   *([TO_A_THIRD_PARTY] if experiment.config.training.get("wandb") else [])):
    ledger.declare_not_covered(sentence)
  try:
    state, outcome, done = _train(experiment, before, roots, ledger, workdir, clock, watch,
                                  callbacks)
  except (loop.NonFiniteState, health.NoFiniteUpdate) as error:
    _stopped(experiment, ledger, workdir, error, clock, watch, budget)
    raise
  return _finish(experiment, state, ledger, outcome, workdir, clock, watch,
                 references.references(experiment), budget, done)


class _Clock:
  """Wall time of the dispatches of this process."""

  def __init__(self) -> None:
    self._start = time.perf_counter()
    self._dispatches: list[tuple[float, int]] = []

  def add(self, progress: loop.Progress) -> None:
    self._dispatches.append((progress.seconds, progress.span.stop - progress.span.start))

  def seconds(self) -> dict[str, float]:
    total = {"total": time.perf_counter() - self._start}
    if not self._dispatches:
      return total
    later = [seconds / rounds for seconds, rounds in self._dispatches[1:]]
    first, rounds = self._dispatches[0]
    if not later:
      return {"compile_and_first_dispatch": first, **total}
    per_round = statistics.median(later)
    return {"compile": max(first - per_round * rounds, 0.0), "per_round": per_round, **total}


def _found(experiment: Experiment, workdir: pathlib.Path, say: Any) -> Checkpoint | None:
  """The newest checkpoint, if it is of this run; writes nothing."""
  options, algorithm = experiment.config, experiment.algorithm
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  found = checkpoint.restore(workdir / "checkpoints", template, say)
  if found is None:
    return None
  if found.config != config.digest(experiment.record):
    raise ValueError(f"{workdir}/checkpoints belong to another config; choose another workdir")
  if found.round > options.rounds:
    raise ValueError(f"rounds={options.rounds}, but {workdir} holds {found.round} rounds")
  if found.releases != repr(algorithm.releases):
    raise ValueError("rounds cannot grow here: the noise was fixed for the rounds that were "
                     "asked for at first; choose another workdir")
  return found


def _resume(experiment: Experiment, found: Checkpoint | None, workdir: pathlib.Path,
            say: Any) -> tuple[Checkpoint, Roots | None]:
  """What was found or the state before the first round; the roots where rounds follow."""
  options, algorithm = experiment.config, experiment.algorithm
  if found is None:
    state = loop.initial_state(algorithm, options.seed, experiment.mesh,
                               experiment.sources.train.images)
    return _begun(experiment, Checkpoint(
        0, state, experiment.ledger.to_json(), config.digest(experiment.record),
        repr(algorithm.releases), finished=True), workdir)
  if found.round:
    say(f"resuming after round {found.round} of {options.rounds}")
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  found = found._replace(state=shard(found.state, algorithm.sharding(template), experiment.mesh))
  if found.finished and found.round in (options.rounds, ended_early(workdir, options.rounds)):
    secret_roots.remove(workdir)
    return found, None
  return _begun(experiment, found, workdir)


def _begun(experiment: Experiment, before: Checkpoint,
           workdir: pathlib.Path) -> tuple[Checkpoint, Roots]:
  """Keeps the roots, then a checkpoint that needs them, before anything is released.

  A run that is killed at once must go on with the same noise: other noise on the same rounds would
  be a second release.
  """
  (workdir / ENDED).unlink(missing_ok=True)  # killed before its end was kept, so it goes on
  roots = _roots(experiment, workdir, must_exist=not before.finished)
  if before.finished:
    before = before._replace(finished=False)
    checkpoint.save(workdir / "checkpoints",
                    before._replace(state=gathered(before.state, experiment.mesh)))
  budget_entry.begun(workdir)
  return before, roots


def _roots(experiment: Experiment, workdir: pathlib.Path, must_exist: bool) -> Roots:
  """From the operating system, or as public as the config says."""
  options = experiment.config
  if is_pinned(options):
    return Roots(public_root(options.privacy.noise_seed), public_root(options.seed))
  roots = secret_roots.obtain(workdir, must_exist)
  if claims_nothing(experiment):
    return roots._replace(participation=public_root(options.seed))
  return roots


def _train(experiment: Experiment, before: Checkpoint, roots: Roots | None, ledger: Ledger,
           workdir: pathlib.Path, clock: _Clock, watch: health.Watch,
           callbacks: Sequence[Callback]) -> tuple[State, Outcome, int]:
  """Trains to the end, or until a callback ends it; records every release in `ledger`.

  Returns:
    State, its evaluation, rounds done.
  """
  options, state = experiment.config, before.state
  if roots is None:
    checkpoint.keep_newest(workdir / "checkpoints", 1)
    state = gathered(state, experiment.mesh)
    return state, experiment.evaluator.outcome(state), before.round
  saved_every, evaluated_every = options.training.checkpoint_every, options.evaluation.every
  with _outputs(experiment, before.round, workdir) as (write, display):
    for line in (*opening_lines(experiment), *watch.before()):
      display.say(line)
    if not before.round:
      write([(0, experiment.evaluator.values(gathered(state, experiment.mesh)))])
    for progress in loop.train(
        experiment.algorithm, experiment.sources.train.images,
        targets=experiment.sources.train.targets, rounds=options.rounds,
        seed=options.seed, noise_root=roots.noise, cohort_root=roots.participation,
        state=state,
        start=before.round, rounds_per_dispatch=options.training.rounds_per_dispatch,
        stop_every=(saved_every, evaluated_every), resident=experiment.resident,
        mesh=experiment.mesh):
      clock.add(progress)
      state, done = progress.state, progress.span.stop
      if done == options.rounds or done % saved_every == 0:
        state = gathered(state, experiment.mesh)
      rows = rows_of(progress, ledger, experiment)
      if done == options.rounds:
        outcome = experiment.evaluator.outcome(state)
        _add(rows[-1][1], outcome.values())
      elif evaluated_every and done % evaluated_every == 0:
        _add(rows[-1][1], experiment.evaluator.values(state))
      stopped = ended(callbacks, rows)
      if stopped and done < options.rounds:
        state = gathered(state, experiment.mesh)
        outcome = experiment.evaluator.outcome(state)
        rows[-1][1].update(outcome.values())
        mark_ended(workdir, done, options.rounds)
      write(rows)
      for line in watch.after(rows):
        display.say(line)
      if done % saved_every == 0 and done < options.rounds and not stopped:
        checkpoint.save(workdir / "checkpoints", before._replace(
          round=done, state=state, ledger=ledger.to_json()))
      display.update(done, rows[-1][1])
      if stopped:
        break
  checkpoint.save(workdir / "checkpoints", before._replace(
    round=done, state=experiment.algorithm.forget(state), ledger=ledger.to_json(),
    finished=True), keep=1)
  secret_roots.remove(workdir)
  return state, outcome, done


def opening_lines(experiment: Experiment) -> list[str]:
  """For whom epsilon is meant, and a warning where delta is too large for their number."""
  delta, lines = experiment.config.privacy.delta, []
  for unit, adjacency in dict.fromkeys(
      (release.unit, release.adjacency) for release in experiment.algorithm.releases
      if not is_non_private(release.event)):
    lines.append(f"epsilon is for each {unit}, {adjacency.value.replace('_', '-')}, "
                 f"at delta {delta:g}")
    if warning := delta_warning(delta, unit, population_of(experiment)[unit]):
      lines.append(f"Warning: {warning}")
  return lines


def rows_of(progress: loop.Progress, ledger: Ledger,
          experiment: Experiment) -> list[tuple[int, Values]]:
  """Records the releases of each round, and its metrics.

  The epsilon so far is computed where a full dispatch ends, a matter of the round's number alone,
  so that a resumed run writes the same rows.
  """
  options, rows = experiment.config, []
  for offset, done in enumerate(range(progress.span.start + 1, progress.span.stop + 1)):
    for release in experiment.algorithm.releases:
      ledger.record(release)
    values = {name: float(value[offset]) for name, value in progress.metrics.items()}
    if done % options.training.rounds_per_dispatch == 0 or done == options.rounds:
      values |= _epsilons(ledger, options.privacy.delta)
    rows.append((done, values))
  return rows


def _add(row: Values, evaluated: Mapping[str, float]) -> None:
  """Puts an evaluation beside what the round itself measured, never over it."""
  if shared := row.keys() & evaluated.keys():
    raise RuntimeError(f"training and evaluation both call a metric {min(shared)}")
  row.update(evaluated)


def _epsilons(ledger: Ledger, delta: float) -> Values:
  units = ledger.units
  return {"epsilon" if len(units) == 1 else f"epsilon_{unit}": ledger.epsilon_so_far(delta, unit)
          for unit in units}


@contextlib.contextmanager
def _outputs(experiment: Experiment, start: int, workdir: pathlib.Path) -> Iterator[Any]:
  """(write rows, display) of process 0; the other processes write nothing."""
  options = experiment.config
  if not is_main_process():
    with Display(options.rounds, start, shown=False) as display:
      yield lambda rows: None, display
    return
  table = CsvFile(workdir / "metrics.csv", start or BEFORE_ALL)
  writers: list[Any] = [TensorBoard(workdir, start)]
  if options.training.get("wandb"):
    said = config.as_dict(experiment.record)
    writers.append(WeightsAndBiases(workdir, options.training.wandb, said))

  def write(rows: list[tuple[int, Mapping[str, float]]]) -> None:
    table.write_rows(rows)
    for done, values in rows:
      for writer in writers:
        writer.write(done, values)

  try:
    with Display(options.rounds, start) as display:
      yield write, display
  finally:
    for writer in writers:
      writer.close()


def _finish(experiment: Experiment, state: State, ledger: Ledger, outcome: Outcome,
            workdir: pathlib.Path, clock: _Clock,
            watch: health.Watch, compared: Mapping[str, references.Reference],
            budget: Budget | None, done: int) -> tuple[dict[str, Any], dict[str, Any]]:
  if not is_main_process():
    return {}, {}
  privacy = write_privacy(experiment, ledger, workdir, budget, "finished")
  written = summary.write_summary(
    workdir, status="finished", rounds=done, asked=experiment.config.rounds,
    experiment=experiment, state=state,
    seconds=clock.seconds(), outcome=outcome, warnings=watch.lines, compared=compared)
  return written, privacy


def _stopped(experiment: Experiment, ledger: Ledger, workdir: pathlib.Path,
             error: loop.NonFiniteState | health.NoFiniteUpdate, clock: _Clock,
             watch: health.Watch, budget: Budget | None) -> None:
  """What the rounds before the stop released stays on record."""
  if is_main_process():
    shapes = jax.eval_shape(experiment.algorithm.init, jax.random.key(0))
    write_privacy(experiment, ledger, workdir, budget, "stopped")
    summary.write_summary(
      workdir, status=f"stopped: {error}", rounds=error.done, experiment=experiment,
      state=shapes, seconds=clock.seconds(), warnings=watch.lines)


def _is_finished(workdir: pathlib.Path, rounds: int) -> bool:
  path = workdir / "summary.json"
  if not path.exists() or not (workdir / "privacy.json").exists():
    return False
  done = read_json(path)
  return done.get("status") == "finished" and done.get("rounds_asked", done.get("rounds")) == rounds
