"""Images of a cohort from memory, a mapped file, InsightFace records and the renderer.

python -m benchmarks.data --people 50000 --users 4096 --repeats 5

Each source is measured in a process of its own: how many images a second reach the device, what
memory that takes, and how long a training round of so many users is beside one on images in memory.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import require_optimised

SOURCES = ("memory", "mapped", "rec", "rendered")
_FILES = 64  # different pictures of the .rec; the work of decoding does not depend on more


def main() -> None:
  """Reads the command line, runs a process for each source, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--people", type=int, default=50_000, help="of 4 images each")
  parser.add_argument("--size", type=int, default=28, help="pixels, grey")
  parser.add_argument("--stored", type=int, default=112, help="pixels of an image in the .rec")
  parser.add_argument("--users", type=int, default=4096, help="in a round, 8 in a client")
  parser.add_argument("--repeats", type=int, default=5, help="rounds, beside a first one")
  parser.add_argument("--source", choices=SOURCES, help="this one alone, in this process")
  parser.add_argument("--folder", help="where files are made; default a temporary one")
  options = parser.parse_args()
  require_optimised(parser)
  if options.source:
    print(_measured(options))
    return
  with tempfile.TemporaryDirectory() as folder:
    rows = [_in_a_process(source, options.folder or folder) for source in SOURCES]
  _print(rows, options)


def _in_a_process(source: str, folder: str) -> list[str]:
  given = [*sys.argv[1:], f"--source={source}", f"--folder={folder}"]
  done = subprocess.run([sys.executable, "-m", "benchmarks.data", *given], check=True,
                        capture_output=True, text=True)
  return [source, *done.stdout.split()]


def _measured(options: argparse.Namespace) -> str:
  """Images a second, peak memory, seconds of a round, share of waiting for images in it."""
  import numpy as np

  import fedjax_face as ff
  from fedjax_face.draws import Draws
  from fedjax_face.method import Setting, bind
  from fedjax_face.method.algorithm import Data
  from fedjax_face.runs import batches, loop
  from fedjax_face.runs.mesh import clients_mesh
  from fedjax_face.runs.streams import public_root

  data = _set(options)
  method = ff.dp_fedemb(
      backbone=ff.lenet_small(), head=ff.cosface(),
      clients=ff.virtual_clients(per_round=options.users // 8, users_per_client=8),
      local=ff.local_steps(learning_rate=5e-3, batch_size=16, epochs=1),
      aggregate=ff.gaussian(clip_norm=1.0, noise_multiplier=1.0))
  mesh, rounds = clients_mesh(), options.repeats + 1
  algorithm = bind(method, data, Setting(mesh, rounds))
  fed, images = [], 0
  for number in range(3):  # each of other people: what is kept of an earlier one does not help
    span = batches.Span(number, number + 1)
    cohort = batches.host_batch(algorithm.cohort, Draws.of(public_root(1)), span, 1)
    images = int(np.unique(cohort.examples[cohort.mask]).size)
    began = time.perf_counter()
    rows = batches.device_batch(cohort, span, Data(data.images), mesh).rows
    assert rows is not None
    rows.images.block_until_ready()
    fed.append(time.perf_counter() - began)
  seconds, training = [], loop.train(
      algorithm, data.images, rounds=rounds, seed=0, noise_root=public_root(0),
      cohort_root=public_root(0), mesh=mesh, resident=False)
  for index in range(rounds):
    began = time.perf_counter()
    next(training)
    if index:
      seconds.append(time.perf_counter() - began)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  return (f"{images / np.median(fed[1:]):,.0f} {peak:.2f} {np.median(seconds):.2f} "
          f"{np.median(fed[1:]) / np.median(seconds):.2f}")


def _set(options: argparse.Namespace) -> Any:
  """A set of 4 images a person from the source that is measured."""
  import numpy as np

  from fedjax_face.data.dataset import FaceDataset, grayscale
  from fedjax_face.data.readers.insightface_rec import read_rec
  from fedjax_face.data.rendering.synthetic_faces import rendered_faces

  if options.source == "rendered":
    return rendered_faces(options.people, 4, options.size, 0, grayscale=True)
  person = np.repeat(np.arange(options.people, dtype=np.int32), 4)
  folder = pathlib.Path(options.folder)
  if options.source == "rec":
    _write_records(folder, person, options.stored)
    return read_rec(folder, size=options.size, channels=1, on_demand=True)[0]
  shape = (len(person), options.size, options.size, 1)
  images: Any = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  if options.source == "mapped":
    np.save(folder / "images.npy", images)
    images = np.load(folder / "images.npy", mmap_mode="r")
  made = FaceDataset(options.source, images, person, person)
  return grayscale(made)


def _write_records(folder: pathlib.Path, person: Any, side: int) -> None:
  """train.rec and train.idx of JPEG pictures, a few of them over and over."""
  import numpy as np
  from PIL import Image

  rng, files = np.random.default_rng(0), []
  for _ in range(_FILES):
    small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
    content = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    files.append(content.getvalue())
  heads = [(float(len(person) + 1), b"")] + [
      (float(number), files[row % _FILES]) for row, number in enumerate(person)]
  with (folder / "train.rec").open("wb") as rec, (folder / "train.idx").open("w") as index:
    for key, (label, image) in enumerate(heads):
      index.write(f"{key}\t{rec.tell()}\n")
      labels = struct.pack("<IfQQ2f", 2, 0, key, 0, label, label + 1) if not key else struct.pack(
          "<IfQQ", 0, label, key, 0)
      content = labels + image
      rec.write(struct.pack("<II", 0xced7230a, len(content)) + content + bytes(-len(content) % 4))


def _print(rows: list[list[str]], options: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(title=f"{options.people:,} people of 4 images {options.size}x{options.size}, "
                      f"{options.users:,} users a round, medians of {options.repeats} rounds")
  for column in ("source", "images/s", "peak GiB", "s a round", "images / round"):
    table.add_column(column, justify="left" if column == "source" else "right")
  for row in rows:
    table.add_row(*row)
  Console().print(table)


if __name__ == "__main__":
  main()
