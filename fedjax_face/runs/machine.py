"""What the numbers of a run depend on beside its call: device, versions, instruction set."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh

from fedjax_face.runs.mesh import broadcast
from fedjax_face.runs.streams import DEVICE_GENERATOR

Machine = dict[str, str]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_VECTORS = ("avx512f", "avx2", "avx", "asimd", "sse4_2")
_SAME_NUMBERS = ("--xla_force_host_platform_device_count",)  # counted as devices


def of(mesh: Mesh, clients_per_chunk: int = 1) -> Machine:
  """Name -> value of everything by which two machines may round, or draw, differently.

  Every process of a job gets what holds of the first.

  Args:
    mesh: devices.
    clients_per_chunk: clients side by side, whose number orders a sum.
  """
  device = mesh.devices.flat[0]
  flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split()
                 if not flag.startswith(_SAME_NUMBERS))
  here = {
      "devices": f"{mesh.size} x {device.device_kind} ({device.platform})",
      "processes": str(jax.process_count()),
      "clients side by side": str(clients_per_chunk),
      **{name: metadata.version(name) for name in _PACKAGES},
      "instructions": f"{platform.machine()} {_vectors()}".strip(),
      "XLA_FLAGS": " ".join(flags),
      "matmul precision": str(_setting("jax_default_matmul_precision")),
      "64 bit": str(bool(_setting("jax_enable_x64"))),
      "generator": DEVICE_GENERATOR}
  return json.loads(broadcast(json.dumps(here).encode()))


def _setting(name: str) -> Any:
  return getattr(jax.config, name)


def _vectors() -> str:
  """The widest vector instructions of the processor, where the system tells."""
  try:
    words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
  except OSError:
    return ""
  return next((name for name in _VECTORS if name in words), "")


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
  """What differs, each as `jax '0.7.1' before, '0.8.0' now`."""
  return [f"{name} {before.get(name, 'unknown')!r} before, {now.get(name, 'unknown')!r} now"
          for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]


def other_platform(done: int, differing: list[str]) -> str:
  """The sentence of the statement of a run that went on elsewhere."""
  return (f"After round {done} this run went on on another platform ({'; '.join(differing)}). "
          "Rounds that had run after the last checkpoint before it were run again there with other "
          "rounding, or other noise; if anybody has seen what came of both, that is a second "
          "release, which is not counted.")
