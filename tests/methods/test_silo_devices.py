"""Silos on four devices, in a process of its own: the result of one device, the table divided."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROGRAM = """
import jax, numpy as np
import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face.method import Setting
from fedjax_face.runs import loop, streams
from fedjax_face.runs.mesh import clients_mesh, gathered
from tests.methods import tiny, tiny_clusters

train = tiny.people(13)
five = {"clients": ff.silos(partition=ff.partitions.dirichlet(num_silos=5))}

def trained(devices, chunk, method, **setting):
  mesh = clients_mesh(jax.devices()[:devices])
  algorithm = methods.bind(method, train, Setting(mesh, 3, clients_per_chunk=chunk, **setting))
  for progress in loop.train(algorithm, train.images, rounds=3, seed=0, mesh=mesh,
                             noise_root=streams.public_root(0),
                             cohort_root=streams.public_root(0), rounds_per_dispatch=2):
    state = progress.state
  table = state.heads.class_embeddings
  assert len({tuple(map(str, shard.index)) for shard in table.addressable_shards}) == devices
  rows = algorithm.class_embeddings(state)
  whole = gathered(state, mesh)
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(whole))
  return jax.tree.map(np.asarray, (whole.params, whole.clients,
                                   rows.class_embeddings[:13], whole.heads.cosine))

def near(one, other, rtol=2e-4, atol=2e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)

scaffold = tiny.fedgc(
    local=ff.replace(tiny.SILO_LOCAL, drift=ff.drifts.scaffold()),
    correction=ff.gradient_correction(strength=5.0, block=5), **five)
one = trained(1, 1, scaffold)
for other in (trained(4, 1, scaffold), trained(4, 2, scaffold)):
  near(one, other)

# Published anchors count once, however many devices share them.
composed = tiny_clusters.composed(
    exchange=tiny_clusters.clusters("client_mean"), correction=ff.gradient_correction(strength=5.0),
    aggregate=ff.gaussian(clip_norm=0.2, noise_multiplier=0.1), clients=tiny.silos(5))
public = {"start": tiny_clusters.backbone(), "start_is_public": True,
          "public": tiny_clusters.public()}
near(trained(1, 1, composed, **public), trained(4, 1, composed, **public), 2e-3, 2e-4)

# Empty slots do not make a mean over clients smaller.
clipped = tiny.fedpe(aggregate=ff.clipped(clip_norm=1.0), **five)
near(trained(1, 1, clipped), trained(4, 1, clipped))

# An aggregate that sees every update gets those of all devices, in the order of the clients.
from tests.federated import test_robust
updates = np.random.default_rng(0).normal(size=(8, 2))
for name in test_robust.STATISTICS:
  alone, shared = (test_robust.moved(test_robust.aggregator(name), updates, chunk=chunk,
                                     mesh=clients_mesh(jax.devices()[:devices]))[0]
                   for devices, chunk in ((1, 1), (4, 2)))
  near(alone, shared, 1e-6, 1e-6)
"""


def test_devices_and_chunks_change_nothing_and_the_table_is_divided():
  environment = os.environ | {
      "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
  done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, timeout=1200,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
