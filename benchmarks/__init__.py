"""Speed and memory, measured; each program prints a table."""

import argparse
import os
import re


def require_optimised(parser: argparse.ArgumentParser) -> None:
  """Refuses to measure programs that XLA is told to compile without optimisation, as tests are."""
  flags = os.environ.get("XLA_FLAGS", "")
  level = re.search(r"--xla_backend_optimization_level=(\d+)", flags)
  if (level and int(level[1]) < 2) or "--xla_cpu_use_fusion_emitters=false" in flags:
    parser.error(f"XLA_FLAGS={flags}: programs compiled so are not what a run takes; unset it")
