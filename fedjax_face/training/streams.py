"""Three separate random streams: initialisation, data order and noise.

Every draw is a function of (stream, round) and of nothing that happened before, so a run that
was killed continues with exactly the draws that it would have made.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.federated.algorithm import StepKeys
from fedjax_face.training.mesh import broadcast

BEFORE_ROUNDS = 2**31 - 1
"""Stands for the round in keys of what is drawn once, before the first round."""

_INIT, _CLIENT = 0, 1


class RootKeys(NamedTuple):
  """Root of the client stream and of the noise stream; a step folds the round into both."""

  client: jax.Array
  noise: jax.Array

  def at(self, round_index: jax.typing.ArrayLike) -> StepKeys:
    """The keys of one round."""
    return StepKeys(jax.random.fold_in(self.client, round_index),
                    jax.random.fold_in(self.noise, round_index))


def init_key(seed: int) -> jax.Array:
  """Key of the initial state."""
  return jax.random.fold_in(jax.random.key(seed), _INIT)


def client_key(seed: int) -> jax.Array:
  """Root key of what clients draw on the device (new heads, negatives)."""
  return jax.random.fold_in(jax.random.key(seed), _CLIENT)


def cohort_root(seed: int, noise_words: tuple[int, ...], pinned: bool) -> tuple[int, ...]:
  """Root of `Draws.of`, of who takes part and in which order: as secret as the noise.

  The gain from sampling rests on it.

  Args:
    seed: of the config.
    noise_words: of the run.
    pinned: no secret is claimed, as the config pins the noise or nothing is noised, and `seed`
      alone decides.
  """
  return (seed,) if pinned else (seed, *noise_words)


def noise_words(noise_seed: int | None) -> tuple[int, ...]:
  """Two 32-bit words, a whole Threefry key: from the operating system, or pinned by a seed.

  In a multi-process run every process gets the words of process 0.
  """
  if noise_seed is not None:
    return tuple(int(w) for w in np.random.SeedSequence(noise_seed).generate_state(2))
  drawn = broadcast(secrets.token_bytes(8))
  return tuple(int(w) for w in np.frombuffer(drawn, "<u4"))


def noise_key(words: tuple[int, ...]) -> jax.Array:
  """Root key of the noise stream from `noise_words`."""
  return jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl="threefry2x32")
