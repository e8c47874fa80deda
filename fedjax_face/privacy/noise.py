"""Gaussian noise for a sequence of sums: independent over rounds, or correlated.

Both are the matrix mechanism: round t adds row t of C^-1 Z, with Z independent Gaussian. What the
rounds reveal together is C G + Z, so its sensitivity is that of one participation times
`relative_sensitivity`, a property of the strategy matrix C and of how often a unit takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jax_privacy.matrix_factorization import buffered_toeplitz, streaming_matrix, toeplitz


class Noise(NamedTuple):
  """A noise mechanism over rounds.

  Attributes:
    init: shapes of the sum -> state.
    add: (sum, state, stddev, key) -> (noisy sum, state). `key` is this round's own.
    relative_sensitivity: of the strategy matrix, 1 for independent noise.
    covers: rounds that one Gaussian event accounts for (1: every round is its own event).
    words: for the privacy statement.
  """

  init: Callable[[Any], Any]
  add: Callable[[Any, Any, jax.typing.ArrayLike, jax.Array], tuple[Any, Any]]
  relative_sensitivity: float
  covers: int
  words: str


def _from_streaming_matrix(
    matrix: streaming_matrix.StreamingMatrix, relative_sensitivity: float, covers: int, words: str
) -> Noise:
  def add(total, state, stddev, key):
    independent = optax.tree.random_like(key, total, jax.random.normal)
    with jax.default_matmul_precision("highest"):  # the noise that the sensitivity belongs to
      correlated, state = matrix.multiply_next(independent, state)
    noisy = jax.tree.map(lambda t, n: (t + stddev * n).astype(t.dtype), total, correlated)
    return noisy, state

  return Noise(matrix.init_multiply, add, relative_sensitivity, covers, words)


def gaussian() -> Noise:
  """Fresh independent Gaussian noise every round."""
  return _from_streaming_matrix(
      streaming_matrix.identity(), 1.0, 1, "independent Gaussian noise every round")


def correlated(kind: str, rounds: int, min_separation: int) -> Noise:
  """Noise that partly cancels over rounds (matrix-factorisation DP-FTRL).

  The bound holds for units that take part at most once in any `min_separation` consecutive
  rounds and in no round after `rounds`; the cohort must enforce the first, the loop the second.

  Args:
    kind: `banded` (banded Toeplitz with min_separation bands, Choquette-Choo et al. 2023,
      arXiv 2306.08153) or `buffered_toeplitz` (Dvijotham et al. 2024, arXiv 2404.16706;
      McMahan et al. 2024, arXiv 2408.08868).
    rounds: length of the run.
    min_separation: enforced distance between two participations of one unit, in rounds.

  Raises:
    ValueError: unknown kind, or not 1 <= min_separation <= rounds.
  """
  if not 1 <= min_separation <= rounds:
    raise ValueError(
        f"min_separation must be between 1 and rounds={rounds}, got {min_separation}")
  if kind == "banded":
    coefficients = toeplitz.optimize_banded_toeplitz(rounds, bands=min_separation)
    matrix = toeplitz.inverse_as_streaming_matrix(coefficients.astype(jnp.float32))
  elif kind == "buffered_toeplitz":
    matrix = _buffered_toeplitz_inverse(rounds, min_separation)
  else:
    raise ValueError(f"correlated noise kind {kind!r} is not one of banded, buffered_toeplitz")
  words = (f"correlated noise ({kind}) over {rounds} rounds, at least {min_separation} rounds "
           "between two participations of one unit")
  sensitivity = _min_separation_sensitivity(matrix, rounds, min_separation)
  return _from_streaming_matrix(matrix, sensitivity, rounds, words)


def _buffered_toeplitz_inverse(
    rounds: int, min_separation: int
) -> streaming_matrix.StreamingMatrix:
  """The noising matrix of an optimised BLT; found in float64, applied in float32."""
  with jax.enable_x64(True):
    strategy = buffered_toeplitz.optimize(
        n=rounds, min_sep=min_separation, max_participations=-(-rounds // min_separation),
        max_buffers=3)
    inverse = strategy.inverse()
  inverse = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float32), inverse)
  return inverse.as_streaming_matrix()


def _min_separation_sensitivity(
    matrix: streaming_matrix.StreamingMatrix, rounds: int, min_separation: int
) -> float:
  """Sensitivity of C, taken from the Toeplitz matrix C^-1 that is really applied to the noise.

  The first column of C is found by inverting the impulse response in float64 and replaced by the
  smallest non-increasing sequence above its absolute value, for which worst-case participations
  are exactly `min_separation` apart (McMahan et al. 2024, arXiv 2405.13763, Theorem 2).
  """
  impulse = jnp.zeros(rounds).at[0].set(1.0)
  with jax.default_matmul_precision("highest"):
    _, response = jax.lax.scan(
        lambda state, x: matrix.multiply_next(x, state)[::-1], matrix.init_multiply(impulse[0]),
        impulse)
  response = np.asarray(response, np.float64)
  column = scipy.linalg.solve_toeplitz((response, np.eye(1, rounds)[0] * response[0]),
                                       np.eye(1, rounds)[0])
  bound = np.maximum.accumulate(np.abs(column)[::-1])[::-1]
  total = sum(np.concatenate([np.zeros(shift), bound[:rounds - shift]])
              for shift in range(0, rounds, min_separation))
  return float(np.linalg.norm(total))
