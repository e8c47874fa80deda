"""The device mesh: one axis, `clients`, over one device, many devices or many processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

CLIENTS = "clients"


def clients_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """Mesh with the single axis `clients` over `devices` (default: all devices of all processes)."""
  return Mesh(np.asarray(_devices() if devices is None else devices), (CLIENTS,))


def is_main_process() -> bool:
  """True in the one process that writes files."""
  _devices()
  return jax.process_index() == 0


def _devices() -> list[jax.Device]:
  """All devices.

  Raises:
    ValueError: there are none of the platform that is asked for.
  """
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:
    asked = getattr(jax.config, "jax_platforms", None) or ""
    raise ValueError(f"JAX_PLATFORMS={asked}: JAX finds no such device here; JAX_PLATFORMS=cpu "
                     "computes on the processor, and without the variable JAX chooses "
                     f"({str(error) or type(error).__name__})") from error


def connect(coordinator: str, processes: int, process: int) -> None:
  """Joins the other processes of a `jax.distributed` run; call it before any other use of jax.

  Args:
    coordinator: host:port of process 0.
    processes: how many processes take part.
    process: index of this one, 0 <= process < processes.

  Raises:
    ValueError: if the numbers do not fit together.
  """
  if not coordinator or ":" not in coordinator:
    raise ValueError(f"coordinator {coordinator!r}: expected host:port of process 0")
  if not 0 <= process < processes:
    raise ValueError(f"process {process}: expected a number in [0, {processes})")
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Places every array of `tree` whole on every device; each process passes the same values."""
  return _place(tree, NamedSharding(mesh, P()))


def shard(tree: Any, specs: Any, mesh: Mesh) -> Any:
  """Places every array of `tree` as its `PartitionSpec` in `specs` says; same values everywhere."""
  return jax.tree.map(lambda leaf, spec: _place(leaf, NamedSharding(mesh, spec)), tree, specs)


def gathered(tree: Any, mesh: Mesh) -> Any:
  """Every array whole on every device; all processes must call it."""
  return jax.tree.map(
      lambda leaf: leaf if _is_whole(leaf) else _gather(mesh)(leaf), tree)


def _is_whole(leaf: Any) -> bool:
  return not isinstance(leaf, jax.Array) or leaf.is_fully_replicated


@functools.lru_cache
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, P()))


def shard_clients(tree: Any, mesh: Mesh) -> Any:
  """Splits arrays `[R, K, ...]` along K over the devices; each process passes the same values.

  Raises:
    ValueError: if K is not a multiple of the number of devices.
  """
  clients, devices = jax.tree.leaves(tree)[0].shape[1], mesh.shape[CLIENTS]
  if clients % devices:
    raise ValueError(
      f"method.clients.per_round={clients}: expected a multiple of the {devices} devices of the "
      "mesh")
  return _place(tree, NamedSharding(mesh, P(None, CLIENTS)))


def _place(tree: Any, sharding: NamedSharding) -> Any:
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def place(leaf: Any) -> jax.Array:
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
      data = place(jax.random.key_data(leaf))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

  return jax.tree.map(place, tree)


def broadcast(payload: bytes) -> bytes:
  """The bytes that process 0 passed, in every process (what the others pass is ignored)."""
  if jax.process_count() == 1:
    return payload
  mine = np.frombuffer(payload, np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int64(mine.size)))
  buffer = mine if is_main_process() else np.zeros(size, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes()


def agreed(answer: bool) -> bool:
  """What process 0 answered, in every process."""
  return bool(broadcast(bytes([answer]))[0])
