r"""One device of a split learning run: sends noised activations of its images to the edge server.

python -m experiments.device --config=configs/dp_activations.py:synthetic \
    --workdir=runs/device_0 --device=0 --address=127.0.0.1:50051

See experiments.edge_server for the other side and for TLS. The workdir holds the root of the
device's noise: it must stay secret, and a device that is started again must find it, for other
noise on the same images would be a second release.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from experiments import command_line
from experiments.edge_server import define_connection, prepare, say

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
  """The root of a device's noise, and the last step that it was used for.

  Args:
    path: JSON file, made if absent.
    device: number of the device.
    draw: () -> two 32-bit words, for a new file.

  Raises:
    ValueError: the file is damaged, when noise must not be drawn anew, or another device's.
  """

  def __init__(self, path: pathlib.Path, device: int, draw: Callable[[], tuple[int, ...]]):
    from fedjax_face.training.records import write_json
    self._path = path
    if not path.exists():
      write_json(path, {"device": device, "noise_words": draw(), "last_step": -1})
    try:
      self._held = json.loads(path.read_text())
      owner, self._last = int(self._held["device"]), int(self._held["last_step"])
      self.noise_words = tuple(int(word) for word in self._held["noise_words"])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{path} is damaged ({error}): the noise of this device is lost, and the "
                       "run cannot go on") from None
    if owner != device:
      raise ValueError(f"{path} is of device {owner}, not {device}; choose another --workdir")

  def claim(self, step: int) -> bool:
    """Whether noise may be drawn for a step: once, and not for one before the last."""
    from fedjax_face.training.records import write_json
    if step <= self._last:
      return False
    write_json(self._path, {**self._held, "last_step": step})
    self._last = step
    return True


def _take_part(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  workdir, parts, digest, tls, token = prepare(values, arguments)
  if values.device >= parts.devices:
    raise ValueError(f"--device={values.device}: devices are numbered 0 to {parts.devices - 1}")
  workdir.chmod(0o700)
  from fedjax_face.split.edge_client import EdgeClient, train_to_end
  from fedjax_face.split.edge_device import Device
  from fedjax_face.split.wire import Join
  from fedjax_face.training.streams import noise_key, noise_words
  journal = Journal(workdir / "noise.json", values.device,
                    lambda: noise_words(parts.noise_seed))
  saved = _Part(workdir, parts, digest)
  device = Device(parts, values.device, parts.device_data(values.device),
                  noise_key(journal.noise_words), journal.claim, saved.part)
  client = EdgeClient(values.address, tls, parts.contract(), parts.answers,
                      Join(values.device, digest, token), values.patience)
  lines = _Lines()

  def finished_step(step: int, steps: int, loss: float) -> None:
    lines.show(step, steps, loss)
    if parts.device_is_trained and (step % parts.checkpoint_every == 0 or step == steps):
      saved.save(step, device.part)

  try:
    train_to_end(client, device, values.patience, finished_step, say)
  finally:
    client.close()
  say(f"done: {parts.steps} steps")


class _Part:
  """The device's part of the network in its workdir; nothing is kept of one that is frozen."""

  def __init__(self, workdir: pathlib.Path, parts: Any, digest: str):
    from fedjax_face.split.edge_device import device_part
    from fedjax_face.training import checkpoint
    self._folder, self._parts, self._digest = workdir / "checkpoints", parts, digest
    found = checkpoint.restore(self._folder, device_part(parts), say)
    self.part = None if found is None else found.state

  def save(self, step: int, part: Any) -> None:
    from fedjax_face.training import checkpoint
    checkpoint.save(self._folder, checkpoint.Checkpoint(
        step, part, self._parts.ledger(step).to_json(), None, self._digest,
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
