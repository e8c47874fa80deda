"""What a device keeps of its noise, so that none is ever used twice."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

from fedjax_face.edge.device import USES
from fedjax_face.runs import disk, secret_roots


class Journal:
  """The root of a device's noise, the last step of each use, and what it hides.

  Args:
    path: JSON file, made if absent.
    device: number of the device.
    draw: () -> root of the noise, for a new file.

  Raises:
    ValueError: the file is damaged, when noise must not be drawn anew, or another device's.
  """

  def __init__(self, path: pathlib.Path, device: int, draw: Callable[[], bytes]) -> None:
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
      raise ValueError(f"{path} is of device {owner}, not {device}; choose another workdir")

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
    disk.make_folder(self._path.parent)
    disk.write(self._path, json.dumps({
        "device": self._device, "root": self.root.hex(), "hides": dict(hides), "last": dict(last),
    }, indent=2) + "\n", mode=0o600)
    self._hides, self._last = dict(hides), dict(last)
