"""A whole run in a workdir: resume, train, checkpoint, evaluate, account, summarise.

A run that was killed at any moment continues from its newest checkpoint when it is started again,
and ends with the result of the uninterrupted run, bit for bit: state, ledger and metrics.csv.
Nothing is written before everything is checked.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from fedjax_face.method.algorithm import State
from fedjax_face.privacy.budget import Budget
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import (
    budget_entry,
    checkpoint,
    config,
    derived,
    disk,
    health,
    inputs,
    interrupts,
    lock,
    loop,
    machine,
    outputs,
    records,
    references,
    resumed,
    run_statement,
    secret_roots,
    streams,
    summary,
)
from fedjax_face.runs.callbacks import ENDED, LOOKED_AT, Callback, ended, mark_ended
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.clock import Clock
from fedjax_face.runs.evaluator import Outcome
from fedjax_face.runs.experiment import TO_A_THIRD_PARTY, Experiment
from fedjax_face.runs.mesh import agreed, gathered, is_main_process, shard
from fedjax_face.runs.outputs import Outputs
from fedjax_face.runs.progress import show
from fedjax_face.runs.records import CsvFile
from fedjax_face.runs.rows import Values, add, opening_lines, rows_of
from fedjax_face.runs.streams import Roots


def carry_on(record: Any, rounds: int, workdir: str | os.PathLike,
             make: Callable[[], Experiment], budget: Budget | None = None,
             callbacks: Sequence[Callback] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
  """Runs, or continues, an experiment in `workdir`, which this process alone may write to.

  SIGINT, SIGTERM and SIGHUP end it after the dispatch that is under way, with a checkpoint and a
  statement of what it has released.

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
    ValueError: a config that is refused, a workdir of another run or in use, a budget without room,
      lost secrets or checkpoints, a state that is not finite, or rounds on end in which no update
      is.
    OSError: a file that cannot be read or written, in one line.
    KeyboardInterrupt, SystemExit: a signal has asked to stop.
  """
  workdir = pathlib.Path(workdir).absolute()
  with lock.held(workdir), interrupts.watched() as stop, streams.pinned():
    config.check_same_run(record, workdir)
    checkpoint.adopt(workdir / "checkpoints", _say)
    said = derived.of(workdir, rounds, config.digest(record))
    budget_entry.require_same(workdir, budget, said is not None)
    if said is not None:
      if other := config.judged_otherwise(record, workdir):
        _say(f"the run is finished and keeps the evaluation of its end (evaluation.{other[0]} is "
             f"another now): python -m experiments.evaluate --workdir={workdir} judges it anew")
      if is_main_process():
        secret_roots.remove(workdir)
        checkpoint.keep_newest(workdir / "checkpoints", 1)
        config.restore(record, workdir, _say)
        derived.restore(workdir, said, _say)
      return said.summary, said.privacy
    experiment = make()
    stop.check()
    result = _Run(experiment, workdir, budget, callbacks, stop).carried_out()
    stop.check()  # of a signal that came when everything was done
    return result


def _say(line: str) -> None:
  if is_main_process():
    show(line)


class _Begun(NamedTuple):
  """Where training goes on.

  Attributes:
    before: the state that it goes on from.
    roots: of noise and participation; None where no round follows.
    first: values of the evaluation of the start; None where a round was done before.
  """

  before: Checkpoint
  roots: Roots | None
  first: Values | None


class _Run:
  """An experiment in a folder, and what this process knows of it.

  Attributes:
    fresh: nobody has begun it before.
    ran: a dispatch has come to its end.
    floor: rounds that other processes may have run before.
  """

  def __init__(self, experiment: Experiment, workdir: pathlib.Path, budget: Budget | None,
               callbacks: Sequence[Callback], stop: interrupts.Stop) -> None:
    self.experiment, self.workdir, self.budget = experiment, workdir, budget
    self.callbacks, self.stop, self.clock = callbacks, stop, Clock()
    self.watch = health.watch(experiment.algorithm, experiment.config.rounds)
    self.checkpoints = workdir / "checkpoints"
    self.fresh, self.ran, self.floor = False, False, 0

  def carried_out(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """summary.json and privacy.json of the whole run."""
    begun = self._begun()
    ledger = Ledger.from_json(begun.before.ledger)
    try:
      if is_main_process():
        self._record(begun.before, ledger)
      if begun.roots is None:
        state, outcome, done = self._over(begun.before)
      else:
        state, outcome, done = self._train(begun.before, begun.roots, begun.first, ledger)
    except (loop.NonFiniteState, health.NoFiniteUpdate) as error:
      self._stopped(ledger, error)
      raise
    except Exception:
      if self.fresh and not self.ran and is_main_process():
        resumed.undo(self.workdir)  # nothing was run, so another call may have the folder
      raise
    return self._finish(state, ledger, outcome, done)

  def _begun(self) -> _Begun:
    """Checks everything, then keeps the roots and a checkpoint that needs them.

    A run that is killed at once must go on with the same noise: other noise on the same rounds
    would be a second release. What its statement must say is in the checkpoint before it goes on.
    """
    experiment, workdir = self.experiment, self.workdir
    options = experiment.config
    inputs.require_same(experiment.sources, workdir)
    now = machine.of(experiment.mesh, options.training.get("clients_per_chunk", 1))
    found = resumed.found(experiment, workdir, now, _say)
    again = resumed.begins_again(found, workdir)
    over = found is not None and resumed.is_over(found, workdir, options.rounds)
    records.require_trackers(options.training.get("wandb", ""))
    before, first = self._placed(found, now, again), None
    if not before.round:
      first = experiment.evaluator.values(gathered(before.state, experiment.mesh))
    self.stop.check()
    if over:
      budget_entry.require_same(workdir, self.budget, True)
      self.floor = 0 if before.finished else resumed.counted(workdir, options, before.round)
      secret_roots.remove(workdir)
      return _Begun(before, None, first)
    budget_entry.enter(experiment, workdir, self.budget)
    self.fresh = found is None and not again
    drawn = before.finished and not again
    self.floor = 0 if drawn else resumed.counted(workdir, options, before.round)
    roots = resumed.roots(experiment, workdir, must_exist=not drawn)
    if is_main_process():
      resumed.record(experiment, workdir, now, before.round if drawn else None)
      disk.remove(workdir / ENDED)  # killed before its end was kept, so it goes on
      if again:
        resumed.move_lost(workdir, _say)
    before = before._replace(finished=False)
    if found is None or (before.ledger, dict(before.platform), False) != (
        found.ledger, dict(found.platform), found.finished):
      checkpoint.save(self.checkpoints,
                      before._replace(state=gathered(before.state, experiment.mesh)))
    budget_entry.begun(workdir)
    return _Begun(before, roots, first)

  def _placed(self, found: Checkpoint | None, now: machine.Machine, again: bool) -> Checkpoint:
    """What was found, or the state before the first round, on the devices, and what is to say."""
    experiment = self.experiment
    options, algorithm = experiment.config, experiment.algorithm
    ledger = Ledger.from_json(experiment.ledger.to_json() if found is None else found.ledger)
    for sentence in (
        *([LOOKED_AT] if self.callbacks else []),
        *([TO_A_THIRD_PARTY] if options.training.get("wandb") else []),
        *filter(None, [found and resumed.of_platform(found, now)]),
        *(resumed.said_before(self.workdir) if again else ())):
      ledger.declare_not_covered(sentence)
    if found is None:
      state = loop.initial_state(algorithm, options.seed, experiment.mesh,
                                 experiment.sources.train.images)
      return Checkpoint(0, state, ledger.to_json(), config.digest(experiment.record),
                        repr(algorithm.releases), finished=True, platform=now)
    if found.round:
      _say(f"resuming after round {found.round} of {options.rounds}")
    template = jax.eval_shape(algorithm.init, jax.random.key(0))
    return found._replace(state=shard(found.state, algorithm.sharding(template), experiment.mesh),
                          ledger=ledger.to_json(), platform=now)

  def _record(self, before: Checkpoint, ledger: Ledger) -> None:
    """What the folder says of the run from its beginning."""
    experiment, workdir = self.experiment, self.workdir
    inputs.record(experiment.sources, workdir)
    config.record(experiment.record, workdir)
    if not before.finished:
      disk.remove(workdir / "summary.json")  # of fewer rounds
      self._state_ahead(ledger, before.round)

  def _state_ahead(self, ledger: Ledger, done: int) -> None:
    """Writes the statement of a run that goes on, which may be killed at any moment.

    It counts every round up to the next checkpoint, after which it is written anew: whatever the
    run releases until then is in it, and what a process before may have released.
    """
    options = self.experiment.config
    every = options.training.checkpoint_every
    counted = max(min((done // every + 1) * every, options.rounds), self.floor)
    resumed.count(self.workdir, counted)
    run_statement.write(self.workdir, run_statement.said(
        self.experiment, run_statement.with_more(self.experiment, ledger, counted - done),
        self.workdir, self.budget, "unfinished", counted))

  def _state_end(self, ledger: Ledger, done: int, status: str) -> dict[str, Any]:
    """The statement of a run that has stopped after a round, and what that keeps on record."""
    counted = max(done, self.floor)
    resumed.count(self.workdir, counted)
    return run_statement.said(
        self.experiment, run_statement.with_more(self.experiment, ledger, counted - done),
        self.workdir, self.budget, status, None if status == "finished" else counted)

  def _over(self, before: Checkpoint) -> tuple[State, Outcome, int]:
    """State, its evaluation and its rounds, of a run of which no round follows."""
    state = gathered(before.state, self.experiment.mesh)
    if before.finished:
      checkpoint.keep_newest(self.checkpoints, 1)
    else:  # more rounds were asked for, and none of them was kept
      checkpoint.save(self.checkpoints, before._replace(
        state=self.experiment.algorithm.forget(state), finished=True), keep=1)
    if is_main_process():
      CsvFile(self.workdir / "metrics.csv", before.round, before.records, _say)
    return state, self.experiment.evaluator.outcome(state), before.round

  def _train(self, before: Checkpoint, roots: Roots, first: Values | None,
             ledger: Ledger) -> tuple[State, Outcome, int]:
    """Trains to the end, or until a callback ends it; records every release in `ledger`.

    Returns:
      State, its evaluation, rounds done.
    """
    experiment, mesh = self.experiment, self.experiment.mesh
    options, evaluator = experiment.config, experiment.evaluator
    saved_every, evaluated_every = options.training.checkpoint_every, options.evaluation.every
    with outputs.opened(experiment, before, self.workdir) as out:
      for line in (*opening_lines(experiment), *self.watch.before()):
        out.display.say(line)
      if first is not None:
        out.write([(0, first)])
      self.stop.waits = True
      for progress in self._rounds(before, roots):
        self.clock.add(progress)
        self.ran = True
        state, done = progress.state, progress.span.stop
        interrupted = self.stop.asked()
        if done == options.rounds or done % saved_every == 0 or interrupted:
          state = gathered(state, mesh)
        rows = rows_of(progress, ledger, experiment)
        if done == options.rounds:
          outcome = evaluator.outcome(state)
          add(rows[-1][1], outcome.values())
        elif evaluated_every and done % evaluated_every == 0:
          add(rows[-1][1], evaluator.values(state))
        stopped = agreed(ended(self.callbacks, rows))
        if stopped and done < options.rounds:
          state = gathered(state, mesh)
          outcome = evaluator.outcome(state)
          rows[-1][1].update(outcome.values())
          mark_ended(self.workdir, done, options.rounds)
        self._write(out, rows)
        if stopped or done == options.rounds:
          kept = out.kept()
          break
        if done % saved_every == 0 or interrupted:
          self._save(before._replace(round=done, state=state, ledger=ledger.to_json(),
                                     records=out.kept()), ledger, interrupted)
        if interrupted:
          self.stop.end()
    self.stop.waits = False
    ledger = run_statement.with_more(experiment, ledger, self.floor - done)
    self.floor = done
    checkpoint.save(self.checkpoints, before._replace(
      round=done, state=experiment.algorithm.forget(state), ledger=ledger.to_json(),
      records=kept, finished=True), keep=1)
    secret_roots.remove(self.workdir)
    return state, outcome, done

  def _rounds(self, before: Checkpoint, roots: Roots) -> Any:
    experiment, options = self.experiment, self.experiment.config
    train = experiment.sources.train
    return loop.train(
        experiment.algorithm, train.images, targets=train.targets, rounds=options.rounds,
        seed=options.seed, noise_root=roots.noise, cohort_root=roots.participation,
        state=before.state, start=before.round,
        rounds_per_dispatch=options.training.rounds_per_dispatch,
        stop_every=(options.training.checkpoint_every, options.evaluation.every),
        resident=experiment.resident, mesh=experiment.mesh)

  def _write(self, out: Outputs, rows: list[tuple[int, Values]]) -> None:
    out.write(rows)
    for line in self.watch.after(rows):
      out.display.say(line)
    out.display.update(*rows[-1])

  def _save(self, now: Checkpoint, ledger: Ledger, interrupted: bool) -> None:
    """A checkpoint, and the statement that stands until the next."""
    checkpoint.save(self.checkpoints, now)
    if not is_main_process():
      return
    if interrupted:
      run_statement.write(self.workdir, self._state_end(ledger, now.round, "interrupted"))
    else:
      self._state_ahead(ledger, now.round)

  def _finish(self, state: State, ledger: Ledger, outcome: Outcome,
              done: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a finished run says, first where it cannot be edited unseen, then in its files."""
    compared = references.references(self.experiment)
    if not is_main_process():
      return {}, {}
    options = self.experiment.config
    said = derived.Said(
        summary.summary_said(
            self.workdir, status="finished", rounds=done, asked=options.rounds,
            experiment=self.experiment, state=state, seconds=self.clock.seconds(),
            outcome=outcome, warnings=self.watch.lines, compared=compared),
        self._state_end(ledger, done, "finished"),
        options.rounds)
    derived.keep(self.workdir, said, config.digest(self.experiment.record))
    derived.write(self.workdir, said)
    return said.summary, said.privacy

  def _stopped(self, ledger: Ledger, error: loop.NonFiniteState | health.NoFiniteUpdate) -> None:
    """What the rounds before the stop released stays on record."""
    if not is_main_process():
      return
    experiment = self.experiment
    shapes = jax.eval_shape(experiment.algorithm.init, jax.random.key(0))
    derived.write(self.workdir, derived.Said(
        summary.summary_said(
            self.workdir, status=f"stopped: {error}", rounds=error.done, experiment=experiment,
            state=shapes, seconds=self.clock.seconds(), warnings=self.watch.lines),
        self._state_end(ledger, error.done, "stopped"),
        experiment.config.rounds))
