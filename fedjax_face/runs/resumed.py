"""What a folder holds of a run, and whether it may go on from there."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

import jax

from fedjax_face.method.algorithm import flattened
from fedjax_face.runs import checkpoint, config, disk, inputs, machine, secret_roots, training_set
from fedjax_face.runs.callbacks import ended_early
from fedjax_face.runs.checkpoint import Checkpoint
from fedjax_face.runs.experiment import Experiment, Say
from fedjax_face.runs.machine import Machine
from fedjax_face.runs.records import read_json, write_json
from fedjax_face.runs.run_statement import claims_nothing, is_pinned
from fedjax_face.runs.streams import Roots, public_root

RESOLVED = "resolved.json"
LOST = "checkpoints.lost"
_TRACES = ("metrics.csv", "config.json", "privacy.json", "PRIVACY.md", "summary.json")
_BEGIN_AGAIN = ("choose another workdir, or give --restart_same_noise "
                "(compute.restart_same_noise), which begins again with the same noise")


def found(experiment: Experiment, workdir: pathlib.Path, now: Machine,
          say: Say) -> Checkpoint | None:
  """The newest checkpoint, if the run may go on from it here; None of one that begins.

  Args:
    experiment: the run.
    workdir: of it.
    now: the machine that goes on.
    say: told what is worth a line.

  Raises:
    ValueError: checkpoints of another run, lost ones, more rounds than are asked for, noise that
      was fixed for other rounds, or another platform.
  """
  options, algorithm = experiment.config, experiment.algorithm
  template = jax.eval_shape(algorithm.init, jax.random.key(0))
  try:
    kept = checkpoint.restore(workdir / "checkpoints", template, say)
    lost = None if kept is not None else _lost(workdir)
  except checkpoint.Unreadable as error:
    kept, lost = None, str(error)
  if lost is not None:
    _require_the_same_noise(experiment, workdir, now, lost)
    return None
  if kept is None:
    return None
  if kept.config != config.digest(experiment.record):
    raise ValueError(f"{workdir}/checkpoints belong to another config; choose another workdir")
  if kept.round > options.rounds:
    raise ValueError(f"rounds={options.rounds}, but {workdir} holds {kept.round} rounds")
  if kept.releases != repr(algorithm.releases):
    raise ValueError("rounds cannot grow here: the noise was fixed for the rounds that were "
                     "asked for at first; choose another workdir")
  begun = kept.round or (workdir / "config.json").exists()
  if begun and not (workdir / inputs.INPUTS).exists():
    raise ValueError(f"{workdir}/{inputs.INPUTS} is gone: whether the data are those of the run "
                     "cannot be told; put it back, or choose another workdir")
  if (not is_over(kept, workdir, options.rounds) and of_platform(kept, now)
      and not options.training.get("allow_other_platform")):
    raise ValueError(
        f"{workdir} was run on another platform ({'; '.join(_differing(kept, now))}): rounds after "
        "its last checkpoint would be run again with other rounding; go on where it began, or give "
        "--allow_other_platform (compute.allow_other_platform), which its statement then says")
  return kept


def of_platform(kept: Checkpoint, now: Machine) -> str | None:
  """What a statement says of a run that goes on elsewhere; None where no round is run again."""
  differing = _differing(kept, now)
  return machine.other_platform(kept.round, differing) if differing else None


def _differing(kept: Checkpoint, now: Machine) -> list[str]:
  return [] if kept.finished or not kept.platform else machine.differences(kept.platform, now)


def is_over(kept: Checkpoint, workdir: pathlib.Path, rounds: int) -> bool:
  """Whether no round follows on a checkpoint."""
  return kept.round == rounds or (
      kept.finished and kept.round == ended_early(workdir, rounds))


def begins_again(kept: Checkpoint | None, workdir: pathlib.Path) -> bool:
  """Whether a run of which nothing was found had begun, and so must draw the same noise."""
  return kept is None and _lost(workdir) is not None


def roots(experiment: Experiment, workdir: pathlib.Path, must_exist: bool) -> Roots:
  """From the operating system, or as public as the config says.

  Args:
    experiment: the run.
    workdir: of it.
    must_exist: rounds may have been drawn from roots that are kept there.

  Raises:
    ValueError, OSError: as `secret_roots.obtain`.
  """
  options = experiment.config
  if is_pinned(options):
    return Roots(public_root(options.privacy.noise_seed), public_root(options.seed))
  found = secret_roots.obtain(workdir, must_exist)
  if claims_nothing(experiment):
    return found._replace(participation=public_root(options.seed))
  return found


def move_lost(workdir: pathlib.Path, say: Say) -> None:
  """Puts unreadable checkpoints of a run that begins again out of its way; nothing is deleted."""
  folder = workdir / "checkpoints"
  if not folder.is_dir() or not any(folder.iterdir()):
    return
  number = sum(1 for path in workdir.iterdir() if path.name.startswith(LOST))
  disk.rename(folder, workdir / f"{LOST}-{number}")
  say(f"begins again with the same noise; what cannot be read lies in {workdir}/{LOST}-{number}")


def said_before(workdir: pathlib.Path) -> tuple[str, ...]:
  """What the statement of a run that begins again said to be not covered."""
  path = workdir / "privacy.json"
  return tuple(read_json(path)["ledger"]["not_covered"]) if path.exists() else ()


def undo(workdir: pathlib.Path) -> None:
  """Removes what a run wrote that failed before it ran anything; its start stays.

  What shows that a run had begun goes first, so that a kill on the way leaves a run that begins.
  """
  names = (*_TRACES, "checkpoints", RESOLVED, inputs.INPUTS, inputs.FACTS, secret_roots.FOLDER,
           training_set.KEY)
  with contextlib.suppress(OSError):  # the run failed for a reason of its own, which is told
    for path in (*(workdir / name for name in names), *workdir.glob("events.out.tfevents.*")):
      disk.remove(path)


def record(experiment: Experiment, workdir: pathlib.Path, now: Machine,
           noise_since: int | None) -> None:
  """Writes resolved.json, before the checkpoint from which a run goes on.

  It holds every scalar as it is used, what a round releases, the platforms on which rounds were
  run, after which round the noise follows from the roots that are kept, and how many rounds may
  have been run at most.

  Args:
    experiment: the run.
    workdir: of it.
    now: the platform from here on.
    noise_since: rounds that were done when its roots were drawn; None: they are those of before.
  """
  before = _resolved(workdir)
  platforms = before.get("platforms", [])
  if noise_since is not None:
    before = {"noise_since": noise_since, "counted": before.get("counted", 0) if noise_since else 0}
    platforms = []
  write_json(workdir / RESOLVED, {
      "hparams": flattened(experiment.algorithm.hparams),
      "releases": repr(experiment.algorithm.releases),
      "platforms": platforms if platforms and platforms[-1] == now else [*platforms, now],
      "noise_since": before.get("noise_since"), "counted": before.get("counted", 0)})


def counted(workdir: pathlib.Path, options: Any, done: int) -> int:
  """Rounds that may have been run at most, whatever became of the process that ran them.

  Args:
    workdir: of a run that has begun and not finished.
    options: of its loop.
    done: rounds of its newest checkpoint; to the next one where the mark of what ran is gone.
  """
  if (workdir / RESOLVED).is_file():
    return int(_resolved(workdir).get("counted", 0))
  every = options.training.checkpoint_every
  return min((done // every + 1) * every, options.rounds)


def count(workdir: pathlib.Path, rounds: int) -> None:
  """Keeps that so many rounds may have been run, before they are."""
  said = _resolved(workdir)
  if said.get("counted") != rounds:
    write_json(workdir / RESOLVED, {**said, "counted": rounds})


def _resolved(workdir: pathlib.Path) -> dict[str, Any]:
  path = workdir / RESOLVED
  try:
    return read_json(path) if path.exists() else {}
  except ValueError as error:
    raise ValueError(f"{error}; put it back, or remove it: the statement then counts every round "
                     "up to the next checkpoint") from None


def _lost(workdir: pathlib.Path) -> str | None:
  """That the checkpoints of a run that had begun are gone, or None."""
  trace = next((name for name in _TRACES if (workdir / name).exists()), None)
  if trace is None:
    return None
  return (f"{workdir}/checkpoints: there is none, but {trace} says that this run had begun, and "
          "may have released rounds")


def _require_the_same_noise(experiment: Experiment, workdir: pathlib.Path, now: Machine,
                            lost: str) -> None:
  """Refuses a run to begin again but where it is asked to, and every round gives what it gave."""
  other = _other_noise(experiment, workdir, now)
  if not experiment.config.training.get("restart_same_noise"):
    raise ValueError(f"{lost}: the same rounds with other noise would be a second release; put "
                     f"them back, {_BEGIN_AGAIN if other is None else 'or choose another workdir'}")
  if other is not None:
    raise ValueError(f"{lost}, and it cannot begin again with the same noise: {other}")


def _other_noise(experiment: Experiment, workdir: pathlib.Path, now: Machine) -> str | None:
  """Why a run that began again would release other rounds than before, and the way out; or None."""
  for name in ("config.json", inputs.INPUTS, RESOLVED):
    if not (workdir / name).exists():
      return f"{name} is gone; choose another workdir"
  if not is_pinned(experiment.config) and not (workdir / secret_roots.FOLDER).is_dir():
    return "the root of its noise is gone; choose another workdir"
  before = _resolved(workdir)
  if before.get("noise_since") != 0:
    return ("the root of the noise of its first rounds was deleted when they had finished; choose "
            "another workdir")
  if before["releases"] != repr(experiment.algorithm.releases):
    return ("its noise was calibrated otherwise; ask for the rounds and the budget that were asked "
            "for at first, or choose another workdir")
  differing = [line for platform in before["platforms"]
               for line in machine.differences(platform, now)]
  if differing:
    return (f"it would run on another platform ({'; '.join(differing)}); choose another workdir")
  return None
