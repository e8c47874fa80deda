"""How fast activations cross from a device to the edge server: two processes, gRPC on loopback.

python -m benchmarks.edge --megabytes 1 16 64 --messages 20 --repeats 5

The server decodes and checks every message as in a run, trains nothing, and answers. A row is the
time of so many messages, one after another, each with its answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from typing import Any

from benchmarks import require_optimised

GOAL = 200  # MB/s
_BATCH, _CLASSES = 8, 2
_DIGEST = "00" * 32


def main() -> None:
  """Reads the command line, measures, prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 16, 64])
  parser.add_argument("--messages", type=int, default=20)
  parser.add_argument("--repeats", type=int, default=5)
  options = parser.parse_args()
  require_optimised(parser)
  if min(options.messages, options.repeats, *options.megabytes) < 1:
    parser.error("expected numbers of at least 1")
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"{options.messages} messages, {options.repeats} repeats; goal {GOAL} MB/s")
  for column in ("MB a message", "MB/s, median", "least", "most"):
    table.add_column(column, justify="right")
  for megabytes in options.megabytes:
    rates = sorted(_rates(megabytes, options))
    table.add_row(str(megabytes), *(f"{rate:.0f}" for rate in (
        statistics.median(rates), rates[0], rates[-1])))
  Console().print(table)


def _rates(megabytes: int, options: argparse.Namespace) -> list[float]:
  """MB/s of every repeat; the server is a process of its own."""
  processes = multiprocessing.get_context("spawn")
  ours, theirs = processes.Pipe()
  steps = options.messages * (options.repeats + 1)
  server = processes.Process(target=_serve, args=(megabytes, steps, theirs), daemon=True)
  server.start()
  try:
    return _send(f"127.0.0.1:{ours.recv()}", megabytes, options)
  finally:
    server.join(20)


def _contract(megabytes: int) -> Any:
  from fedjax_face.edge.contract import Contract
  return Contract(shape=(megabytes * 250_000 // _BATCH,), batch=_BATCH, num_classes=_CLASSES,
                  devices=1, labels_are_sent=True)


def _serve(megabytes: int, steps: int, port_to: Any) -> None:
  from fedjax_face.edge.contract import Exchange, Outcome, Terms
  from fedjax_face.edge.service import EdgeService
  from fedjax_face.edge.serving import serve

  def accept(state: float, received: Any) -> tuple[float, Outcome]:
    return state, Outcome((None,) * len(received[-1]), {"loss": 0.0})

  service = EdgeService(
      _contract(megabytes), (Exchange("activations", "receipt", accept),),
      Terms(_DIGEST, _DIGEST, {}, 60.0, lambda device, shown: shown), 0.0, 0, steps,
      lambda step, state, metrics: None, None, lambda line: None)
  server, port = serve(service, "127.0.0.1:0", None)
  port_to.send(port)
  service.wait()
  server.stop(5).wait()


def _send(address: str, megabytes: int, options: argparse.Namespace) -> list[float]:
  import numpy as np

  from fedjax_face.edge.client import EdgeClient
  from fedjax_face.edge.wire import Join
  from fedjax_face.split.message import Message
  contract = _contract(megabytes)
  values = np.random.default_rng(0).normal(size=(_BATCH, *contract.shape)).astype(np.float32)
  message = Message(values, np.zeros(_BATCH, np.int32), np.arange(_BATCH, dtype=np.int32),
                    np.int32(0))
  client = EdgeClient(address, None, contract, {"activations": "receipt"}, 0,
                      lambda: Join(0, _DIGEST, _DIGEST, _DIGEST), 60.0)
  rates = []
  try:
    step = client.join().step
    for repeat in range(options.repeats + 1):
      start = time.perf_counter()
      for _ in range(options.messages):
        client.exchange("activations", step, message)
        step += 1
      if repeat:  # the first opens the connection
        rates.append(values.nbytes * options.messages / 1e6 / (time.perf_counter() - start))
  finally:
    client.close()
  return rates


if __name__ == "__main__":
  main()
