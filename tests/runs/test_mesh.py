"""Many devices and many processes, each in subprocesses of their own."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from fedjax_face.runs import mesh
from fedjax_face.runs.mesh import broadcast, clients_mesh, connect, shard_clients

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROGRAM = """
import pathlib, sys
import numpy as np, jax
from fedjax_face.runs import loop, mesh, secret_roots, streams
from tests.runs.toys import IMAGES, toy_algorithm
out, processes, process, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if processes > 1:
  mesh.connect(f"127.0.0.1:{port}", processes, process)
devices = mesh.clients_mesh()
assert devices.size == int(sys.argv[5]), devices
root = streams.public_root(7)
for resident in (True, False):
  for progress in loop.train(toy_algorithm(devices), IMAGES, rounds=5, seed=3, mesh=devices,
                             noise_root=root, cohort_root=root,
                             rounds_per_dispatch=2, resident=resident):
    weights = np.asarray(progress.state.weights)
  np.save(f"{out}.{process}.{resident}.npy", weights)
from_os = secret_roots.obtain(pathlib.Path(f"{out}.workdir"), must_exist=False)
np.save(f"{out}.{process}.roots.npy", np.frombuffer(b"".join(from_os), np.uint8))
"""


def launch(out, devices, processes=1):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  here = devices // processes
  environment = os.environ | {
      "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={here}"}
  running = [subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(out), str(processes), str(i), port, str(devices)],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for i in range(processes)]
  for process in running:
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said


def weights(out, process, resident):
  return np.load(f"{out}.{process}.{resident}.npy")


def test_devices_and_processes_agree_with_one_device(tmp_path):
  launch(tmp_path / "one", 1)
  launch(tmp_path / "four", 4)
  launch(tmp_path / "two", 2, processes=2)
  for resident in (True, False):
    one = weights(tmp_path / "one", 0, resident)
    assert np.isfinite(one).all() and one.any()
    np.testing.assert_allclose(weights(tmp_path / "four", 0, resident), one, rtol=1e-5)
    for process in (0, 1):
      np.testing.assert_allclose(weights(tmp_path / "two", process, resident), one, rtol=1e-5)
  drawn = [np.load(tmp_path / f"two.{process}.roots.npy") for process in (0, 1)]
  np.testing.assert_array_equal(*drawn)


def test_clients_that_do_not_divide_are_named():
  devices = clients_mesh()
  uneven = {"a": np.zeros((2, devices.size + 1))}
  if devices.size == 1:
    assert shard_clients(uneven, devices)["a"].shape == (2, 2)
  else:
    with pytest.raises(ValueError, match="multiple of the"):
      shard_clients(uneven, devices)


def test_broadcast_in_one_process_is_the_identity():
  assert broadcast(b"abc") == b"abc" and mesh.is_main_process()


@pytest.mark.parametrize("arguments", [("", 2, 0), ("host", 2, 0), ("h:1", 2, 2), ("h:1", 2, -1)])
def test_connect_refuses_what_cannot_be(arguments):
  with pytest.raises(ValueError, match="expected"):
    connect(*arguments)


@pytest.mark.parametrize("error", [RuntimeError("no backend"), AssertionError()])
def test_a_platform_that_is_not_there_is_said_in_one_line(monkeypatch, error):
  def none():
    raise error

  monkeypatch.setattr(mesh.jax, "devices", none)
  with pytest.raises(ValueError, match=r"^JAX_PLATFORMS=cpu: JAX finds no such device.*\)$"):
    clients_mesh()
