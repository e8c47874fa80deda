r"""The edge server of a split learning run: devices connect to it, and it trains on what they send.

python -m experiments.edge_server --config=configs/dp_activations.py --workdir=runs/edge
python -m experiments.device --config=configs/dp_activations.py --workdir=runs/device_0 --device=0

The second on each of method.clients.number devices; both take --address=HOST:PORT. On another
address than loopback both sides need --certificate, --key and --authority (PEM files), or
--insecure and tokens, without which anybody could join in a device's place:

    server      --tokens=FOLDER         puts a secret for each device there: FOLDER/0, FOLDER/1, ...
    device 0    --token_file=FILE       a copy of FOLDER/0, which joins as device 0 and no other

Delete the files once they are handed over: the server keeps digests (tokens.json) and asks for
tokens from then on. A file that is put there later replaces its device's token. Killed and started
again, the server goes on from its last checkpoint and the devices join again. A device that lost
the root of its noise (devices.json knows it), and a server that lost its checkpoints, are refused.
--transcript keeps every byte that crosses, as an untrusted server could.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import calls, command_line


def define(values: flags.FlagValues) -> None:
  """Adds the flags that server and device share: config, workdir, address, TLS files."""
  calls.define(values)
  command_line.define_shared(values)
  flags.DEFINE_string("address", "127.0.0.1:50051", "HOST:PORT of the server", flag_values=values)
  for name, what in (("certificate", "certificate of this side"), ("key", "its private key"),
                     ("authority", "certificates that sign the other side's")):
    flags.DEFINE_string(name, None, f"PEM file: {what}", flag_values=values)
  flags.DEFINE_boolean("insecure", False, "plain text on other addresses than loopback",
                       flag_values=values)


def connection(values: flags.FlagValues) -> dict[str, Any]:
  """`address`, `tls`, `insecure`; ValueError where some TLS files are given and not others."""
  from fedjax_face.edge.transport import Tls
  names = ("certificate", "key", "authority")
  missing = [name for name in names if not values[name].value]
  if 0 < len(missing) < len(names):
    raise ValueError(f"--{missing[0]} is missing: TLS needs --certificate, --key and --authority")
  tls = None if missing else Tls(values.certificate, values.key, values.authority)
  return {"address": values.address, "tls": tls, "insecure": values.insecure}


def _serve(arguments: Sequence[str]) -> None:
  values = flags.FlagValues()
  define(values)
  flags.DEFINE_string("tokens", None, "folder for a secret of each device, which it must show",
                      flag_values=values)
  flags.DEFINE_string("transcript", None, "file for every byte that crosses", flag_values=values)
  flags.DEFINE_float("step_seconds", 60.0, "how long a device waits for the others in a step",
                     lower_bound=0.1, flag_values=values)
  calls.parse(values, arguments, __doc__)
  from fedjax_face.runs.edge_server import edge_server
  edge_server(calls.said(arguments), values.workdir, **connection(values),
              tokens=values.tokens, step_seconds=values.step_seconds,
              transcript=values.transcript,
              say=lambda line: print(line, flush=True))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["edge_server", *arguments]
  return command_line.one_line_errors(lambda: _serve(given), lambda: "--debug" in given,
                                       continues=True)


if __name__ == "__main__":
  sys.exit(main())
