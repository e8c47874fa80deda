"""Silos on four devices, in a process of its own: the result of one device, the table divided."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROGRAM = """
import jax, numpy as np
from tests.flat import fedgc
from tests.flat import registry
from fedjax_face.models import registry as models
from fedjax_face.runs import loop, streams
from fedjax_face.runs.mesh import clients_mesh, gathered
from tests.algorithms import test_privacyface as privacyface_tests
from tests.algorithms import tiny
from tests.algorithms.test_silos import TINY

models.BACKBONES["one_layer"] = tiny.OneLayer

def trained(devices, chunk, page=fedgc, **overrides):
  config = page.base() if page is fedgc else page.get_config()
  config.update_from_flattened_dict(TINY | {
      "silos.by": "dirichlet", "silos.num_silos": 5, "local.drift": "scaffold",
      "training.clients_per_chunk": chunk, "hparams.correction_strength": 5.0} | overrides)
  mesh = clients_mesh(jax.devices()[:devices])
  sources = privacyface_tests.sources(tiny.people(13))
  algorithm = registry.build(config, sources, mesh,
                             None if page is fedgc else privacyface_tests.backbone())
  for progress in loop.train(algorithm, sources.train.images, rounds=3, seed=0, mesh=mesh,
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

one = trained(1, 1)
for other in (trained(4, 1), trained(4, 2)):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one, other)

# Published anchors count once, however many devices share them.
def composed(devices):
  return trained(devices, 1, page=privacyface_tests.composed, **privacyface_tests.TINY | {
      "silos.num_silos": 5, "exchange.clusters": 1, "exchange.mechanism": "client_mean",
      "cohort.batch_size": 4, "local.drift": "none",
      "privacy.epsilon": None, "hparams.noise_multiplier": 0.1})

jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
             composed(1), composed(4))

# Empty slots do not make a mean over clients smaller.
clipped = {"algorithm": "fedpe", "privacy.aggregator": "clipped", "local.drift": "none"}
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
             trained(1, 1, **clipped), trained(4, 1, **clipped))
"""


def test_devices_and_chunks_change_nothing_and_the_table_is_divided():
  environment = os.environ | {
      "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, timeout=1200,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
