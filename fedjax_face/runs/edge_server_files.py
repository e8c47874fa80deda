"""What the server of a run over the wire keeps in its workdir, so that it can be killed."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

from fedjax_face.edge.halves import EdgeParts, server_part
from fedjax_face.runs import checkpoint, disk, edge
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.records import CsvFile


class ServerFiles:
  """Files of the server's workdir: checkpoints, metrics.csv, devices.json, server.json.

  The first checkpoint is that of step 0, before any device is answered: where there is none and a
  device was, checkpoints are lost.

  Args:
    workdir: of the server.
    parts: of the run.
    digest: of its arguments.
    cover: told how many steps may have been begun, before a device can begin them.
    say: told about damaged checkpoints.

  Attributes:
    step, state: to go on from.
    public: `EdgeParts.public_digest`.
    steps_begun: of which devices may have sent anything.
    asked_for: steps that devices may have begun in earlier lives of the server, at most: whole
      passes, or all where server.json was lost.

  Raises:
    ValueError: files of another run, or damaged or lost.
  """

  def __init__(self, workdir: pathlib.Path, parts: EdgeParts, digest: str,
               cover: Callable[[int], None] = lambda steps: None, say: Say = print) -> None:
    self._workdir, self._parts, self._digest, self._cover = workdir, parts, digest, cover
    self.step, self.state = 0, server_part(parts)
    self._noise_path = workdir / "devices.json"
    self._noise = self._known_noise()
    checkpoint.adopt(workdir / "checkpoints", say)
    found = checkpoint.restore(workdir / "checkpoints", self.state, say)
    self._table: CsvFile | None = None
    if found is not None:
      if found.config != digest:
        raise ValueError(f"{workdir}/checkpoints belong to another config; choose another workdir")
      self.step, self.state = found.round, found.state
    self.public, self.steps_begun = parts.public_digest(), 0
    self._record = self._same_run(is_new=found is None)
    if found is None:
      self._require_nothing_released()
      self._save()
    self.asked_for = (parts.passes_begun(self._record.steps_begun) * parts.messages
                      if self._record.public is not None else parts.steps)
    self._begin(max(self._record.steps_begun, self.step + 1))
    self._table = CsvFile(workdir / "metrics.csv", self.step, found.records if found else "", say)

  def first_noise(self, device: int, shown: str) -> str:
    """What a device showed of its noise root when it first joined; kept from then on."""
    if str(device) not in self._noise:
      noise = {**self._noise, str(device): shown}
      disk.write(self._noise_path, json.dumps(noise, indent=2) + "\n")
      self._noise = noise
    return self._noise[str(device)]

  def finished_step(self, step: int, state: Any, metrics: dict[str, float]) -> None:
    """Writes the metrics, and a checkpoint where one is due."""
    self.step, self.state = step, state
    self._begin(step + 1)
    assert self._table is not None
    self._table.write_rows([(step, {"loss": math.nan, **metrics})])  # devices may keep theirs
    if step % self._parts.checkpoint_every == 0 or step == self._parts.steps:
      self._save()

  def _save(self) -> None:
    checkpoint.save(self._workdir / "checkpoints", checkpoint.Checkpoint(
        self.step, self.state, self._parts.ledger(self.steps_begun).to_json(), self._digest,
        repr(self._parts.releases), records=self._table.kept() if self._table else ""))

  def _require_nothing_released(self) -> None:
    """Refuses to begin again where a device may have sent something: without a checkpoint."""
    table = self._workdir / "metrics.csv"
    told = [*(["devices.json says that devices joined"] if self._noise else []),
            *(["metrics.csv has steps"] if table.exists() and table.stat().st_size else []),
            *([f"server.json says that {self._record.steps_begun} steps were begun"]
              if self._record.steps_begun > 1 else [])]
    if told:
      way_out = ("start the server in another workdir: the devices keep theirs and send the same "
                 "bytes, so that nothing more is released" if self._parts.repeats_everything else
                 "start server and devices anew in other workdirs, which is a second release of "
                 "the same images")
      raise ValueError(f"{self._workdir}/checkpoints: there are none, but {' and '.join(told)}; "
                       f"put them back, or {way_out}")

  def _same_run(self, is_new: bool) -> edge.ServerRecord:
    """The record of the run, its public parts compared with ours; a new one where there is none."""
    record = edge.server_record(self._workdir)
    if record is None:
      return edge.ServerRecord(self.public if is_new else None, 0)
    if record.public is not None:
      edge.require_same_public(self._workdir, record.public, self.public)
    return record

  def _begin(self, steps: int) -> None:
    """Counts steps that devices may send from now on; on disk, once in a pass, for a restart."""
    self.steps_begun = max(self.steps_begun, steps)
    self._cover(self.steps_begun)
    if self._parts.passes_begun(steps) > self._parts.passes_begun(self._record.steps_begun):
      self._record = self._record._replace(steps_begun=steps)
      edge.write_server_record(self._workdir, self._record)

  def _known_noise(self) -> dict[str, str]:
    if not self._noise_path.exists():
      return {}
    try:
      return {str(int(device)): str(bytes.fromhex(shown).hex())
              for device, shown in json.loads(self._noise_path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
      raise ValueError(f"{self._noise_path} is damaged ({error}): the server no longer knows the "
                       "devices of this run") from None
