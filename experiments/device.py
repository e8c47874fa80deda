r"""One device of a split learning run: sends noised activations of its images to the edge server.

python -m experiments.device --config=configs/dp_activations.py:synthetic \
    --workdir=runs/device_0 --device=0 --address=127.0.0.1:50051

See experiments.edge_server for the other side and for TLS. The workdir holds the root of the
device's noise (noise.json): it must stay secret, and a device that is started again must find it,
for other noise on the same images would be a second release. It must find the same images and
public parts too, for the same noise on other values would reveal their difference: what differs is
refused. At the end the device writes PRIVACY.md from its own config and journal, whatever the
server says.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command_line
from experiments.edge_server import define_connection, prepare, say, write_privacy

_SECONDS_BETWEEN_LINES = 10.0


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  define_connection(values)
  flags.DEFINE_integer("device", 0, "number of this device", lower_bound=0, flag_values=values)
  flags.DEFINE_float("patience", 600.0, "seconds without a step after which the device gives up",
                     lower_bound=0.1, flag_values=values)
  return values


class Journal:
  """The root of a device's noise, the last step of each use, and what it hides.

  Args:
    path: JSON file, made if absent.
    device: number of the device.
    draw: () -> root of the noise, for a new file.

  Raises:
    ValueError: the file is damaged, when noise must not be drawn anew, or another device's.
  """

  def __init__(self, path: pathlib.Path, device: int, draw: Callable[[], bytes]):
    from fedjax_face.split.edge_device import USES
    from fedjax_face.training import secret_roots
    self._path, self._device = path, device
    if not path.exists():
      self.root = draw()
      self._write({}, dict.fromkeys(USES, -1))
    secret_roots.require_owner_only(path)
    try:
      held = json.loads(path.read_text())
      owner, self._hides = int(held["device"]), dict(held["hides"])
      self._last = {use: int(held["last"][use]) for use in USES}
      self.root = bytes.fromhex(held["root"])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{path} is damaged ({error}): the noise of this device is lost, and the "
                       "run cannot go on") from None
    if owner != device:
      raise ValueError(f"{path} is of device {owner}, not {device}; choose another --workdir")

  @property
  def steps_begun(self) -> int:
    """Steps up to the last that was sent, or may have been before the device was stopped."""
    return self._last["send"] + 1

  def claim(self, use: str, step: int) -> bool:
    """Whether noise may be drawn for a step: once for each use, and not for one before the last.

    On disk before it is answered.

    Args:
      use: one of `edge_device.USES`.
      step: of training.

    Raises:
      OSError: the file cannot be written.
    """
    if step <= self._last[use]:
      return False
    self._write(self._hides, {**self._last, use: step})
    return True

  def require_same(self, hidden: Mapping[str, str]) -> None:
    """Binds the noise to what it hides, the first time; refuses anything else later.

    Args:
      hidden: digests of what makes the values that are sent, by name.

    Raises:
      ValueError: one of them is not what it was when the noise was first used.
    """
    if not self._hides:
      self._write(dict(hidden), self._last)
    differing = [name for name in hidden if hidden[name] != self._hides.get(name)]
    if differing:
      raise ValueError(f"{self._path}: the {' and '.join(differing)} differ from those that this "
                       "noise was first used for; the same noise on other values would reveal "
                       "their difference, so nothing is sent")

  def shown(self, config: str) -> str:
    """32 bytes in hex that tell this noise root from others in a run, and are slow to guess from.

    Args:
      config: digest of the run.
    """
    return hashlib.scrypt(self.root, salt=f"{config} {self._device}".encode(), n=2**14, r=8,
                          p=1, dklen=32).hex()

  def _write(self, hides: Mapping[str, str], last: Mapping[str, int]) -> None:
    from fedjax_face.training.secret_roots import write_owner_only
    write_owner_only(self._path, json.dumps({
        "device": self._device, "root": self.root.hex(), "hides": dict(hides), "last": dict(last),
    }, indent=2) + "\n")
    self._hides, self._last = dict(hides), dict(last)


def _take_part(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  workdir, parts, digest, tls, token = prepare(values, arguments, __doc__)
  workdir.chmod(0o700)
  from fedjax_face.privacy.statement_files import of_device
  from fedjax_face.split.edge_client import EdgeClient, train_to_end
  from fedjax_face.split.edge_device import Device
  from fedjax_face.split.wire import Join
  from fedjax_face.training import streams
  journal = Journal(workdir / "noise.json", values.device,
                    lambda: (streams.secret_root() if parts.noise_seed is None
                             else streams.public_root(parts.noise_seed)))
  saved = _Part(workdir, parts, digest)
  device = Device(parts, values.device, parts.device_data(values.device),
                  streams.device_root_key(journal.root, values.device), journal.claim, saved.part)
  public = parts.public_digest()
  journal.require_same({
      "public parts (device parameters, projection, clip norm, noise multiplier)": public,
      "images or labels": device.data_digest()})
  client = EdgeClient(values.address, tls, parts.contract(), parts.answers,
                      Join(values.device, digest, public, journal.shown(digest), token),
                      values.patience)
  lines = _Lines()

  def finished_step(step: int, steps: int, loss: float) -> None:
    lines.show(step, steps, loss)
    if parts.device_is_trained and (step % parts.checkpoint_every == 0 or step == steps):
      saved.save(step, device.part, journal.steps_begun)

  try:
    train_to_end(client, device, parts.steps, values.patience, finished_step, say)
  finally:
    client.close()
    write_privacy(workdir, parts, journal.steps_begun,
                  f"Written by device {values.device} from its own config, data and journal; "
                  "nothing that the server said is used.",
                  of_device(parts.device_is_trained))
  say(f"done: {parts.steps} steps  privacy, by this device's own account: {workdir}/PRIVACY.md")


class _Part:
  """The device's part of the network in its workdir; nothing is kept of one that is frozen."""

  def __init__(self, workdir: pathlib.Path, parts: Any, digest: str):
    from fedjax_face.split.edge_device import device_part
    from fedjax_face.training import checkpoint
    self._folder, self._parts, self._digest = workdir / "checkpoints", parts, digest
    found = checkpoint.restore(self._folder, device_part(parts), say)
    self.part = None if found is None else found.state

  def save(self, step: int, part: Any, steps_begun: int) -> None:
    from fedjax_face.training import checkpoint
    checkpoint.save(self._folder, checkpoint.Checkpoint(
        step, part, self._parts.ledger(steps_begun).to_json(), self._digest,
        repr(self._parts.releases)))


class _Lines:
  """A line now and then."""

  def __init__(self) -> None:
    self._last = -math.inf

  def show(self, step: int, steps: int, loss: float) -> None:
    if step == steps or time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
      self._last = time.monotonic()
      say(f"step {step} of {steps}" + ("" if math.isnan(loss) else f", loss {loss:.4f}"))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["device", *arguments]
  values = _flags(given)
  return command_line.one_line_errors(
      lambda: _take_part(values, given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
