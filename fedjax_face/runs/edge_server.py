"""`edge_server`: the server of a split learning run, which trains on what devices send it."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fedjax_face.edge.contract import Terms
from fedjax_face.edge.halves import EdgeParts, server_exchanges, server_part
from fedjax_face.edge.recording import Recorder
from fedjax_face.edge.service import EdgeService, serve
from fedjax_face.edge.transport import Tls, require_known_devices, require_safe
from fedjax_face.privacy.statement_files import of_edge_server
from fedjax_face.runs import checkpoint, edge
from fedjax_face.runs.edge_folder import prepare, write_privacy
from fedjax_face.runs.experiment import Say
from fedjax_face.runs.records import CsvFile, write_json

_GRACE_SECONDS = 5.0  # for the last answers to be sent


def edge_server(config: Mapping[str, Any], workdir: str | os.PathLike, *,
                address: str = "127.0.0.1:50051", tls: Tls | None = None, insecure: bool = False,
                token: str = "", step_seconds: float = 60.0,
                transcript: str | os.PathLike | None = None, say: Say = print) -> None:
  """Serves a run of `dp_activations` to its end; started again, goes on from its last checkpoint.

  Args:
    config: arguments of `fit`: method, data, rounds, ...
    workdir: made if absent: config.json, checkpoints, metrics.csv, devices.json, server.json,
      privacy.json and PRIVACY.md.
    address: HOST:PORT.
    tls: PEM files; needed on other addresses than loopback unless `insecure`.
    insecure: plain text there, where devices show a token.
    token: that devices must show; "" for none.
    step_seconds: how long a device waits for the others in a step.
    transcript: file for every byte that crosses, which an untrusted server could keep.
    say: told what is worth a line.

  Raises:
    ValueError: what is refused, in one line, or a workdir of another run.
    OSError: a file that cannot be read or written.
  """
  require_safe(address, tls, insecure)
  require_known_devices(address, tls, token)
  place, parts, digest = prepare(config, workdir)
  files = ServerFiles(place, parts, digest, say)
  if files.step == parts.steps:
    say(f"the run in {place} is over after {parts.steps} steps")
    return
  recorder = Recorder(transcript) if transcript else None
  service = EdgeService(
      parts.contract(), server_exchanges(parts),
      Terms(digest, files.public, token, step_seconds, files.first_noise),
      files.state, files.step, parts.steps, files.finished_step,
      recorder.write if recorder else None, say)
  server, port = serve(service, address, tls)
  try:
    say(f"listening on {address.rpartition(':')[0]}:{port}, step {files.step} of {parts.steps}, "
        f"devices: {parts.devices}")
    service.wait()
  finally:
    server.stop(_GRACE_SECONDS).wait()
    write_privacy(place, parts, files.steps_begun, "Written by the server from its own config and "
                  "step. Every device writes a statement of its own.",
                  of_edge_server(bool(transcript)))
    if recorder:
      recorder.close()
  say(f"done: {parts.steps} steps  privacy: {place}/PRIVACY.md")


class ServerFiles:
  """Files of the server's workdir: checkpoints, metrics.csv, devices.json, server.json.

  Args:
    workdir: of the server.
    parts: of the run.
    digest: of its arguments.
    say: told about damaged checkpoints.

  Raises:
    ValueError: files of another run, or damaged.
  """

  def __init__(self, workdir: pathlib.Path, parts: EdgeParts, digest: str,
               say: Say = print) -> None:
    self._workdir, self._parts, self._digest = workdir, parts, digest
    self.step, self.state = 0, server_part(parts)
    found = checkpoint.restore(workdir / "checkpoints", self.state, say)
    if found is not None:
      if found.config != digest:
        raise ValueError(f"{workdir}/checkpoints belong to another config; choose another workdir")
      self.step, self.state = found.round, found.state
    self._noise_path = workdir / "devices.json"
    self._noise = self._known_noise()
    self.public, self.steps_begun = parts.public_digest(), 0
    self._record = self._same_run(is_new=found is None)
    self._begin(max(self._record.steps_begun, self.step + 1))
    self._table = CsvFile(workdir / "metrics.csv", self.step)

  def first_noise(self, device: int, shown: str) -> str:
    """What a device showed of its noise root when it first joined; kept from then on."""
    if str(device) not in self._noise:
      write_json(self._noise_path, {**self._noise, str(device): shown})
      self._noise[str(device)] = shown
    return self._noise[str(device)]

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

  def finished_step(self, step: int, state: Any, metrics: dict[str, float]) -> None:
    """Writes the metrics, and a checkpoint where one is due."""
    self.step = step
    self._begin(step + 1)
    self._table.write_rows([(step, metrics)])
    if step % self._parts.checkpoint_every == 0 or step == self._parts.steps:
      checkpoint.save(self._workdir / "checkpoints", checkpoint.Checkpoint(
          step, state, self._parts.ledger(self.steps_begun).to_json(), self._digest,
          repr(self._parts.releases)))
