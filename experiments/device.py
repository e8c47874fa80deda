r"""One device of a split learning run: sends noised activations of its images to the edge server.

python -m experiments.device --config=configs/dp_activations.py:synthetic \
    --workdir=runs/device_0 --device=0 --address=127.0.0.1:50051

See experiments.edge_server for the other side, for TLS and for tokens. The workdir holds the root
of the device's noise (noise.json): it must stay secret, and a device that is started again must
find it, for other noise on the same images would be a second release. It must find the same images
and public parts too, for the same noise on other values would reveal their difference: what differs
is refused. The device writes PRIVACY.md from its own config and journal, whatever the server says,
at its start and before it sends anything that is not in it yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments import calls, command_line
from experiments.edge_server import connection, define


def _take_part(arguments: Sequence[str]) -> None:
  values = flags.FlagValues()
  define(values)
  flags.DEFINE_integer("device", 0, "number of this device", lower_bound=0, flag_values=values)
  flags.DEFINE_string("token_file", None, "file with the secret that the server gave this device",
                      flag_values=values)
  flags.DEFINE_float("patience", 600.0, "seconds without a step after which the device gives up",
                     lower_bound=0.1, flag_values=values)
  calls.parse(values, arguments, __doc__)
  from fedjax_face.runs import edge_tokens
  from fedjax_face.runs.edge_device import edge_device
  token = edge_tokens.read(values.token_file) if values.token_file else ""
  edge_device(calls.said(arguments), values.workdir, device=values.device, **connection(values),
              token=token, patience=values.patience, say=lambda line: print(line, flush=True))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["device", *arguments]
  return command_line.one_line_errors(lambda: _take_part(given), lambda: "--debug" in given,
                                       continues=True)


if __name__ == "__main__":
  sys.exit(main())
