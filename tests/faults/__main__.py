"""Every point times every fault times every kind of method: `make test-faults`.

python -m tests.faults [METHOD ...]
"""

import collections
import contextlib
import io
import pathlib
import sys
import tempfile

from absl import logging

import conftest  # noqa: F401  (settings of jax before it is imported)
from tests.faults import points, subjects

WIDTH = 18


def main(names):
  """Prints a table and every fault that a run did not survive; 1 if there was one."""
  logging.set_verbosity(logging.FATAL)
  bad = 0
  counts = collections.Counter()
  for name in names or subjects.NAMES:
    faults = points.FAULTS if name == "dp_fedemb" else ("kill", "power")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
      subject, where = subjects.subject(name), pathlib.Path(folder)
      every, expected = subject.points(where / "whole")
      for fault in faults:
        for point in every:
          outcome = subject.tried(where / "run", point, fault, expected)
          points.cleaned(where / "run")
          verdict = "not reached" if outcome is None else outcome.verdict
          counts[name, fault, verdict] += 1
          if verdict in ("lost", "refused"):
            bad += 1
            print(f"{verdict}: {name} {fault} at {point}: {outcome.why}", flush=True)
    for fault in faults:
      said = ", ".join(f"{counts[name, fault, verdict]} {verdict}" for verdict in (
          "survived", "refused", "lost", "not reached"))
      print(f"{name:{WIDTH}} {fault:7} {said}", flush=True)
  print(f"{sum(counts.values())} faults injected, {bad} not survived")
  return int(bad > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
