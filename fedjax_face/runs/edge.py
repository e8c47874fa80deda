"""A split run over the wire from a config: what the two programs need of it."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_face import options
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.sets import Data
from fedjax_face.draws import Draws
from fedjax_face.edge.halves import DeviceData, EdgeParts, PrivateGradients, public_digest
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, disk, rehearsed
from fedjax_face.runs import start as starts
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.streams import init_key, public_root
from fedjax_face.split.device import GRADIENT_CLIP
from fedjax_face.split.device import optimizer as device_optimizer
from fedjax_face.split.message import PADDING
from fedjax_face.split.step import Part
from fedjax_face.split.system import SplitState

NOT_COVERED = (
    "Every program of a run over the wire, the server's too, reads the config's whole data section "
    "when it starts, private images included, to count people and images, and then drops all "
    "images but a device's own: where the server is not trusted with the photographs, somebody who "
    "is must start it, where its operator cannot read them.",
)


def build(asked: Asked, device: int | None = None) -> EdgeParts:
  """The parts of a run of `dp_activations`, the same in every process.

  Each process loads the whole data section, the private set too, whose people and images it counts,
  and pre-trains on the public set for itself. All images are dropped before this returns, but those
  of the device: for the server only counts of the private set are left, and a device keeps its own
  images and labels, and who of the others is where. The statement says so (`NOT_COVERED`).

  Args:
    asked: arguments of `fit`.
    device: whose parts these are; None: the server's, whose `device_data` and `rows` raise
      ValueError.

  Raises:
    ValueError: another method, arguments that are refused, or a device that there is not.
    FileNotFoundError: data that is not there.
  """
  if options.made(asked.method).data != "classes":
    raise ValueError(f"method={asked.record['method']['name']}: the edge programs run "
                     "dp_activations, e.g. --config=configs/dp_activations.py")
  built = _with_own_data(asked).experiment()
  config = built.config
  train, algorithm = built.sources.train, built.algorithm
  system = algorithm.parts
  held = system.parts.clients.holding(_counted(train), config.seed)  # labels stay behind too
  if device is not None and not 0 <= device < system.devices:
    raise ValueError(f"device {device}: devices are numbered 0 to {system.devices - 1}")
  scalars, mode = algorithm.hparams, system.schedule.mode
  owner = system.device_of_person[train.person]
  own = np.flatnonzero(owner == device)  # none on the server
  data = DeviceData(train.images[own], train.label[own].astype(np.int32))
  trained = system.schedule.device_is_trained
  return EdgeParts(
      split=system.split,
      image_shape=system.image_shape,
      clip_norm=system.clip_norm,
      noise_multiplier=scalars["activations"]["noise_multiplier"],
      mode=mode,
      passes=config.rounds,
      messages=held.messages,
      images=tuple(int(count) for count in held.images),
      batch=system.schedule.batch,
      labels=system.parts.labels.policy,
      num_classes=train.num_labels,
      devices=system.devices,
      params={"device": system.device,
              "server": jax.jit(system.init_server)(init_key(config.seed))},
      server_optimizer=system.parts.server(scalars["server"]),
      device_optimizer=device_optimizer(scalars["device"]) if trained else None,
      private_gradients=PrivateGradients(
          GRADIENT_CLIP, scalars["device"]["clip_norm"], scalars["device"]["noise_multiplier"])
      if mode == "trained_private" else None,
      device_data=_of_device(device, lambda number: data),
      rows=_of_device(device, _rows(config.seed, held.cohort, own, held.messages)),
      noise_seed=config.privacy.get("noise_seed"),
      releases=algorithm.releases,
      before=_ledger_before(asked, built.sources, algorithm),
      sampling=algorithm.sampling,
      population={"image": len(train), "person": train.num_persons},
      delta=config.privacy.delta,
      checkpoint_every=held.messages,
  )


class ServerRecord(NamedTuple):
  """What a server keeps of its run beside the checkpoints.

  Attributes:
    public: `EdgeParts.public_digest` of the run; None: it began before this was kept.
    steps_begun: steps that devices may have begun; exact in the passes that they reach into.
  """

  public: str | None
  steps_begun: int


def write_server_record(workdir: pathlib.Path, record: ServerRecord) -> None:
  """Writes server.json.

  Raises:
    OSError: one line naming the file.
  """
  disk.write(workdir / "server.json", json.dumps(record._asdict(), indent=2) + "\n")


def server_record(workdir: pathlib.Path) -> ServerRecord | None:
  """Reads server.json; None where there is none.

  Raises:
    ValueError: the file is damaged.
  """
  path = workdir / "server.json"
  if not path.is_file():
    return None
  try:
    held = json.loads(path.read_text())
    public = held["public"]
    return ServerRecord(None if public is None else bytes.fromhex(public).hex(),
                        int(held["steps_begun"]))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is damaged ({error}): whether the public parts are those of the run "
                     "is no longer known") from None


def require_same_public(workdir: pathlib.Path, recorded: str, built: str) -> None:
  """Refuses public parts that are not those of the run in `workdir`, by their digests.

  Raises:
    ValueError: they differ.
  """
  if built != recorded:
    raise ValueError(
        f"{workdir}: the public parts (device parameters, projection, clip norm, noise multiplier) "
        f"built here are not those of its run: their digest begins with {built[:12]}, the run's "
        f"with {recorded[:12]}; use the machine, the versions and the public data of the run")


def restored_state(algorithm: Algorithm, workdir: pathlib.Path,
                   say: Callable[[str], None]) -> tuple[int, SplitState, Ledger] | None:
  """Steps done, state and ledger of a run that a server kept in its workdir.

  None where the first checkpoint after its start has not been reached.

  The device parts are those of `algorithm`, built here, and must be those of the
  run by the digest that the server recorded.

  Args:
    algorithm: of the run.
    workdir: of the server.
    say: told in one line about damaged checkpoints, and where no digest was recorded, so that
      nothing was compared.

  Raises:
    ValueError: the device parts were trained, so they are on the devices; or they are frozen, and
      not those of the run.
  """
  system, schedule = algorithm.parts, algorithm.parts.schedule
  if schedule.device_is_trained:
    raise ValueError(f"method.device={schedule.mode}: the trained parts of the network are on the "
                     f"devices, and {workdir} holds the server's alone")
  whole = jax.eval_shape(algorithm.init, jax.random.key(0))
  found = checkpoint.restore(workdir / "checkpoints", whole.server, say)
  if found is None or not found.round:
    return None
  record = server_record(workdir)
  if record is None or record.public is None:
    say(f"{workdir}: no digest of the public parts in server.json, so it is taken on trust that "
        "those built here are those of the run")
  else:
    require_same_public(workdir, record.public, public_digest(
        system.split, system.device, system.image_shape, system.clip_norm,
        algorithm.hparams["activations"]["noise_multiplier"]))
  return (found.round, SplitState(Part(system.device, ()), found.state),
          Ledger.from_json(found.ledger))


def _ledger_before(asked: Asked, sources: Any, algorithm: Algorithm) -> Ledger:
  """The ledger before the first step, with what a training run's says of its start."""
  ledger = Ledger()
  for sentence in (*algorithm.not_covered, *sources.not_covered, *NOT_COVERED):
    ledger.declare_not_covered(sentence)
  if asked.start is not None:
    starts.enter(ledger, asked.start, sources.public.name, algorithm)
  if asked.rehearsal is not None:
    rehearsed.enter(ledger, asked.rehearsal, sources)
  return ledger


def _with_own_data(asked: Asked) -> Asked:
  """The same with sets that are loaded anew, so that nobody else keeps them in memory."""
  section = asked.record["data"]
  if options.by_hand(section):
    return asked
  return asked._replace(data=options.made(options.build(Data, section, "data")))


def _counted(train: FaceDataset) -> FaceDataset:
  """The set without its images and labels: as many of each, all zero."""
  return FaceDataset(
      train.name, np.broadcast_to(np.uint8(0), train.images.shape), np.zeros_like(train.label),
      train.person, names=("",) * train.num_labels, identity=train.identities)


def _rows(seed: int, cohort: Callable[[Draws, int], Cohort], own: np.ndarray,
          messages: int) -> Callable[[int, int], np.ndarray]:
  """(device, step) -> int32 [B], the device's own numbers; `own` are its rows of the whole set."""

  @functools.lru_cache(maxsize=2)
  def order(device: int, epoch: int) -> np.ndarray:
    drawn = cohort(Draws.of(public_root(seed)), epoch)
    numbers = np.searchsorted(own, drawn.examples[device])
    return np.where(drawn.mask[device], numbers, PADDING).astype(np.int32)

  return lambda device, step: order(device, step // messages)[step % messages]


def _of_device(own: int | None, call: Callable[..., Any]) -> Callable[..., Any]:
  """`call` for one device's number, refused for others; the server does not even keep it."""

  def refuse(device: int, *more: Any) -> Any:
    raise ValueError(f"data of device {device}: these parts are those of "
                     + ("the server" if own is None else f"device {own}"))

  if own is None:
    return refuse
  return lambda device, *more: (call if device == own else refuse)(device, *more)
