"""`edge_device`: one device of a split learning run, which sends noised activations to a server."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from fedjax_face.edge.client import EdgeClient, train_to_end
from fedjax_face.edge.device import Device, device_part
from fedjax_face.edge.halves import EdgeParts
from fedjax_face.edge.transport import Tls, require_safe
from fedjax_face.edge.wire import Join
from fedjax_face.privacy.statement_files import of_device
from fedjax_face.runs import checkpoint, streams
from fedjax_face.runs.edge_folder import Prepared, Statement, prepared
from fedjax_face.runs.edge_journal import Journal
from fedjax_face.runs.experiment import Say

_SECONDS_BETWEEN_LINES = 10.0


def edge_device(config: Mapping[str, Any], workdir: str | os.PathLike, *, device: int = 0,
                address: str = "127.0.0.1:50051", tls: Tls | None = None, insecure: bool = False,
                token: str = "", patience: float = 600.0, say: Say = print) -> None:
  """Takes part in a run of `dp_activations` to its end; started again, joins again.

  Args:
    config: arguments of `fit`, the server's.
    workdir: made if absent, for its owner alone, and held while the program runs. noise.json holds
      the root of the device's noise: it must stay secret, and be there when the device is started
      again, with the same images.
    device: its number.
    address: HOST:PORT of the server.
    tls: PEM files; needed on other addresses than loopback unless `insecure`.
    insecure: plain text there.
    token: the device's secret, where the server asks for one.
    patience: seconds without a step after which the device gives up.
    say: told what is worth a line.

  Raises:
    ValueError: what is refused, in one line, or noise that would be used twice or was lost.
    OSError: a file that cannot be read or written, or a server that cannot be reached.
  """
  require_safe(address, tls, insecure)
  with prepared(config, workdir, device) as made:
    place, parts, digest = made
    place.chmod(0o700)
    own = DeviceFiles(made, device, say)
    shown = own.journal.shown(digest)
    client = EdgeClient(
        address, tls, parts.contract(), parts.answers, device,
        lambda: Join(device, digest, own.public, shown, token, own.steps_to_repeat), patience)
    lines = Lines(say)

    def finished_step(step: int, steps: int, loss: float) -> None:
      lines.show(step, steps, loss)
      own.finished_step(step)

    with contextlib.closing(client):
      train_to_end(client, own.device, parts.steps, patience, finished_step, say)
  say(f"done: {parts.steps} steps  privacy, by this device's own account: {place}/PRIVACY.md")


class DeviceFiles:
  """A device and what it keeps in its workdir: noise.json, its statement, its part of the network.

  Args:
    made: what the program starts from.
    number: of the device.
    say: told about damaged checkpoints.

  Attributes:
    journal: of its noise.
    device: that trains.
    public: `EdgeParts.public_digest`.

  Raises:
    ValueError: noise or a trained part that was lost, or noise of other values.
  """

  def __init__(self, made: Prepared, number: int, say: Say = print) -> None:
    self._place, self._parts, self._digest = made
    parts = self._parts
    self._statement = Statement(self._place, parts, f"Written by device {number} from its own "
                                "config, data and journal; nothing that the server said is used.",
                                of_device(parts.device_is_trained))
    path = self._place / "noise.json"
    if self._statement.exists() and not path.exists():
      raise ValueError(f"{path} is gone, and PRIVACY.md says that its noise was drawn: put it "
                       "back, for other noise on the same images would be a second release")
    self.journal = Journal(path, number,
                           lambda: (streams.secret_root() if parts.noise_seed is None
                                    else streams.public_root(parts.noise_seed)))
    self._statement.cover(self.journal.steps_begun)
    self._part = _Part(self._place, parts, self._digest, self.journal.steps_begun, say)
    self.device = Device(parts, number, parts.device_data(number),
                         streams.device_root_key(self.journal.root, number), self._claim,
                         self._part.part)
    self.public = parts.public_digest()
    self.journal.require_same({
        "public parts (device parameters, projection, clip norm, noise multiplier)": self.public,
        "images or labels": self.device.data_digest()})

  @property
  def steps_to_repeat(self) -> int:
    """Steps that may have been sent, and of which padding is sent if they come again."""
    return 0 if self._parts.repeats_everything else self.journal.steps_begun

  def finished_step(self, step: int) -> None:
    """Keeps the device's part where a checkpoint is due."""
    if self._parts.device_is_trained and (
        step % self._parts.checkpoint_every == 0 or step == self._parts.steps):
      self._part.save(step, self.device.part, self.journal.steps_begun)

  def _claim(self, use: str, step: int) -> bool:
    """The journal's answer, once the statement covers what may then be sent."""
    fresh = self.journal.claim(use, step)
    self._statement.cover(self.journal.steps_begun)
    return fresh


class _Part:
  """The device's part of the network in its workdir; nothing is kept of one that is frozen.

  The first checkpoint is that of step 0, before anything is sent: where there is none later, it is
  lost, and the part cannot be trained again without another release.
  """

  def __init__(self, workdir: pathlib.Path, parts: EdgeParts, digest: str, steps_begun: int,
               say: Say) -> None:
    self._folder, self._parts, self._digest = workdir / "checkpoints", parts, digest
    found = checkpoint.restore(self._folder, device_part(parts), say)
    self.part = None if found is None else found.state
    if found is None and parts.device_is_trained:
      if steps_begun:
        raise ValueError(f"{self._folder}: there are none, but noise.json says that {steps_begun} "
                         "steps were begun; put them back, or start server and devices anew in "
                         "other workdirs, which is a second release of the same images")
      self.save(0, device_part(parts), 0)

  def save(self, step: int, part: Any, steps_begun: int) -> None:
    checkpoint.save(self._folder, checkpoint.Checkpoint(
        step, part, self._parts.ledger(steps_begun).to_json(), self._digest,
        repr(self._parts.releases)))


class Lines:
  """A line now and then.

  Args:
    say: told.
  """

  def __init__(self, say: Say) -> None:
    self._say, self._last = say, -math.inf

  def show(self, step: int, steps: int, loss: float) -> None:
    """Says where training is, at the end or some seconds after the last line."""
    if step == steps or time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
      self._last = time.monotonic()
      self._say(f"step {step} of {steps}" + ("" if math.isnan(loss) else f", loss {loss:.4f}"))
