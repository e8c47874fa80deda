r"""Finds the faces on photographs with the newest checkpoint of a run.

python -m experiments.detect --workdir=RUN PHOTO.jpg FOLDER
python -m experiments.detect --workdir=RUN FOLDER --out=FOUND

Folders are searched for images at any depth. For each image NAME.json and a drawn NAME.png go to
--out (default RUN/detections), NAME being that of the file with its ending. The JSON holds `image`,
its `width` and `height`, and `faces`, best first: `box` (left, top, width, height) and `landmarks`
in pixels, `visibility`, `pose` (roll, pitch, yaw in radians), `score` and `female` (probabilities).
Photographs that a camera marked as turned are turned upright first, and pixels are those of the
file so turned. A picture of a format that is not read (HEIC, AVIF) is named as an error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments import command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  command_line.define_shared(values)
  flags.DEFINE_string("out", "", "folder of the results; default RUN/detections",
                      flag_values=values)
  return values


def _detect(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
  given = command_line.parse_with_names(values, arguments, __doc__)
  if values.workdir is None:
    raise ValueError("--workdir is required: the folder of a run")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.runs.detect import detect
  return detect(values.workdir, given, values.out or None,
                say=lambda line: print(line, flush=True)).mistakes


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status: 2 also if only some photographs were bad."""
  given = sys.argv if arguments is None else ["detect", *arguments]
  mistakes: list[str] = []
  status = command_line.one_line_errors(
    lambda: mistakes.extend(_detect(_flags(), given)), lambda: "--debug" in given)
  return status or (2 if mistakes else 0)


if __name__ == "__main__":
  sys.exit(main())
