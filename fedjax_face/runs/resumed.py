"""What a folder holds of a run, and whether it may go on from there."""

from __future__ import annotations

import pathlib

import jax

from fedjax_face.method.algorithm import flattened
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, config, disk, inputs, machine, secret_roots
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
_WAYS_OUT = ("put them back, choose another workdir, or give --restart_same_noise "
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
  if kept.round and not (workdir / inputs.INPUTS).exists():
    raise ValueError(f"{workdir}/{inputs.INPUTS} is gone: whether the data are those of the run "
                     "cannot be told; put it back, or choose another workdir")
  return _on_platform(experiment, workdir, kept, now)


def is_over(kept: Checkpoint, workdir: pathlib.Path, rounds: int) -> bool:
  """Whether no round follows on a checkpoint."""
  return kept.finished and kept.round in (rounds, ended_early(workdir, rounds))


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


def record(experiment: Experiment, workdir: pathlib.Path, now: Machine) -> None:
  """Writes resolved.json: every scalar as it is used, what a round releases, the platform."""
  write_json(workdir / RESOLVED, {
      "hparams": flattened(experiment.algorithm.hparams),
      "releases": repr(experiment.algorithm.releases), "platform": now})


def counted(workdir: pathlib.Path) -> int:
  """Rounds that may have been run at most, as resolved.json says; 0 where it does not."""
  path = workdir / RESOLVED
  return int(read_json(path).get("counted", 0)) if path.is_file() else 0


def _lost(workdir: pathlib.Path) -> str | None:
  """That the checkpoints of a run that had begun are gone, or None."""
  trace = next((name for name in _TRACES if (workdir / name).exists()), None)
  if trace is None:
    return None
  return (f"{workdir}/checkpoints: there is none, but {trace} says that this run had begun, and "
          "may have released rounds")


def _require_the_same_noise(experiment: Experiment, workdir: pathlib.Path, now: Machine,
                            lost: str) -> None:
  """Refuses a run to begin again but where every round gives what it gave before."""
  options = experiment.config
  if not options.training.get("restart_same_noise"):
    raise ValueError(f"{lost}: the same rounds with other noise would be a second release; "
                     f"{_WAYS_OUT}")
  again = f"{lost}, and it cannot begin again with the same noise:"
  for name in ("config.json", inputs.INPUTS, RESOLVED):
    if not (workdir / name).exists():
      raise ValueError(f"{again} {name} is gone; choose another workdir")
  if not is_pinned(options) and not (workdir / secret_roots.FOLDER).is_dir():
    raise ValueError(f"{again} the root of its noise is gone; choose another workdir")
  before = read_json(workdir / RESOLVED)
  if before["releases"] != repr(experiment.algorithm.releases):
    raise ValueError(f"{again} its noise was calibrated otherwise; ask for the rounds and the "
                     "budget that were asked for at first, or choose another workdir")
  if differing := machine.differences(before["platform"], now):
    raise ValueError(f"{again} it would run on another platform ({'; '.join(differing)}); choose "
                     "another workdir")


def _on_platform(experiment: Experiment, workdir: pathlib.Path, kept: Checkpoint,
                 now: Machine) -> Checkpoint:
  """Refuses an interrupted run on another platform, or puts it down for the statement.

  Where no round can have run after the checkpoint, the platform is free.
  """
  differing = machine.differences(kept.platform, now) if kept.platform else []
  if kept.finished or not differing:
    return kept._replace(platform=now)
  if not experiment.config.training.get("allow_other_platform"):
    raise ValueError(
        f"{workdir} was run on another platform ({'; '.join(differing)}): rounds after its last "
        "checkpoint would be run again with other rounding; go on where it began, or give "
        "--allow_other_platform (compute.allow_other_platform), which its statement then says")
  ledger = Ledger.from_json(kept.ledger)
  ledger.declare_not_covered(machine.other_platform(kept.round, differing))
  return kept._replace(platform=now, ledger=ledger.to_json())
