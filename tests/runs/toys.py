"""A toy algorithm: a linear embedder pulled towards the mean image of the cohort, plus noise."""

from typing import NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from fedjax_face.data.cohorts import Cohort
from fedjax_face.method.algorithm import Algorithm, Communication, Measure
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release

IMAGES = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2, 1)


class ToyState(NamedTuple):
  """Weights [4], a counter, a random key, and an empty array: the kinds of leaf that occur."""

  weights: jax.Array
  rounds: jax.Array
  key: jax.Array
  nothing: jax.Array


def toy_algorithm(mesh=None, clients=4, traces=None, blow_up_at=-1):
  """Moves the weights to the mean over clients of their image, sums over the mesh if given."""

  def init(key):
    return ToyState(jax.random.normal(key, (4,)), jnp.int32(0), key, jnp.zeros((0, 3)))

  def cohort(draws, round_number):
    rows = draws.groups(np.arange(clients, dtype=np.uint64), len(IMAGES), "row", round_number)
    rows = rows.astype(np.int32).reshape(clients, 1, 1)
    return Cohort(rows, np.zeros_like(rows), np.ones(rows.shape, bool),
                  np.ones(clients, np.int32), np.arange(clients, dtype=np.int32))

  def total(images, examples):
    return images[examples[:, 0, 0]].reshape(-1, 4).astype(jnp.float32).sum(0)

  if mesh is not None:
    on_device = lambda images, examples: jax.lax.psum(total(images, examples), "clients")
    summed = jax.shard_map(on_device, mesh=mesh, in_specs=(P(), P("clients")), out_specs=P())
  else:
    summed = total

  def step(state, data, cohort, hparams, keys):
    if traces is not None:
      traces.append(1)
    target = summed(data.images, cohort.examples) / clients
    weights = state.weights + hparams["learning_rate"] * (target - state.weights)
    weights = weights + hparams["noise"] * jax.random.normal(keys.noise, (4,))
    weights = jnp.where(state.rounds == blow_up_at, jnp.nan, weights)
    state = ToyState(weights, state.rounds + 1, keys.client, state.nothing)
    return state, {"loss": jnp.mean((target - weights) ** 2), "target": target[0]}

  return Algorithm(
      name="toy", init=init, cohort=cohort, step=step,
      hparams={"learning_rate": 0.5, "noise": 0.1},
      releases=(Release("weights", "person", Adjacency.REPLACE_ONE,
                        dp_accounting.GaussianDpEvent(2.0), "everyone"),),
      not_covered=(), embed=lambda state, images: jnp.ones((len(images), 2)),
      channels={"weights": lambda state: Communication.equal(16, 16)},
      metrics={"loss": Measure("training loss"), "target": Measure("targets")},
      sampling="all", population=12)
