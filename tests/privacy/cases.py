"""Mechanisms to check, small enough to check them all."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax_privacy.matrix_factorization import toeplitz

from fedjax_face.attacks import audit
from fedjax_face.federated import aggregators
from fedjax_face.models.convolution import Conv
from fedjax_face.models.dense import Dense
from fedjax_face.models.normalisation import GroupNorm
from fedjax_face.privacy import clustering, noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.privacy.gradient_clip import grouped, joint, per_task
from fedjax_face.privacy.per_example import clipped_gradient_sum
from tests.federated.schemes import participation

ADD, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE
CLIENTS = 10
HPARAMS = {"clip_norm": 0.5, "noise_multiplier": 1.2}
COUNT_STDDEV, RATE = 1.0, 0.2
COEFFICIENTS = np.array([1.0, 0.5])         # of the first column of C

LAYERS = {"scalar": 1.0, "bias": 1.0, "kernel": 1.0, "wide": 1.0}
GRADIENT_CLIPS = {
    "joint": joint(ADD), "by layer": grouped(LAYERS, ADD), "grouped": grouped(
        {"": 1.0, "bias": 0.1}, ADD),
    "per task": per_task(2, ADD), "stacked": per_task(3, ADD, stacked=True)}


def independent_mean():
  return aggregators.noised_mean(UpdateClip(4, REPLACE), CLIENTS, noise.gaussian())


def correlated_mean():
  matrix = toeplitz.inverse_as_streaming_matrix(np.asarray(COEFFICIENTS, np.float32))
  mechanism = noise._from_streaming_matrix(matrix, 1.2, 3, "banded")
  return aggregators.noised_mean(UpdateClip(4, REPLACE), CLIENTS, mechanism)


def adaptive():
  return aggregators.adaptive_clip(
      UpdateClip(1, ADD), CLIENTS, quantile=0.5, learning_rate=RATE,
      count_stddev_per_client=COUNT_STDDEV / CLIENTS)


def clipped_only():
  return aggregators.clipped_mean(UpdateClip(1, ADD), CLIENTS)


def expected_noise(name, rounds=3):
  """Covariance over rounds of an entry of the released mean, from the paper's formulas."""
  stddev = HPARAMS["noise_multiplier"] * HPARAMS["clip_norm"] / CLIENTS
  if name == "adaptive":
    multiplier = (HPARAMS["noise_multiplier"] ** -2 - (2 * COUNT_STDDEV) ** -2) ** -0.5
    stddev = multiplier * HPARAMS["clip_norm"] / CLIENTS
  strategy = np.eye(rounds)
  if name == "correlated":
    strategy += COEFFICIENTS[1] * np.eye(rounds, k=-1)
  inverse = np.linalg.inv(strategy)
  return stddev**2 * inverse @ inverse.T


NOISY = {"independent": independent_mean, "correlated": correlated_mean, "adaptive": adaptive}

AXES = np.eye(4, dtype=np.float32)
# With the tables that share one person's budget.
CLUSTERS = {
    "client mean": (clustering.client_mean(count_weight=1.0), 1),
    "pooled": (clustering.anchor_table(AXES, pooled=True), 1),
    "Lloyd": (clustering.dp_lloyd(AXES, iterations=3), 3),
    "caps": (clustering.exponential_caps(AXES, clusters=2, angle=0.5, selection_share=0.75), 4),
}


def sampling(kind, users=24):
  """A scheme on users of one image each."""
  options = {
      "sampling": kind, "virtual_clients": 2, "users_per_client": 2, "capacity": users,
      "sampling_probability": None, "min_separation": 3, "partition_seed": 0, "batch_size": 4,
      "epochs": 1, "max_examples": 4 if "fixed" in kind else users, "max_examples_per_user": 0,
      "classes": "all"}
  return participation(options, audit.population([audit.IDLE] * users))


SAMPLINGS = ("fixed", "poisson", "cyclic_fixed", "cyclic_poisson")


def claimed_rate(event):
  """The sampling rate that an event counts."""
  if hasattr(event, "sampling_probability"):
    return event.sampling_probability
  return event.sample_size / event.source_dataset_size


def sum_of_ones():
  """A gradient of one for every unit that takes part, clipped as DP-SGD clips."""
  return clipped_gradient_sum(lambda params, rows: rows.images @ params, joint(ADD), "vmapped")


class Normed(nn.Module):
  """Group norm and biases carry most of the gradient."""

  @nn.compact
  def __call__(self, x):
    x = GroupNorm(2, name="norm")(Conv(4, (3, 3), name="convolution")(0.1 * x))
    return Dense(2, name="outputs")(nn.relu(x).mean((1, 2)))


def normed_network():
  """(loss, params, batch, mask, clip) of two units of two regions."""
  model = Normed()
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(2, 2, 4, 4, 2)), jnp.float32)
  params = jax.jit(model.init)(jax.random.key(0), image[0])["params"]
  loss = lambda params, rows: 10 * jnp.square(model.apply({"params": params}, rows) - 3)
  return loss, params, image, jnp.ones((2, 2), bool), joint(ADD)
