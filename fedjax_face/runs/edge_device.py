"""`edge_device`: one device of a split learning run, which sends noised activations to a server."""

from __future__ import annotations

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
from fedjax_face.runs.edge_folder import prepare, write_privacy
from fedjax_face.runs.edge_journal import Journal
from fedjax_face.runs.experiment import Say

_SECONDS_BETWEEN_LINES = 10.0


def edge_device(config: Mapping[str, Any], workdir: str | os.PathLike, *, device: int = 0,
                address: str = "127.0.0.1:50051", tls: Tls | None = None, insecure: bool = False,
                token: str = "", patience: float = 600.0, say: Say = print) -> None:
  """Takes part in a run of `dp_activations` to its end; started again, joins again.

  Args:
    config: arguments of `fit`, the server's.
    workdir: made if absent, for its owner alone. noise.json holds the root of the device's noise:
      it must stay secret, and be there when the device is started again, with the same images.
    device: its number.
    address: HOST:PORT of the server.
    tls: PEM files; needed on other addresses than loopback unless `insecure`.
    insecure: plain text there.
    token: what the server asks for.
    patience: seconds without a step after which the device gives up.
    say: told what is worth a line.

  Raises:
    ValueError: what is refused, in one line, or noise that would be used twice.
    OSError: a file that cannot be read or written, or a server that cannot be reached.
  """
  require_safe(address, tls, insecure)
  place, parts, digest = prepare(config, workdir, device)
  place.chmod(0o700)
  journal = Journal(place / "noise.json", device,
                    lambda: (streams.secret_root() if parts.noise_seed is None
                             else streams.public_root(parts.noise_seed)))
  kept = _Part(place, parts, digest, say)
  own = Device(parts, device, parts.device_data(device),
               streams.device_root_key(journal.root, device), journal.claim, kept.part)
  public = parts.public_digest()
  journal.require_same({
      "public parts (device parameters, projection, clip norm, noise multiplier)": public,
      "images or labels": own.data_digest()})
  client = EdgeClient(address, tls, parts.contract(), parts.answers,
                      Join(device, digest, public, journal.shown(digest), token), patience)
  lines = Lines(say)

  def finished_step(step: int, steps: int, loss: float) -> None:
    lines.show(step, steps, loss)
    if parts.device_is_trained and (step % parts.checkpoint_every == 0 or step == steps):
      kept.save(step, own.part, journal.steps_begun)

  try:
    train_to_end(client, own, parts.steps, patience, finished_step, say)
  finally:
    client.close()
    write_privacy(place, parts, journal.steps_begun,
                  f"Written by device {device} from its own config, data and journal; nothing that "
                  "the server said is used.", of_device(parts.device_is_trained))
  say(f"done: {parts.steps} steps  privacy, by this device's own account: {place}/PRIVACY.md")


class _Part:
  """The device's part of the network in its workdir; nothing is kept of one that is frozen."""

  def __init__(self, workdir: pathlib.Path, parts: EdgeParts, digest: str, say: Say) -> None:
    self._folder, self._parts, self._digest = workdir / "checkpoints", parts, digest
    found = checkpoint.restore(self._folder, device_part(parts), say)
    self.part = None if found is None else found.state

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
