"""Toy parts with results that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.cohorts import Cohort
from fedjax_face.federated import heads
from fedjax_face.federated.client import ClientResult, Totals, forgetful
from fedjax_face.runs.mesh import clients_mesh


def one_device():
  return clients_mesh(jax.devices()[:1])


def given_updates(updates):
  """A client update that moves the backbone by minus the given row, chosen by its only example."""
  table = jnp.asarray(updates, jnp.float32)

  def client_update(params, images, batches, hparams, key):
    moved = params["backbone"] - table[batches.examples[0, 0]]
    return ClientResult({"backbone": moved, "head": params["head"]}, Totals.zero())

  return forgetful(client_update)


def cohort_of(examples, clients=None):
  """One example a client, one step, batch of one."""
  examples = np.asarray(examples, np.int32)
  clients = np.arange(len(examples)) if clients is None else np.asarray(clients)
  shape = (len(examples), 1, 1)
  return Cohort(
      examples.reshape(shape), np.zeros(shape, np.int32), np.ones(shape, bool),
      np.ones(len(examples), np.int32), clients.astype(np.int32))


def no_head():
  return heads.fresh(lambda key: (), "shared_frame")
