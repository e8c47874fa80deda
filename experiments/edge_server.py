r"""The edge server of a split learning run: devices connect to it, and it trains on what they send.

python -m experiments.edge_server --config=configs/dp_activations.py:synthetic \
    --workdir=runs/edge --address=127.0.0.1:50051

and, for each device k of config.split.devices, on the device:

python -m experiments.device --config=configs/dp_activations.py:synthetic \
    --workdir=runs/device_0 --device=0 --address=127.0.0.1:50051

On another address than loopback both sides need --certificate, --key and --authority (PEM files),
or --insecure and a --token_file, without which anybody could join in a device's place. Killed and
started again, the server goes on from its last checkpoint and the devices join again. A device is
known by the root of its noise from the first time that it joins (devices.json): one that lost it is
refused. server.json tells which public parts the run has, and how far devices may have come.
--transcript keeps every byte that crosses, for the attacks: it is what an untrusted server could
do.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import command_line

_GRACE_SECONDS = 5.0  # for the last answers to be sent


def define_connection(values: flags.FlagValues) -> None:
  """Adds the flags that server and device share: address, TLS files, token."""
  flags.DEFINE_string("address", "127.0.0.1:50051", "HOST:PORT of the server", flag_values=values)
  for name, what in (("certificate", "certificate of this side"), ("key", "its private key"),
                     ("authority", "certificates that sign the other side's")):
    flags.DEFINE_string(name, None, f"PEM file: {what}", flag_values=values)
  flags.DEFINE_boolean("insecure", False, "plain text on other addresses than loopback",
                       flag_values=values)
  flags.DEFINE_string("token_file", None, "file with a secret that devices must show",
                      flag_values=values)


def connection(values: flags.FlagValues) -> tuple[Any, str]:
  """TLS files, or None, and the token, after all checks.

  Raises:
    ValueError: an address that is refused, some TLS files and not others, or an empty token file.
    OSError: a file cannot be read.
  """
  from fedjax_face.split.edge_transport import Tls, require_safe
  names = ("certificate", "key", "authority")
  missing = [name for name in names if not values[name].value]
  if 0 < len(missing) < len(names):
    raise ValueError(f"--{missing[0]} is missing: TLS needs --certificate, --key and --authority")
  tls = None if missing else Tls(values.certificate, values.key, values.authority)
  require_safe(values.address, tls, values.insecure)
  if values.token_file is None:
    return tls, ""
  token = pathlib.Path(values.token_file).read_text().strip()
  if not token:
    raise ValueError(f"--token_file={values.token_file} is empty")
  return tls, token


class Setting(NamedTuple):
  """What both programs start from.

  Attributes:
    workdir: made, with the config in it.
    parts: `EdgeParts` of the run.
    digest: of config and number of rounds.
    tls: its files, or None.
    token: or nothing.
  """

  workdir: pathlib.Path
  parts: Any
  digest: str
  tls: Any
  token: str


def prepare(values: flags.FlagValues, arguments: Sequence[str], doc: str | None) -> Setting:
  """Parses and checks the command line, and builds what it asks for.

  With a flag `device` the parts are those of that device, else the server's.

  Raises:
    ValueError: a flag or config that is refused, or a workdir of another run.
  """
  command_line.parse(values, arguments, doc)
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  tls, token = connection(values)
  if "device" not in values:
    from fedjax_face.split.edge_transport import require_known_devices
    require_known_devices(values.address, tls, token)
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.training import config, edge, records
  workdir = pathlib.Path(values.workdir).absolute()
  config.validate(values.config)
  config.check_same_run(values.config, workdir)
  parts = edge.build(values.config, values.device if "device" in values else None)
  records.make_guarded(workdir)
  config.record(values.config, workdir)
  # In a section of its own the number of rounds is part of the digest: noise depends on it.
  digest = config.digest({"config": config.as_dict(values.config)})
  return Setting(workdir, parts, digest, tls, token)


def say(line: str) -> None:
  """Prints at once."""
  print(line, flush=True)


def write_privacy(workdir: pathlib.Path, parts: Any, steps_begun: int, author: str,
                  files: Sequence[Any]) -> None:
  """Writes privacy.json and PRIVACY.md for so many steps, with a sentence on who says so.

  Args:
    workdir: of the program.
    parts: `EdgeParts` of the run.
    steps_begun: of which anything was sent, or may have been.
    author: the sentence.
    files: of `statement_files`, what the program leaves.

  Raises:
    OSError: one line naming the file.
  """
  from fedjax_face.privacy import statement
  from fedjax_face.training.records import write_atomically, write_json
  said = statement.privacy_json(
      parts.ledger(steps_begun), delta=parts.delta, population=parts.population,
      sampling=parts.sampling, noise_keys="devices" if parts.noise_seed is None else "pinned",
      files=files)
  write_json(workdir / "privacy.json", said | {"author": author})
  write_atomically(workdir / "PRIVACY.md", f"{statement.privacy_markdown(said)}\n{author}\n")


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  define_connection(values)
  flags.DEFINE_string("transcript", None, "file for every byte that crosses", flag_values=values)
  flags.DEFINE_float("step_seconds", 60.0, "how long a device waits for the others in a step",
                     lower_bound=0.1, flag_values=values)
  return values


def _serve(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  workdir, parts, digest, tls, token = prepare(values, arguments, __doc__)
  from fedjax_face.privacy.statement_files import of_edge_server
  from fedjax_face.split.edge_contract import Terms
  from fedjax_face.split.edge_parts import server_exchanges
  from fedjax_face.split.edge_record import Recorder
  from fedjax_face.split.edge_service import EdgeService, serve
  run = _Run(workdir, parts, digest)
  if run.step == parts.steps:
    say(f"the run in {workdir} is over after {parts.steps} steps")
    return
  recorder = Recorder(values.transcript) if values.transcript else None
  service = EdgeService(
      parts.contract(), server_exchanges(parts),
      Terms(digest, run.public, token, values.step_seconds, run.first_noise),
      run.state, run.step, parts.steps, run.finished_step,
      recorder.write if recorder else None, say)
  server, port = serve(service, values.address, tls)
  try:
    say(f"listening on {values.address.rpartition(':')[0]}:{port}, step {run.step} of "
        f"{parts.steps}, devices: {parts.devices}")
    service.wait()
  finally:
    server.stop(_GRACE_SECONDS).wait()
    write_privacy(workdir, parts, run.steps_begun, "Written by the server from its own config and "
                  "step. Every device writes a statement of its own.",
                  of_edge_server(bool(values.transcript)))
    if recorder:
      recorder.close()
  say(f"done: {parts.steps} steps  privacy: {workdir}/PRIVACY.md")


class _Run:
  """Files of the server's workdir: checkpoints, metrics.csv, devices.json, server.json."""

  def __init__(self, workdir: pathlib.Path, parts: Any, digest: str):
    from fedjax_face.split.edge_parts import server_part
    from fedjax_face.training import checkpoint
    from fedjax_face.training.records import CsvFile
    self._workdir, self._parts, self._digest = workdir, parts, digest
    self.step, self.state = 0, server_part(parts)
    found = checkpoint.restore(workdir / "checkpoints", self.state, say)
    if found is not None:
      if found.config != digest:
        raise ValueError(f"{workdir}/checkpoints belong to another config; choose another "
                         "--workdir")
      self.step, self.state = found.round, found.state
    self._noise_path = workdir / "devices.json"
    self._noise = self._known_noise()
    self.public, self.steps_begun = parts.public_digest(), 0
    self._record = self._same_run(is_new=found is None)
    self._begin(max(self._record.steps_begun, self.step + 1))
    self._table = CsvFile(workdir / "metrics.csv", self.step)

  def first_noise(self, device: int, shown: str) -> str:
    """What a device showed of its noise root when it first joined; kept from then on."""
    from fedjax_face.training.records import write_json
    if str(device) not in self._noise:
      write_json(self._noise_path, {**self._noise, str(device): shown})
      self._noise[str(device)] = shown
    return self._noise[str(device)]

  def _same_run(self, is_new: bool) -> Any:
    """The record of the run, its public parts compared with ours; a new one where there is none."""
    from fedjax_face.training import edge
    record = edge.server_record(self._workdir)
    if record is None:
      return edge.ServerRecord(self.public if is_new else None, 0)
    if record.public is not None:
      edge.require_same_public(self._workdir, record.public, self.public)
    return record

  def _begin(self, steps: int) -> None:
    """Counts steps that devices may send from now on; on disk, once in a pass, for a restart."""
    from fedjax_face.training import edge
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
    from fedjax_face.training import checkpoint
    self.step = step
    self._begin(step + 1)
    self._table.write_rows([(step, metrics)])
    if step % self._parts.checkpoint_every == 0 or step == self._parts.steps:
      checkpoint.save(self._workdir / "checkpoints", checkpoint.Checkpoint(
          step, state, self._parts.ledger(self.steps_begun).to_json(), self._digest,
          repr(self._parts.releases)))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["edge_server", *arguments]
  values = _flags(given)
  return command_line.one_line_errors(lambda: _serve(values, given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
