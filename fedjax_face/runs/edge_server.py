"""`edge_server`: the server of a split learning run, which trains on what devices send it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from fedjax_face.edge.contract import Terms
from fedjax_face.edge.halves import server_exchanges
from fedjax_face.edge.recording import Recorder
from fedjax_face.edge.service import EdgeService
from fedjax_face.edge.serving import serve
from fedjax_face.edge.transport import Tls, require_known_devices, require_safe
from fedjax_face.privacy.statement_files import of_edge_server
from fedjax_face.runs import edge_tokens
from fedjax_face.runs.edge_folder import Prepared, Statement, prepared
from fedjax_face.runs.edge_server_files import ServerFiles
from fedjax_face.runs.experiment import Say

_GRACE_SECONDS = 5.0  # for the last answers to be sent


def edge_server(config: Mapping[str, Any], workdir: str | os.PathLike, *,
                address: str = "127.0.0.1:50051", tls: Tls | None = None, insecure: bool = False,
                tokens: str | os.PathLike | None = None, step_seconds: float = 60.0,
                transcript: str | os.PathLike | None = None, say: Say = print) -> None:
  """Serves a run of `dp_activations` to its end; started again, goes on from its last checkpoint.

  Args:
    config: arguments of `fit`: method, data, rounds, ...
    workdir: made if absent, and held while the program runs: config.json, checkpoints, metrics.csv,
      devices.json, server.json, tokens.json, privacy.json and PRIVACY.md.
    address: HOST:PORT.
    tls: PEM files; needed on other addresses than loopback unless `insecure`.
    insecure: plain text there, where every device shows a token.
    tokens: folder with a secret for each device, see `edge_tokens`; None: those that the run has,
      or none.
    step_seconds: how long a device waits for the others in a step.
    transcript: file for every byte that crosses, which an untrusted server could keep.
    say: told what is worth a line.

  Raises:
    ValueError: what is refused, in one line, or a workdir of another run or in use.
    OSError: a file that cannot be read or written.
  """
  require_safe(address, tls, insecure)
  require_known_devices(address, tls, edge_tokens.are_asked_for(workdir, tokens))
  with prepared(config, workdir) as made:
    place, parts, digest = made
    statement = Statement(place, parts, "Written by the server from its own config and step. Every "
                          "device writes a statement of its own.", of_edge_server(bool(transcript)))
    files = ServerFiles(place, parts, digest, statement.cover, say)
    if files.step == parts.steps:
      say(f"the run in {place} is over after {parts.steps} steps")
      return
    known = edge_tokens.kept(place, parts.devices, tokens)
    recorder = Recorder(transcript) if transcript else None
    with contextlib.closing(recorder) if recorder else contextlib.nullcontext():
      service = EdgeService(
          parts.contract(), server_exchanges(parts),
          Terms(digest, files.public, known, step_seconds, files.first_noise, files.asked_for),
          files.state, files.step, parts.steps, files.finished_step,
          recorder.write if recorder else None, say)
      _answer(service, made, files, address, tls, say)
  say(f"done: {parts.steps} steps  privacy: {place}/PRIVACY.md")


def _answer(service: EdgeService, made: Prepared, files: ServerFiles, address: str,
            tls: Tls | None, say: Say) -> None:
  """Answers devices until all steps are done."""
  server, port = serve(service, address, tls)
  try:
    say(f"listening on {address.rpartition(':')[0]}:{port}, step {files.step} of "
        f"{made.parts.steps}, devices: {made.parts.devices}")
    service.wait()
  finally:
    server.stop(_GRACE_SECONDS).wait()
